package router

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// backwardCall is the backward of a forward call, with random upstream gradients.
func (c *call) backward(rng *rand.Rand, lay layout) *core.RouterBackwardArgs {
	f := &c.RouterForwardArgs
	like := func(t *core.Tensor) *core.Tensor {
		if t == nil {
			return nil
		}
		return newTensor(t.DType, lay, t.Shape...)
	}
	return &core.RouterBackwardArgs{
		Options: f.Options, HiddenStates: f.HiddenStates, Projection: f.Projection, Centroids: f.Centroids, Bias: f.Bias,
		Temperature: f.Temperature, Logits: f.Logits, TopKIndex: f.TopKIndex,
		GradTopKWeights:  randomTensor(rng, c.compute, lay, 1, f.TopKWeights.Shape...),
		GradLogits:       randomTensor(rng, c.compute, lay, 1, f.Logits.Shape...),
		GradHiddenStates: like(f.HiddenStates), GradProjection: like(f.Projection), GradCentroids: like(f.Centroids),
		GradBias: like(f.Bias), GradTemperature: like(f.Temperature),
	}
}

// objective is <grad_top_k_weights, weights> + <grad_logits, logits>, by the reference.
func objective(c *call, b *core.RouterBackwardArgs) float64 {
	routing := c.reference().route()
	gates, logits := rowsOf(b.GradTopKWeights), rowsOf(b.GradLogits)
	sum := 0.0
	for t := range routing.logits {
		for slot, w := range routing.weights[t] {
			sum += w * gates[t][slot]
		}
		for e, l := range routing.logits[t] {
			sum += l * logits[t][e]
		}
	}
	return sum
}

// clear reports whether no choice is near another one, where gradients do not exist.
func (c *call) clear(distance float64) bool {
	for _, margin := range c.reference().route().margins {
		if margin < distance {
			return false
		}
	}
	return true
}

func TestBackwardIsTheSlopeOfTheReference(t *testing.T) {
	engine := newEngine(t, 2)
	rng := rand.New(rand.NewPCG(3, 4))
	checked := 0
	for checked < 120 {
		r := randomRecipe(rng)
		r.dtype, r.tokens = core.Float64, rng.Int64N(6)
		c := r.build()
		const step = 1e-5
		if !c.clear(100 * step) {
			continue
		}
		checked++
		require.NoError(t, Forward(engine, &c.RouterForwardArgs), r)
		b := c.backward(rng, r.layout)
		require.NoError(t, Backward(engine, b), r)
		for _, pair := range []struct {
			name        string
			input, grad *core.Tensor
		}{
			{"hidden_states", c.HiddenStates, b.GradHiddenStates},
			{"projection", c.Projection, b.GradProjection},
			{"centroids", c.Centroids, b.GradCentroids},
			{"bias", c.Bias, b.GradBias},
			{"temperature", c.Temperature, b.GradTemperature},
		} {
			if pair.input == nil {
				continue
			}
			for range min(8, pair.input.Elements()) {
				i := rng.Int64N(pair.input.Elements())
				v := get(pair.input, i)
				set(pair.input, i, v+step)
				up := objective(c, b)
				set(pair.input, i, v-step)
				down := objective(c, b)
				set(pair.input, i, v)
				slope := (up - down) / (2 * step)
				require.InDelta(t, slope, get(pair.grad, i), 1e-5*(1+math.Abs(slope))*float64(1+r.tokens), "%s: %s[%d]", r, pair.name, i)
			}
		}
	}
}

// widened is the same call with everything in float64.
func (c *call) widened() *call {
	wide := func(t *core.Tensor) *core.Tensor {
		if t == nil || !t.DType.IsFloat() {
			return t
		}
		w := newTensor(core.Float64, compact, t.Shape...)
		for i := range t.Elements() {
			set(w, i, get(t, i))
		}
		return w
	}
	f := c.RouterForwardArgs
	f.HiddenStates, f.Projection, f.Centroids, f.Bias = wide(f.HiddenStates), wide(f.Projection), wide(f.Centroids), wide(f.Bias)
	f.Price, f.Temperature, f.Gap = wide(f.Price), wide(f.Temperature), wide(f.Gap)
	f.Logits, f.TopKWeights = wide(f.Logits), wide(f.TopKWeights)
	return &call{RouterForwardArgs: f, compute: core.Float64}
}

// distance is |a - b| relative to |b|.
func distance(a, b []float64) float64 {
	difference, size := 0.0, 1e-30
	for i := range b {
		difference += (a[i] - b[i]) * (a[i] - b[i])
		size += b[i] * b[i]
	}
	return math.Sqrt(difference / size)
}

func TestBackwardInFloat32AndBFloat16(t *testing.T) {
	engine := newEngine(t, 2)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		r := randomRecipe(rng)
		r.dtype = []core.DType{core.Float32, core.BFloat16}[rng.IntN(2)]
		if r.temperature > 0 {
			r.temperature = 0.3 // the floor of 0.01 amplifies rounding a hundredfold
			r.options.TemperatureFloor = []float32{0.01, 0.4}[rng.IntN(2)]
		}
		c := r.build()
		require.NoError(t, Forward(engine, &c.RouterForwardArgs), r)
		b := c.backward(rng, r.layout)
		require.NoError(t, Backward(engine, b), r)

		w := c.widened()
		require.NoError(t, Forward(engine, func() *core.RouterForwardArgs {
			f := w.RouterForwardArgs
			f.TopKIndex = newTensor(core.Int64, compact, f.TopKIndex.Shape...) // keep the choice of the narrow call
			f.Counts = nil
			return &f
		}()), r)
		want := w.backward(rng, compact)
		for i := range want.GradLogits.Elements() {
			set(want.GradLogits, i, get(b.GradLogits, i))
		}
		for i := range want.GradTopKWeights.Elements() {
			set(want.GradTopKWeights, i, get(b.GradTopKWeights, i))
		}
		require.NoError(t, Backward(engine, want), r)
		for _, pair := range []struct {
			name      string
			got, want *core.Tensor
		}{
			{"hidden_states", b.GradHiddenStates, want.GradHiddenStates},
			{"projection", b.GradProjection, want.GradProjection},
			{"centroids", b.GradCentroids, want.GradCentroids},
			{"bias", b.GradBias, want.GradBias},
			{"temperature", b.GradTemperature, want.GradTemperature},
		} {
			if pair.got == nil {
				continue
			}
			allowed := 1e-4
			if pair.got.DType == core.BFloat16 {
				allowed = 5e-3 // the rounding of the output
			}
			require.Less(t, distance(values(pair.got), values(pair.want)), allowed, "%s: %s", r, pair.name)
		}
	}
}

func TestBackwardOnlyOfWhatIsWanted(t *testing.T) {
	engine := newEngine(t, 2)
	rng := rand.New(rand.NewPCG(7, 8))
	for range 60 {
		r := randomRecipe(rng)
		c := r.build()
		require.NoError(t, Forward(engine, &c.RouterForwardArgs), r)
		all := c.backward(rng, compact)
		require.NoError(t, Backward(engine, all), r)
		outputs := func(b *core.RouterBackwardArgs) []**core.Tensor {
			return []**core.Tensor{&b.GradHiddenStates, &b.GradProjection, &b.GradCentroids, &b.GradBias, &b.GradTemperature}
		}
		for only, want := range outputs(all) {
			if *want == nil {
				continue
			}
			b := *all
			for i, p := range outputs(&b) {
				if i != only {
					*p = nil
				}
			}
			got := newTensor((*want).DType, padded, (*want).Shape...)
			*outputs(&b)[only] = got
			require.NoError(t, Backward(engine, &b), r)
			require.Equal(t, values(*want), values(got), "%s: output %d alone", r, only)
		}
		// Without upstream gradients, everything is zero, and written.
		none := *all
		none.GradLogits, none.GradTopKWeights = nil, nil
		for _, p := range outputs(&none) {
			if *p == nil {
				continue
			}
			*p = newTensor((*p).DType, compact, (*p).Shape...)
			for i := range (*p).Elements() {
				set(*p, i, math.NaN())
			}
		}
		require.NoError(t, Backward(engine, &none), r)
		for _, p := range outputs(&none) {
			for i, v := range values(*p) {
				require.Zero(t, v, "%s: element %d", r, i)
			}
		}
	}
}
