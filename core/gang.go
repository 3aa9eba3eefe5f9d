package core

import (
	"runtime"
	"sync/atomic"
	"time"
)

// gang is goroutines that help with some work. Its state is how many are at it, plus closed once nothing is left to begin.
type gang struct {
	engine *Engine
	state  atomic.Int64
	ended  chan struct{} // closed by the last one of a closed gang
}

const closed = 1 << 32

// goTogether runs work(worker) here as worker 0 and on goroutines as the others, until it has returned everywhere that it
// began. work returns when nothing is left to begin: a goroutine that comes after that, as waking a thread may take
// a hundred microseconds, is not waited for.
func (e *Engine) goTogether(workers int, work func(worker int)) {
	g := &gang{engine: e, ended: make(chan struct{})}
	for worker := 1; worker < workers; worker++ {
		go g.help(worker, work)
	}
	defer g.close()
	work(0)
}

func (g *gang) help(worker int, work func(worker int)) {
	for {
		state := g.state.Load()
		if state >= closed {
			return
		}
		if g.state.CompareAndSwap(state, state+1) {
			break
		}
	}
	defer func() {
		if g.state.Add(-1) == closed {
			close(g.ended)
		}
	}()
	work(worker)
}

// close waits for those who are at work.
func (g *gang) close() {
	if g.state.Add(closed) == closed || g.engine.Spin(func() bool { return g.state.Load() == closed }) {
		return
	}
	<-g.ended
}

// spinTime is how long a thread waits without sleeping. Where a call came from another language, the Go runtime
// needs two other threads to put the caller's to sleep and to wake it, which takes about as long.
const spinTime = 100 * time.Microsecond

// Spin waits a moment until done, by asking again and again, and reports whether it is. It
// does not wait where the engine has more threads than can run at a time.
func (e *Engine) Spin(done func() bool) bool {
	const looks = 100 // between two looks at the clock
	if done() {
		return true
	}
	if e.NumThreads > runtime.GOMAXPROCS(0) {
		return false
	}
	for start := time.Now(); ; {
		for range looks {
			if done() {
				return true
			}
		}
		if time.Since(start) >= spinTime {
			return false
		}
	}
}
