package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
)

// checkOptions validates the fields that the mode uses, for a number of experts.
func checkOptions(o *core.RouterOptions, experts int64) error {
	if o.TopK < 1 || int64(o.TopK) > experts {
		return core.Invalidf("options.top_k", "%d, want 1 to the %d experts", o.TopK, experts)
	}
	switch o.Mode {
	case core.Hamiltonian:
		return checkHamiltonian(o)
	case core.Mixtral:
		return checkPositive("options.scaling_factor", o.ScalingFactor)
	case core.DeepSeek:
		if err := checkPositive("options.scaling_factor", o.ScalingFactor); err != nil {
			return err
		}
		return checkGroups(o, experts)
	default:
		return core.Invalidf("options.mode", "%d, want 0 (hamiltonian), 1 (mixtral) or 2 (deepseek)", o.Mode)
	}
}

func checkHamiltonian(o *core.RouterOptions) error {
	switch o.Binding {
	case core.Dot:
	case core.Cosine:
		if err := checkPositive("options.epsilon", o.Epsilon); err != nil {
			return err
		}
	default:
		return core.Invalidf("options.binding", "%d, want 0 (cosine) or 1 (dot)", o.Binding)
	}
	switch o.Solver {
	case core.Price:
	case core.Batch:
		if o.Budgeted {
			return core.Invalidf("options.budgeted", "true with solver batch, want solver price: the batch optimum has exactly top_k experts a token")
		}
	default:
		return core.Invalidf("options.solver", "%d, want 0 (price) or 1 (batch)", o.Solver)
	}
	if err := checkPositive("options.temperature_floor", o.TemperatureFloor); err != nil {
		return err
	}
	return checkEnergy(o)
}

// checkEnergy validates tau and lambda. With tau <= 0 the optimum is neither unique
// nor reached.
func checkEnergy(o *core.RouterOptions) error {
	if err := checkPositive("options.entropy_temperature", o.EntropyTemperature); err != nil {
		return err
	}
	return checkPositive("options.load_penalty", o.LoadPenalty)
}

func checkGroups(o *core.RouterOptions, experts int64) error {
	groups := int64(o.NumGroups)
	if groups < 1 || groups > experts || experts%groups != 0 {
		return core.Invalidf("options.num_groups", "%d, want a divisor of the %d experts", groups, experts)
	}
	if o.TopKGroups < 1 || o.TopKGroups > o.NumGroups {
		return core.Invalidf("options.top_k_groups", "%d, want 1 to the %d groups", o.TopKGroups, groups)
	}
	if candidates := experts / groups * int64(o.TopKGroups); int64(o.TopK) > candidates {
		return core.Invalidf("options.top_k", "%d, want at most the %d experts of %d groups", o.TopK, candidates, o.TopKGroups)
	}
	return nil
}

func checkPositive(name string, value float32) error {
	if !(value > 0) || math.IsInf(float64(value), 0) {
		return core.Invalidf(name, "%v, want a finite number above 0", value)
	}
	return nil
}
