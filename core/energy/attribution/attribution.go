// Package attribution divides the energy that a meter has seen among what caused it: the
// routers, the experts, the rest of the model, and the machine's idling.
//
// No sensor sees these parts: a routing kernel of 10 us is a ten-thousandth of a GPU's update. They are
// modelled from counts of the work done and from prices of that work, which a calibration found
// by repeating each kind of work alone for at least ten seconds on the same device:
//
//	idle    = idle power x time
//	router  = J per decision x decisions
//	experts = (gross - idle - router - other), where other = J per token x tokens was calibrated,
//	          else sum over experts of a x bytes + b x FLOPs
//	other   = what is left
//
// So the four add up to the meter by construction. The residual is what the calibrated parts would have made it,
// less what the meter says: the size of the model's error. An expert's share follows a x bytes + b x FLOPs.
package attribution

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Calibration holds the prices of work on a device.
type Calibration struct {
	JoulesPerDecision   float64  `json:"joules_per_decision"`    // routing one token in one layer
	JoulesPerByte       float64  `json:"joules_per_byte"`        // a: moved by experts
	JoulesPerFLOP       float64  `json:"joules_per_flop"`        // b: computed by experts
	OtherJoulesPerToken *float64 `json:"other_joules_per_token"` // of the model without its MoE layers; null: not calibrated
	IdleWatts           float64  `json:"idle_watts"`             // all devices, without work
	Device              string   `json:"device"`                 // the name of the device that it holds for
}

// Check refuses prices that no measurement gives.
func (c *Calibration) Check() error {
	prices := map[string]float64{
		"joules_per_decision": c.JoulesPerDecision, "joules_per_byte": c.JoulesPerByte,
		"joules_per_flop": c.JoulesPerFLOP, "idle_watts": c.IdleWatts,
	}
	if c.OtherJoulesPerToken != nil {
		prices["other_joules_per_token"] = *c.OtherJoulesPerToken
	}
	for name, price := range prices {
		if !(price >= 0) || math.IsInf(price, 0) {
			return core.Invalidf("calibration", "%s: %g, want a finite number >= 0", name, price)
		}
	}
	if c.JoulesPerByte == 0 && c.JoulesPerFLOP == 0 {
		return core.Invalidf("calibration", "joules_per_byte and joules_per_flop are both 0, want at least one price of experts' work")
	}
	return nil
}

// Attribute divides the energy of a step and writes each expert's part to its layer. It is nil
// when the step's energy, or the work of its experts, is not known.
func (c *Calibration) Attribute(s *record.Step) *record.Components {
	if !s.Energy.Joules.Known() || s.Energy.Joules.Incomplete {
		return nil
	}
	gross := *s.Energy.Joules.Value
	weights, predicted, known := c.weights(s.Layers)
	if !known {
		return nil
	}
	idle := min(gross, c.IdleWatts*s.DurationSeconds)
	router := c.JoulesPerDecision * float64(s.Routing.Decisions)
	active := gross - idle
	experts, other := predicted, 0.0
	calibrated := idle + router + predicted
	residual := record.Unknown(s.Energy.Joules.Source)
	if c.OtherJoulesPerToken != nil {
		other = *c.OtherJoulesPerToken * float64(s.Tokens)
		calibrated += other
		router, other = fit(router, other, active)
		experts = active - router - other
		residual = modelled(calibrated-gross, s.Energy.Joules)
	} else {
		router, experts = fit(router, experts, active)
		other = active - router - experts
		if calibrated > gross { // The parts that are calibrated are too much already.
			residual = modelled(calibrated-gross, s.Energy.Joules)
		}
	}
	for i := range s.Layers {
		l := &s.Layers[i]
		l.Joules, l.JoulesQuality = weights[i], quality(s.Energy.Joules)
		for e := range l.Joules {
			if predicted > 0 {
				l.Joules[e] *= experts / predicted
			}
		}
	}
	return &record.Components{
		RouterJoules: modelled(router, s.Energy.Joules), ExpertsJoules: modelled(experts, s.Energy.Joules),
		OtherJoules: modelled(other, s.Energy.Joules), IdleJoules: modelled(idle, s.Energy.Joules),
		ResidualJoules: residual,
	}
}

// weights are a x bytes + b x FLOPs of each expert, in joules, and their sum.
func (c *Calibration) weights(layers []record.LayerStep) (weights [][]float64, sum float64, known bool) {
	weights = make([][]float64, len(layers))
	for i := range layers {
		l := &layers[i]
		if len(l.FLOPs) == 0 || len(l.FLOPs) != len(l.Bytes) {
			return nil, 0, false
		}
		weights[i] = make([]float64, len(l.FLOPs))
		for e := range weights[i] {
			weights[i][e] = c.JoulesPerByte*float64(l.Bytes[e]) + c.JoulesPerFLOP*float64(l.FLOPs[e])
			sum += weights[i][e]
		}
	}
	return weights, sum, len(layers) > 0
}

// fit scales two parts down, if need be, to what there is.
func fit(a, b, most float64) (float64, float64) {
	if a+b <= most {
		return a, b
	}
	scale := most / (a + b)
	return a * scale, b * scale
}

// modelled is a value that a model made of a quantity. Its error has no bound; the residual
// shows how large it is.
func modelled(value float64, of record.Quantity) record.Quantity {
	return record.Quantity{Value: &value, Source: of.Source, Quality: quality(of), LowResolution: of.LowResolution}
}

// quality is that of a model's result: made-up input gives made-up output.
func quality(of record.Quantity) record.Quality {
	if of.Quality == record.Synthetic {
		return record.Synthetic
	}
	return record.Modelled
}
