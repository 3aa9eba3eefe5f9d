package core

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
)

// EngineOptions describes an [Engine].
type EngineOptions struct {
	Device Device
	// NumThreads is the number of workers of a CPU engine; 0 takes GOMAXPROCS.
	NumThreads int
}

// Engine is where operations run: a device, the number of worker threads, scratch
// memory that is reused from call to call, and counters of the work done. It is
// immutable after [NewEngine] and safe for concurrent use.
type Engine struct {
	Device     Device
	NumThreads int
	Counters   Counters
	Ledger     Ledger

	session Session
	scratch scratchPool
}

// MaxThreads bounds NumThreads: far above any machine, far below what would
// exhaust memory by mistake.
const MaxThreads = 4096

// NewEngine opens a device.
func NewEngine(o EngineOptions) (*Engine, error) {
	if o.Device.Type == 0 {
		o.Device = Device{Type: CPU}
	}
	if o.NumThreads < 0 || o.NumThreads > MaxThreads {
		return nil, Invalidf("num_threads", "%d, want 0 (all) to %d", o.NumThreads, MaxThreads)
	}
	if o.NumThreads == 0 {
		o.NumThreads = runtime.GOMAXPROCS(0)
	}
	e := &Engine{Device: o.Device, NumThreads: o.NumThreads}
	if o.Device.Type == CPU {
		if o.Device.ID != 0 {
			return nil, Errorf(NoDevice, "device_id: %d, want 0: there is one CPU device", o.Device.ID)
		}
		return e, nil
	}
	b := backendFor(o.Device.Type)
	if b == nil {
		return nil, Errorf(NoDevice, "device_type: %s, but this build has no backend for it", o.Device.Type)
	}
	session, err := b.Open(o.Device.ID)
	if err != nil {
		return nil, err
	}
	e.session = session
	return e, nil
}

// Session is the opened accelerator, or nil on the CPU.
func (e *Engine) Session() Session { return e.session }

// ExpertWork is what the experts of a layer have done; empty when nothing was counted.
func (e *Engine) ExpertWork(layer int32) ([]Work, error) {
	if e.session != nil {
		return e.session.ExpertWork(layer)
	}
	return e.Ledger.Layer(layer), nil
}

// Close releases the device and the scratch memory. No operation may be running.
func (e *Engine) Close() error {
	e.scratch.drop()
	e.Counters.ScratchBytes.Store(0)
	if e.session != nil {
		return e.session.Close()
	}
	return nil
}

// Counters are sums over an engine's life, safe to read at any time.
type Counters struct {
	RouterCalls, ExpertsCalls, Tokens, ExpertRows, FLOPs, Bytes, ScratchBytes atomic.Uint64
}

// Parallel runs do(worker, task) for every task in [0, tasks) on at most
// NumThreads workers and returns when all are done. Worker numbers are less than
// NumThreads, and one worker runs one task at a time. Tasks are handed out in
// order, so put the long ones first. After a panic no further task starts; it is
// raised again here, as a [TaskPanic] when there was more than one worker.
func (e *Engine) Parallel(tasks int, do func(worker, task int)) {
	e.parallel(tasks, do, e.goTogether)
}

// longWork is how long work takes one thread, in nanoseconds, from which on a team is worth calling: every thread of it
// has to come, some of them out of their sleep, before the call returns.
const longWork = 1e6

// ParallelFor is Parallel for work that takes one thread about so many nanoseconds: where that is a millisecond or more, it
// runs on the host's team, if it has one (see [SetTeam]).
func (e *Engine) ParallelFor(nanoseconds float64, tasks int, do func(worker, task int)) {
	if nanoseconds >= longWork {
		e.parallel(tasks, do, e.teamTogether)
		return
	}
	e.parallel(tasks, do, e.goTogether)
}

// parallel runs tasks on workers that together starts: work(worker) for each of so many.
func (e *Engine) parallel(tasks int, do func(worker, task int), together func(workers int, work func(worker int))) {
	workers := min(e.NumThreads, tasks)
	if workers <= 1 {
		for task := range tasks {
			do(0, task)
		}
		return
	}
	var next atomic.Int64
	var failure atomic.Pointer[TaskPanic]
	run := func(worker int) {
		defer func() {
			if cause := recover(); cause != nil {
				failure.CompareAndSwap(nil, &TaskPanic{cause, panicSite()})
				next.Store(int64(tasks))
			}
		}()
		for {
			task := int(next.Add(1)) - 1
			if task >= tasks {
				return
			}
			do(worker, task)
		}
	}
	together(workers, run)
	if cause := failure.Load(); cause != nil {
		panic(cause)
	}
}

// TaskPanic is a panic that [Engine.Parallel] carried from a worker to its caller.
type TaskPanic struct {
	Cause any
	Site  string // file:line where it was raised
}

func (p *TaskPanic) Error() string { return fmt.Sprintf("%v (raised at %s)", p.Cause, p.Site) }

// Unwrap is the cause, if that is an error.
func (p *TaskPanic) Unwrap() error {
	err, _ := p.Cause.(error)
	return err
}

// panicSite is where the panic being recovered was raised, below the runtime's frames.
func panicSite() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for raised := false; ; {
		frame, more := frames.Next()
		if raised && !strings.HasPrefix(frame.Function, "runtime.") {
			return fmt.Sprintf("%s:%d", frame.File, frame.Line)
		}
		raised = raised || frame.Function == "runtime.gopanic"
		if !more {
			return "an unknown place"
		}
	}
}
