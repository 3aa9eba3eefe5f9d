package record

import "time"

// Kind says what a line is.
type Kind string

// The kinds of lines.
const (
	KindRun      Kind = "run"      // the header: the first line
	KindStep     Kind = "step"     // a step of training, or an interval
	KindPower    Kind = "power"    // the meter alone, between steps
	KindNames    Kind = "names"    // names of a layer's experts; the last such line of a layer holds
	KindBaseline Kind = "baseline" // what the run is compared with
	KindTrace    Kind = "trace"    // the routes of one text
	KindEvent    Kind = "event"    // something that a reader should know of
	KindEnd      Kind = "end"      // the run closed its file
)

// Line is one line. Exactly one of the pointers is set, that of its kind.
type Line struct {
	Kind     Kind
	Run      *Run
	Step     *Step
	Power    *Power
	Names    *Names
	Baseline *Baseline
	Trace    *Trace
	Event    *Event
	End      *End
}

// Run describes a run: what ran, where, and what metered it.
type Run struct {
	Kind    Kind      `json:"kind"`
	Schema  int       `json:"schema"`
	ID      string    `json:"id"`   // unique
	Name    string    `json:"name"` // for people: "hamiltonian, budget 1.25"
	Started time.Time `json:"started"`
	Library string    `json:"library"` // the release of genesis-moe
	Host    string    `json:"host,omitempty"`
	PID     int       `json:"pid,omitempty"`

	Router  string            `json:"router,omitempty"` // "hamiltonian", "mixtral", "deepseek"
	Layers  []Layer           `json:"layers,omitempty"`
	Shape   map[string]int64  `json:"shape,omitempty"`  // what a comparison must hold equal: hidden_size, sequence, batch, ...
	Labels  map[string]string `json:"labels,omitempty"` // free: "seed", "corpus", "arm"
	Devices []Device          `json:"devices,omitempty"`
	Meter   Meter             `json:"meter"`
}

// Layer is one Mixture-of-Experts layer of the model.
type Layer struct {
	Layer   int    `json:"layer"` // its number, from 0; lines of steps refer to it
	Name    string `json:"name,omitempty"`
	Experts int    `json:"experts"`
	TopK    int    `json:"top_k"`
	Clans   []int  `json:"clans,omitempty"` // of each expert, the one that it was split from, or -1
	Free    []int  `json:"free,omitempty"`  // the slots that hold no expert yet; experts counts them
}

// Device is one thing whose energy is metered: a GPU, or a processor package.
type Device struct {
	Device     string   `json:"device"` // "gpu0", "package0"
	Domain     string   `json:"domain"` // "gpu" or "cpu"
	Name       string   `json:"name,omitempty"`
	UUID       string   `json:"uuid,omitempty"`
	Driver     string   `json:"driver,omitempty"`
	LimitWatts *float64 `json:"limit_watts"` // the power limit in force; null where there is none
	IdleWatts  Quantity `json:"idle_watts"`
}

// Meter is what the energies of a run come from.
type Meter struct {
	Source              Source   `json:"source"`
	Quality             Quality  `json:"quality,omitempty"`
	UpdatePeriodSeconds *float64 `json:"update_period_seconds"` // of the sensor; null: not known yet
	Note                string   `json:"note,omitempty"`        // why not a better source, if so
}

// Phase is the kind of work that tokens are counted by.
type Phase string

// The phases. Their energies per token are not comparable with each other.
const (
	TrainPhase   Phase = "train"
	PrefillPhase Phase = "prefill"
	DecodePhase  Phase = "decode"
	EvalPhase    Phase = "eval"
)

// Step is one step of training, or one interval of something else.
type Step struct {
	Kind            Kind               `json:"kind"`
	Seconds         float64            `json:"t"` // since the run started, at the end of the step
	Step            int64              `json:"step"`
	Phase           Phase              `json:"phase"`
	DurationSeconds float64            `json:"duration_seconds"`
	Tokens          int64              `json:"tokens"`       // of this step
	TotalTokens     int64              `json:"total_tokens"` // of the run, in this phase
	Loss            map[string]float64 `json:"loss,omitempty"`
	Progress        *float64           `json:"progress,omitempty"` // of training, 0 to 1

	Energy  Energy      `json:"energy"`
	Routing Routing     `json:"routing"`
	Layers  []LayerStep `json:"layers,omitempty"`
}

// Energy is the energy of one step, and of the run up to its end.
type Energy struct {
	Joules            Quantity       `json:"joules"`               // of this step, all devices
	TotalJoules       Quantity       `json:"total_joules"`         // of the run
	JoulesPerToken    Quantity       `json:"joules_per_token"`     // of this step, gross
	NetJoulesPerToken Quantity       `json:"net_joules_per_token"` // the same minus idle power x time
	RunJoulesPerToken Quantity       `json:"run_joules_per_token"` // of the run in this phase, gross
	Devices           []DeviceEnergy `json:"devices,omitempty"`
	Components        *Components    `json:"components,omitempty"` // absent without a calibration
	Saved             []Saved        `json:"saved,omitempty"`      // one for each baseline
}

// DeviceEnergy is a device's part.
type DeviceEnergy struct {
	Device      string   `json:"device"`
	Watts       Quantity `json:"watts"` // the mean over the step where it is long enough, else over the meter's last updates
	LimitWatts  *float64 `json:"limit_watts"`
	Joules      Quantity `json:"joules"`
	TotalJoules Quantity `json:"total_joules"`
}

// Power is what the meter says between steps: several lines a second are fine.
type Power struct {
	Kind        Kind           `json:"kind"`
	Seconds     float64        `json:"t"`
	TotalJoules Quantity       `json:"total_joules"` // of the run
	Devices     []DeviceEnergy `json:"devices"`      // joules: since the line before
}

// Components are the parts of the run's step: router + experts + other + idle = joules,
// by construction.
type Components struct {
	RouterJoules  Quantity `json:"router_joules"`
	ExpertsJoules Quantity `json:"experts_joules"`
	OtherJoules   Quantity `json:"other_joules"`
	IdleJoules    Quantity `json:"idle_joules"`
	// ResidualJoules is what the calibrated parts would make the step cost, less what
	// the meter says. It shows how far the model can be trusted.
	ResidualJoules Quantity `json:"residual_joules"`
}

// Saved compares the run with a baseline. Both are signed; both are null without a
// baseline that was measured.
type Saved struct {
	Baseline          string   `json:"baseline"`
	SavedKilojoules   Quantity `json:"saved_kilojoules"`   // of the run: (baseline J/token - run J/token) x tokens / 1000
	EfficiencyPercent Quantity `json:"efficiency_percent"` // 100 (1 - run J/token / baseline J/token)
}

// Routing is the router's part of a step.
type Routing struct {
	Mode            string   `json:"mode,omitempty"`
	Decisions       int64    `json:"decisions"`        // tokens routed, over all layers
	DurationSeconds *float64 `json:"duration_seconds"` // in routers, all layers; null: not timed
}

// LayerStep is one layer's part of a step. The terms are null where nobody asked the
// router for a report in this step.
type LayerStep struct {
	Layer         int       `json:"layer"`
	Bind          *float64  `json:"bind"`    // E_bind
	Entropy       *float64  `json:"entropy"` // E_entropy
	Cost          *float64  `json:"cost"`    // E_cost
	Hamiltonian   *float64  `json:"h"`       // their sum
	MaxViolation  *float64  `json:"max_violation"`
	MeanActive    *float64  `json:"mean_active"`              // experts per token
	TokenEntropy  *float64  `json:"token_entropy"`            // nats
	Tokens        []int64   `json:"tokens,omitempty"`         // that each expert had in this step; 0: IDLE
	FLOPs         []int64   `json:"flops,omitempty"`          // of each expert
	Bytes         []int64   `json:"bytes,omitempty"`          // that each expert moved
	Joules        []float64 `json:"joules,omitempty"`         // of each expert, dynamic
	JoulesQuality Quality   `json:"joules_quality,omitempty"` // of all of joules: modelled
}

// Load is each expert's share of the layer's tokens over the share that balance would
// give it: 1 is balanced. Without a token all are 0.
func (l *LayerStep) Load() []float64 {
	var sum int64
	for _, n := range l.Tokens {
		sum += n
	}
	load := make([]float64, len(l.Tokens))
	if sum == 0 {
		return load
	}
	for e, n := range l.Tokens {
		load[e] = float64(n) * float64(len(l.Tokens)) / float64(sum)
	}
	return load
}

// Names are the names of a layer's experts.
type Names struct {
	Kind    Kind       `json:"kind"`
	Seconds float64    `json:"t"`
	Layer   int        `json:"layer"`
	Names   []string   `json:"names"`            // one for each expert; "" where there is none yet
	Tokens  [][]string `json:"tokens,omitempty"` // what each was derived from: its most distinctive tokens
	Given   []bool     `json:"given,omitempty"`  // whether the host gave the name; absent: none
}

// Baseline is a baseline that was measured with the same tool.
type Baseline struct {
	Kind           Kind     `json:"kind"`
	Seconds        float64  `json:"t"`
	Name           string   `json:"name"` // "mixtral"
	Phase          Phase    `json:"phase"`
	JoulesPerToken Quantity `json:"joules_per_token"`
	Seeds          int      `json:"seeds"`  // runs that it is the mean of
	Tokens         int64    `json:"tokens"` // of each
	// What it was measured on and with, as in the header of a run.
	Devices []Device         `json:"devices,omitempty"`
	Shape   map[string]int64 `json:"shape,omitempty"`
	// Differences are what differs from this run of what should be equal (GPU, power
	// limit, driver, shape, tokens, seeds). None: savings against it are measured;
	// else they are modelled.
	Differences []string `json:"differences,omitempty"`
}

// Trace is the route of every token of one text.
type Trace struct {
	Kind    Kind         `json:"kind"`
	Seconds float64      `json:"t"`
	ID      string       `json:"id"`
	Tokens  []TraceToken `json:"tokens"`
}

// TraceToken is one token's way through the layers.
type TraceToken struct {
	Text   string       `json:"text"`
	Layers []TraceRoute `json:"layers"`
	Joules Quantity     `json:"joules"` // modelled; null without a calibration
}

// TraceRoute is where one layer sent a token.
type TraceRoute struct {
	Layer   int       `json:"layer"`
	Experts []int     `json:"experts"` // best first
	Weights []float64 `json:"weights"`
	Energy  *float64  `json:"u,omitempty"` // the binding energy to the first expert; no joules
}

// EventKind says what happened.
type EventKind string

// The events.
const (
	MeterLost      EventKind = "meter_lost"      // a device no longer answers
	MeterBack      EventKind = "meter_back"      // it answers again
	CounterReset   EventKind = "counter_reset"   // it began anew; what ran meanwhile is bounded, not known
	CounterWrapped EventKind = "counter_wrapped" // and was unwrapped: nothing is lost
	MeterDisagrees EventKind = "meter_disagrees" // counter and integral of power differ
	Split          EventKind = "split"           // an expert was split in two: its child takes a slot
	Promotion      EventKind = "promotion"       // a child has left its clan, for one of its own
	Death          EventKind = "death"           // an expert is no more: its slot is free
	Note           EventKind = "note"            // of the host
)

// Event is something that a reader should know of.
type Event struct {
	Kind    Kind      `json:"kind"`
	Seconds float64   `json:"t"`
	Event   EventKind `json:"event"`
	Device  string    `json:"device,omitempty"`
	Layer   *int      `json:"layer,omitempty"`
	Expert  *int      `json:"expert,omitempty"`
	Child   *int      `json:"child,omitempty"` // of a split: the new expert's slot
	Message string    `json:"message"`
}

// End is the last line of a run that closed its file.
type End struct {
	Kind        Kind            `json:"kind"`
	Seconds     float64         `json:"t"`
	Tokens      map[Phase]int64 `json:"tokens"`
	TotalJoules Quantity        `json:"total_joules"`
	Dropped     int64           `json:"dropped,omitempty"` // lines that could not be written
}
