package monitor

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Mode is how a run reaches the console.
type Mode string

// The modes.
const (
	Live     Mode = "live"     // lines arrive as they are made
	Followed Mode = "followed" // lines are read from a file that another process is writing
	Replayed Mode = "replayed" // lines are read from a file of a run that is over
)

const (
	historyRows = 1024 // of the steps of a run, and of its power
	recentRows  = 1200 // of power: five minutes at 4 Hz
	frameRows   = 32   // new rows of a kind that one frame carries; more are merged
	maxEvents   = 32
	maxTraces   = 16
	maxLabels   = 32
)

// run is what the console knows of one run: its newest values and its histories. Nothing
// in it grows with the length of the run.
type run struct {
	key      int
	mode     Mode
	header   record.Run
	started  bool // a header has come
	ended    *record.End
	updated  time.Time // when the last line came, by our clock
	changed  bool      // since the last frame
	step     record.Step
	stepped  bool
	tokens   map[record.Phase]int64
	losses   map[string]float64 // the newest of each; NaN stays NaN
	devices  []record.DeviceEnergy
	total    record.Quantity // joules of the run
	lost     map[string]record.Event
	baseline map[string]record.Baseline
	events   []record.Event
	traces   []record.Trace
	traced   int // traces seen: the version of traces

	synthetic bool
	topology  *topology
	scrape    *scrape

	routeSeconds, stepSeconds, stepTokens window

	steps, newSteps              *series // rows of stepColumns
	power, recentPower, newPower *series // rows of powerColumns
}

// stepColumns name the columns of the history of steps, in the order of stepRow.
var stepColumns = []string{
	"t", "step", "tokens", "train", "heldout", "joules", "joules_per_token", "route_seconds",
	"bind", "entropy", "cost", "h", "mean_active", "max_violation",
}

var joulesColumn = slices.Index(stepColumns, "joules")

var stepMerge = []mergeRule{
	mergeLast, mergeLast, mergeLast, mergeMean, mergeLast, mergeLast, mergeMean, mergeMean,
	mergeMean, mergeMean, mergeMean, mergeMean, mergeMean, mergeMean,
}

var powerColumns = []string{"t", "watts", "limit_watts"}

var powerMerge = []mergeRule{mergeLast, mergeMean, mergeLast}

func newRun(key int, mode Mode, version string) *run {
	r := &run{
		key: key, mode: mode, scrape: newScrape(version),
		steps: newSeries(historyRows, stepMerge), newSteps: newSeries(frameRows, stepMerge),
		power: newSeries(historyRows, powerMerge), newPower: newSeries(frameRows, powerMerge),
		recentPower: newSeries(math.MaxInt, powerMerge), // trimmed by addPower
		tokens:      map[record.Phase]int64{}, losses: map[string]float64{}, lost: map[string]record.Event{},
		baseline: map[string]record.Baseline{}, topology: newTopology(nil),
		total: record.Unknown(record.None), changed: true,
	}
	return r
}

// apply takes a line in. It copies what it keeps: the line is the caller's.
func (r *run) apply(line record.Line, now time.Time) {
	r.updated, r.changed = now, true
	r.scrape.add(line)
	switch line.Kind {
	case record.KindRun:
		r.applyHeader(line.Run)
	case record.KindStep:
		r.applyStep(line.Step)
	case record.KindPower:
		r.applyPower(line.Power.Seconds, line.Power.Devices, line.Power.TotalJoules)
	case record.KindNames:
		r.topology.names(line.Names)
	case record.KindBaseline:
		if len(r.baseline) < maxLabels {
			b := *line.Baseline
			b.Seconds = finiteOr0(b.Seconds)
			b.Name, b.Differences = clip(b.Name), slices.Clone(b.Differences[:min(len(b.Differences), maxLabels)])
			r.baseline[b.Name] = b
		}
	case record.KindTrace:
		r.traces = lastOf(append(r.traces, copyTrace(line.Trace)), maxTraces)
		r.traced++
	case record.KindEvent:
		r.applyEvent(*line.Event)
	case record.KindEnd:
		end := *line.End
		end.Tokens = maps.Clone(end.Tokens)
		r.ended = &end
		r.total = known(end.TotalJoules, r.total)
	}
}

func (r *run) applyHeader(h *record.Run) {
	r.started = true
	r.header = *h
	r.header.Name, r.header.Router, r.header.Host = clip(h.Name), clip(h.Router), clip(h.Host)
	r.header.Labels, r.header.Shape = firstOf(h.Labels), firstOf(h.Shape)
	r.header.Devices = slices.Clone(h.Devices[:min(len(h.Devices), maxLabels)])
	r.header.Layers = nil // the topology has them
	r.topology = newTopology(h.Layers)
	if h.Meter.Source == record.Mock || h.Meter.Source == record.Replay || h.Meter.Quality == record.Synthetic {
		r.synthetic = true
	}
}

func (r *run) applyStep(s *record.Step) {
	r.ended = nil
	layers := s.Layers
	r.step, r.stepped = *s, true
	r.step.Seconds = finiteOr0(s.Seconds)
	r.step.Layers, r.step.Loss = nil, nil
	r.step.Energy.Devices = nil
	r.step.Energy.Saved = slices.Clone(s.Energy.Saved[:min(len(s.Energy.Saved), maxLabels)])
	for name, loss := range s.Loss {
		if _, have := r.losses[name]; have || len(r.losses) < maxLabels {
			r.losses[name] = loss
		}
	}
	if len(r.tokens) < maxLabels {
		r.tokens[s.Phase] = s.TotalTokens
	}
	if s.Routing.DurationSeconds != nil && finite(*s.Routing.DurationSeconds) {
		r.routeSeconds.add(*s.Routing.DurationSeconds)
	}
	if finite(s.DurationSeconds) && s.DurationSeconds > 0 {
		r.stepSeconds.add(s.DurationSeconds)
		r.stepTokens.add(float64(s.Tokens))
	}
	for i := range layers {
		r.topology.step(&layers[i])
	}
	if len(s.Energy.Devices) > 0 {
		r.applyPower(s.Seconds, s.Energy.Devices, s.Energy.TotalJoules)
	} else {
		r.total = known(s.Energy.TotalJoules, r.total)
	}
	r.noteSynthetic(s.Energy.TotalJoules)

	row := r.stepRow(s, layers)
	if len(r.lost) > 0 {
		row[joulesColumn] = math.NaN() // what is known of the total no longer grows with the run
	}
	r.steps.add(row)
	r.newSteps.add(row)
}

func (r *run) stepRow(s *record.Step, layers []record.LayerStep) []float64 {
	mean := func(of func(*record.LayerStep) *float64) float64 {
		sum, n := 0.0, 0
		for i := range layers {
			if value := of(&layers[i]); value != nil && finite(*value) {
				sum, n = sum+*value, n+1
			}
		}
		if n == 0 {
			return math.NaN()
		}
		return sum / float64(n)
	}
	return []float64{
		s.Seconds, float64(s.Step), float64(s.TotalTokens), lossOf(s, "train"), lossOf(s, "heldout"),
		s.Energy.TotalJoules.Or(math.NaN()), s.Energy.RunJoulesPerToken.Or(math.NaN()), valueOr(s.Routing.DurationSeconds),
		mean(func(l *record.LayerStep) *float64 { return l.Bind }),
		mean(func(l *record.LayerStep) *float64 { return l.Entropy }),
		mean(func(l *record.LayerStep) *float64 { return l.Cost }),
		mean(func(l *record.LayerStep) *float64 { return l.Hamiltonian }),
		mean(func(l *record.LayerStep) *float64 { return l.MeanActive }),
		mean(r.topology.maxViolation),
	}
}

func (r *run) applyPower(seconds float64, devices []record.DeviceEnergy, total record.Quantity) {
	r.devices = slices.Clone(devices[:min(len(devices), maxLabels)])
	r.total = known(total, r.total)
	watts, limit := sumWatts(r.devices)
	for _, d := range r.devices {
		r.noteSynthetic(d.Watts)
	}
	row := []float64{seconds, watts.Or(math.NaN()), valueOr(limit)}
	r.power.add(row)
	r.newPower.add(row)
	r.recentPower.add(row)
	if width := len(powerMerge); r.recentPower.len() >= 2*recentRows {
		r.recentPower.rows = append(r.recentPower.rows[:0], r.recentPower.rows[recentRows*width:]...)
	}
}

func (r *run) applyEvent(e record.Event) {
	e.Message, e.Device, e.Seconds = clip(e.Message), clip(e.Device), finiteOr0(e.Seconds)
	switch e.Event {
	case record.MeterLost:
		if len(r.lost) < maxLabels {
			r.lost[e.Device] = e
		}
	case record.MeterBack:
		delete(r.lost, e.Device)
	case record.Split:
		if e.Layer != nil && e.Expert != nil && e.Child != nil {
			r.topology.split(*e.Layer, *e.Expert, *e.Child)
		}
	case record.Promotion, record.Death:
		if e.Layer != nil && e.Expert != nil {
			r.topology.leave(*e.Layer, *e.Expert, e.Event == record.Death)
		}
	}
	r.events = lastOf(append(r.events, e), maxEvents)
}

// forget drops the rows of the next frame.
func (r *run) forget() {
	r.newSteps.reset()
	r.newPower.reset()
}

func (r *run) noteSynthetic(q record.Quantity) {
	if q.Quality == record.Synthetic || q.Source == record.Mock || q.Source == record.Replay {
		r.synthetic = true
	}
}

// sumWatts is the power of all devices, unknown where one's is, and the sum of their limits.
func sumWatts(devices []record.DeviceEnergy) (record.Quantity, *float64) {
	watts := record.Unknown(record.None)
	limit, limited := 0.0, len(devices) > 0
	for i, d := range devices {
		if d.LimitWatts == nil || !finite(*d.LimitWatts) {
			limited = false
		} else {
			limit += *d.LimitWatts
		}
		if i == 0 {
			watts = d.Watts
		} else {
			watts = addQuantities(watts, d.Watts)
		}
	}
	if !limited {
		return watts, nil
	}
	return watts, &limit
}

func addQuantities(a, b record.Quantity) record.Quantity {
	sum := a
	sum.Value, sum.Uncertainty = addKnown(a.Value, b.Value), addKnown(a.Uncertainty, b.Uncertainty)
	sum.LowResolution, sum.Incomplete = a.LowResolution || b.LowResolution, a.Incomplete || b.Incomplete
	if rank(b.Quality) > rank(a.Quality) {
		sum.Quality, sum.Source = b.Quality, b.Source
	}
	return sum
}

// rank orders qualities: a sum is as good as the worst of its parts.
func rank(q record.Quality) int {
	return slices.Index([]record.Quality{record.Measured, record.Modelled, record.Synthetic}, q)
}

func addKnown(a, b *float64) *float64 {
	if a == nil || b == nil {
		return nil
	}
	sum := *a + *b
	return &sum
}

// known is the newer quantity unless nobody knows it: the total of a run whose meter was
// lost stays what it was.
func known(newer, older record.Quantity) record.Quantity {
	if newer.Known() && finite(*newer.Value) {
		return newer
	}
	return older
}

func lossOf(s *record.Step, name string) float64 {
	if loss, ok := s.Loss[name]; ok {
		return loss
	}
	return math.NaN()
}

func valueOr(value *float64) float64 {
	if value == nil {
		return math.NaN()
	}
	return *value
}

func lastOf[T any](list []T, most int) []T {
	if len(list) <= most {
		return list
	}
	return append(list[:0], list[len(list)-most:]...)
}

func firstOf[V any](all map[string]V) map[string]V {
	few := map[string]V{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if len(few) == maxLabels {
			break
		}
		few[clip(name)] = all[name]
	}
	return few
}
