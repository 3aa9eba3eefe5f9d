package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
	"github.com/genesis-moe/genesis-moe/router"
)

func TestRouterForward(t *testing.T) {
	for _, c := range routerCases {
		t.Run(c.name, func(t *testing.T) {
			call := build(t, c)
			call.forward(t, 0)
			want := call.reference(t)
			call.requireRouting(t, want)
			if call.PriceOut != nil {
				// The iteration ends when its first step would be below 1e-4 tau.
				closeTo(t, elementsOf(want.PriceOut), elementsOf(call.PriceOut), 2e-2*float64(call.Options.EntropyTemperature), "price_out")
			}
			again := build(t, c)
			again.forward(t, 77)
			for _, pair := range [][2]*core.Tensor{{call.Logits, again.Logits}, {call.TopKIndex, again.TopKIndex}, {call.TopKWeights, again.TopKWeights}} {
				require.Equal(t, elementsOf(pair[0]), elementsOf(pair[1]), "another order of threads and blocks")
			}
			require.Equal(t, elementsOf(call.PriceOut), elementsOf(again.PriceOut))
		})
	}
}

// A token's logits and route are the same alone and in any batch, bit for bit.
func TestRouterTokensAreIndependent(t *testing.T) {
	for _, c := range routerCases {
		if c.tokens < 2 || c.layout != compact || strings.HasPrefix(c.name, "batch") {
			continue
		}
		whole := build(t, c)
		whole.forward(t, 0)
		part := *whole
		part.HiddenStates = rowsFrom(whole.HiddenStates, 1)
		part.c.tokens = 1
		part.TopKIndex = hold(t, whole.TopKIndex.DType, compact, nil, 1, int64(c.k)).Tensor
		part.TopKWeights = hold(t, core.Float32, compact, nil, 1, int64(c.k)).Tensor
		part.Logits = hold(t, core.Float32, compact, nil, 1, c.experts).Tensor
		part.forward(t, 0)
		require.Equal(t, elementsOf(rowsFrom(whole.Logits, 1)), elementsOf(part.Logits), c.name)
		require.Equal(t, elementsOf(rowsFrom(whole.TopKIndex, 1)), elementsOf(part.TopKIndex), c.name)
		require.Equal(t, elementsOf(rowsFrom(whole.TopKWeights, 1)), elementsOf(part.TopKWeights), c.name)
	}
}

// rowsFrom is the one row of a matrix with that number.
func rowsFrom(t *core.Tensor, row int64) *core.Tensor {
	r := *t
	r.ByteOffset += uint64(row * t.Stride(0) * int64(t.DType.Size()))
	r.Shape = []int64{1, t.Shape[1]}
	r.Strides = []int64{t.Stride(0), t.Stride(1)}
	return &r
}

// Equal scores rank by lower index, in every mode, as experts and as groups.
func TestRouterTies(t *testing.T) {
	for _, mode := range []core.RouterMode{core.Hamiltonian, core.Mixtral, core.DeepSeek} {
		call := build(t, routerCase{
			tokens: 4, hidden: 6, experts: 140, k: 5,
			options: func(o *core.RouterOptions) { o.Mode, o.NumGroups, o.TopKGroups = mode, 7, 3 },
		})
		for e := range int64(140) {
			for h := range int64(6) {
				*(*float32)(call.Centroids.At(e*6 + h)) = *(*float32)(call.Centroids.At(h))
			}
		}
		call.forward(t, 3)
		for token := range 4 {
			require.Equal(t, []float64{0, 1, 2, 3, 4}, elementsOf(call.TopKIndex)[5*token:][:5])
		}
	}
}

// A token with a NaN or an infinity gets distinct experts and NaN for gates; the others do not see it.
func TestRouterNonFiniteTokens(t *testing.T) {
	for _, c := range []routerCase{routerCases[0], routerCases[1], routerCases[2], routerCases[6], routerCases[7], routerCases[8], routerCases[9]} {
		whole := build(t, c)
		whole.forward(t, 0)
		call := build(t, c)
		for token, bad := range map[int64]float64{1: math.NaN(), 4: math.Inf(1), 5: math.Inf(-1)} {
			write(call.HiddenStates.DType, call.HiddenStates.At(token*call.HiddenStates.Stride(0)+3*call.HiddenStates.Stride(1)), bad)
		}
		call.forward(t, 0)
		k := c.k
		for token := range int(c.tokens) {
			index, weights := elementsOf(call.TopKIndex)[token*k:][:k], elementsOf(call.TopKWeights)[token*k:][:k]
			if token == 1 || token == 4 || token == 5 {
				seen := map[float64]bool{}
				for slot, e := range index {
					require.True(t, e >= 0 && e < float64(c.experts) && !seen[e], "%s: %v", c.name, index)
					seen[e] = true
					require.True(t, math.IsNaN(weights[slot]), c.name)
				}
				continue
			}
			require.Equal(t, elementsOf(whole.TopKIndex)[token*k:][:k], index)
			require.Equal(t, elementsOf(whole.TopKWeights)[token*k:][:k], weights)
		}
	}
}

// An infinite price bars an expert.
func TestRouterBarredExperts(t *testing.T) {
	call := build(t, routerCase{tokens: 30, hidden: 8, experts: 6, k: 4, price: true})
	*(*float32)(call.Price.At(2)) = float32(math.Inf(1))
	call.forward(t, 0)
	require.NotContains(t, elementsOf(call.TopKIndex), 2.0)
	call.requireRouting(t, call.reference(t))
}

// An expert that a price closes is not chosen, not by a token of NaN either; where fewer are open than
// slots, which the CPU refuses, the others are absent.
func TestRouterClosedExperts(t *testing.T) {
	for _, budgeted := range []bool{false, true} {
		call := build(t, routerCase{
			tokens: 30, hidden: 8, experts: 40, k: 3, price: true, gap: 0.2,
			options: func(o *core.RouterOptions) { o.Budgeted = budgeted },
		})
		closed := []int64{0, 2, 33}
		for _, e := range closed {
			*(*float32)(call.Price.At(e)) = float32(math.Inf(1))
		}
		*(*float32)(call.HiddenStates.At(7 * 8)) = float32(math.NaN())
		call.forward(t, 0)
		call.requireRouting(t, call.reference(t))
		for _, e := range closed {
			require.NotContains(t, elementsOf(call.TopKIndex), float64(e))
		}
		a := &core.RouterReportArgs{Options: call.Options, Logits: call.Logits, TopKIndex: call.TopKIndex, Price: call.Price}
		got, err := emulatedReport(t, a)
		require.NoError(t, err)
		want, err := router.Report(cpuEngine(t), &core.RouterReportArgs{
			Options: a.Options, Logits: onCPU(a.Logits), TopKIndex: indexOnCPU(a.TopKIndex), Price: onCPU(a.Price),
		})
		require.NoError(t, err)
		requireReports(t, want, got)

		for e := range int64(40) {
			if e != 5 && e != 39 {
				*(*float32)(call.Price.At(e)) = float32(math.Inf(1))
			}
		}
		call.forward(t, 0)
		for token := range 30 {
			row := elementsOf(call.TopKIndex)[3*token:][:3]
			for slot, e := range row {
				require.Contains(t, []float64{5, 39, 40}, e)
				if e == 40 {
					require.Zero(t, elementsOf(call.TopKWeights)[3*token+slot])
				}
			}
			require.Equal(t, 40.0, row[2]) //nolint:testifylint // the very number
		}
		_, err = emulatedReport(t, a)
		require.EqualError(t, err, "price: +Inf, which closes an expert, for 38 of 40; want at least top_k = 3 open ones")
	}
}

// Values that the CPU refuses cannot be refused without reading them back: they show as NaN gates.
func TestRouterValuesThatAreRefused(t *testing.T) {
	allNaN := func(call *routerCall) {
		call.forward(t, 0)
		for _, w := range elementsOf(call.TopKWeights) {
			require.True(t, math.IsNaN(w))
		}
	}
	call := build(t, routerCase{tokens: 9, hidden: 8, experts: 6, k: 2, price: true})
	*(*float32)(call.Price.At(4)) = float32(math.NaN())
	allNaN(call)
	for _, gap := range []float64{-0.5, math.NaN()} {
		allNaN(build(t, routerCase{
			tokens: 9, hidden: 8, experts: 6, k: 1, gap: gap, options: func(o *core.RouterOptions) { o.Budgeted = true },
		}))
	}
	// A batch whose optimum is out of reach: one token twice, which would have to part at a cliff.
	call = build(t, routerCase{tokens: 2, hidden: 8, experts: 8, k: 1, options: func(o *core.RouterOptions) {
		o.Solver, o.EntropyTemperature, o.LoadPenalty = core.Batch, 1e-5, 1e5
	}})
	for i := range int64(16) {
		*(*float32)(call.HiddenStates.At(i)) = 1
	}
	allNaN(call)
	require.True(t, math.IsNaN(elementsOf(call.PriceOut)[0]))
}

// What is not asked for is not written, and does not change the rest.
func TestRouterOptionalOutputs(t *testing.T) {
	for _, c := range []routerCase{routerCases[1], routerCases[6], routerCases[8], routerCases[len(routerCases)-3]} {
		whole, part := build(t, c), build(t, c)
		whole.forward(t, 0)
		part.Logits, part.Counts, part.PriceOut = nil, nil, nil
		part.forward(t, 0)
		require.Equal(t, elementsOf(whole.TopKIndex), elementsOf(part.TopKIndex), c.name)
		require.Equal(t, elementsOf(whole.TopKWeights), elementsOf(part.TopKWeights), c.name)
	}
}

// randomRouterCase draws modes, shapes, dtypes, layouts and options.
func randomRouterCase(rng *rand.Rand) routerCase {
	c := routerCase{
		tokens: []int64{1, 2, 17, 33, 70}[rng.IntN(5)], hidden: 1 + rng.Int64N(70), experts: 1 + rng.Int64N(60),
		dtype: []core.DType{core.Float32, core.BFloat16}[rng.IntN(2)], index: []core.DType{core.Int32, core.Int64}[rng.IntN(2)],
		price: rng.IntN(2) == 0, layout: arrangement(rng.IntN(int(arrangements))), gap: rng.Float64() * 0.3,
	}
	c.parameters = []core.DType{core.Float32, c.dtype}[rng.IntN(2)]
	mode, groups := core.RouterMode(rng.IntN(3)), 1
	switch mode {
	case core.Hamiltonian:
		c.temperature = []float64{0, 0.3, 0.001}[rng.IntN(3)]
		c.width = []int64{0, 1 + rng.Int64N(40)}[rng.IntN(2)]
	case core.DeepSeek:
		groups = 1 + rng.IntN(6)
		c.experts = int64(groups) * (1 + rng.Int64N(40))
	}
	open, dot, budgeted, normalize := 1+rng.IntN(groups), rng.IntN(2), rng.IntN(2) == 0, rng.IntN(2) == 0
	c.bias = mode == core.Mixtral || mode == core.Hamiltonian && dot == 1
	c.k = 1 + rng.IntN(min(16, int(c.experts)/groups*open))
	c.options = func(o *core.RouterOptions) {
		o.Mode, o.Binding, o.Budgeted = mode, core.Binding(dot), budgeted && mode == core.Hamiltonian
		o.NormalizeTopK, o.NumGroups, o.TopKGroups, o.ScalingFactor = normalize, groups, open, 1.5
	}
	c.name = fmt.Sprintf("mode %d binding %d k %d budgeted %v groups %d/%d %s %s T %d H %d D %d E %d layout %d",
		mode, dot, c.k, budgeted, open, groups, c.dtype, c.parameters, c.tokens, c.hidden, c.width, c.experts, c.layout)
	return c
}

func TestRouterRandomCalls(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		c := randomRouterCase(rng)
		t.Run(c.name, func(t *testing.T) {
			call := build(t, c)
			call.forward(t, 1)
			call.requireRouting(t, call.reference(t))
			got := call.backward(t, 2)
			want := cpuGradients(t, got)
			for i, g := range gradientsOf(got) {
				closeTo(t, elementsOf(gradientsOf(want)[i]), elementsOf(g), gradientTolerance(g), fmt.Sprintf("gradient %d", i))
			}
		})
	}
}

// Large calls that no test runs have launches within the device's limits and a workspace
// without waste.
func TestRouterGeometry(t *testing.T) {
	tensor := func(dtype core.DType, shape ...int64) *core.Tensor {
		return &core.Tensor{DType: dtype, Shape: shape, Data: unsafe.Pointer(new(float64))}
	}
	for _, tokens := range []int64{1, 8192, 1 << 20, 1 << 24} {
		for _, experts := range []int64{8, 64, 512} {
			for _, solver := range []core.Solver{core.Price, core.Batch} {
				f := &core.RouterForwardArgs{
					Options: core.DefaultRouterOptions(), HiddenStates: tensor(core.BFloat16, tokens, 4096),
					Projection: tensor(core.Float32, 64, 4096), Centroids: tensor(core.BFloat16, experts, 64),
					TopKIndex: tensor(core.Int64, tokens, 2), TopKWeights: tensor(core.Float32, tokens, 2), Logits: tensor(core.Float32, tokens, experts),
				}
				f.Options.Solver = solver
				b := &core.RouterBackwardArgs{
					Options: f.Options, HiddenStates: f.HiddenStates, Projection: f.Projection, Centroids: f.Centroids,
					Logits: f.Logits, TopKIndex: f.TopKIndex, GradTopKWeights: f.TopKWeights,
					GradHiddenStates: f.HiddenStates, GradProjection: f.Projection, GradCentroids: f.Centroids,
				}
				forward, err := routerForwardLaunches(emulatedDevice, f)
				require.NoError(t, err)
				backward, err := routerBackwardLaunches(emulatedDevice, b)
				require.NoError(t, err)
				for _, l := range append(forward, backward...) {
					require.True(t, l.Grid.X >= 1 && l.Grid.X < 1<<31 && l.Grid.Y >= 1 && l.Grid.Y < 1<<16 && l.Grid.Z == 1, "%+v", l)
					// 99 KiB is what a block may have on the smallest GPUs that are served; 5 KiB are static.
					require.LessOrEqual(t, l.SharedBytes, uint32(94<<10), l.Kernel)
				}
				size, err := routerBackwardWorkspace(emulatedDevice, b)
				require.NoError(t, err)
				perToken := uint64(4 * (experts + 1 + 2*64))
				require.Less(t, size, uint64(tokens)*perToken+(64<<20), "beyond q, r, z and dz")
			}
		}
	}
}

// What a GPU cannot do is refused with its name.
func TestRouterRefusals(t *testing.T) {
	tensor := func(dtype core.DType, shape ...int64) *core.Tensor {
		return &core.Tensor{DType: dtype, Shape: shape, Data: unsafe.Pointer(new(float64))}
	}
	a := &core.RouterForwardArgs{Options: core.DefaultRouterOptions(), HiddenStates: tensor(core.Float64, 3, 4), Centroids: tensor(core.Float64, 5, 4)}
	_, err := routerForwardWorkspace(driver.Attributes{}, a)
	require.ErrorContains(t, err, "hidden_states: dtype float64 on cuda")
	a.HiddenStates, a.Centroids = tensor(core.Float32, 3, 4), tensor(core.Float32, 513, 4)
	_, err = routerForwardLaunches(driver.Attributes{}, a)
	require.ErrorContains(t, err, "513 experts on cuda, want at most 512")
	a.Centroids, a.Options.TopK = tensor(core.Float32, 40, 4), 17
	_, err = routerForwardLaunches(driver.Attributes{}, a)
	require.ErrorContains(t, err, "options.top_k: 17 on cuda, want at most 16")
}

// The mirrors have the layout of the header: sizes, and the place of every member.
func TestRouterParamsMirrorTheHeader(t *testing.T) {
	for name, mirror := range map[string]any{
		"RouterView": routerView{}, "RouterOptions": routerOptions{}, "RouterBatchState": routerBatchState{},
		"RouterPrepareParams": routerPrepareParams{}, "RouterProductParams": routerProductParams{}, "RouterForwardParams": routerForwardParams{},
		"RouterBatchParams": routerBatchParams{}, "RouterGradientParams": routerGradientParams{}, "RouterSumsParams": routerSumsParams{},
		"RouterUpdateParams": routerUpdateParams{}, "RouterReportParams": routerReportParams{},
	} {
		requireMirrors(t, "router_params.h", name, mirror)
	}
	requireMirrors(t, "clans_params.h", "ClansDescendParams", clansDescendParams{})
	requireMirrors(t, "clans_params.h", "ClansObserveParams", clansObserveParams{})
}
