package core

import "sync/atomic"

// Team runs work(worker) on threads that the host's process keeps for the calling thread's parallel loops, the calling
// one being among them: once on each of n, or of fewer where it has no more to give, numbered from 0. It returns when
// all have returned. It runs nothing and returns false where there is no such team.
type Team func(n int, work func(worker int)) bool

var team atomic.Pointer[Team]

// SetTeam has engines run long work on a host's threads where it has them; nil has them run on goroutines, as they do at first.
func SetTeam(t Team) {
	if t == nil {
		team.Store(nil)
		return
	}
	team.Store(&t)
}

// teamTogether runs work(worker) for each worker in [0, workers), all at a time, on the team where there is one. Workers of a team are those of the whole
// engine, even when fewer are wanted: a host's runtime ends the threads that a smaller team has no use for.
func (e *Engine) teamTogether(workers int, work func(worker int)) {
	if host := team.Load(); host != nil {
		if (*host)(e.NumThreads, func(worker int) {
			if worker < workers {
				work(worker)
			}
		}) {
			return
		}
	}
	e.goTogether(workers, work)
}
