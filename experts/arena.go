package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// arena lays scratch out twice: first without memory, to add up the bytes, and then
// with it.
type arena struct {
	scratch *core.Scratch
	bytes   int
	start   unsafe.Pointer // of what is laid out
}

func take[F core.Element](a *arena, n int) []F {
	a.bytes += core.ScratchSize[F](n)
	if a.scratch == nil {
		return nil
	}
	memory := core.Take[F](a.scratch, n)
	if a.start == nil && n > 0 {
		a.start = unsafe.Pointer(unsafe.SliceData(memory))
	}
	return memory
}

// borrow gives a layout its memory. Release it when the call ends.
func borrow(e *core.Engine, layout func(*arena)) *core.Scratch {
	var a arena
	layout(&a)
	bytes := a.bytes
	a.scratch = e.Scratch(bytes)
	layout(&a)
	if a.start != nil {
		preferHugePages(a.start, bytes)
	}
	return a.scratch
}

// tiles are the sizes of a worker's memory.
type tiles struct {
	gathered, z, h, dh, gradient, weights, scaled, halves int
}

// layoutWorkers gives each worker its memory.
func (l *layer[S, F]) layoutWorkers(a *arena, t *tiles) {
	if l.workers == nil {
		l.workers = make([]worker[F], min(l.engine.NumThreads, max(1, len(l.schedule.steps))))
	}
	for i := range l.workers {
		w := &l.workers[i]
		w.gathered = take[F](a, t.gathered)
		w.z = take[F](a, t.z)
		w.h = take[F](a, t.h)
		w.dh = take[F](a, t.dh)
		w.gradient = take[F](a, t.gradient)
		w.weights = take[F](a, t.weights)
		w.scaled = take[F](a, t.scaled)
		w.halves = take[core.BF16](a, t.halves)
		w.line, w.bias = take[F](a, l.hidden), take[F](a, max(l.hidden, l.gateUp))
		sums := max(l.plan.slots, blockGroups)
		w.factors = take[F](a, sums)
		if w.sources == nil {
			w.sources = make([]*F, sums)
		}
	}
}
