package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// Report measures a routing from the outputs of one forward pass: the terms of
// the [energy] H and how loads, entropies and choices look. See gmoe_router_report in
// genesis_moe.h for each number.
//
// The terms are taken at p_te = 1/(1+exp((u_te+mu_e-theta_t)/tau)) with sum_e p_te = k, k
// being top_k, or the mean |S_t| of a budgeted routing. For mixtral u is minus the
// logits and mu is 0; for deepseek u is minus the sigmoid score and mu minus the
// correction bias, so that top-k of -(u+mu) is its choice up to groups. Experts that a price
// closes are left out, as if they were not there. Tokens with logits that are not finite
// are counted, in loads too, but in nothing else. A mean over nothing is 0.
func Report(e *core.Engine, a *core.RouterReportArgs) (core.RouterReport, error) {
	s, err := checkReport(a, e.Device)
	if err != nil {
		return core.RouterReport{}, err
	}
	e.Counters.RouterCalls.Add(1)
	if session := e.Session(); session != nil {
		return session.RouterReport(a)
	}
	for _, index := range []core.Argument{{Name: "top_k_index", Tensor: a.TopKIndex}, {Name: "previous_index", Tensor: a.PreviousIndex}} {
		if index.Tensor == nil {
			continue
		}
		if err := checkIndex(index.Name, index.Tensor); err != nil {
			return core.RouterReport{}, err
		}
	}
	if s.compute == core.Float64 {
		return report[float64](e, a, s)
	}
	return report[float32](e, a, s)
}

func checkReport(a *core.RouterReportArgs, device core.Device) (shapes, error) {
	o := &a.Options
	want := core.Want{Shape: []int64{-1, -1}, DTypes: wide, Device: device, Text: "[T, E]"}
	if err := core.CheckArgument(core.Argument{Name: "logits", Tensor: a.Logits}, want); err != nil {
		return shapes{}, err
	}
	tokens, experts := a.Logits.Shape[0], a.Logits.Shape[1]
	if err := checkOptions(o, experts); err != nil {
		return shapes{}, err
	}
	if err := checkEnergy(o); err != nil {
		return shapes{}, err
	}
	slots := int64(o.TopK)
	for _, index := range []core.Argument{{Name: "top_k_index", Tensor: a.TopKIndex}, {Name: "previous_index", Tensor: a.PreviousIndex}} {
		if index.Tensor == nil && index.Name == "previous_index" {
			continue
		}
		want := core.Want{Shape: []int64{tokens, slots}, DTypes: integers, Device: device, Text: "[T, K] with K = top_k"}
		if err := core.CheckArgument(index, want); err != nil {
			return shapes{}, err
		}
	}
	if a.Price != nil {
		want := core.Want{Shape: []int64{experts}, DTypes: floats, Device: device, Text: "[E]"}
		if err := core.CheckArgument(core.Argument{Name: "price", Tensor: a.Price}, want); err != nil {
			return shapes{}, err
		}
	}
	return shapes{tokens: int(tokens), experts: int(experts), slots: int(slots), compute: a.Logits.DType}, nil
}

// tally holds the sums of one block of tokens.
type tally struct {
	finite, margins, active      int64
	previous, changed            int64
	bind, entropy, token, margin float64

	loads, marginal []float64 // [open] sums of p and of softmax(logits)
	counts          []int64   // [open]
}

// surveyor computes a tally. One worker has one.
type surveyor[F blas.Float] struct {
	*core.RouterReportArgs
	shapes
	energy
	logits reader[F]
	mu     []float64 // [open]
	place  []int     // [E] where an open expert is among those; -1: it is closed

	row               []F
	wide, u, field, p []float64
	member            []bool
}

func report[F blas.Float](e *core.Engine, a *core.RouterReportArgs, s shapes) (core.RouterReport, error) {
	var r core.RouterReport
	if s.tokens == 0 && a.Price == nil {
		// No memory of the caller's bounds the number of experts then, and nothing depends on it.
		summarize(&r, energy{}, s, nil, a.PreviousIndex != nil)
		return r, nil
	}
	price, place := make([]float64, s.experts), make([]int, s.experts)
	for e := range place {
		place[e] = e
	}
	if a.Price != nil {
		load(price, a.Price, 0, a.Price.Stride(0))
		if err := checkState(&a.Options, price, 0, 1); err != nil {
			return r, err
		}
		r.PriceMin, r.PriceMax = math.Inf(1), math.Inf(-1)
		open := price[:0]
		for e, mu := range price {
			if isClosed(&a.Options, mu) {
				place[e] = -1
				continue
			}
			r.PriceMin, r.PriceMax = min(r.PriceMin, mu), max(r.PriceMax, mu)
			place[e] = len(open)
			open = append(open, mu)
		}
		price = open
	}
	switch a.Options.Mode {
	case core.Mixtral:
		clear(price)
	case core.DeepSeek:
		for i := range price {
			price[i] = -price[i]
		}
	}
	active := float64(s.slots)
	if usesGap(&a.Options) {
		active = meanActive(a.TopKIndex, int64(s.experts))
	}
	h := newEnergy(&a.Options, active, len(price))

	rows := blockRows(s.tokens)
	tallies := make([]tally, blocks(s.tokens))
	pool := make([]*surveyor[F], max(1, min(e.NumThreads, len(tallies))))
	e.Parallel(len(tallies), func(worker, task int) {
		if pool[worker] == nil {
			pool[worker] = &surveyor[F]{
				RouterReportArgs: a, shapes: s, energy: h, logits: newReader[F](a.Logits), mu: price, place: place,
				row: make([]F, s.experts), wide: make([]float64, h.experts), u: make([]float64, h.experts),
				field: make([]float64, h.experts), p: make([]float64, h.experts), member: make([]bool, h.experts),
			}
		}
		t := &tallies[task]
		t.loads, t.marginal, t.counts = make([]float64, h.experts), make([]float64, h.experts), make([]int64, h.experts)
		for token := task * rows; token < min(s.tokens, (task+1)*rows); token++ {
			pool[worker].survey(t, token)
		}
	})
	summarize(&r, h, s, tallies, a.PreviousIndex != nil)
	return r, nil
}

// meanActive is the mean number of present slots of a token; 1 without tokens.
func meanActive(index *core.Tensor, experts int64) float64 {
	present := 0
	for i := range index.Shape[0] {
		for j := range index.Shape[1] {
			if loadIndex(index, i*index.Stride(0)+j*index.Stride(1)) < experts {
				present++
			}
		}
	}
	if present == 0 {
		return 1
	}
	return float64(present) / float64(index.Shape[0])
}

// survey adds one token.
func (v *surveyor[F]) survey(t *tally, token int) {
	clear(v.member)
	for slot := range v.slots {
		if place := v.at(v.TopKIndex, token, slot); place >= 0 {
			v.member[place] = true
			t.counts[place]++
			t.active++
		}
	}
	if previous := v.PreviousIndex; previous != nil {
		for slot := range v.slots {
			if place := v.at(previous, token, slot); place >= 0 {
				t.previous++
				if !v.member[place] {
					t.changed++
				}
			}
		}
	}
	row := v.logits.block(v.row, token, 1, 0, v.shapes.experts).row(0, v.shapes.experts)
	if !finite(row) {
		return
	}
	t.finite++
	for e, l := range row {
		if place := v.place[e]; place >= 0 {
			v.wide[place] = float64(l)
		}
	}
	v.addEntropies(t)
	v.addEnergy(t)
	v.addMargin(t)
}

// at is the place of an expert in an index; -1 where that is absent or closed.
func (v *surveyor[F]) at(index *core.Tensor, token, slot int) int {
	expert := loadIndex(index, int64(token)*index.Stride(0)+int64(slot)*index.Stride(1))
	if expert >= int64(v.shapes.experts) {
		return -1
	}
	return v.place[expert]
}

// addEntropies takes the softmax of the logits.
func (v *surveyor[F]) addEntropies(t *tally) {
	softmax(v.p, v.wide)
	for e, p := range v.p {
		t.marginal[e] += p
		t.token += information(p)
	}
}

// information is -p ln p.
func information(p float64) float64 {
	if p == 0 {
		return 0
	}
	return -p * math.Log(p)
}

func (v *surveyor[F]) addEnergy(t *tally) {
	if v.Options.Mode == core.DeepSeek {
		sigmoid(v.u, v.wide)
	} else {
		copy(v.u, v.wide)
	}
	for e, score := range v.u {
		v.u[e] = -score
		v.field[e] = (v.mu[e] - score) / v.energy.temperature
	}
	theta := occupy(v.energy, v.p, v.field, math.NaN())
	for e, p := range v.p {
		t.loads[e] += p
		t.bind += p * v.u[e]
		if p < 1 { // else theta may be infinite, and s is 0
			t.entropy += entropy(theta-v.field[e], p)
		}
	}
}

// addMargin takes the distance in f = u+mu from the worst chosen to the best not chosen.
func (v *surveyor[F]) addMargin(t *tally) {
	worst, next := math.Inf(-1), math.Inf(1)
	for e, u := range v.u {
		f := u + v.mu[e]
		if v.member[e] {
			worst = max(worst, f)
		} else {
			next = min(next, f)
		}
	}
	if margin := next - worst; !math.IsInf(margin, 0) && !math.IsNaN(margin) {
		t.margin += margin
		t.margins++
	}
}

// summarize sums the tallies in their order.
func summarize(r *core.RouterReport, h energy, s shapes, tallies []tally, hasPrevious bool) {
	var all tally
	all.loads, all.marginal, all.counts = make([]float64, h.experts), make([]float64, h.experts), make([]int64, h.experts)
	for i := range tallies {
		t := &tallies[i]
		all.finite += t.finite
		all.margins += t.margins
		all.active += t.active
		all.previous += t.previous
		all.changed += t.changed
		all.bind += t.bind
		all.entropy += t.entropy
		all.token += t.token
		all.margin += t.margin
		for e := range h.experts {
			all.loads[e] += t.loads[e]
			all.marginal[e] += t.marginal[e]
			all.counts[e] += t.counts[e]
		}
	}
	r.NonFiniteTokens = int64(s.tokens) - all.finite
	if all.finite > 0 {
		n := float64(all.finite)
		for e := range h.experts {
			all.loads[e] /= n
			r.MarginalEntropy += information(all.marginal[e] / n)
		}
		r.EnergyBind = all.bind / n
		r.EnergyEntropy = -h.temperature * all.entropy / n
		r.EnergyCost = h.cost(all.loads)
		r.Energy = r.EnergyBind + r.EnergyEntropy + r.EnergyCost
		r.TokenEntropy = all.token / n
	}
	r.TopKMargin = ratio(all.margin, all.margins)
	r.MeanActive = ratio(float64(all.active), int64(s.tokens))
	r.Churn = -1
	if hasPrevious {
		r.Churn = ratio(float64(all.changed), all.previous)
	}
	summarizeLoads(r, all.counts, all.active)
}

func ratio(sum float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

func summarizeLoads(r *core.RouterReport, counts []int64, total int64) {
	if total == 0 {
		return
	}
	experts := float64(len(counts))
	mean := float64(total) / experts
	largest, squares, dead := int64(0), 0.0, 0
	for _, count := range counts {
		largest = max(largest, count)
		excess := float64(count)/mean - 1
		squares += excess * excess
		if count == 0 {
			dead++
		}
	}
	r.MaxViolation = float64(largest)/mean - 1
	r.LoadCV = math.Sqrt(squares / experts)
	r.DeadShare = float64(dead) / experts
}
