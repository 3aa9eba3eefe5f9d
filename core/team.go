package core

import "sync/atomic"

// Team runs work(worker) once on each of n threads that the host's process keeps for its own
// parallel loops, the caller's being one of them, and returns when all have returned. It runs nothing and returns
// false where there are no such threads, or not n.
type Team func(n int, work func(worker int)) bool

var team atomic.Pointer[Team]

// SetTeam has engines run on a host's threads where it has them; nil has them run on goroutines, as they do at first.
func SetTeam(t Team) {
	if t == nil {
		team.Store(nil)
		return
	}
	team.Store(&t)
}

// together runs work(worker) for each worker in [0, workers), all at a time. Workers of a team are those of the whole
// engine, even when fewer are wanted: a host's runtime ends the threads that a smaller team has no use for.
func (e *Engine) together(workers int, work func(worker int)) {
	if host := team.Load(); host != nil {
		if (*host)(e.NumThreads, func(worker int) {
			if worker < workers {
				work(worker)
			}
		}) {
			return
		}
	}
	goTogether(workers, work)
}
