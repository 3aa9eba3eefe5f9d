package router

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// withoutClosed is the same call without the experts that are closed, and where the others were.
func (c *call) withoutClosed() (open *call, was []int64) {
	for e := range c.Price.Shape[0] {
		if !math.IsInf(get(c.Price, e), 1) {
			was = append(was, e)
		}
	}
	rows := func(t *core.Tensor) *core.Tensor {
		if t == nil {
			return nil
		}
		columns := t.Elements() / t.Shape[0]
		part := newTensor(t.DType, compact, append([]int64{int64(len(was))}, t.Shape[1:]...)...)
		for i, e := range was {
			for j := range columns {
				set(part, int64(i)*columns+j, get(t, e*columns+j))
			}
		}
		return part
	}
	f := c.RouterForwardArgs
	tokens, k := f.HiddenStates.Shape[0], int64(f.Options.TopK)
	f.Centroids, f.Bias, f.Price = rows(f.Centroids), rows(f.Bias), rows(f.Price)
	f.TopKIndex, f.TopKWeights = newTensor(core.Int64, compact, tokens, k), newTensor(c.compute, compact, tokens, k)
	f.Logits, f.Counts = newTensor(c.compute, compact, tokens, int64(len(was))), newTensor(core.Int64, compact, int64(len(was)))
	return &call{f, c.compute}, was
}

// Routing, gradients and report are those of a router that does not have the closed experts. Their
// own gradients are zero.
func TestClosedExpertsAreNotThere(t *testing.T) {
	engine := newEngine(t, 2)
	forAll(t, 200, func(r recipe, rng *rand.Rand) {
		if r.options.Mode != core.Hamiltonian {
			r.options.Mode, r.options.Binding, r.bias = core.Hamiltonian, core.Dot, false
		}
		r.price, r.tokens = true, 1+rng.Int64N(50)
		r.options.TopK = min(r.options.TopK, int(r.experts))
		r.closed = rng.IntN(int(r.experts) - r.options.TopK + 1)
		c := r.build()
		if rng.IntN(3) == 0 { // a token of NaN is not drawn to a closed expert either
			set(c.HiddenStates, rng.Int64N(c.HiddenStates.Elements()), math.NaN())
		}
		c.forward(t, engine)
		open, was := c.withoutClosed()
		if r.dtype == core.Float64 && !open.clear(1e-9) {
			return
		}
		open.forward(t, engine)
		for i := range c.TopKIndex.Elements() {
			want := get(open.TopKIndex, i)
			if int(want) < len(was) {
				want = float64(was[int(want)])
			} else {
				want = float64(r.experts)
			}
			require.InDelta(t, want, get(c.TopKIndex, i), 0, r)
			if weight := get(open.TopKWeights, i); math.IsNaN(weight) {
				require.True(t, math.IsNaN(get(c.TopKWeights, i)), r)
			} else {
				require.InDelta(t, weight, get(c.TopKWeights, i), 1e-6, r)
			}
		}
		total := 0.0
		for i, e := range was {
			require.InDelta(t, get(open.Counts, int64(i)), get(c.Counts, e), 0, r)
			total += get(c.Counts, e)
		}
		require.InDelta(t, total, innerProduct(values(c.Counts), slicesOf(1, int(r.experts))), 0, r)
		require.InDeltaSlice(t, numbers(open.report(t, engine, nil)), numbers(c.report(t, engine, nil)), 1e-5, r)

		b := c.backward(rand.New(rand.NewPCG(1, 1)), r.layout)
		b.GradLogits = nil
		require.NoError(t, Backward(engine, b), r)
		if c.report(t, engine, nil).NonFiniteTokens > 0 {
			return // which spoil all gradients
		}
		width, closed := c.Centroids.Shape[1], map[int64]bool{}
		for e := range r.experts {
			closed[e] = math.IsInf(get(c.Price, e), 1)
		}
		for i, v := range values(b.GradCentroids) {
			if closed[int64(i)/width] {
				require.Zero(t, v, r)
			}
		}
		o := open.backward(rand.New(rand.NewPCG(1, 1)), compact)
		o.GradLogits, o.GradTopKWeights = nil, b.GradTopKWeights
		require.NoError(t, Backward(engine, o), r)
		scale := 1 / max(0.01, r.temperature) // of the gates' slopes
		require.InDeltaSlice(t, values(o.GradHiddenStates), values(b.GradHiddenStates), 3e-2*scale, r)
		for i, e := range was {
			require.InDeltaSlice(t, rowsOf(o.GradCentroids)[i], rowsOf(b.GradCentroids)[e], 1e-3*scale, r)
		}
	})
}

// There are top_k open experts at least, or none is closed.
func TestTooFewOpenExperts(t *testing.T) {
	engine := newEngine(t, 1)
	for _, budgeted := range []bool{false, true} {
		r := recipe{options: core.DefaultRouterOptions(), dtype: core.Float32, tokens: 5, hidden: 6, experts: 5, price: true, closed: 3, seed: 1}
		r.options.Budgeted = budgeted
		c := r.build().forward(t, engine)
		c.report(t, engine, nil)
		c.Options.TopK = 3
		c.TopKIndex, c.TopKWeights = newTensor(core.Int64, compact, 5, 3), newTensor(core.Float32, compact, 5, 3)
		want := "price: +Inf, which closes an expert, for 3 of 5; want at least top_k = 3 open ones"
		require.EqualError(t, Forward(engine, &c.RouterForwardArgs), want)
		_, err := Report(engine, &core.RouterReportArgs{Options: c.Options, Logits: c.Logits, TopKIndex: c.TopKIndex, Price: c.Price})
		require.EqualError(t, err, want)
	}
}
