package router

import (
	"math"
	"math/rand/v2"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

func updateArgs(mode core.RouterMode, dtype core.DType, counts, price []float64) *core.RouterUpdateArgs {
	a := &core.RouterUpdateArgs{Options: core.DefaultRouterOptions(), Rate: 0.02, StepLimit: 0.02, GapRate: 0.01}
	a.Options.Mode = mode
	a.Counts = newTensor(core.Int64, spread, int64(len(counts)))
	a.Price = newTensor(dtype, reversed, int64(len(price)))
	total := 0.0
	for e, n := range counts {
		set(a.Counts, int64(e), n)
		total += n
	}
	for e, mu := range price {
		set(a.Price, int64(e), mu)
	}
	a.NumTokens = int64(total) / int64(a.Options.TopK)
	return a
}

func TestUpdateOfPrices(t *testing.T) {
	engine := newEngine(t, 1)
	for _, c := range []struct {
		name   string
		mode   core.RouterMode
		change func(*core.RouterUpdateArgs)
		want   []float64
	}{
		// counts 10 20 30 40, mean 25; l/mean - 1 = -.6 -.2 .2 .6; prices .1 0 0 -.1, lambda 10.
		{"step", core.Hamiltonian, func(a *core.RouterUpdateArgs) { a.Rate = 0.01 }, []float64{
			0.1 + 0.01*(-0.6-0.01), 0.01 * -0.2, 0.01 * 0.2, -0.1 + 0.01*(0.6+0.01),
		}},
		{"clipped", core.Hamiltonian, func(a *core.RouterUpdateArgs) { a.Rate = 1 }, []float64{0.08, -0.02, 0.02, -0.08}},
		{"clipped wide", core.Hamiltonian, func(a *core.RouterUpdateArgs) { a.Rate, a.StepLimit = 1, 0.3 }, []float64{-0.2, -0.2, 0.2, 0.2}},
		{"frozen", core.Hamiltonian, func(a *core.RouterUpdateArgs) { a.Rate = 0 }, []float64{0.1, 0, 0, -0.1}},
		{"no tokens", core.Hamiltonian, func(a *core.RouterUpdateArgs) { a.NumTokens = 0 }, []float64{0.1, 0, 0, -0.1}},
		{"sign", core.DeepSeek, func(a *core.RouterUpdateArgs) { a.Rate = 1e-3 }, []float64{0.101, 0.001, -0.001, -0.101}},
		{"mixtral", core.Mixtral, func(*core.RouterUpdateArgs) {}, []float64{0.1, 0, 0, -0.1}},
	} {
		for _, dtype := range wide {
			t.Run(c.name, func(t *testing.T) {
				a := updateArgs(c.mode, dtype, []float64{10, 20, 30, 40}, []float64{0.1, 0, 0, -0.1})
				c.change(a)
				require.NoError(t, Update(engine, a))
				require.InDeltaSlice(t, c.want, values(a.Price), 1e-7)
			})
		}
	}
}

func TestUpdateRecentresPrices(t *testing.T) {
	engine := newEngine(t, 1)
	a := updateArgs(core.Hamiltonian, core.Float64, []float64{25, 25, 25, 25}, []float64{5, 6, 7, 8})
	a.Options.LoadPenalty = 1e6
	require.NoError(t, Update(engine, a))
	require.InDeltaSlice(t, []float64{-1.5, -0.5, 0.5, 1.5}, values(a.Price), 1e-5)
}

// An expert that is closed stays so, and the others move as if it were not there.
func TestUpdateLeavesClosedExperts(t *testing.T) {
	engine := newEngine(t, 1)
	closed := math.Inf(1)
	for _, dtype := range wide {
		a := updateArgs(core.Hamiltonian, dtype, []float64{0, 10, 20, 0, 30, 40, 0}, []float64{closed, 0.1, 0.3, closed, 0.2, -0.1, closed})
		b := updateArgs(core.Hamiltonian, dtype, []float64{10, 20, 30, 40}, []float64{0.1, 0.3, 0.2, -0.1})
		require.NoError(t, Update(engine, a))
		require.NoError(t, Update(engine, b))
		want := values(b.Price)
		require.Equal(t, []float64{closed, want[0], want[1], closed, want[2], want[3], closed}, values(a.Price))
	}
}

func TestUpdateOfTheGap(t *testing.T) {
	engine := newEngine(t, 1)
	for _, c := range []struct{ gap, budget, rate, want float64 }{
		{0.2, 1.25, 0.01, 0.2 + 0.01*(1.25-2)}, // 100 slots of 50 tokens: 2 each
		{0.2, 2, 0.01, 0.2},
		{0.001, 1, 0.01, 0},
		{0.2, 1, 0, 0.2},
	} {
		a := updateArgs(core.Hamiltonian, core.Float32, []float64{10, 20, 30, 40}, []float64{0, 0, 0, 0})
		a.Options.Budgeted, a.Budget, a.GapRate = true, c.budget, c.rate
		a.Rate = 0 // the gap moves while prices are frozen
		a.Gap = newTensor(core.Float64, compact, 1)
		set(a.Gap, 0, c.gap)
		require.NoError(t, Update(engine, a))
		require.InDelta(t, c.want, get(a.Gap, 0), 1e-12)
		require.Equal(t, []float64{0, 0, 0, 0}, values(a.Price))
	}
}

func TestUpdateRefuses(t *testing.T) {
	engine := newEngine(t, 1)
	nan, infinity := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		change func(*core.RouterUpdateArgs)
		want   string
	}{
		{func(a *core.RouterUpdateArgs) { a.Rate = nan }, "rate: NaN"},
		{func(a *core.RouterUpdateArgs) { a.Rate = -1 }, "rate: -1"},
		{func(a *core.RouterUpdateArgs) { a.Rate = infinity }, "rate: +Inf"},
		{func(a *core.RouterUpdateArgs) { a.StepLimit = -0.1 }, "step_limit: -0.1"},
		{func(a *core.RouterUpdateArgs) { a.StepLimit = nan }, "step_limit: NaN"},
		{func(a *core.RouterUpdateArgs) { a.GapRate = nan }, "gap_rate: NaN"},
		{func(a *core.RouterUpdateArgs) { a.NumTokens = -1 }, "num_tokens: -1"},
		{func(a *core.RouterUpdateArgs) { a.NumTokens = 39 }, "counts: 40 for expert 3, want 0 to num_tokens = 39"},
		{func(a *core.RouterUpdateArgs) { a.NumTokens = 45 }, "counts: sum to 100, want 1 to num_tokens * top_k = 90"},
		{func(a *core.RouterUpdateArgs) { set(a.Counts, 1, -3) }, "counts: -3 for expert 1"},
		{func(a *core.RouterUpdateArgs) {
			for e := range int64(4) {
				set(a.Counts, e, 0)
			}
		}, "counts: sum to 0"},
		{func(a *core.RouterUpdateArgs) { set(a.Price, 2, nan) }, "price: NaN for expert 2"},
		{func(a *core.RouterUpdateArgs) { set(a.Price, 0, -infinity) }, "price: -Inf for expert 0"},
		{func(a *core.RouterUpdateArgs) { set(a.Price, 0, infinity) }, "counts: 10 for expert 0, want 0: its price of +Inf closes it"},
		{func(a *core.RouterUpdateArgs) {
			a.Options.Mode = core.DeepSeek
			set(a.Price, 0, infinity)
		}, "price: +Inf for expert 0"},
		{func(a *core.RouterUpdateArgs) { a.Price = nil }, "price: is missing"},
		{func(a *core.RouterUpdateArgs) { a.Counts = nil }, "counts: is missing"},
		{func(a *core.RouterUpdateArgs) { a.Counts = newTensor(core.Int32, compact, 4) }, "counts: dtype int32"},
		{func(a *core.RouterUpdateArgs) { a.Price = newTensor(core.Float32, compact, 3) }, "price: shape [3]"},
		{func(a *core.RouterUpdateArgs) { a.Price = newTensor(core.BFloat16, compact, 4) }, "price: dtype bfloat16"},
		{func(a *core.RouterUpdateArgs) { a.Price.Strides[0] = 0 }, "price: strides [0]"},
		{func(a *core.RouterUpdateArgs) { a.Options.Budgeted, a.Budget = true, 0.5 }, "budget: 0.5, want 1 to top_k = 2"},
		{func(a *core.RouterUpdateArgs) { a.Options.Budgeted, a.Budget = true, 2.5 }, "budget: 2.5"},
		{func(a *core.RouterUpdateArgs) { a.Options.Budgeted, a.Budget = true, nan }, "budget: NaN"},
		{func(a *core.RouterUpdateArgs) { a.Options.Budgeted, a.Budget = true, 1 }, "gap: is missing"},
		{func(a *core.RouterUpdateArgs) {
			a.Options.Budgeted, a.Budget, a.Gap = true, 1, newTensor(core.Float32, compact, 1)
			set(a.Gap, 0, nan)
		}, "gap: NaN"},
		{func(a *core.RouterUpdateArgs) { a.Options.LoadPenalty = 0 }, "options.load_penalty: 0"},
		{func(a *core.RouterUpdateArgs) { a.Options.TopK = 5 }, "options.top_k: 5"},
	} {
		a := updateArgs(core.Hamiltonian, core.Float32, []float64{10, 20, 30, 40}, []float64{0, 0, 0, 0})
		c.change(a)
		before := values(a.Price)
		err := Update(engine, a)
		require.ErrorContains(t, err, c.want)
		require.IsType(t, &core.Error{}, err)
		for e, mu := range values(a.Price) {
			require.Equal(t, math.Float64bits(before[e]), math.Float64bits(mu), "%s: price was written", c.want)
		}
	}
}

// With equal shifts of all prices, the step is the same but for the pull -mu/lambda.
func TestUpdateKeepsTheMeanAtZero(t *testing.T) {
	engine := newEngine(t, 1)
	require.NoError(t, quick.Check(func(seed uint64) bool {
		rng := rand.New(rand.NewPCG(seed, 1))
		n := 2 + rng.IntN(30)
		counts, price := make([]float64, n), make([]float64, n)
		for e := range counts {
			counts[e], price[e] = float64(1+rng.IntN(n)), rng.NormFloat64()
		}
		a := updateArgs(core.Hamiltonian, core.Float64, counts, price)
		a.NumTokens = int64(n * n)
		if Update(engine, a) != nil {
			return false
		}
		sum := 0.0
		for _, mu := range values(a.Price) {
			sum += mu
		}
		return math.Abs(sum) < 1e-12*float64(n*n)
	}, quickly(100)))
}
