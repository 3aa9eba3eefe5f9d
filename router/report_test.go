package router

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

func (c *call) report(t *testing.T, e *core.Engine, previous *core.Tensor) core.RouterReport {
	t.Helper()
	r, err := Report(e, &core.RouterReportArgs{
		Options: c.Options, Logits: c.Logits, TopKIndex: c.TopKIndex, Price: c.Price, PreviousIndex: previous,
	})
	require.NoError(t, err)
	return r
}

// plainReport is the twin of Report, from the definitions in genesis_moe.h.
func plainReport(c *call) core.RouterReport {
	var r core.RouterReport
	logits, index := rowsOf(c.Logits), rowsOf(c.TopKIndex)
	experts, tokens := int(c.Logits.Shape[1]), float64(len(logits))
	counts := make([]float64, experts)
	marginal := make([]float64, experts)
	mu := make([]float64, experts)
	if c.Price != nil {
		r.PriceMin, r.PriceMax = slices.Min(values(c.Price)), slices.Max(values(c.Price))
		for e, v := range values(c.Price) {
			switch c.Options.Mode {
			case core.Hamiltonian:
				mu[e] = v
			case core.DeepSeek:
				mu[e] = -v
			}
		}
	}
	o := &plainOptimum{tau: float64(c.Options.EntropyTemperature), lambda: float64(c.Options.LoadPenalty), price: mu}
	margins := 0.0
	for t, row := range logits {
		u := make([]float64, experts)
		all := make([]int, experts)
		for e, l := range row {
			all[e], u[e] = e, -l
			if c.Options.Mode == core.DeepSeek {
				u[e] = -1 / (1 + math.Exp(-l))
			}
		}
		o.u = append(o.u, u)
		for e, p := range softmaxOf(row, all, 1) {
			marginal[e] += p / tokens
			r.TokenEntropy += information(p) / tokens
		}
		worst, next := math.Inf(-1), math.Inf(1)
		for e := range experts {
			if slices.Contains(index[t], float64(e)) {
				counts[e]++
				r.MeanActive += 1 / tokens
				worst = max(worst, u[e]+mu[e])
			} else {
				next = min(next, u[e]+mu[e])
			}
		}
		if !math.IsInf(next, 1) {
			r.TopKMargin += next - worst
			margins++
		}
	}
	for _, p := range marginal {
		r.MarginalEntropy += information(p)
	}
	if margins > 0 {
		r.TopKMargin /= margins
	}
	o.k = float64(c.Options.TopK)
	if c.Options.Mode == core.Hamiltonian && c.Options.Budgeted {
		o.k = r.MeanActive
	}
	if o.k < float64(experts) {
		o.loads()
	} else {
		for range logits {
			o.p = append(o.p, slices.Repeat([]float64{1}, experts))
		}
	}
	r.EnergyBind, r.EnergyEntropy, r.EnergyCost = o.hamiltonian(o.p)
	r.Energy = r.EnergyBind + r.EnergyEntropy + r.EnergyCost
	mean := r.MeanActive * tokens / float64(experts)
	for _, n := range counts {
		r.MaxViolation = max(r.MaxViolation, n/mean-1)
		r.LoadCV += (n/mean - 1) * (n/mean - 1) / float64(experts)
		if n == 0 {
			r.DeadShare += 1 / float64(experts)
		}
	}
	r.LoadCV = math.Sqrt(r.LoadCV)
	r.Churn = -1
	return r
}

func numbers(r core.RouterReport) []float64 {
	return []float64{
		r.EnergyBind, r.EnergyEntropy, r.EnergyCost, r.Energy, r.MaxViolation, r.LoadCV, r.DeadShare, r.TokenEntropy,
		r.MarginalEntropy, r.PriceMin, r.PriceMax, r.TopKMargin, r.MeanActive, r.Churn, float64(r.NonFiniteTokens),
	}
}

func TestReportIsThePlainReport(t *testing.T) {
	engine := newEngine(t, 2)
	forAll(t, 150, func(r recipe, _ *rand.Rand) {
		r.tokens, r.closed = max(r.tokens, 1), 0 // TestClosedExpertsAreNotThere has those
		c := r.build().forward(t, engine)
		require.InDeltaSlice(t, numbers(plainReport(c)), numbers(c.report(t, engine, nil)), 1e-6, r)
	})
}

func TestReportOfChurn(t *testing.T) {
	engine := newEngine(t, 1)
	o := core.DefaultRouterOptions()
	c := recipe{options: o, dtype: core.Float32, tokens: 4, hidden: 3, experts: 5, seed: 1}.build()
	now := []float64{0, 1, 2, 3, 4, 0, 1, 5 /* absent */}
	before := []float64{1, 0, 2, 4, 1, 2, 1, 5}
	previous := newTensor(core.Int32, transposed, 4, 2)
	for i := range now {
		set(c.TopKIndex, int64(i), now[i])
		set(previous, int64(i), before[i])
	}
	// Kept: 1, 0 | 2 | none | 1, of 7 present slots.
	require.InDelta(t, 3.0/7, c.report(t, engine, previous).Churn, 1e-12)
	require.Zero(t, c.report(t, engine, c.TopKIndex).Churn)
	require.InDelta(t, -1, c.report(t, engine, nil).Churn, 0)
}

func TestReportOfNothing(t *testing.T) {
	engine := newEngine(t, 1)
	c := recipe{options: core.DefaultRouterOptions(), dtype: core.Float32, hidden: 3, experts: 5, seed: 1}.build().forward(t, engine)
	require.Equal(t, core.RouterReport{Churn: -1}, c.report(t, engine, nil))
}

// Tokens that are not finite are counted and change no mean over the others.
// Without a token and a price no tensor is in memory, so a shape can claim as many experts as it likes.
func TestReportOfNothingFromManyExperts(t *testing.T) {
	many := int64(math.MaxInt32)
	none := func(d core.DType, columns int64) *core.Tensor {
		return &core.Tensor{DType: d, Device: core.Device{Type: core.CPU}, Shape: []int64{0, columns}, Strides: []int64{columns, 1}}
	}
	o := core.DefaultRouterOptions()
	o.TopK = 1
	args := &core.RouterReportArgs{Options: o, Logits: none(core.Float32, many), TopKIndex: none(core.Int64, 1)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := Report(newEngine(t, 2), args)
	require.NoError(t, err)
	require.Equal(t, core.RouterReport{Churn: -1}, r)
	args.PreviousIndex = none(core.Int64, 1)
	r, err = Report(newEngine(t, 2), args)
	require.NoError(t, err)
	require.Equal(t, core.RouterReport{}, r)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestReportLeavesOutTokensThatAreNotFinite(t *testing.T) {
	engine := newEngine(t, 1)
	r := recipe{options: core.DefaultRouterOptions(), dtype: core.Float32, tokens: 9, hidden: 3, experts: 5, price: true, seed: 1}
	c := r.build().forward(t, engine)
	eight := c.tokensOf(0, 8).forward(t, engine).report(t, engine, nil)
	for i := range r.hidden {
		set(c.HiddenStates, 8*r.hidden+i, math.NaN())
	}
	nine := c.forward(t, engine).report(t, engine, nil)
	require.EqualValues(t, 1, nine.NonFiniteTokens)
	nine.NonFiniteTokens, nine.MaxViolation, nine.LoadCV = 0, eight.MaxViolation, eight.LoadCV
	require.InDeltaSlice(t, numbers(eight), numbers(nine), 1e-12)
}
