package experts

import (
	"sync"
	"sync/atomic"

	"github.com/genesis-moe/genesis-moe/core"
)

// step is a piece of work for one thread: a stage of a unit, and the columns (or
// tokens) that it covers.
type step struct {
	stage       stage
	unit        int
	first, last int
	piece       int     // which of the unit's steps of this stage it is, where that matters
	needs       [2]gate // must be open before the step begins
	opens       [3]gate // each counts the step's end
}

type stage uint8

// gate opens when as many steps have ended as were announced. Gate 0 is always open.
type gate int32

// schedule is a list of steps for [core.Engine.Parallel]. A step waits only for
// steps that stand earlier in the list; as these are handed out in order, the
// earliest unfinished one can always run, and all come to an end.
type schedule struct {
	steps []step
	gates []int32 // steps still to end
	cost  float64 // nanoseconds that all steps take one thread, about

	mutex   sync.Mutex
	changed sync.Cond
	failed  bool
}

// newGates makes n gates that nothing keeps shut yet, and returns the first.
func (s *schedule) newGates(n int) gate {
	if len(s.gates) == 0 {
		s.changed.L = &s.mutex
		s.gates = append(s.gates, 0)
	}
	first := gate(len(s.gates))
	s.gates = append(s.gates, make([]int32, n)...)
	return first
}

// add appends a step and announces it to the gates that it opens.
func (s *schedule) add(next step) {
	for _, g := range next.opens {
		if g != 0 {
			s.gates[g]++
		}
	}
	s.steps = append(s.steps, next)
}

// run does all steps on the engine's threads; on the caller's alone when waking others
// would take longer than the work.
func (s *schedule) run(e *core.Engine, do func(worker int, s *step)) {
	if s.cost < aloneSchedule {
		for i := range s.steps {
			do(0, &s.steps[i])
		}
		return
	}
	e.ParallelFor(s.cost, len(s.steps), func(worker, task int) {
		ended := false
		defer func() {
			if !ended {
				s.fail()
			}
		}()
		next := &s.steps[task]
		for _, g := range next.needs {
			if g != 0 && !s.await(e, g) {
				ended = true
				return
			}
		}
		do(worker, next)
		for _, g := range next.opens {
			if g != 0 && atomic.AddInt32(&s.gates[g], -1) == 0 {
				s.mutex.Lock()
				s.changed.Broadcast()
				s.mutex.Unlock()
			}
		}
		ended = true
	})
}

// await returns when a gate is open; false when another step has panicked.
func (s *schedule) await(e *core.Engine, g gate) bool {
	if e.Spin(func() bool { return atomic.LoadInt32(&s.gates[g]) == 0 }) {
		return true
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for atomic.LoadInt32(&s.gates[g]) != 0 {
		if s.failed {
			return false
		}
		s.changed.Wait()
	}
	return true
}

// fail wakes those who wait for what will not come.
func (s *schedule) fail() {
	s.mutex.Lock()
	s.failed = true
	s.changed.Broadcast()
	s.mutex.Unlock()
}
