package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
	"github.com/genesis-moe/genesis-moe/router"
)

// routerCase is a call: its options, sizes and dtypes.
type routerCase struct {
	name                           string
	options                        func(*core.RouterOptions)
	tokens, hidden, width, experts int64 // width 0: no projection
	k                              int
	dtype, parameters              core.DType // 0: float32, and the dtype of the hidden states
	bias, price                    bool
	temperature, gap               float64 // temperature 0: none
	index                          core.DType
	layout                         arrangement
}

// routerCall is the case's tensors on the emulated device.
type routerCall struct {
	core.RouterForwardArgs
	c routerCase
}

func build(t testing.TB, c routerCase) *routerCall {
	rng := rand.New(rand.NewPCG(uint64(c.tokens*31+c.hidden), uint64(c.experts)))
	if c.dtype == 0 {
		c.dtype = core.Float32
	}
	if c.parameters == 0 {
		c.parameters = c.dtype
	}
	if c.index == 0 {
		c.index = core.Int64
	}
	random := func(dtype core.DType, scale float64, shape ...int64) *core.Tensor {
		n := int64(1)
		for _, s := range shape {
			n *= s
		}
		values := make([]float64, n)
		for i := range values {
			values[i] = scale * rng.NormFloat64()
		}
		return hold(t, dtype, c.layout, values, shape...).Tensor
	}
	empty := func(dtype core.DType, shape ...int64) *core.Tensor {
		return hold(t, dtype, c.layout, nil, shape...).Tensor
	}
	call := &routerCall{c: c}
	a := &call.RouterForwardArgs
	a.Options = core.DefaultRouterOptions()
	a.Options.TopK = c.k
	if c.options != nil {
		c.options(&a.Options)
	}
	width := c.hidden
	a.HiddenStates = random(c.dtype, 1, c.tokens, c.hidden)
	if c.width > 0 {
		width = c.width
		a.Projection = random(c.parameters, 1/math.Sqrt(float64(c.hidden)), width, c.hidden)
	}
	a.Centroids = random(c.parameters, 1/math.Sqrt(float64(width)), c.experts, width)
	if c.bias {
		a.Bias = random(c.parameters, 0.5, c.experts)
	}
	if c.price {
		a.Price = random(core.Float32, 0.2, c.experts)
	}
	if c.temperature > 0 {
		a.Temperature = hold(t, core.Float32, compact, []float64{c.temperature}, 1).Tensor
	}
	if a.Options.Budgeted {
		a.Gap = hold(t, core.Float32, compact, []float64{c.gap}, 1).Tensor
	}
	a.TopKIndex = empty(c.index, c.tokens, int64(c.k))
	a.TopKWeights = empty(core.Float32, c.tokens, int64(c.k))
	a.Logits = empty(core.Float32, c.tokens, c.experts)
	a.Counts = empty(core.Int64, c.experts)
	if a.Options.Mode == core.Hamiltonian && a.Options.Solver == core.Batch {
		a.PriceOut = empty(core.Float32, c.experts)
	}
	return call
}

// runRouter runs an operation of the backend on the emulated device.
func runRouter[A any](t testing.TB, need func(driver.Attributes, *A) (uint64, error), launches func(driver.Attributes, *A) ([]driver.Launch, error),
	a *A, w *core.Workspace, seed uint64,
) {
	t.Helper()
	size, err := need(emulatedDevice, a)
	require.NoError(t, err)
	*w = workspace(t, size)
	list, err := launches(emulatedDevice, a)
	require.NoError(t, err)
	emulate(t, list, seed)
}

func (c *routerCall) forward(t testing.TB, seed uint64) {
	t.Helper()
	runRouter(t, routerForwardWorkspace, routerForwardLaunches, &c.RouterForwardArgs, &c.Workspace, seed)
}

func number(t *core.Tensor, offset int64) float64 {
	switch p := t.At(offset); t.DType {
	case core.Float32:
		return float64(*(*float32)(p))
	case core.Float64:
		return *(*float64)(p)
	case core.BFloat16:
		return float64(math.Float32frombits(uint32(*(*uint16)(p)) << 16))
	case core.Int32:
		return float64(*(*int32)(p))
	default:
		return float64(*(*int64)(p))
	}
}

// elementsOf are the elements in row-major order, of one dimension or two; nil of nil.
func elementsOf(t *core.Tensor) []float64 {
	if t == nil {
		return nil
	}
	v := make([]float64, 0, t.Elements())
	for i := range t.Shape[0] {
		if len(t.Shape) == 1 {
			v = append(v, number(t, i*t.Stride(0)))
			continue
		}
		for j := range t.Shape[1] {
			v = append(v, number(t, i*t.Stride(0)+j*t.Stride(1)))
		}
	}
	return v
}

// onCPU is a float64 copy for the reference: the CPU's router in float64.
func onCPU(t *core.Tensor) *core.Tensor {
	if t == nil {
		return nil
	}
	return core.FromSlice(elementsOf(t), t.Shape...)
}

func indexOnCPU(t *core.Tensor) *core.Tensor {
	if t == nil {
		return nil
	}
	index := make([]int64, 0, t.Elements())
	for _, v := range elementsOf(t) {
		index = append(index, int64(v))
	}
	return core.FromSlice(index, t.Shape...)
}

func cpuEngine(t testing.TB) *core.Engine {
	e, err := core.NewEngine(core.EngineOptions{NumThreads: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// reference routes the same numbers in float64 on the CPU.
func (c *routerCall) reference(t testing.TB) *core.RouterForwardArgs {
	a := c.RouterForwardArgs
	r := &core.RouterForwardArgs{
		Options: a.Options, HiddenStates: onCPU(a.HiddenStates), Projection: onCPU(a.Projection), Centroids: onCPU(a.Centroids),
		Bias: onCPU(a.Bias), Price: onCPU(a.Price), Temperature: onCPU(a.Temperature), Gap: onCPU(a.Gap),
		TopKIndex: core.FromSlice(make([]int64, a.TopKIndex.Elements()), a.TopKIndex.Shape...),
	}
	zeros := func(like *core.Tensor) *core.Tensor {
		return core.FromSlice(make([]float64, like.Elements()), like.Shape...)
	}
	r.TopKWeights, r.Logits = zeros(a.TopKWeights), zeros(a.Logits)
	if a.PriceOut != nil {
		r.PriceOut = zeros(a.PriceOut)
	}
	require.NoError(t, router.Forward(cpuEngine(t), r))
	return r
}

// closeTo is how far numbers that went through float32 may be off.
func closeTo(t testing.TB, want, got []float64, tolerance float64, what string) {
	t.Helper()
	require.Len(t, got, len(want), what)
	scale := 1.0
	for _, v := range want {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			scale = max(scale, math.Abs(v))
		}
	}
	for i, v := range want {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			require.False(t, got[i]-got[i] == 0, "%s[%d]: %v, want %v", what, i, got[i], v)
			continue
		}
		require.InDelta(t, v, got[i], tolerance*scale, "%s[%d]", what, i)
	}
}

// requireRouting compares routings token by token. Where the reference is about to choose otherwise
// (two scores are as close as rounding), that token's slots are not compared; there may be few of those.
func (c *routerCall) requireRouting(t testing.TB, want *core.RouterForwardArgs) {
	t.Helper()
	closeTo(t, elementsOf(want.Logits), elementsOf(c.Logits), 3e-6, "logits")
	k, experts := c.c.k, int(c.c.experts)
	index, weights := elementsOf(c.TopKIndex), elementsOf(c.TopKWeights)
	wantIndex, wantWeights := elementsOf(want.TopKIndex), elementsOf(want.TopKWeights)
	counts, others := make([]float64, experts), 0
	for token := range int(c.c.tokens) {
		row, wantRow := index[token*k:(token+1)*k], wantIndex[token*k:(token+1)*k]
		seen := map[float64]bool{}
		for slot, e := range row {
			if e == float64(experts) {
				require.Zero(t, weights[token*k+slot])
				continue
			}
			require.True(t, e >= 0 && e < float64(experts) && !seen[e], "token %d: experts %v", token, row)
			seen[e] = true
			counts[int(e)]++
		}
		if fmt.Sprint(row) != fmt.Sprint(wantRow) {
			others++
			continue
		}
		closeTo(t, wantWeights[token*k:(token+1)*k], weights[token*k:(token+1)*k], 1e-5, fmt.Sprintf("weights of token %d", token))
	}
	require.LessOrEqual(t, others, int(c.c.tokens)/16, "tokens that chose otherwise than the reference")
	require.Equal(t, counts, elementsOf(c.Counts))
}

var routerCases = []routerCase{
	{name: "cosine", tokens: 17, hidden: 40, experts: 8, k: 2, price: true, temperature: 0.3},
	{name: "cosine projected", tokens: 70, hidden: 48, width: 24, experts: 16, k: 4, price: true, temperature: 0.3},
	{name: "cosine bf16", tokens: 33, hidden: 64, experts: 130, k: 8, dtype: core.BFloat16, index: core.Int32},
	{
		name: "dot projected bf16, float32 parameters", tokens: 20, hidden: 33, width: 17, experts: 7, k: 3, bias: true, price: true,
		dtype: core.BFloat16, parameters: core.Float32, temperature: 0.001, index: core.Int32,
		options: func(o *core.RouterOptions) { o.Binding = core.Dot },
	},
	{name: "dot, bf16", tokens: 65, hidden: 32, width: 16, experts: 12, k: 2, dtype: core.BFloat16, bias: true, options: func(o *core.RouterOptions) { o.Binding = core.Dot }},
	{name: "budgeted", tokens: 40, hidden: 24, experts: 10, k: 6, price: true, gap: 0.2, temperature: 0.3, options: func(o *core.RouterOptions) { o.Budgeted = true }},
	{name: "mixtral", tokens: 19, hidden: 50, experts: 8, k: 2, bias: true, options: func(o *core.RouterOptions) { o.Mode = core.Mixtral }},
	{
		name: "mixtral, not normalised", tokens: 9, hidden: 31, experts: 40, k: 5, layout: padded,
		options: func(o *core.RouterOptions) { o.Mode, o.NormalizeTopK, o.ScalingFactor = core.Mixtral, false, 1.5 },
	},
	{
		name: "deepseek", tokens: 21, hidden: 36, experts: 24, k: 6, price: true,
		options: func(o *core.RouterOptions) {
			o.Mode, o.NumGroups, o.TopKGroups, o.ScalingFactor = core.DeepSeek, 4, 2, 2.5
		},
	},
	{
		name: "deepseek of 256, bf16", tokens: 6, hidden: 32, experts: 256, k: 8, price: true, dtype: core.BFloat16, parameters: core.Float32,
		options: func(o *core.RouterOptions) {
			o.Mode, o.NumGroups, o.TopKGroups, o.ScalingFactor = core.DeepSeek, 8, 4, 2.5
		},
	},
	{
		name: "deepseek, groups of one, no groups chosen out", tokens: 5, hidden: 8, experts: 6, k: 3, layout: spread,
		options: func(o *core.RouterOptions) {
			o.Mode, o.NumGroups, o.TopKGroups, o.NormalizeTopK = core.DeepSeek, 6, 4, false
		},
	},
	{name: "one expert", tokens: 3, hidden: 5, experts: 1, k: 1, temperature: 0.3, layout: reversed},
	{name: "one token, one dimension", tokens: 1, hidden: 1, width: 1, experts: 2, k: 1},
	{name: "512 experts, 16 slots", tokens: 34, hidden: 19, experts: 512, k: 16, price: true, temperature: 0.3, layout: transposed},
	{name: "512 experts, projected, aligned rows", tokens: 3, hidden: 40, width: 36, experts: 512, k: 16, layout: aligned},
	{name: "no tokens", tokens: 0, hidden: 8, experts: 4, k: 2},
	{name: "batch", tokens: 150, hidden: 16, width: 8, experts: 12, k: 3, temperature: 0.3, options: func(o *core.RouterOptions) { o.Solver = core.Batch }},
	{name: "batch of all experts", tokens: 5, hidden: 16, experts: 3, k: 3, options: func(o *core.RouterOptions) { o.Solver = core.Batch }},
	{name: "batch of none", tokens: 0, hidden: 16, experts: 3, k: 2, options: func(o *core.RouterOptions) { o.Solver = core.Batch }},
}
