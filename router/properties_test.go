package router

import (
	"fmt"
	"math"
	oldrand "math/rand"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// forAll checks a property of many random recipes.
func forAll(t *testing.T, times int, property func(r recipe, rng *rand.Rand)) {
	t.Helper()
	require.NoError(t, quick.Check(func(seed uint64) bool {
		rng := rand.New(rand.NewPCG(seed, 11))
		property(randomRecipe(rng), rng)
		return !t.Failed()
	}, quickly(times)))
}

// quickly has testing/quick draw the same values in every run.
func quickly(times int) *quick.Config {
	return &quick.Config{MaxCount: times, Rand: oldrand.New(oldrand.NewSource(1))}
}

func (c *call) forward(t *testing.T, e *core.Engine) *call {
	t.Helper()
	require.NoError(t, Forward(e, &c.RouterForwardArgs))
	return c
}

// outputs are all of them, as bits: NaN equals NaN.
func (c *call) outputs() []uint64 {
	var all []uint64
	for _, o := range []*core.Tensor{c.TopKIndex, c.TopKWeights, c.Logits, c.Counts} {
		for _, v := range values(o) {
			all = append(all, math.Float64bits(v))
		}
	}
	return all
}

func TestRoutingIsWellFormed(t *testing.T) {
	engine := newEngine(t, 2)
	forAll(t, 300, func(r recipe, _ *rand.Rand) {
		c := r.build().forward(t, engine)
		total := 0
		for token, experts := range rowsOf(c.TopKIndex) {
			weights := rowsOf(c.TopKWeights)[token]
			seen, sum, absent := map[float64]bool{}, 0.0, false
			for slot, e := range experts {
				sum += weights[slot]
				require.GreaterOrEqual(t, weights[slot], 0.0, r)
				if int64(e) == r.experts {
					require.Positive(t, slot, "%s: the first slot is absent", r)
					absent = true
					continue
				}
				require.False(t, absent, "%s: a slot behind an absent one", r)
				require.False(t, seen[e], "%s: expert %v twice", r, e)
				require.True(t, e >= 0 && int64(e) < r.experts, "%s: expert %v", r, e)
				seen[e] = true
				total++
			}
			if !r.options.Budgeted || r.options.Mode != core.Hamiltonian {
				require.False(t, absent, r)
			}
			switch {
			case r.options.Mode == core.Hamiltonian:
				require.InDelta(t, 1, sum, 1e-5, r)
			case r.options.NormalizeTopK:
				require.InDelta(t, float64(r.options.ScalingFactor), sum, 1e-5, r)
			case r.options.Mode == core.Mixtral:
				require.LessOrEqual(t, sum, 1+1e-5, r)
			}
		}
		sum := 0.0
		for _, n := range values(c.Counts) {
			sum += n
		}
		require.EqualValues(t, total, sum, r)
	})
}

func TestResultsDoNotDependOnThreads(t *testing.T) {
	engines := []*core.Engine{newEngine(t, 1), newEngine(t, 2), newEngine(t, 5)}
	forAll(t, 60, func(r recipe, rng *rand.Rand) {
		r.tokens = []int64{140, 700}[rng.IntN(2)]
		if r.options.Mode == core.Hamiltonian && !r.options.Budgeted && rng.IntN(2) == 0 {
			r.options.Solver = core.Batch
		}
		seed := rng.Uint64()
		var forward, backward [][]uint64
		var reports []core.RouterReport
		for _, e := range engines {
			c := r.build().forward(t, e)
			b := c.backward(rand.New(rand.NewPCG(seed, 0)), r.layout)
			require.NoError(t, Backward(e, b), r)
			var bits []uint64
			for _, o := range []*core.Tensor{b.GradHiddenStates, b.GradProjection, b.GradCentroids, b.GradBias, b.GradTemperature} {
				for _, v := range values(o) {
					bits = append(bits, math.Float64bits(v))
				}
			}
			report, err := Report(e, &core.RouterReportArgs{Options: r.options, Logits: c.Logits, TopKIndex: c.TopKIndex, Price: c.Price})
			require.NoError(t, err, r)
			forward, backward, reports = append(forward, c.outputs()), append(backward, bits), append(reports, report)
		}
		for i := 1; i < len(engines); i++ {
			require.Equal(t, forward[0], forward[i], r)
			require.Equal(t, backward[0], backward[i], r)
			require.Equal(t, reports[0], reports[i], r)
		}
	})
}

// tokensOf is the same call for some of its tokens.
func (c *call) tokensOf(from, to int64) *call {
	part := func(t *core.Tensor) *core.Tensor {
		p := *t
		p.Shape = append([]int64{to - from}, t.Shape[1:]...)
		p.ByteOffset += uint64(from * t.Stride(0) * int64(t.DType.Size()))
		return &p
	}
	p := &call{RouterForwardArgs: c.RouterForwardArgs, compute: c.compute}
	p.HiddenStates = part(c.HiddenStates)
	p.TopKIndex = newTensor(core.Int64, compact, to-from, int64(c.Options.TopK))
	p.TopKWeights = newTensor(c.compute, compact, to-from, int64(c.Options.TopK))
	p.Logits = newTensor(c.compute, compact, to-from, c.Logits.Shape[1])
	p.Counts = nil
	return p
}

// A token's route is its own: with float32 arithmetic bit for bit, with float64 up
// to the rounding of a BLAS.
func TestPriceSolverIsCausal(t *testing.T) {
	engine := newEngine(t, 2)
	forAll(t, 80, func(r recipe, rng *rand.Rand) {
		r.tokens = 1 + rng.Int64N(150)
		whole := r.build()
		if r.dtype == core.Float64 && !whole.clear(1e-9) {
			return
		}
		whole.forward(t, engine)
		same := func(want, got []float64) {
			require.Len(t, got, len(want))
			for i := range want {
				if r.dtype == core.Float64 {
					require.InDelta(t, want[i], got[i], 1e-9, r)
				} else {
					require.Equal(t, math.Float64bits(want[i]), math.Float64bits(got[i]), "%s: %v became %v", r, want[i], got[i])
				}
			}
		}
		requireSame := func(from, to int64, got *call) {
			for i := from; i < to; i++ {
				require.Equal(t, rowsOf(whole.TopKIndex)[i], rowsOf(got.TopKIndex)[i-from], r)
				same(rowsOf(whole.Logits)[i], rowsOf(got.Logits)[i-from])
				same(rowsOf(whole.TopKWeights)[i], rowsOf(got.TopKWeights)[i-from])
			}
		}
		// Token by token equals all at once.
		for i := range min(r.tokens, 5) {
			token := rng.Int64N(r.tokens)
			if i == 0 {
				token = r.tokens - 1
			}
			requireSame(token, token+1, whole.tokensOf(token, token+1).forward(t, engine))
		}
		// A prefix keeps its route when the suffix changes, and a sequence when a batch-mate does.
		cut := rng.Int64N(r.tokens + 1)
		changed := r.build()
		for i := cut * r.hidden; i < r.tokens*r.hidden; i++ {
			set(changed.HiddenStates, i, 3*rng.NormFloat64())
		}
		changed.forward(t, engine)
		requireSame(0, cut, changed.tokensOf(0, cut).forward(t, engine))
		for i := range cut {
			require.Equal(t, rowsOf(whole.TopKIndex)[i], rowsOf(changed.TopKIndex)[i], r)
			same(rowsOf(whole.Logits)[i], rowsOf(changed.Logits)[i])
		}
	})
}

func TestPermutingExpertsPermutesTheRouting(t *testing.T) {
	engine := newEngine(t, 2)
	forAll(t, 100, func(r recipe, rng *rand.Rand) {
		r.options.NumGroups, r.options.TopKGroups = 1, 1
		r.layout, r.dtype = compact, core.Float64
		c := r.build()
		if !c.clear(1e-9) {
			return
		}
		c.forward(t, engine)
		order := rng.Perm(int(r.experts))
		p := r.build()
		width := c.Centroids.Shape[1]
		for e, from := range order {
			for d := range width {
				set(p.Centroids, int64(e)*width+d, get(c.Centroids, int64(from)*width+d))
			}
			for _, pair := range [][2]*core.Tensor{{p.Bias, c.Bias}, {p.Price, c.Price}} {
				if pair[0] != nil {
					set(pair[0], int64(e), get(pair[1], int64(from)))
				}
			}
		}
		p.forward(t, engine)
		for i := range c.TopKIndex.Elements() {
			e := int64(get(p.TopKIndex, i))
			if e < r.experts {
				e = int64(order[e])
			}
			require.EqualValues(t, get(c.TopKIndex, i), e, r)
			require.InDelta(t, get(c.TopKWeights, i), get(p.TopKWeights, i), 1e-10, r)
		}
		for e, from := range order {
			require.Equal(t, get(c.Counts, int64(from)), get(p.Counts, int64(e)), r)
		}
	})
}

func TestShiftsOfPricesAndBiases(t *testing.T) {
	engine := newEngine(t, 2)
	forAll(t, 100, func(r recipe, rng *rand.Rand) {
		r.dtype = core.Float64
		r.options.NumGroups, r.options.TopKGroups = 1, 1
		c, shifted := r.build(), r.build()
		if !c.clear(1e-6) {
			return
		}
		c.forward(t, engine)
		by := rng.NormFloat64()
		for _, target := range []*core.Tensor{shifted.Price, shifted.Bias} {
			if target == nil {
				continue
			}
			for e := range target.Elements() {
				set(target, e, get(target, e)+by)
			}
		}
		shifted.forward(t, engine)
		require.Equal(t, values(c.TopKIndex), values(shifted.TopKIndex), r)
		require.InDeltaSlice(t, values(c.TopKWeights), values(shifted.TopKWeights), 1e-9, r)
	})
}

// The hamiltonian mode with dot binding, no price and T_g = 1 is Mixtral's router.
func TestHamiltonianGeneralisesMixtral(t *testing.T) {
	engine := newEngine(t, 2)
	forAll(t, 60, func(r recipe, _ *rand.Rand) {
		r.options.Mode, r.options.NormalizeTopK = core.Mixtral, true
		r.options.TopK = min(r.options.TopK, int(r.experts))
		r.width, r.temperature, r.options.Budgeted, r.price, r.bias, r.options.ScalingFactor = 0, 0, false, false, true, 1
		mixtral := r.build().forward(t, engine)
		r.options.Mode, r.options.Binding = core.Hamiltonian, core.Dot
		require.Equal(t, mixtral.outputs(), r.build().forward(t, engine).outputs(), r)
	})
}

func TestTokensThatAreNotFiniteTouchOnlyThemselves(t *testing.T) {
	engine := newEngine(t, 2)
	forAll(t, 150, func(r recipe, rng *rand.Rand) {
		r.tokens = 2 + rng.Int64N(40)
		if r.options.Mode == core.Hamiltonian && !r.options.Budgeted && rng.IntN(4) == 0 {
			r.options.Solver = core.Batch
		}
		clean, dirty := r.build(), r.build()
		bad := rng.Int64N(r.tokens)
		poison := []float64{math.NaN(), math.Inf(1), math.Inf(-1)}[rng.IntN(3)]
		set(dirty.HiddenStates, bad*r.hidden+rng.Int64N(r.hidden), poison)
		if r.options.Solver == core.Batch && r.options.Mode == core.Hamiltonian {
			for i := range r.hidden { // its optimum depends on which tokens count
				set(clean.HiddenStates, bad*r.hidden+i, poison)
			}
		}
		clean.forward(t, engine)
		dirty.forward(t, engine)
		logits := rowsOf(dirty.Logits)[bad]
		finite := !slices.ContainsFunc(logits, func(l float64) bool { return math.IsNaN(l) || math.IsInf(l, 0) })
		require.False(t, finite, r)
		seen := map[float64]bool{}
		for slot, e := range rowsOf(dirty.TopKIndex)[bad] {
			weight := rowsOf(dirty.TopKWeights)[bad][slot]
			if int64(e) == r.experts && r.options.Budgeted && slot > 0 {
				require.Zero(t, weight, r)
				continue
			}
			require.False(t, seen[e], r)
			require.True(t, e >= 0 && int64(e) < r.experts, "%s: expert %v", r, e)
			require.True(t, math.IsNaN(weight), r)
			seen[e] = true
		}
		for i := range r.tokens {
			if i == bad {
				continue
			}
			require.Equal(t, rowsOf(clean.TopKIndex)[i], rowsOf(dirty.TopKIndex)[i], r)
			require.Equal(t, rowsOf(clean.TopKWeights)[i], rowsOf(dirty.TopKWeights)[i], r)
			require.Equal(t, rowsOf(clean.Logits)[i], rowsOf(dirty.Logits)[i], r)
		}
	})
}

func TestTiesGoToTheLowerIndex(t *testing.T) {
	engine := newEngine(t, 1)
	for _, k := range []int{1, 3, 8, 40} {
		for _, mode := range []core.RouterMode{core.Hamiltonian, core.Mixtral, core.DeepSeek} {
			o := core.DefaultRouterOptions()
			o.Mode, o.TopK = mode, k
			c := recipe{options: o, dtype: core.Float32, tokens: 3, hidden: 4, experts: 40, seed: 1}.build()
			for i := range c.Centroids.Elements() {
				set(c.Centroids, i, 0)
			}
			c.forward(t, engine)
			for _, experts := range rowsOf(c.TopKIndex) {
				for slot, e := range experts {
					require.EqualValues(t, slot, e, "mode %d, k %d", mode, k)
				}
			}
		}
	}
}

// Scores with many ties, against a stable sort.
func TestSelectionIsAStableSort(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for range 2000 {
		n := 1 + rng.IntN(200)
		k := 1 + rng.IntN(n)
		scores := make([]float64, n)
		for i := range scores {
			scores[i] = float64(rng.IntN(1 + n/3))
			if rng.IntN(20) == 0 {
				scores[i] = math.Inf(rng.IntN(3) - 1)
			}
		}
		var b best[float64]
		b.reset(make([]float64, k), make([]int32, k))
		for from := 0; from < n; {
			to := min(n, from+1+rng.IntN(n))
			b.offer(scores[from:to], from, k)
			from = to
		}
		b.sort()
		for slot, e := range rank(scores)[:k] {
			require.EqualValues(t, e, b.index[slot], "n %d k %d", n, k)
			require.Equal(t, scores[e], b.scores[slot]) //nolint:testifylint // the very number
		}
	}
}

func TestInfinitePricesBarExperts(t *testing.T) {
	engine := newEngine(t, 2)
	for _, mode := range []core.RouterMode{core.Hamiltonian, core.DeepSeek} {
		o := core.DefaultRouterOptions()
		o.Mode, o.TopK = mode, 3
		c := recipe{options: o, dtype: core.Float32, tokens: 200, hidden: 8, experts: 6, price: true, seed: 5}.build()
		bars := math.Inf(1)
		if mode == core.DeepSeek {
			bars = math.Inf(-1)
		}
		set(c.Price, 2, bars)
		set(c.Price, 5, bars)
		c.forward(t, engine)
		require.Zero(t, get(c.Counts, 2))
		require.Zero(t, get(c.Counts, 5))
		for _, w := range values(c.TopKWeights) {
			require.Positive(t, w)
		}
		r, err := Report(engine, &core.RouterReportArgs{Options: o, Logits: c.Logits, TopKIndex: c.TopKIndex, Price: c.Price})
		require.NoError(t, err)
		dead := 2.0 / 6
		if mode == core.Hamiltonian {
			dead = 0 // what is closed is not counted
		}
		require.InDelta(t, dead, r.DeadShare, 1e-12)
		require.False(t, math.IsNaN(r.Energy) || math.IsInf(r.Energy, 0), fmt.Sprint(r))

		set(c.Price, 2, -bars)
		require.ErrorContains(t, Forward(engine, &c.RouterForwardArgs), "price: "+fmt.Sprint(-bars)+" for expert 2")
	}
}

// Thousands of experts and any k up to all of them.
func TestManyExperts(t *testing.T) {
	engine := newEngine(t, 2)
	for _, k := range []int{1, 8, 100, 4096} {
		o := core.DefaultRouterOptions()
		o.TopK, o.Binding = k, core.Dot
		c := recipe{options: o, dtype: core.Float64, tokens: 3, hidden: 4, experts: 4096, price: true, seed: 5}.build()
		c.forward(t, engine)
		requireLikeReference(t, c, fmt.Sprint("k ", k))
	}
}

// An expert whose score is NaN ranks last, behind all numbers.
func TestScoresThatAreNotNumbersRankLast(t *testing.T) {
	engine := newEngine(t, 1)
	for _, mode := range []core.RouterMode{core.Hamiltonian, core.Mixtral, core.DeepSeek} {
		o := core.DefaultRouterOptions()
		o.Mode, o.Binding, o.TopK = mode, core.Dot, 4
		c := recipe{options: o, dtype: core.Float32, tokens: 50, hidden: 4, experts: 6, price: true, seed: 1}.build()
		for e := range int64(6) {
			set(c.Price, e, 3) // so that scores are negative and 0 is not among the worst
			if mode == core.DeepSeek {
				set(c.Price, e, -3)
			}
		}
		for _, e := range []int64{1, 4} {
			set(c.Centroids, e*4, math.NaN())
		}
		c.forward(t, engine)
		require.Zero(t, get(c.Counts, 1))
		require.Zero(t, get(c.Counts, 4))
	}
}
