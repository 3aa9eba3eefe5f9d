package run

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/genesis-moe/genesis-moe/core/energy"
	"github.com/genesis-moe/genesis-moe/core/energy/attribution"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// sums are a run's energies so far.
type sums struct {
	meter       *energy.Meter
	first       *energy.Mark
	calibration *attribution.Calibration
	head        *record.Run
	total       record.Quantity
	phases      map[record.Phase]*phase
	baselines   []record.Baseline
	devices     map[string]float64 // joules at the last line
}

// phase is what one kind of work has taken.
type phase struct {
	tokens int64
	joules record.Quantity
}

func newSums(m *energy.Meter, first *energy.Mark, c *attribution.Calibration, head *record.Run) sums {
	return sums{
		meter: m, first: first, calibration: c, head: head, total: record.Unknown(m.Source()),
		phases: map[record.Phase]*phase{}, devices: map[string]float64{},
	}
}

// now is the time since the run began.
func (s *sums) now() float64 { return (s.meter.Now() - s.first.At()).Seconds() }

// step completes a step with the reading of its window.
func (s *sums) step(step *record.Step, w *energy.Window, r energy.Reading) {
	if step.Phase == "" {
		step.Phase = record.TrainPhase
	}
	p := s.phases[step.Phase]
	if p == nil {
		zero := 0.0
		p = &phase{joules: record.Quantity{Value: &zero, Uncertainty: &zero, Source: r.Joules.Source, Quality: r.Joules.Quality}}
		s.phases[step.Phase] = p
	}
	p.tokens += step.Tokens
	p.joules = plus(p.joules, r.Joules)
	whole := s.meter.Between(s.first, w.To).Reading()
	s.total = whole.Joules
	if len(s.phases) == 1 && p.joules.Known() && whole.Joules.Known() {
		p.joules.Uncertainty = whole.Joules.Uncertainty // Errors of windows that touch cancel.
	}
	step.Seconds = whole.Seconds
	step.DurationSeconds = r.Seconds
	step.TotalTokens = p.tokens
	if s.head.Router != "" && step.Routing.Mode == "" {
		step.Routing.Mode = s.head.Router
	}
	e := &step.Energy
	*e = record.Energy{
		Joules: r.Joules, TotalJoules: whole.Joules,
		JoulesPerToken:    over(r.Joules, step.Tokens),
		NetJoulesPerToken: over(s.net(r), step.Tokens),
		RunJoulesPerToken: over(p.joules, p.tokens),
		Devices:           s.deviceEnergies(r, whole),
	}
	if s.calibration != nil {
		e.Components = s.calibration.Attribute(step)
	}
	for i := range s.baselines {
		if b := &s.baselines[i]; b.Phase == step.Phase {
			e.Saved = append(e.Saved, saved(b, e.RunJoulesPerToken, p.tokens))
		}
	}
}

// plus adds two quantities; with one that is not known the sum is not.
func plus(a, b record.Quantity) record.Quantity {
	sum := record.Quantity{Source: b.Source, Quality: b.Quality, Incomplete: a.Incomplete || b.Incomplete}
	if !a.Known() || !b.Known() {
		return record.Unknown(b.Source)
	}
	value := *a.Value + *b.Value
	sum.Value = &value
	if a.Uncertainty != nil && b.Uncertainty != nil {
		uncertainty := *a.Uncertainty + *b.Uncertainty
		sum.Uncertainty = &uncertainty
	}
	return sum
}

// over divides by a number of tokens. Of an incomplete energy there is no ratio.
func over(q record.Quantity, tokens int64) record.Quantity {
	if !q.Known() || q.Incomplete || tokens == 0 {
		return record.Unknown(q.Source)
	}
	value := *q.Value / float64(tokens)
	q.Value = &value
	if q.Uncertainty != nil {
		uncertainty := *q.Uncertainty / float64(tokens)
		q.Uncertainty = &uncertainty
	}
	return q
}

// net is a reading without idle power x time. It may be negative when the idle power is overstated.
func (s *sums) net(r energy.Reading) record.Quantity {
	idle := s.meter.IdleWatts()
	if !idle.Known() || !r.Joules.Known() {
		return record.Unknown(r.Joules.Source)
	}
	net := r.Joules
	value := *r.Joules.Value - *idle.Value*r.Seconds
	net.Value = &value
	return net
}

func (s *sums) deviceEnergies(r, whole energy.Reading) []record.DeviceEnergy {
	devices := s.meter.Power()
	for i := range devices {
		d := &devices[i]
		d.Joules, d.TotalJoules = r.Devices[i].Joules, whole.Devices[i].Joules
		if d.Joules.Known() && !d.Joules.LowResolution && !d.Joules.Incomplete && r.Seconds > 0 {
			d.Watts = scaled(d.Joules, 1/r.Seconds) // The mean of the step says more than the moment.
		}
		if d.TotalJoules.Known() {
			s.devices[d.Device] = *d.TotalJoules.Value
		}
	}
	return devices
}

func scaled(q record.Quantity, factor float64) record.Quantity {
	value := *q.Value * factor
	q.Value = &value
	if q.Uncertainty != nil {
		uncertainty := *q.Uncertainty * factor
		q.Uncertainty = &uncertainty
	}
	return q
}

// power is the meter alone.
func (s *sums) power() *record.Power {
	whole := s.meter.Between(s.first, s.meter.Mark()).Reading()
	p := &record.Power{Seconds: whole.Seconds, TotalJoules: whole.Joules, Devices: s.meter.Power()}
	for i := range p.Devices {
		d := &p.Devices[i]
		d.TotalJoules = whole.Devices[i].Joules
		if d.TotalJoules.Known() {
			since := max(0, *d.TotalJoules.Value-s.devices[d.Device])
			d.Joules = d.TotalJoules
			d.Joules.Value = &since
			s.devices[d.Device] = *d.TotalJoules.Value
		}
	}
	return p
}

func (s *sums) end(dropped int64) *record.End {
	e := &record.End{Seconds: s.now(), Tokens: map[record.Phase]int64{}, TotalJoules: s.total, Dropped: dropped}
	for name, p := range s.phases {
		e.Tokens[name] = p.tokens
	}
	return e
}

// baseline begins to compare the run with a baseline, and says what differs.
func (s *sums) baseline(b *record.Baseline) {
	b.Differences = differences(s.head, b)
	s.baselines = slices.DeleteFunc(s.baselines, func(other record.Baseline) bool { return other.Name == b.Name && other.Phase == b.Phase })
	s.baselines = append(s.baselines, *b)
}

// leastSeeds is how many runs a baseline must be the mean of for savings to be called measured.
const leastSeeds = 3

// differences lists what keeps a comparison from being one of equals.
func differences(run *record.Run, b *record.Baseline) []string {
	found := []string{}
	differ := func(what string, mine, theirs any) {
		if mine != theirs {
			found = append(found, fmt.Sprintf("%s: %v here, %v there", what, mine, theirs))
		}
	}
	if b.Seeds < leastSeeds {
		found = append(found, fmt.Sprintf("seeds: %d there, want %d", b.Seeds, leastSeeds))
	}
	differ("source", run.Meter.Source, b.JoulesPerToken.Source)
	differ("devices", len(run.Devices), len(b.Devices))
	for i := range min(len(run.Devices), len(b.Devices)) {
		mine, theirs := run.Devices[i], b.Devices[i]
		differ("device", mine.Name, theirs.Name)
		differ("driver", mine.Driver, theirs.Driver)
		differ("power limit in watts", watts(mine.LimitWatts), watts(theirs.LimitWatts))
	}
	names := slices.Collect(maps.Keys(run.Shape))
	for name := range b.Shape {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		differ(name, run.Shape[name], b.Shape[name])
	}
	return found
}

func watts(limit *float64) float64 {
	if limit == nil {
		return 0
	}
	return *limit
}

// sameTokens is how near the tokens of the two must be.
const sameTokens = 0.01

// saved compares the run so far with a baseline.
func saved(b *record.Baseline, mine record.Quantity, tokens int64) record.Saved {
	s := record.Saved{
		Baseline:        b.Name,
		SavedKilojoules: record.Unknown(mine.Source), EfficiencyPercent: record.Unknown(mine.Source),
	}
	if !b.JoulesPerToken.Known() || !mine.Known() || *b.JoulesPerToken.Value <= 0 {
		return s
	}
	theirs := *b.JoulesPerToken.Value
	quality := record.Modelled
	switch {
	case mine.Quality == record.Synthetic || b.JoulesPerToken.Quality == record.Synthetic:
		quality = record.Synthetic
	case len(b.Differences) == 0 && mine.Quality == record.Measured && b.JoulesPerToken.Quality == record.Measured &&
		math.Abs(float64(tokens-b.Tokens)) <= sameTokens*float64(b.Tokens):
		quality = record.Measured
	}
	of := func(value, perJoule float64) record.Quantity {
		q := record.Quantity{Value: &value, Source: mine.Source, Quality: quality}
		if mine.Uncertainty != nil && b.JoulesPerToken.Uncertainty != nil {
			uncertainty := perJoule * (*mine.Uncertainty + *b.JoulesPerToken.Uncertainty)
			q.Uncertainty = &uncertainty
		}
		return q
	}
	s.SavedKilojoules = of((theirs-*mine.Value)*float64(tokens)/1000, float64(tokens)/1000)
	s.EfficiencyPercent = of(100*(1-*mine.Value/theirs), 100/theirs*max(1, *mine.Value/theirs))
	return s
}
