package router

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

func goodRecipe(mode core.RouterMode) recipe {
	o := core.DefaultRouterOptions()
	o.Mode = mode
	return recipe{options: o, dtype: core.Float32, tokens: 5, hidden: 6, experts: 8, price: true, seed: 1}
}

func TestForwardRefuses(t *testing.T) {
	engine := newEngine(t, 1)
	f32 := func(shape ...int64) *core.Tensor { return newTensor(core.Float32, compact, shape...) }
	nan := float32(math.NaN())
	for _, c := range []struct {
		mode   core.RouterMode
		change func(*core.RouterForwardArgs)
		want   string
	}{
		{0, func(a *core.RouterForwardArgs) { a.HiddenStates = nil }, "hidden_states: is missing"},
		{0, func(a *core.RouterForwardArgs) { a.HiddenStates = f32(5) }, "hidden_states: shape [5] has 1 dimensions, want 2: [T, H]"},
		{0, func(a *core.RouterForwardArgs) { a.HiddenStates = f32(5, 0) }, "hidden_states: shape [5, 0], want H of at least 1"},
		{0, func(a *core.RouterForwardArgs) { a.HiddenStates = newTensor(core.Int32, compact, 5, 6) }, "hidden_states: dtype int32"},
		{0, func(a *core.RouterForwardArgs) { a.HiddenStates.Data = nil }, "hidden_states: data is NULL"},
		{0, func(a *core.RouterForwardArgs) { a.HiddenStates.Shape = []int64{-1, 6} }, "dimension 0 is negative"},
		{0, func(a *core.RouterForwardArgs) { a.HiddenStates.Shape = []int64{math.MaxInt64, 6} }, "hidden_states: shape"},
		{0, func(a *core.RouterForwardArgs) { a.HiddenStates.Device = core.Device{Type: core.CUDA} }, "hidden_states: is on cuda:0, want cpu"},
		{0, func(a *core.RouterForwardArgs) { a.Centroids = nil }, "centroids: is missing"},
		{0, func(a *core.RouterForwardArgs) { a.Centroids = f32(8, 7) }, "centroids: shape [8, 7]"},
		{0, func(a *core.RouterForwardArgs) { a.Centroids = f32(0, 6) }, "options.top_k: 2, want 1 to the 0 experts"},
		{0, func(a *core.RouterForwardArgs) { a.Centroids = newTensor(core.Float64, compact, 8, 6) }, "centroids: dtype float64"},
		{0, func(a *core.RouterForwardArgs) { a.Centroids = newTensor(core.BFloat16, compact, 8, 6) }, "centroids: dtype bfloat16"},
		{0, func(a *core.RouterForwardArgs) { a.Projection = f32(4, 6) }, "centroids: shape [8, 6], want [any, 4]: [E, D]"},
		{0, func(a *core.RouterForwardArgs) { a.Projection = f32(4, 5) }, "projection: shape [4, 5]"},
		{0, func(a *core.RouterForwardArgs) { a.Projection = f32(0, 6) }, "projection: shape [0, 6], want D of at least 1"},
		{1, func(a *core.RouterForwardArgs) { a.Projection = f32(6, 6) }, "projection: is given, want NULL"},
		{0, func(a *core.RouterForwardArgs) { a.Bias = f32(8) }, "bias: is given, want NULL"},
		{2, func(a *core.RouterForwardArgs) { a.Bias = f32(8) }, "bias: is given, want NULL"},
		{1, func(a *core.RouterForwardArgs) { a.Bias = f32(7) }, "bias: shape [7]"},
		{0, func(a *core.RouterForwardArgs) { a.Price = f32(7) }, "price: shape [7], want [8]: [E]"},
		{0, func(a *core.RouterForwardArgs) { set(a.Price, 3, math.NaN()) }, "price: NaN for expert 3"},
		{0, func(a *core.RouterForwardArgs) { set(a.Price, 3, math.Inf(-1)) }, "price: -Inf for expert 3"},
		{0, func(a *core.RouterForwardArgs) { a.Temperature = f32(2) }, "temperature: shape [2]"},
		{0, func(a *core.RouterForwardArgs) { a.Temperature = f32(1); set(a.Temperature, 0, math.NaN()) }, "temperature: is NaN"},
		{0, func(a *core.RouterForwardArgs) { a.Options.Budgeted = true }, "gap: is missing"},
		{0, func(a *core.RouterForwardArgs) { a.Options.Budgeted, a.Gap = true, f32(1); set(a.Gap, 0, -1) }, "gap: -1, want at least 0"},
		{0, func(a *core.RouterForwardArgs) { a.Options.Budgeted, a.Gap = true, f32(1); set(a.Gap, 0, math.NaN()) }, "gap: NaN"},
		{0, func(a *core.RouterForwardArgs) { a.TopKIndex = nil }, "top_k_index: is missing"},
		{0, func(a *core.RouterForwardArgs) { a.TopKIndex = f32(5, 2) }, "top_k_index: dtype float32, want one of [int32 int64]"},
		{0, func(a *core.RouterForwardArgs) { a.TopKIndex = newTensor(core.Int32, compact, 5, 3) }, "top_k_index: shape [5, 3]"},
		{0, func(a *core.RouterForwardArgs) { a.TopKWeights = nil }, "top_k_weights: is missing"},
		{0, func(a *core.RouterForwardArgs) { a.TopKWeights = newTensor(core.BFloat16, compact, 5, 2) }, "top_k_weights: dtype bfloat16"},
		{0, func(a *core.RouterForwardArgs) { a.TopKWeights.Strides = []int64{0, 1} }, "top_k_weights: strides [0 1]"},
		{0, func(a *core.RouterForwardArgs) { a.Logits = f32(5, 9) }, "logits: shape [5, 9]"},
		{0, func(a *core.RouterForwardArgs) { a.Logits.Data = a.HiddenStates.Data }, "logits: overlaps the memory of hidden_states"},
		{0, func(a *core.RouterForwardArgs) { a.Counts = newTensor(core.Int32, compact, 8) }, "counts: dtype int32"},
		{0, func(a *core.RouterForwardArgs) { a.PriceOut = f32(8) }, "price_out: is given, want NULL"},
		{0, func(a *core.RouterForwardArgs) { a.Options.Mode = 3 }, "options.mode: 3"},
		{0, func(a *core.RouterForwardArgs) { a.Options.Binding = -1 }, "options.binding: -1"},
		{0, func(a *core.RouterForwardArgs) { a.Options.Solver = 2 }, "options.solver: 2"},
		{0, func(a *core.RouterForwardArgs) { a.Options.TopK = 0 }, "options.top_k: 0"},
		{0, func(a *core.RouterForwardArgs) { a.Options.TopK = 9 }, "options.top_k: 9, want 1 to the 8 experts"},
		{0, func(a *core.RouterForwardArgs) { a.Options.Solver, a.Options.Budgeted = core.Batch, true }, "options.budgeted: true with solver batch"},
		{0, func(a *core.RouterForwardArgs) { a.Options.Epsilon = 0 }, "options.epsilon: 0"},
		{0, func(a *core.RouterForwardArgs) { a.Options.TemperatureFloor = nan }, "options.temperature_floor: NaN"},
		{0, func(a *core.RouterForwardArgs) { a.Options.EntropyTemperature = -1 }, "options.entropy_temperature: -1"},
		{0, func(a *core.RouterForwardArgs) { a.Options.LoadPenalty = float32(math.Inf(1)) }, "options.load_penalty: +Inf"},
		{1, func(a *core.RouterForwardArgs) { a.Options.ScalingFactor = nan }, "options.scaling_factor: NaN"},
		{2, func(a *core.RouterForwardArgs) { a.Options.ScalingFactor = 0 }, "options.scaling_factor: 0"},
		{2, func(a *core.RouterForwardArgs) { a.Options.NumGroups = 3 }, "options.num_groups: 3, want a divisor of the 8 experts"},
		{2, func(a *core.RouterForwardArgs) { a.Options.NumGroups = 0 }, "options.num_groups: 0"},
		{2, func(a *core.RouterForwardArgs) { a.Options.TopKGroups = 2 }, "options.top_k_groups: 2"},
		{2, func(a *core.RouterForwardArgs) { a.Options.NumGroups = 8 }, "options.top_k: 2, want at most the 1 experts of 1 groups"},
		{2, func(a *core.RouterForwardArgs) { set(a.Price, 1, math.Inf(1)) }, "price: +Inf for expert 1"},
	} {
		a := &goodRecipe(c.mode).build().RouterForwardArgs
		c.change(a)
		err := Forward(engine, a)
		require.ErrorContains(t, err, c.want)
		var typed *core.Error
		require.ErrorAs(t, err, &typed)
		require.Equal(t, core.InvalidArgument, typed.Code, c.want)
	}
}

func TestBackwardRefuses(t *testing.T) {
	engine := newEngine(t, 1)
	f32 := func(shape ...int64) *core.Tensor { return newTensor(core.Float32, compact, shape...) }
	for _, c := range []struct {
		mode   core.RouterMode
		change func(*core.RouterBackwardArgs)
		want   string
	}{
		{0, func(a *core.RouterBackwardArgs) { a.Logits = nil }, "logits: is missing"},
		{0, func(a *core.RouterBackwardArgs) { a.TopKIndex = nil }, "top_k_index: is missing"},
		{0, func(a *core.RouterBackwardArgs) { set(a.TopKIndex, 3, -7) }, "top_k_index: -7 at [1, 1], want 0 or more"},
		{0, func(a *core.RouterBackwardArgs) { a.GradTopKWeights = f32(5, 3) }, "grad_top_k_weights: shape [5, 3]"},
		{0, func(a *core.RouterBackwardArgs) { a.GradLogits = f32(5, 7) }, "grad_logits: shape [5, 7]"},
		{0, func(a *core.RouterBackwardArgs) { a.GradHiddenStates = f32(5, 5) }, "grad_hidden_states: shape [5, 5], want [5, 6]: that of hidden_states"},
		{0, func(a *core.RouterBackwardArgs) { a.GradProjection = f32(5, 5) }, "grad_projection: is wanted, but there is no projection"},
		{0, func(a *core.RouterBackwardArgs) { a.GradBias = f32(8) }, "grad_bias: is wanted"},
		{0, func(a *core.RouterBackwardArgs) { a.GradTemperature = f32(1) }, "grad_temperature: is wanted"},
		{1, func(a *core.RouterBackwardArgs) { a.Temperature, a.GradTemperature = f32(1), f32(1) }, "grad_temperature: is wanted"},
		{0, func(a *core.RouterBackwardArgs) { a.GradCentroids = newTensor(core.BFloat16, compact, 8, 6) }, "grad_centroids: dtype bfloat16"},
		{0, func(a *core.RouterBackwardArgs) { a.GradCentroids = a.Centroids }, "grad_centroids: overlaps the memory of centroids"},
		{0, func(a *core.RouterBackwardArgs) { a.Options.TopK = 3 }, "top_k_index: shape [5, 2], want [5, 3]"},
	} {
		call := goodRecipe(c.mode).build().forward(t, engine)
		a := call.backward(rand.New(rand.NewPCG(1, 1)), compact)
		c.change(a)
		err := Backward(engine, a)
		require.ErrorContains(t, err, c.want)
		require.IsType(t, &core.Error{}, err)
	}
}

func TestReportRefuses(t *testing.T) {
	engine := newEngine(t, 1)
	for _, c := range []struct {
		change func(*core.RouterReportArgs)
		want   string
	}{
		{func(a *core.RouterReportArgs) { a.Logits = nil }, "logits: is missing"},
		{func(a *core.RouterReportArgs) { a.Logits = newTensor(core.BFloat16, compact, 5, 8) }, "logits: dtype bfloat16"},
		{func(a *core.RouterReportArgs) { a.TopKIndex = nil }, "top_k_index: is missing"},
		{func(a *core.RouterReportArgs) { set(a.TopKIndex, 0, -1) }, "top_k_index: -1 at [0, 0]"},
		{func(a *core.RouterReportArgs) { a.PreviousIndex = newTensor(core.Int64, compact, 4, 2) }, "previous_index: shape [4, 2]"},
		{func(a *core.RouterReportArgs) { set(a.Price, 7, math.NaN()) }, "price: NaN for expert 7"},
		{func(a *core.RouterReportArgs) { a.Options.Mode, a.Options.EntropyTemperature = core.Mixtral, 0 }, "options.entropy_temperature: 0"},
	} {
		call := goodRecipe(core.Hamiltonian).build().forward(t, engine)
		a := &core.RouterReportArgs{Options: call.Options, Logits: call.Logits, TopKIndex: call.TopKIndex, Price: call.Price}
		c.change(a)
		_, err := Report(engine, a)
		require.ErrorContains(t, err, c.want)
		require.IsType(t, &core.Error{}, err)
	}
}

// FuzzForward gives any options, shapes, strides and values: a call fails with an
// error of ours or routes every token.
func FuzzForward(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 2, 3})
	f.Add(uint64(2), []byte{1, 0, 0, 2, 9, 0, 1, 1, 1, 200, 5, 17, 80, 255, 128, 3})
	f.Add(uint64(3), []byte{2, 0, 0, 4, 0, 1, 4, 2, 60, 60, 60, 60, 7, 7, 7})
	engine := newEngine(f, 2)
	f.Fuzz(func(t *testing.T, seed uint64, bytes []byte) {
		rng := rand.New(rand.NewPCG(seed, 2))
		next := func() int {
			if len(bytes) == 0 {
				return 1
			}
			b := bytes[0]
			bytes = bytes[1:]
			return int(int8(b))
		}
		c := randomRecipe(rng).build()
		a := &c.RouterForwardArgs
		o := &a.Options
		tensors := []*core.Tensor{a.HiddenStates, a.Projection, a.Centroids, a.Bias, a.Price, a.Temperature, a.Gap, a.TopKIndex, a.TopKWeights, a.Logits, a.Counts}
		for len(bytes) > 0 {
			switch next() & 15 {
			case 0:
				o.Mode = core.RouterMode(next())
			case 1:
				o.Binding, o.Solver = core.Binding(next()), core.Solver(next())
			case 2:
				o.TopK = next()
			case 3:
				o.NumGroups, o.TopKGroups = next(), next()
			case 4:
				o.Budgeted = !o.Budgeted
			case 5:
				o.ScalingFactor, o.Epsilon = float32(next())/8, float32(next())/8
			case 6:
				o.EntropyTemperature, o.LoadPenalty, o.TemperatureFloor = float32(next())/8, float32(next())/8, float32(next())/8
			case 7:
				if tensor := tensors[uint8(next())%11]; tensor != nil {
					if dtype := core.DType(next()); dtype.Size() <= tensor.DType.Size() { // stays inside the memory
						tensor.DType = dtype
					}
				}
			case 8: // a smaller shape stays inside the memory
				if tensor := tensors[uint8(next())%11]; tensor != nil {
					d := int(uint8(next())) % len(tensor.Shape)
					tensor.Shape[d] = min(tensor.Shape[d], int64(next()))
				}
			case 9: // a stride nearer to zero stays inside the memory
				if tensor := tensors[uint8(next())%11]; tensor != nil {
					d := int(uint8(next())) % len(tensor.Shape)
					if stride := tensor.Strides[d]; stride < 0 {
						tensor.Strides[d] = -(-stride & int64(uint8(next())))
					} else {
						tensor.Strides[d] = stride & int64(uint8(next()))
					}
				}
			case 10:
				a.Projection, a.Bias = a.Bias, a.Projection
			case 11:
				if tensor := tensors[uint8(next())%6]; tensor != nil && tensor.Check("t") == nil && tensor.Elements() > 0 && tensor.DType.IsFloat() {
					set(tensor, rng.Int64N(tensor.Elements()), []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e38, 0}[uint8(next())%5])
				}
			default:
				a.Price = nil
			}
		}
		err := Forward(engine, a)
		if err != nil {
			require.IsType(t, &core.Error{}, err)
			require.NotEqual(t, core.Internal, err.(*core.Error).Code, err.Error())
			return
		}
		experts := a.Centroids.Shape[0]
		for token := range a.TopKIndex.Shape[0] {
			seen := map[float64]bool{}
			for slot := range int64(o.TopK) {
				e := get(a.TopKIndex, token*int64(o.TopK)+slot)
				require.True(t, e >= 0 && int64(e) <= experts)
				require.True(t, int64(e) == experts || !seen[e])
				seen[e] = true
			}
		}
	})
}
