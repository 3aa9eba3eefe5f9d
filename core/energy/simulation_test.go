package energy

import (
	"errors"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// load is a device whose true energy is known at every moment: power in pieces.
type load struct {
	ends  []float64 // seconds
	watts []float64
	sums  []float64 // joules up to the beginning of the piece
}

func randomLoad(r *rand.Rand, duration, most float64) *load {
	l := &load{}
	t, sum := 0.0, 0.0
	for t < duration {
		d := 0.002 + r.ExpFloat64()*[]float64{0.01, 0.1, 1}[r.IntN(3)]
		w := r.Float64() * most
		if r.IntN(5) == 0 {
			w = 0
		}
		t += d
		l.ends, l.watts, l.sums = append(l.ends, t), append(l.watts, w), append(l.sums, sum)
		sum += d * w
	}
	return l
}

// joules is the energy from the beginning to a time in seconds.
func (l *load) joules(t float64) float64 {
	i := min(sort.SearchFloat64s(l.ends, t), len(l.ends)-1)
	begin := 0.0
	if i > 0 {
		begin = l.ends[i-1]
	}
	return l.sums[i] + (t-begin)*l.watts[i]
}

// simulated is a counter of such a device: updated in ticks, wrapping, reset and lost as told.
type simulated struct {
	load   *load
	now    *time.Duration
	ticks  []float64 // when it updates, in seconds
	traits Traits
	resets []float64 // when it begins anew
	lost   [2]float64
	start  uint64 // what it stands at in the beginning
	read   time.Duration
}

var errLost = errors.New("simulated: no such device")

func (s *simulated) Traits() Traits { return s.traits }

func (s *simulated) Read() (Sample, error) {
	t := s.now.Seconds()
	*s.now += s.read // A reading takes time.
	if t >= s.lost[0] && t < s.lost[1] {
		return Sample{}, errLost
	}
	tick := 0.0
	if i := sort.SearchFloat64s(s.ticks, t); i > 0 {
		tick = s.ticks[i-1]
	}
	from, offset := 0.0, s.start
	for _, at := range s.resets {
		if t >= at {
			from, offset = at, 0
			tick = max(tick, at)
		}
	}
	value := offset + uint64(1000*(s.load.joules(tick)-s.load.joules(from)))*1000
	if s.traits.Range > 0 {
		value %= s.traits.Range
	}
	return Sample{Microjoules: value}, nil
}

// smeared is a sensor of power that tells the mean of the last second, every 100 ms.
type smeared struct {
	load   *load
	now    *time.Duration
	traits Traits
}

func (s *smeared) Traits() Traits { return s.traits }

func (s *smeared) Read() (Sample, error) {
	u, w := s.traits.UpdateSeconds, s.traits.AveragingSeconds
	t := float64(int(s.now.Seconds()/u)) * u
	before := 0.0
	if t > w {
		before = s.load.joules(t - w)
	}
	return Sample{Watts: (s.load.joules(t) - before) / w}, nil
}

// fixed is a source of given sensors.
type fixed struct {
	name    record.Source
	sensors []Sensor
}

func (f fixed) Name() record.Source   { return f.name }
func (fixed) Quality() record.Quality { return record.Measured }
func (f fixed) Sensors() []Sensor     { return f.sensors }
func (fixed) Close() error            { return nil }

// meterOf is a meter of given sensors on a clock of the test.
func meterOf(now *time.Duration, name record.Source, sensors ...Sensor) *Meter {
	m := &Meter{
		options: Options{PollPeriod: defaultPoll, Clock: func() time.Duration { return *now }},
		source:  fixed{name, sensors}, windows: map[string]*Window{}, settled: make(chan struct{}),
		clock: func() time.Duration { return *now },
	}
	for _, s := range sensors {
		traits := s.Traits()
		m.probes = append(m.probes, &probe{sensor: s, traits: traits, track: newTrack(traits, defaultPoll), limit: traits.Device.LimitWatts, check: newCrossCheck(s, traits)})
	}
	m.Poll()
	return m
}
