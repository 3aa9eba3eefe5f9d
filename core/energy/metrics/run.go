package metrics

import (
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Family is a metric with all its series.
type Family = dto.MetricFamily

const namespace = "genesis_moe"

// run is the metrics of one run.
type run struct {
	registry *prometheus.Registry
	meter    record.Meter
	experts  int

	energy, components, expertEnergy, expertTokens, tokens, decisions, errors *prometheus.CounterVec

	power, limit, terms, violation, active, baseline, saved, loss, update, uncertainty *prometheus.GaugeVec

	route, step *prometheus.HistogramVec

	domains map[string]string  // of devices
	totals  map[string]float64 // joules of devices, as last heard
	phases  map[record.Phase]int64
}

func newRun(version string, head *record.Run) *run {
	r := &run{
		registry: prometheus.NewRegistry(),
		domains:  map[string]string{}, totals: map[string]float64{}, phases: map[record.Phase]int64{},
	}
	r.energy = r.counter("energy_joules_total", "Energy that the meter has seen since the run began.", "device", "domain", "source", "quality")
	r.components = r.counter("component_energy_joules_total", "Energy of router, experts, other and idle, by a calibrated model.", "component", "quality")
	r.expertEnergy = r.counter("expert_energy_joules_total", "Dynamic energy of an expert, by a calibrated model.", "layer", "expert", "quality")
	r.expertTokens = r.counter("expert_tokens_total", "Tokens that an expert had.", "layer", "expert")
	r.tokens = r.counter("tokens_total", "Tokens processed, by the kind of work.", "phase")
	r.decisions = r.counter("routing_decisions_total", "Tokens routed, over all layers.", "mode")
	r.errors = r.counter("meter_errors_total", "Events in which a sensor was lost, reset or found in disagreement.", "source")
	r.power = r.gauge("power_watts", "Power of a device at the last step.", "device", "kind")
	r.limit = r.gauge("power_limit_watts", "Power limit in force.", "device")
	r.terms = r.gauge("routing_energy", "Terms of the routing energy H of a layer; it has no unit.", "layer", "term")
	r.violation = r.gauge("expert_load_max_violation", "Largest load of an expert over the mean load, minus 1.", "layer")
	r.active = r.gauge("experts_active", "Experts of a layer that had a token in the last step.", "layer")
	r.baseline = r.gauge("baseline_joules_per_token", "Energy per token of a baseline.", "baseline", "quality")
	r.saved = r.gauge("energy_saved_joules", "Energy saved against a baseline since the run began; negative when more was used.", "baseline", "quality")
	r.loss = r.gauge("loss", "Loss at the last step that had one, in nats.", "split")
	r.update = r.gauge("meter_update_period_seconds", "Time between two updates of the slowest sensor.")
	r.uncertainty = r.gauge("energy_uncertainty_ratio", "Uncertainty of the last step's energy over its value.", "domain")
	r.route = r.histogram("route_duration_seconds", "Time in routers per step, all layers.", prometheus.ExponentialBuckets(1e-5, 4, 10))
	r.step = r.histogram("step_duration_seconds", "Time of a step.", prometheus.ExponentialBuckets(1e-3, 2.5, 12))
	r.gauge("build_info", "1, with the release as a label.", "version", "goversion").WithLabelValues(version, runtime.Version()).Set(1)
	if head != nil {
		r.begin(head)
	}
	return r
}

func (r *run) begin(head *record.Run) {
	r.meter = head.Meter
	for _, l := range head.Layers {
		r.experts += l.Experts
	}
	for _, d := range head.Devices {
		r.domains[d.Device] = d.Domain
		if d.LimitWatts != nil {
			r.limit.WithLabelValues(d.Device).Set(*d.LimitWatts)
		}
	}
	if period := head.Meter.UpdatePeriodSeconds; period != nil {
		r.update.WithLabelValues().Set(*period)
	}
}

func (r *run) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	r.registry.MustRegister(v)
	return v
}

func (r *run) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	r.registry.MustRegister(v)
	return v
}

func (r *run) histogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, nil)
	r.registry.MustRegister(v)
	return v
}

func (r *run) write(l record.Line) {
	switch l.Kind {
	case record.KindStep:
		r.writeStep(l.Step)
	case record.KindPower:
		r.devices(l.Power.Devices)
	case record.KindBaseline:
		set(r.baseline, l.Baseline.JoulesPerToken, 1, l.Baseline.Name)
	case record.KindEvent:
		switch l.Event.Event {
		case record.MeterLost, record.CounterReset, record.MeterDisagrees:
			r.errors.WithLabelValues(string(r.meter.Source)).Inc()
		}
	}
}

func (r *run) writeStep(s *record.Step) {
	r.devices(s.Energy.Devices)
	if s.TotalTokens > r.phases[s.Phase] {
		r.tokens.WithLabelValues(string(s.Phase)).Add(float64(s.TotalTokens - r.phases[s.Phase]))
		r.phases[s.Phase] = s.TotalTokens
	}
	if c := s.Energy.Components; c != nil {
		for name, q := range map[string]record.Quantity{
			"router": c.RouterJoules, "experts": c.ExpertsJoules, "other": c.OtherJoules, "idle": c.IdleJoules,
		} {
			add(r.components, q, name)
		}
	}
	for _, saved := range s.Energy.Saved {
		set(r.saved, saved.SavedKilojoules, 1000, saved.Baseline)
	}
	if q := s.Energy.Joules; q.Known() && q.Uncertainty != nil && *q.Value > 0 {
		r.uncertainty.WithLabelValues(r.domain()).Set(*q.Uncertainty / *q.Value)
	}
	if s.Routing.Decisions > 0 {
		r.decisions.WithLabelValues(s.Routing.Mode).Add(float64(s.Routing.Decisions))
	}
	if s.Routing.DurationSeconds != nil {
		r.route.WithLabelValues().Observe(*s.Routing.DurationSeconds)
	}
	if s.DurationSeconds > 0 {
		r.step.WithLabelValues().Observe(s.DurationSeconds)
	}
	for split, loss := range s.Loss {
		r.loss.WithLabelValues(split).Set(loss)
	}
	for i := range s.Layers {
		r.layer(&s.Layers[i])
	}
}

// domain is what is metered: "gpu", "cpu", or both.
func (r *run) domain() string {
	found := ""
	for _, domain := range r.domains {
		switch found {
		case "", domain:
			found = domain
		default:
			return "all"
		}
	}
	return found
}

func (r *run) devices(devices []record.DeviceEnergy) {
	for _, d := range devices {
		if d.Watts.Known() {
			r.power.WithLabelValues(d.Device, "draw").Set(*d.Watts.Value)
		} else {
			r.power.DeleteLabelValues(d.Device, "draw")
		}
		if d.LimitWatts != nil {
			r.limit.WithLabelValues(d.Device).Set(*d.LimitWatts)
		}
		if q := d.TotalJoules; q.Known() && *q.Value > r.totals[d.Device] {
			r.energy.WithLabelValues(d.Device, r.domains[d.Device], string(q.Source), string(q.Quality)).Add(*q.Value - r.totals[d.Device])
			r.totals[d.Device] = *q.Value
		}
	}
}

func (r *run) layer(l *record.LayerStep) {
	layer := strconv.Itoa(l.Layer)
	for term, value := range map[string]*float64{"bind": l.Bind, "entropy": l.Entropy, "cost": l.Cost} {
		if value != nil {
			r.terms.WithLabelValues(layer, term).Set(*value)
		}
	}
	if l.MaxViolation != nil {
		r.violation.WithLabelValues(layer).Set(*l.MaxViolation)
	}
	if l.Tokens == nil {
		return
	}
	active := 0
	for e, n := range l.Tokens {
		if n > 0 {
			active++
		}
		if r.experts > maxExperts {
			continue
		}
		expert := strconv.Itoa(e)
		r.expertTokens.WithLabelValues(layer, expert).Add(float64(max(0, n)))
		if e < len(l.Joules) {
			r.expertEnergy.WithLabelValues(layer, expert, string(l.JoulesQuality)).Add(max(0, l.Joules[e]))
		}
	}
	r.active.WithLabelValues(layer).Set(float64(active))
}

// set sets a gauge with the label quality last; a value that is not known leaves no sample.
func set(v *prometheus.GaugeVec, q record.Quantity, scale float64, label string) {
	v.DeletePartialMatch(prometheus.Labels{"baseline": label})
	if q.Known() {
		v.WithLabelValues(label, string(q.Quality)).Set(scale * *q.Value)
	}
}

func add(v *prometheus.CounterVec, q record.Quantity, label string) {
	if q.Known() && *q.Value > 0 {
		v.WithLabelValues(label, string(q.Quality)).Add(*q.Value)
	}
}
