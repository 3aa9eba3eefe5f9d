package router

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// withinGap ranks all experts that are open, and keeps the best k while they are within the gap of the first.
func withinGap(scores []float64, price []float64, gap float64, k int) []int32 {
	var order []int32
	for _, e := range rank(scores) {
		if !math.IsInf(price[e], 1) {
			order = append(order, int32(e))
		}
	}
	order = order[:min(k, len(order))]
	for i, e := range order {
		if i > 0 && !(scores[order[0]]-scores[e] <= gap) {
			return order[:i]
		}
	}
	return order
}

// A budgeted choice is what ranking all experts gives, for any scores and gaps.
func TestBudgetedChoice(t *testing.T) {
	engine := newEngine(t, 1)
	r := rand.New(rand.NewPCG(1, 1))
	special := []float64{math.Inf(1), math.Inf(-1), math.NaN(), 0, 1, 1}
	gaps := []float64{0, 0.5, 3, math.Inf(1)}
	seen := map[int]bool{}
	for range 5000 {
		experts := 1 + r.IntN(12)
		o := core.DefaultRouterOptions()
		o.Mode, o.Budgeted, o.TopK = core.Hamiltonian, true, 1+r.IntN(experts)
		logits, price := make([]float64, experts), make([]float64, experts)
		for e := range logits {
			logits[e] = float64(r.IntN(8)) / 2
			if r.IntN(6) == 0 {
				logits[e] = special[r.IntN(len(special))]
			}
			if r.IntN(4) == 0 && e > o.TopK {
				price[e] = math.Inf(1)
			}
		}
		gap := gaps[r.IntN(len(gaps))]
		scores := slices.Clone(logits)
		for e, v := range scores {
			if v != v {
				scores[e] = math.Inf(-1)
			}
		}
		scratch := engine.Scratch(chooserSize[float64](&o, experts))
		c := newChooser(scratch, &o, experts, price, gap)
		chosen := slices.Clone(c.choose(logits))
		engine.Release(scratch)
		require.Equal(t, withinGap(scores, price, gap, o.TopK), chosen, "logits %v, price %v, gap %v, k %d", logits, price, gap, o.TopK)
		seen[len(chosen)] = true
	}
	require.Greater(t, len(seen), 8)
}
