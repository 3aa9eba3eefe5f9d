package energy

import (
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Options describe a [Meter].
type Options struct {
	// Source is what to meter with; "" takes the best that is there.
	Source record.Source
	// Devices are the GPUs to meter, as UUIDs ("GPU-...") or indices of NVML; nil takes
	// those of CUDA_VISIBLE_DEVICES, or all.
	Devices []string
	// PollPeriod is the time between two readings while it is being learned when a counter
	// updates: 0 takes 20 ms. Then a counter is read once an update, and at every mark. A meter that writes a trace
	// keeps to the period.
	PollPeriod time.Duration
	// IdleWatts is the power of all devices together without work, to state energies net
	// of it; 0 when it was not measured.
	IdleWatts float64
	// RatedWatts is the processor's rated power (TDP) for estimate_tdp_load.
	RatedWatts float64
	// SysfsRoot is where RAPL is looked for: "" takes /sys.
	SysfsRoot string
	// ReplayPath is the trace that source replay plays.
	ReplayPath string
	// TracePath is where every reading is written to, for a later replay; "" for nowhere.
	TracePath string
	// Clock is the time since any moment; nil takes the system's monotonic clock, and polls by
	// it. With a clock of the caller, the caller calls Poll.
	Clock func() time.Duration
}

const (
	defaultPoll = 20 * time.Millisecond
	// pollLimit is the longest period between readings.
	pollLimit = 100 * time.Millisecond
	// settleTimeout is how long the end of a window waits for an update of a sensor.
	settleTimeout = 2 * time.Second
	// lostAfter is how long a sensor may fail before that is an event.
	lostAfter = 500 * time.Millisecond
	// gaugePeriod is the time between two looks at power and limit.
	gaugePeriod = 250 * time.Millisecond
	// enoughUpdates is how many updates a window must span not to be called coarse.
	enoughUpdates = 10
)

// Meter meters energy. It is safe for concurrent use. It begins to poll when it is first
// used, and ends with Close.
type Meter struct {
	options Options
	source  Source
	note    string
	clock   func() time.Duration

	mutex   sync.Mutex
	hear    map[int]func(record.Event)
	heard   int
	probes  []*probe
	windows map[string]*Window // open ones
	waiting []*Mark            // not settled yet
	tracer  *tracer
	started bool
	closed  bool
	alarm   alarm         // of the next poll
	due     time.Duration // when that is
	stopped chan struct{} // closed when nobody waits for the alarm any more
	settled chan struct{} // closed, and made anew, whenever a mark settles
}

// probe is one sensor and what is known from it.
type probe struct {
	sensor   Sensor
	traits   Traits
	track    track
	good     time.Duration // the last reading
	answered bool
	failing  bool
	lost     bool

	gaugedAt     time.Duration
	gauged       bool
	watts, limit *float64
	check        *crossCheck
}

// Open opens a source and makes a meter of it. Nothing is polled yet.
//
// Errors: InvalidArgument for options out of range, NoDevice when the source that was asked
// for is not there, DriverFailed when its driver fails. Without a wish there is always a meter:
// at worst that of source none, which knows no value.
func Open(o Options) (*Meter, error) {
	switch {
	case o.PollPeriod == 0:
		o.PollPeriod = defaultPoll
	case o.PollPeriod < time.Millisecond || o.PollPeriod > pollLimit:
		return nil, core.Invalidf("poll_seconds", "%g, want 0.001 to %g, or 0 for %g",
			seconds(o.PollPeriod), seconds(pollLimit), seconds(defaultPoll))
	}
	for _, w := range []struct {
		name  string
		value float64
	}{{"idle_watts", o.IdleWatts}, {"rated_watts", o.RatedWatts}} {
		if !(w.value >= 0 && w.value < 1e9) {
			return nil, core.Invalidf(w.name, "%g, want 0 (not known) or a power in watts", w.value)
		}
	}
	source, note, err := openSource(o)
	if err != nil {
		return nil, err
	}
	m := &Meter{
		options: o, source: source, note: note, clock: o.Clock,
		windows: map[string]*Window{}, settled: make(chan struct{}),
	}
	if m.clock == nil {
		begin := time.Now()
		m.clock = func() time.Duration { return time.Since(begin) }
	}
	for _, s := range source.Sensors() {
		traits := s.Traits()
		m.probes = append(m.probes, &probe{sensor: s, traits: traits, track: newTrack(traits, o.PollPeriod), limit: traits.Device.LimitWatts, check: newCrossCheck(s, traits)})
	}
	if o.TracePath != "" {
		if m.tracer, err = newTracer(o.TracePath, m.probes); err != nil {
			_ = source.Close()
			return nil, err
		}
	}
	return m, nil
}

// Source is what the meter meters with.
func (m *Meter) Source() record.Source { return m.source.Name() }

// Quality is what its values are.
func (m *Meter) Quality() record.Quality { return m.source.Quality() }

// Describe is the meter as the header of a run states it.
func (m *Meter) Describe() record.Meter {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	d := record.Meter{Source: m.source.Name(), Quality: m.source.Quality(), Note: m.note}
	if update := m.update(); update > 0 {
		value := seconds(update)
		d.UpdatePeriodSeconds = &value
	}
	return d
}

// Devices are the devices metered.
func (m *Meter) Devices() []record.Device {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	devices := make([]record.Device, len(m.probes))
	for i, p := range m.probes {
		devices[i] = p.traits.Device
		devices[i].LimitWatts = p.limit
		devices[i].IdleWatts = record.Unknown(m.source.Name())
	}
	if len(devices) == 1 && m.options.IdleWatts > 0 {
		devices[0].IdleWatts = m.idle(1)
	}
	return devices
}

// IdleWatts is the power without work that the meter was told, all devices together.
func (m *Meter) IdleWatts() record.Quantity {
	if m.options.IdleWatts == 0 {
		return record.Unknown(m.source.Name())
	}
	return m.idle(1)
}

func (m *Meter) idle(seconds float64) record.Quantity {
	value := m.options.IdleWatts * seconds
	return record.Quantity{Value: &value, Source: m.source.Name(), Quality: m.source.Quality()}
}

// Listen asks to be told what happens to the sensors, until the function returned is called. hear
// is called from the meter's goroutine, and must not call the meter.
func (m *Meter) Listen(hear func(record.Event)) (stop func()) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.hear == nil {
		m.hear = map[int]func(record.Event){}
	}
	m.heard++
	number := m.heard
	m.hear[number] = hear
	return func() {
		m.mutex.Lock()
		defer m.mutex.Unlock()
		delete(m.hear, number)
	}
}

// update is the slowest sensor's time between updates, 0 when not known yet.
func (m *Meter) update() time.Duration {
	var slowest time.Duration
	for _, p := range m.probes {
		slowest = max(slowest, p.track.update())
	}
	return slowest
}

// Mark notes the present moment, as the end of windows.
func (m *Meter) Mark() *Mark {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.mark()
}

// mark reads the counters, so that the mark lies between two readings that enclose no other update.
func (m *Meter) mark() *Mark {
	m.start()
	mark := &Mark{at: m.clock(), points: make([]point, len(m.probes))}
	if !m.closed {
		for _, p := range m.probes {
			if p.traits.Counter {
				m.read(p)
			}
		}
		m.settleWaiting()
	}
	if !m.settle(mark, m.clock()) {
		m.waiting = append(m.waiting, mark)
		m.hasten()
	}
	return mark
}

// Begin opens a window by a name, which no open window has. Windows may nest and overlap.
func (m *Meter) Begin(name string) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.closed {
		return core.Invalidf("meter", "is closed")
	}
	if name == "" {
		return core.Invalidf("name", "is empty, want the name of a window")
	}
	if _, open := m.windows[name]; open {
		return core.Invalidf("name", "%q is open already; end it first, or take another name", name)
	}
	if len(m.windows) == maxWindows {
		return core.Invalidf("name", "%q: %d windows are open already; end them", name, maxWindows)
	}
	m.windows[name] = &Window{meter: m, From: m.mark()}
	return nil
}

// maxWindows bounds the open windows: who has more has forgotten to end them.
const maxWindows = 4096

// End closes a window. Its reading gets sharper until the sensors have updated once more:
// see [Window.Settle].
func (m *Meter) End(name string) (*Window, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	w, open := m.windows[name]
	if !open {
		names := make([]string, 0, len(m.windows))
		for other := range m.windows {
			names = append(names, other)
		}
		slices.Sort(names)
		return nil, core.Invalidf("name", "%q is not open; open are: %s", name, strings.Join(names[:min(len(names), 8)], ", "))
	}
	delete(m.windows, name)
	w.To = m.mark()
	return w, nil
}

// Now is the time of the meter's clock.
func (m *Meter) Now() time.Duration { return m.clock() }

// Power is the present power of each device, and what it has consumed since the meter
// started. It asks no driver.
func (m *Meter) Power() []record.DeviceEnergy {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.start()
	found := make([]record.DeviceEnergy, len(m.probes))
	for i, p := range m.probes {
		source, quality := m.source.Name(), m.source.Quality()
		found[i] = record.DeviceEnergy{
			Device: p.traits.Device.Device, LimitWatts: p.limit,
			Watts: record.Unknown(source), Joules: record.Unknown(source), TotalJoules: record.Unknown(source),
		}
		if p.lost {
			continue
		}
		if p.watts != nil {
			found[i].Watts = record.Quantity{Value: p.watts, Source: source, Quality: quality}
		} else if w := p.track.watts(); !math.IsNaN(w) {
			found[i].Watts = record.Quantity{Value: &w, Source: source, Quality: quality}
		}
		value := p.track.at(p.good).value
		found[i].TotalJoules = record.Quantity{Value: &value, Source: source, Quality: quality}
	}
	return found
}

// Close stops polling and closes the source. Windows that were ended stay readable.
func (m *Meter) Close() error {
	m.mutex.Lock()
	if m.closed {
		m.mutex.Unlock()
		return nil
	}
	m.closed = true
	running := m.alarm != nil
	if running {
		m.alarm.close()
	}
	m.mutex.Unlock()
	if running {
		<-m.stopped
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for _, mark := range m.waiting {
		m.give(mark)
	}
	m.waiting = nil
	m.announce()
	if m.tracer != nil {
		m.tracer.close()
	}
	return m.source.Close()
}
