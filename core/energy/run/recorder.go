// Package run completes the steps that a host reports with what they consumed, and hands
// them to whoever shows or keeps them: a file, metrics, a console.
package run

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy"
	"github.com/genesis-moe/genesis-moe/core/energy/attribution"
	"github.com/genesis-moe/genesis-moe/core/energy/metrics"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Options describe a [Recorder].
type Options struct {
	// Meter is what the energies come from; the recorder does not close it. Nil: none.
	Meter *energy.Meter
	// Path is the file of the record; "" for none. It must not exist.
	Path string
	// Run describes the run; the recorder fills in what it knows better.
	Run record.Run
	// Calibration divides the energy among the parts of the model; nil leaves that out.
	Calibration *attribution.Calibration
	// Library is the release of genesis-moe.
	Library string
}

const (
	// queue is how many lines may wait to be written. A step waits for the meter's next update.
	queue = 1024
	// settle is how long a step waits for that.
	settle = 500 * time.Millisecond
	// quiet is the time without a step after which the meter alone is written.
	quiet = time.Second
)

// Recorder records a run. Log costs the host a look at the clock: the waiting, the writing and
// the sums are a goroutine's. It is safe for concurrent use.
type Recorder struct {
	options Options
	meter   *energy.Meter
	metrics *metrics.Registry
	file    *record.Writer

	stepMutex sync.Mutex // of last; taken before the meter's and mutex
	last      *energy.Mark

	mutex   sync.Mutex // of closed and dropped; taken after the meter's, as events come from there
	closed  bool
	dropped int64
	lines   chan queued
	stop    chan struct{}
	done    chan struct{}
	deaf    func() // stops the meter's events

	sinksMutex sync.Mutex
	sinks      []record.Sink
	head       record.Line
	state      map[string]record.Line // the last names of each layer, the last of each baseline
	err        error

	sums sums // of the goroutine
}

// queued is a line to complete and write.
type queued struct {
	line   record.Line
	window *energy.Window // of a step
	flush  chan struct{}  // closed when it is this one's turn
}

// New makes a recorder, writes the run's first line and begins to meter.
func New(o Options) (*Recorder, error) {
	if o.Calibration != nil {
		if err := o.Calibration.Check(); err != nil {
			return nil, err
		}
	}
	r := &Recorder{
		options: o, meter: o.Meter, metrics: metrics.New(o.Library),
		lines: make(chan queued, queue), stop: make(chan struct{}), done: make(chan struct{}), state: map[string]record.Line{},
	}
	if r.meter == nil {
		m, err := energy.Open(energy.Options{Source: record.None})
		if err != nil {
			return nil, err
		}
		r.meter = m
	}
	if o.Path != "" {
		file, err := record.Create(o.Path)
		if err != nil {
			return nil, core.Invalidf("path", "%v; a record is never overwritten", err)
		}
		r.file = file
		r.sinks = append(r.sinks, file)
	}
	r.sinks = append(r.sinks, r.metrics)
	first := r.meter.Mark()
	r.last = first
	r.head = record.Line{Kind: record.KindRun, Run: r.describe()}
	r.sums = newSums(r.meter, first, o.Calibration, r.head.Run)
	if err := r.write(r.head); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	go r.work()
	r.deaf = r.meter.Listen(func(e record.Event) { _ = r.enqueue(queued{line: record.Line{Kind: record.KindEvent, Event: &e}}) })
	return r, nil
}

// describe completes the header.
func (r *Recorder) describe() *record.Run {
	run := r.options.Run
	run.Schema, run.Library, run.PID = record.Schema, r.options.Library, os.Getpid()
	if run.ID == "" {
		run.ID = rand.Text()
	}
	if run.Started.IsZero() {
		run.Started = time.Now()
	}
	run.Started = run.Started.UTC().Round(0)
	if run.Host == "" {
		run.Host, _ = os.Hostname()
	}
	run.Meter, run.Devices = r.meter.Describe(), r.meter.Devices()
	return &run
}

// Attach adds a sink. It first gets the run's header, and the last names and baselines.
func (r *Recorder) Attach(s record.Sink) {
	r.sinksMutex.Lock()
	defer r.sinksMutex.Unlock()
	_ = s.Write(r.head)
	keys := make([]string, 0, len(r.state))
	for key := range r.state {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		_ = s.Write(r.state[key])
	}
	r.sinks = append(r.sinks, s)
}

// Metrics are those of the run.
func (r *Recorder) Metrics() *metrics.Registry { return r.metrics }

// Meter is what the energies come from.
func (r *Recorder) Meter() *energy.Meter { return r.meter }

// Mark ends what belongs to no step: the next step begins here.
func (r *Recorder) Mark() {
	r.stepMutex.Lock()
	defer r.stepMutex.Unlock()
	r.last = r.meter.Mark()
}

// Log takes a line of kind step, names, baseline, trace or event. A step is what ran since the
// step before (or [Recorder.Mark]); its energies are the meter's and are filled in.
//
// Errors: InvalidArgument for another kind or numbers that make no sense; OutOfMemory when more
// lines wait than the disk takes: the line is then dropped and counted.
func (r *Recorder) Log(l record.Line) error {
	if err := check(l, len(r.head.Run.Layers)); err != nil {
		return err
	}
	next := queued{line: l}
	if l.Kind == record.KindStep {
		r.stepMutex.Lock()
		defer r.stepMutex.Unlock()
		mark := r.meter.Mark()
		next.window = r.meter.Between(r.last, mark)
		r.last = mark
	}
	return r.enqueue(next)
}

// enqueue never waits.
func (r *Recorder) enqueue(next queued) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.closed {
		return core.Invalidf("recorder", "is closed")
	}
	select {
	case r.lines <- next:
		return nil
	default:
		r.dropped++
		return core.Errorf(core.OutOfMemory, "line: dropped, as %d wait to be written already", queue)
	}
}

// check refuses lines that would make nonsense of a record.
func check(l record.Line, layers int) error {
	switch l.Kind {
	case record.KindStep:
		if l.Step.Tokens < 0 || l.Step.Routing.Decisions < 0 || l.Step.DurationSeconds < 0 {
			return core.Invalidf("line", "tokens %d, decisions %d, duration_seconds %g: want none negative",
				l.Step.Tokens, l.Step.Routing.Decisions, l.Step.DurationSeconds)
		}
		for i := range l.Step.Layers {
			if number := l.Step.Layers[i].Layer; number < 0 || layers > 0 && number >= layers {
				return core.Invalidf("line", "layers: layer %d, want 0 to %d as the run has", number, layers-1)
			}
		}
	case record.KindNames, record.KindBaseline, record.KindTrace, record.KindEvent:
	default:
		return core.Invalidf("line", "kind %q, want step, names, baseline, trace or event", l.Kind)
	}
	return nil
}

// Flush waits until what was logged before is written.
func (r *Recorder) Flush() error {
	turn := make(chan struct{})
	select {
	case r.lines <- queued{flush: turn}:
		select {
		case <-turn:
		case <-r.done:
		}
	case <-r.done:
	}
	return r.failure()
}

// Close writes what waits and the last line, and closes the file. The meter stays open.
func (r *Recorder) Close() error {
	r.mutex.Lock()
	if r.closed {
		r.mutex.Unlock()
		return nil
	}
	r.closed = true
	close(r.stop)
	r.mutex.Unlock()
	r.deaf()
	<-r.done
	err := r.failure()
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return err
}

func (r *Recorder) failure() error {
	r.sinksMutex.Lock()
	defer r.sinksMutex.Unlock()
	if r.err != nil {
		return core.Errorf(core.Internal, "path: %s: %v", r.options.Path, r.err)
	}
	return nil
}

// work is the goroutine.
func (r *Recorder) work() {
	defer close(r.done)
	ticker := time.NewTicker(quiet)
	defer ticker.Stop()
	for {
		select {
		case next := <-r.lines:
			ticker.Reset(quiet)
			r.complete(next)
		case <-r.stop:
			for len(r.lines) > 0 {
				r.complete(<-r.lines)
			}
			_ = r.write(record.Line{Kind: record.KindEnd, End: r.sums.end(r.dropped)})
			return
		case <-ticker.C:
			if r.meter.Source() != record.None {
				_ = r.write(record.Line{Kind: record.KindPower, Power: r.sums.power()})
			}
		}
	}
}

func (r *Recorder) complete(next queued) {
	if next.flush != nil {
		close(next.flush)
		return
	}
	switch next.line.Kind {
	case record.KindStep:
		r.sums.step(next.line.Step, next.window, next.window.Settle(settle))
	case record.KindNames:
		next.line.Names.Seconds = r.sums.now()
	case record.KindBaseline:
		next.line.Baseline.Seconds = r.sums.now()
		r.sums.baseline(next.line.Baseline)
	case record.KindTrace:
		next.line.Trace.Seconds = r.sums.now()
	case record.KindEvent:
		next.line.Event.Seconds = r.sums.now()
	}
	_ = r.write(next.line)
}

// write hands a line to every sink; what one of them says first is kept for Flush and Close.
func (r *Recorder) write(l record.Line) error {
	r.sinksMutex.Lock()
	defer r.sinksMutex.Unlock()
	switch l.Kind {
	case record.KindNames:
		r.state[fmt.Sprintf("names %06d", l.Names.Layer)] = l
	case record.KindBaseline:
		r.state["baseline "+l.Baseline.Name] = l
	}
	for _, s := range r.sinks {
		if err := s.Write(l); err != nil && r.err == nil {
			r.err = err
		}
	}
	return r.err
}
