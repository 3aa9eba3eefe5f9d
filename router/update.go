package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
)

// Update moves prices towards balance and the gap towards its budget, after an
// optimiser's step, from the hard counts l_e of the whole global batch:
//
//	hamiltonian  mu_e += clip(rate ((l_e/mean(l) - 1) - mu_e/lambda), +-step_limit); then the mean of mu is taken off
//	             gap  += gap_rate (budget - sum(l)/num_tokens), at least 0 (budgeted)
//	deepseek     price_e += rate sign(mean(l) - l_e)
//	mixtral      nothing
//
// The first is the dual ascent of H with the load that the routing had in the place of
// rho; the third is that of arXiv 2408.15664. num_tokens = 0 leaves everything as
// it is, rate = 0 the price, gap_rate = 0 the gap. An expert that is closed, in mode
// hamiltonian by a price of +Inf, stays so and has no part in the means. Counts that no routing
// of num_tokens tokens can have, rates that are not finite or negative, and another price or
// gap that is not finite are refused, before anything is written.
func Update(e *core.Engine, a *core.RouterUpdateArgs) error {
	if err := checkUpdate(a, e.Device); err != nil {
		return err
	}
	e.Counters.RouterCalls.Add(1)
	if session := e.Session(); session != nil {
		return session.RouterUpdate(a)
	}
	if a.Options.Mode == core.Mixtral || a.NumTokens == 0 {
		return nil
	}
	u := update{RouterUpdateArgs: a}
	if err := u.read(); err != nil {
		return err
	}
	switch {
	case a.Rate == 0: // frozen
	case a.Options.Mode == core.DeepSeek:
		u.signStep()
	default:
		u.priceStep()
	}
	u.write()
	return nil
}

func checkUpdate(a *core.RouterUpdateArgs, device core.Device) error {
	o := &a.Options
	if a.NumTokens < 0 {
		return core.Invalidf("num_tokens", "%d, want at least 0", a.NumTokens)
	}
	if o.Mode == core.Mixtral {
		return nil
	}
	want := core.Want{Shape: []int64{-1}, DTypes: []core.DType{core.Int64}, Device: device, Text: "[E]"}
	if err := core.CheckArgument(core.Argument{Name: "counts", Tensor: a.Counts}, want); err != nil {
		return err
	}
	experts := a.Counts.Shape[0]
	if err := checkOptions(o, experts); err != nil {
		return err
	}
	want = core.Want{Shape: []int64{experts}, DTypes: wide, Device: device, Text: "[E]"}
	if err := core.CheckArgument(core.Argument{Name: "price", Tensor: a.Price}, want); err != nil {
		return err
	}
	rates := []struct {
		name  string
		value float64
	}{{"rate", a.Rate}, {"step_limit", a.StepLimit}, {"gap_rate", a.GapRate}}
	for _, r := range rates {
		if !(r.value >= 0) || math.IsInf(r.value, 0) {
			return core.Invalidf(r.name, "%v, want a finite number of at least 0", r.value)
		}
	}
	if usesGap(o) {
		if !(a.Budget >= 1 && a.Budget <= float64(o.TopK)) {
			return core.Invalidf("budget", "%v, want 1 to top_k = %d experts per token", a.Budget, o.TopK)
		}
		want := core.Want{Shape: []int64{1}, DTypes: wide, Device: device, Text: "[1]"}
		if err := core.CheckArgument(core.Argument{Name: "gap", Tensor: a.Gap}, want); err != nil {
			return err
		}
	}
	outputs := []core.Argument{{Name: "price", Tensor: a.Price}, {Name: "gap", Tensor: usedGap(o, a.Gap)}}
	return core.CheckOutputs(outputs, []core.Argument{{Name: "counts", Tensor: a.Counts}})
}

// update is one step's numbers, in float64.
type update struct {
	*core.RouterUpdateArgs
	counts, price []float64
	open          float64 // experts that are not closed
	total, mean   float64
	gap           float64
}

// read loads and validates counts, price and gap.
func (u *update) read() error {
	experts := int(u.Counts.Shape[0])
	u.counts, u.price = make([]float64, experts), make([]float64, experts)
	for e := range u.counts {
		count := loadIndex(u.Counts, int64(e)*u.Counts.Stride(0))
		if count < 0 || count > u.NumTokens {
			return core.Invalidf("counts", "%d for expert %d, want 0 to num_tokens = %d", count, e, u.NumTokens)
		}
		u.counts[e] = float64(count)
		u.total += float64(count)
	}
	if most := float64(u.NumTokens) * float64(u.Options.TopK); u.total == 0 || u.total > most {
		return core.Invalidf("counts", "sum to %.0f, want 1 to num_tokens * top_k = %.0f", u.total, most)
	}
	load(u.price, u.Price, 0, u.Price.Stride(0))
	for e, mu := range u.price {
		switch {
		case isClosed(&u.Options, mu):
			if u.counts[e] > 0 {
				return core.Invalidf("counts", "%.0f for expert %d, want 0: its price of +Inf closes it", u.counts[e], e)
			}
		case mu-mu != 0:
			return core.Invalidf("price", "%v for expert %d, want a finite number", mu, e)
		default:
			u.open++
		}
	}
	u.mean = u.total / u.open // some expert is open: a closed one has no counts, and they are not all 0
	if usesGap(&u.Options) {
		u.gap = loadScalar(u.Gap, 0.0)
		if !(u.gap >= 0) || math.IsInf(u.gap, 0) {
			return core.Invalidf("gap", "%v, want a finite number of at least 0", u.gap)
		}
	}
	return nil
}

func (u *update) priceStep() {
	lambda := float64(u.Options.LoadPenalty)
	sum := 0.0
	for e, mu := range u.price {
		step := u.Rate * ((u.counts[e]/u.mean - 1) - mu/lambda)
		u.price[e] += max(-u.StepLimit, min(step, u.StepLimit))
		if !isClosed(&u.Options, mu) {
			sum += u.price[e]
		}
	}
	for e := range u.price {
		u.price[e] -= sum / u.open
	}
}

func (u *update) signStep() {
	for e, count := range u.counts {
		switch {
		case count < u.mean:
			u.price[e] += u.Rate
		case count > u.mean:
			u.price[e] -= u.Rate
		}
	}
}

func (u *update) write() {
	if u.Rate > 0 {
		store(u.Price, 0, u.Price.Stride(0), u.price)
	}
	if usesGap(&u.Options) {
		gap := max(0, u.gap+u.GapRate*(u.Budget-u.total/float64(u.NumTokens)))
		store(u.Gap, 0, 1, []float64{gap})
	}
}
