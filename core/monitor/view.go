package monitor

import (
	"maps"
	"slices"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// view is what a frame says of a run: its newest values, ready to be shown. Unknown values
// are null.
type view struct {
	Key       int               `json:"key"`
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Router    string            `json:"router"`
	Mode      Mode              `json:"mode"`
	State     string            `json:"state"` // "waiting" for a first line, "running", "ended"
	Synthetic bool              `json:"synthetic"`
	Started   *time.Time        `json:"started"` // by the run's clock
	Updated   *time.Time        `json:"updated"` // by the console's
	Library   string            `json:"library"`
	Host      string            `json:"host"`
	Labels    map[string]string `json:"labels"`

	Seconds         float64             `json:"t"`
	Step            *int64              `json:"step"`
	Phase           record.Phase        `json:"phase"`
	Tokens          int64               `json:"tokens"` // of the run in this phase
	TokensPerSecond *float64            `json:"tokens_per_second"`
	StepSeconds     *float64            `json:"step_seconds"` // median
	Progress        *float64            `json:"progress"`
	Losses          map[string]*float64 `json:"losses"`      // null: not a finite number
	MeanActive      *float64            `json:"mean_active"` // experts per token, mean over layers

	Meter      record.Meter       `json:"meter"`
	Lost       []record.Event     `json:"lost"` // meters that do not answer
	Devices    []deviceView       `json:"devices"`
	Watts      record.Quantity    `json:"watts"`
	LimitWatts *float64           `json:"limit_watts"`
	Joules     record.Quantity    `json:"total_joules"`
	PerToken   perToken           `json:"joules_per_token"`
	Components *record.Components `json:"components"`
	Saved      []record.Saved     `json:"saved"`
	Baselines  []record.Baseline  `json:"baselines"`

	Routing  routingView  `json:"routing"`
	Terms    termsView    `json:"terms"`
	Layers   []layerTerms `json:"layers"`
	Topology int          `json:"topology_version"`
	Grids    grids        `json:"grids"`
	Traces   int          `json:"traces_version"`

	Events []record.Event `json:"events"`
}

type deviceView struct {
	Device     string          `json:"device"`
	Name       string          `json:"name"`
	Watts      record.Quantity `json:"watts"`
	LimitWatts *float64        `json:"limit_watts"`
}

type perToken struct {
	Run  record.Quantity `json:"run"`  // gross
	Step record.Quantity `json:"step"` // gross
	Net  record.Quantity `json:"net"`  // of the step, less idle power
}

// routingView is how long routing takes, over the newest steps.
type routingView struct {
	Median      *float64 `json:"median_seconds"` // a step, all layers
	P99         *float64 `json:"p99_seconds"`
	PerDecision *float64 `json:"decision_seconds"` // median over the decisions of the last step
	Share       *float64 `json:"share"`            // of the step's time
}

// termsView is the energy H of the router, means over the layers that reported.
type termsView struct {
	Bind        *float64 `json:"bind"`
	Entropy     *float64 `json:"entropy"`
	Cost        *float64 `json:"cost"`
	Hamiltonian *float64 `json:"h"`
}

// view copies what it shows: it is written as JSON without the state's lock.
func (r *run) view() view {
	v := view{
		Key: r.key, ID: r.header.ID, Name: r.header.Name, Router: r.header.Router,
		Mode: r.mode, State: r.state(), Synthetic: r.synthetic,
		Library: r.header.Library, Host: r.header.Host, Labels: r.header.Labels,

		Seconds: r.step.Seconds, Phase: r.step.Phase, Tokens: r.step.TotalTokens,
		StepSeconds: r.stepSeconds.quantile(0.5), Progress: number(r.step.Progress),
		Losses: map[string]*float64{},

		Meter: r.header.Meter, Watts: record.Unknown(record.None), Joules: quantity(r.total),
		PerToken: perToken{
			Run:  quantity(r.step.Energy.RunJoulesPerToken),
			Step: quantity(r.step.Energy.JoulesPerToken),
			Net:  quantity(r.step.Energy.NetJoulesPerToken),
		},
		Layers: r.topology.terms(), Topology: r.topology.version, Grids: r.topology.grids(), Traces: r.traced,
		Events: slices.Clone(r.events),
	}
	v.Meter.UpdatePeriodSeconds, v.Meter.Note = number(v.Meter.UpdatePeriodSeconds), clip(v.Meter.Note)
	if r.started && !r.header.Started.IsZero() {
		v.Started = new(r.header.Started)
	}
	if !r.updated.IsZero() {
		v.Updated = new(r.updated)
	}
	if r.stepped {
		v.Step = new(r.step.Step)
	}
	for name, loss := range r.losses {
		v.Losses[clip(name)] = number(&loss)
	}
	if seconds := r.stepSeconds.sum(); seconds > 0 {
		rate := r.stepTokens.sum() / seconds
		v.TokensPerSecond = &rate
	}
	v.Lost = slices.SortedFunc(maps.Values(r.lost), func(a, b record.Event) int {
		return int(a.Seconds*1000) - int(b.Seconds*1000)
	})
	v.devices(r)
	for _, s := range r.step.Energy.Saved {
		s.Baseline = clip(s.Baseline)
		s.SavedKilojoules, s.EfficiencyPercent = quantity(s.SavedKilojoules), quantity(s.EfficiencyPercent)
		v.Saved = append(v.Saved, s)
	}
	for _, name := range slices.Sorted(maps.Keys(r.baseline)) {
		b := r.baseline[name]
		b.JoulesPerToken = quantity(b.JoulesPerToken)
		v.Baselines = append(v.Baselines, b)
	}
	if c := r.step.Energy.Components; c != nil {
		v.Components = &record.Components{
			RouterJoules: quantity(c.RouterJoules), ExpertsJoules: quantity(c.ExpertsJoules), OtherJoules: quantity(c.OtherJoules),
			IdleJoules: quantity(c.IdleJoules), ResidualJoules: quantity(c.ResidualJoules),
		}
	}
	v.Routing = r.routing()
	v.Terms, v.MeanActive = meanTerms(v.Layers)
	return v
}

func (r *run) state() string {
	switch {
	case r.ended != nil:
		return "ended"
	case r.started || r.stepped:
		return "running"
	}
	return "waiting"
}

func (v *view) devices(r *run) {
	names := map[string]string{}
	for _, d := range r.header.Devices {
		names[d.Device] = d.Name
	}
	for _, d := range r.devices {
		v.Devices = append(v.Devices, deviceView{clip(d.Device), clip(names[d.Device]), quantity(d.Watts), number(d.LimitWatts)})
	}
	if len(r.devices) > 0 {
		watts, limit := sumWatts(r.devices)
		v.Watts, v.LimitWatts = quantity(watts), number(limit)
		return
	}
	// Before the first reading the limits are known already.
	for i, d := range r.header.Devices {
		v.Devices = append(v.Devices, deviceView{clip(d.Device), clip(d.Name), record.Unknown(r.header.Meter.Source), number(d.LimitWatts)})
		if limit := number(d.LimitWatts); i == 0 {
			v.LimitWatts = limit
		} else {
			v.LimitWatts = addKnown(v.LimitWatts, limit)
		}
	}
}

func (r *run) routing() routingView {
	v := routingView{Median: r.routeSeconds.quantile(0.5), P99: r.routeSeconds.quantile(0.99)}
	if v.Median == nil {
		return v
	}
	if decisions := r.step.Routing.Decisions; decisions > 0 {
		each := *v.Median / float64(decisions)
		v.PerDecision = &each
	}
	if step := r.stepSeconds.quantile(0.5); step != nil && *step > 0 {
		share := *v.Median / *step
		v.Share = &share
	}
	return v
}

func meanTerms(layers []layerTerms) (termsView, *float64) {
	mean := func(of func(layerTerms) *float64) *float64 {
		sum, n := 0.0, 0
		for _, l := range layers {
			if value := of(l); value != nil {
				sum, n = sum+*value, n+1
			}
		}
		if n == 0 {
			return nil
		}
		sum /= float64(n)
		return &sum
	}
	return termsView{
		mean(func(l layerTerms) *float64 { return l.Bind }), mean(func(l layerTerms) *float64 { return l.Entropy }),
		mean(func(l layerTerms) *float64 { return l.Cost }), mean(func(l layerTerms) *float64 { return l.Hamiltonian }),
	}, mean(func(l layerTerms) *float64 { return l.MeanActive })
}

// quantity is a copy without numbers that JSON cannot say.
func quantity(q record.Quantity) record.Quantity {
	q.Value, q.Uncertainty = number(q.Value), number(q.Uncertainty)
	if q.Value == nil {
		q.Quality, q.Uncertainty = "", nil
	}
	return q
}

// number is a copy of a finite number, or nil.
func number(value *float64) *float64 { return newer(value, nil) }
