package cuda

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
)

// scaledWeights are weights in float8_e4m3fn with a scale for each of their blocks.
type scaledWeights struct {
	values []core.E4M3
	scale  []float32
	shape  [3]int64 // [E, R, C]
}

// scaledOf rounds weights as gmoe_experts_quantize says, in plain loops.
func scaledOf(w []float32, e, r, c int) scaledWeights {
	down, across := int(core.ScaleBlocks(int64(r))), int(core.ScaleBlocks(int64(c)))
	s := scaledWeights{values: make([]core.E4M3, len(w)), scale: make([]float32, e*down*across), shape: [3]int64{int64(e), int64(r), int64(c)}}
	place := func(i int) int { // of an element's block
		return (i/(r*c)*down+i/c%r/core.ScaleBlock)*across + i%c/core.ScaleBlock
	}
	for i, v := range w {
		largest := &s.scale[place(i)]
		if m := float32(math.Abs(float64(v))); m > *largest || m != m {
			*largest = m
		}
		if math.IsInf(float64(v), 0) {
			*largest = float32(math.NaN())
		}
	}
	for i := range s.scale {
		if s.scale[i] /= core.MaxE4M3; s.scale[i] == 0 {
			s.scale[i] = 1
		}
	}
	for i, v := range w {
		s.values[i] = core.E4M3Of(v / s.scale[place(i)])
	}
	return s
}

func (s scaledWeights) scaleShape() []int64 {
	return []int64{s.shape[0], core.ScaleBlocks(s.shape[1]), core.ScaleBlocks(s.shape[2])}
}

// hold puts the weights and their scales on the device.
func (s scaledWeights) hold(t testing.TB, values, scales arrangement) (weights, scale *core.Tensor) {
	numbers, scaleNumbers := make([]float64, len(s.values)), make([]float64, len(s.scale))
	for i, v := range s.values {
		numbers[i] = float64(v.Float32())
	}
	for i, v := range s.scale {
		scaleNumbers[i] = float64(v)
	}
	return hold(t, core.Float8E4M3, values, numbers, s.shape[:]...).Tensor, hold(t, core.Float32, scales, scaleNumbers, s.scaleShape()...).Tensor
}

// host is the same for the CPU.
func (s scaledWeights) host() (weights, scale *core.Tensor) {
	return core.FromSlice(s.values, s.shape[:]...), core.FromSlice(s.scale, s.scaleShape()...)
}

// scaledNumbers are the inputs of a layer with such weights.
type scaledNumbers struct {
	*numbers
	gateUp, down scaledWeights
}

// poseScaled makes weights whose blocks have magnitudes of their own, one of them of zeros.
func (c trial) poseScaled() *scaledNumbers {
	n := c.pose()
	r := rand.New(rand.NewPCG(c.seed, 3))
	weights := func(from []float64, e, rows, columns int) scaledWeights {
		down, across := int(core.ScaleBlocks(int64(rows))), int(core.ScaleBlocks(int64(columns)))
		magnitudes := make([]float32, e*down*across)
		for i := range magnitudes {
			magnitudes[i] = float32(math.Ldexp(1+r.Float64(), r.IntN(4)-2))
		}
		if len(magnitudes) > 2 {
			magnitudes[1] = 0
		}
		w := make([]float32, len(from))
		for i, v := range from {
			w[i] = float32(v) * magnitudes[(i/(rows*columns)*down+i/columns%rows/core.ScaleBlock)*across+i%columns/core.ScaleBlock]
		}
		return scaledOf(w, e, rows, columns)
	}
	return &scaledNumbers{n, weights(n.gateUpProj, c.e, c.gateUp(), c.h), weights(n.downProj, c.e, c.h, c.i)}
}

// scaledArgs puts the numbers on the device.
func (c trial) scaledArgs(t testing.TB, n *scaledNumbers) (*core.ExpertsForwardArgs, *array) {
	index := make([]float64, len(n.index))
	for i, v := range n.index {
		index[i] = float64(v)
	}
	tokens, k, h := int64(c.t), int64(c.k), int64(c.h)
	output := hold(t, c.dtype, c.outputs, nil, tokens, h)
	a := &core.ExpertsForwardArgs{
		Options: c.options, HiddenStates: hold(t, c.dtype, c.inputs, n.x, tokens, h).Tensor,
		TopKIndex:   hold(t, c.indexType, c.inputs, index, tokens, k).Tensor,
		TopKWeights: hold(t, core.Float32, c.inputs, n.weights, tokens, k).Tensor,
		Output:      output.Tensor,
	}
	a.GateUpProj, a.GateUpScale = n.gateUp.hold(t, c.weights, c.gradients)
	a.DownProj, a.DownScale = n.down.hold(t, c.weights, c.gradients)
	if c.biases {
		a.GateUpBias = hold(t, c.dtype, c.inputs, n.gateUpBias, int64(c.e), int64(c.gateUp())).Tensor
		a.DownBias = hold(t, c.dtype, c.inputs, n.downBias, int64(c.e), h).Tensor
	}
	return a, output
}

// runScaled runs the forward pass on the device.
func (c trial) runScaled(t testing.TB, n *scaledNumbers, seed uint64) *array {
	a, output := c.scaledArgs(t, n)
	emulateForward(t, a, seed)
	return output
}

// expectScaled is the output in float64 on the CPU, with the same roundings.
func (c trial) expectScaled(t testing.TB, e *core.Engine, n *scaledNumbers) []float64 {
	tokens, k, h := int64(c.t), int64(c.k), int64(c.h)
	output := make([]float64, tokens*h)
	a := &core.ExpertsForwardArgs{
		Options: c.options, HiddenStates: core.FromSlice(n.x, tokens, h), TopKIndex: core.FromSlice(n.index, tokens, k),
		TopKWeights: core.FromSlice(n.weights, tokens, k), Output: core.FromSlice(output, tokens, h),
	}
	a.GateUpProj, a.GateUpScale = n.gateUp.host()
	a.DownProj, a.DownScale = n.down.host()
	if c.biases {
		a.GateUpBias, a.DownBias = core.FromSlice(n.gateUpBias, int64(c.e), int64(c.gateUp())), core.FromSlice(n.downBias, int64(c.e), h)
	}
	require.NoError(t, experts.Forward(e, a), c.String())
	return output
}

// verifyScaled compares the output with the reference. x is rounded the same on both sides. h is in float32 here, off
// by some 2^-22 of its row: where that takes it past the middle between two e4m3, which 2^-4 of its size are apart, the
// two sides differ by all of that. So do some 2^-17 of its elements, and the output by (2^-4)^2 of those.
func (c trial) verifyScaled(t testing.TB, e *core.Engine) {
	t.Helper()
	n := c.poseScaled()
	output := c.runScaled(t, n, c.seed)
	want := c.expectScaled(t, e, n)
	tolerance := 2e-7
	switch {
	case len(want) < 512: // one of them may be such an element
		tolerance = 1e-4
	case c.dtype == core.BFloat16:
		tolerance = 1e-5
	}
	c.requireWithin(t, "output", output.values(), want, tolerance)
	output.requireGapsUntouched(t, c.String())
}

// scaledKernels are the kernels that such a pass has.
func (c trial) scaledKernels(t testing.TB) string {
	a, _ := c.scaledArgs(t, c.poseScaled())
	launches, err := expertsForwardLaunches(emulatedDevice, a)
	require.NoError(t, err)
	var names []string
	for _, l := range launches {
		names = append(names, l.Kernel)
	}
	return strings.Join(names, " ")
}

// The tiles take every shape, layout and routing.
func TestScaledTiles(t *testing.T) {
	withKernels(t, tilesKernels)
	e := cpu(t)
	for _, dtype := range emulatedTypes {
		for i, c := range []trial{
			swiGLUTrial(0, 2, 8, 4, 6, dtype),
			swiGLUTrial(1, 2, 8, 4, 6, dtype),
			swiGLUTrial(17, 0, 8, 4, 6, dtype),
			swiGLUTrial(17, 3, 8, 0, 6, dtype),
			swiGLUTrial(17, 3, 0, 4, 6, dtype),
			swiGLUTrial(17, 3, 8, 4, 0, dtype),
			swiGLUTrial(17, 1, 1, 1, 1, dtype),
			swiGLUTrial(17, 2, 67, 3, 129, dtype),
			swiGLUTrial(150, 2, 40, 2, 72, dtype), // one expert: 300 rows
			swiGLUTrial(20, 2, 264, 2, 200, dtype),
			swiGLUTrial(9, 2, 384, 3, 256, dtype),
			swiGLUTrial(30, 2, 144, 3, 336, dtype),
		} {
			for _, layout := range []arrangement{compact, transposed, []arrangement{padded, spread, reversed, aligned}[i%4]} {
				c.seed, c.routing, c.biases = uint64(i), routing((i+int(layout))%int(routings)), i%2 == 0
				c.weights, c.inputs, c.outputs, c.gradients = layout, arrangement(i%int(arrangements)), layout, arrangement((i+1)%int(arrangements))
				if layout == compact {
					c.inputs = compact
				}
				t.Run(c.String(), func(t *testing.T) {
					require.Contains(t, c.scaledKernels(t), "gmoe_experts_gate_up_n")
					c.verifyScaled(t, e)
				})
			}
		}
	}
}

func TestScaledActivations(t *testing.T) {
	e := cpu(t)
	for i, activation := range []core.Activation{core.SiLU, core.GELU, core.ReLUSquared, core.ClippedSwiGLU} {
		for _, how := range []struct{ gated, interleaved bool }{{true, true}, {true, false}, {false, false}} {
			if !how.gated && activation.Clipped() {
				continue
			}
			for _, kernels := range []string{portableKernels, tilesKernels} {
				c := swiGLUTrial(13, 2, 160, 3, 144, emulatedTypes[i%2])
				c.options.Activation, c.options.Gated, c.options.Interleaved = activation, how.gated, how.interleaved
				c.options.Limit, c.biases, c.seed = 0.8, true, uint64(i)
				t.Run(kernels+" "+c.String(), func(t *testing.T) {
					withKernels(t, kernels)
					require.Equal(t, kernels == portableKernels, strings.Contains(c.scaledKernels(t), "decode"))
					c.verifyScaled(t, e)
				})
			}
		}
	}
}

// Few tokens: rows by eights up to the most that are multiplied at once and beyond, depths that end within a block, more
// blocks than the ring has stages, both cuts of the depth, parts of it, and every routing.
func TestScaledDecode(t *testing.T) {
	e := cpu(t)
	for _, dtype := range emulatedTypes {
		for i, c := range []trial{
			swiGLUTrial(1, 2, 16, 4, 16, dtype),
			swiGLUTrial(1, 4, 1040, 7, 48, dtype),
			swiGLUTrial(7, 2, 128, 3, 32, dtype),
			swiGLUTrial(17, 2, 272, 2, 144, dtype),
			swiGLUTrial(30, 1, 32, 2, 1200, dtype),
			swiGLUTrial(64, 1, 144, 1, 272, dtype),
			swiGLUTrial(64, 16, 16, 40, 16, dtype),
		} {
			for routing := range routings {
				if i > 1 && int(routing) != i%int(routings) {
					continue
				}
				c.routing, c.seed, c.biases = routing, uint64(i), i%2 == 0
				c.gradients = arrangement(i % int(arrangements))
				c.indexType = []core.DType{core.Int64, core.Int32}[i%2]
				for _, processors := range []int{1, 40} {
					t.Run(c.String(), func(t *testing.T) {
						withMultiProcessors(t, processors)
						require.Regexp(t, "^gmoe_experts_quantize_rows_[a-z0-9]+ gmoe_experts_decode_gate_up_[12]_e4m3_[a-z0-9]+ gmoe_experts_quantize_rows_f32 gmoe_experts_decode_down_e4m3_[a-z0-9]+$", c.scaledKernels(t))
						c.verifyScaled(t, e)
					})
				}
			}
		}
	}
}

// The kernels for Hopper: spans of one and of two tiles, half tiles, several stages and turns of the ring.
func TestScaledHopper(t *testing.T) {
	e := cpu(t)
	withKernels(t, hopperKernels)
	for _, dtype := range emulatedTypes {
		for i, c := range []trial{
			swiGLUTrial(70, 2, 256, 3, 128, dtype),
			swiGLUTrial(140, 2, 1152, 2, 128, dtype), // one expert: 280 rows
			swiGLUTrial(190, 1, 128, 1, 384, dtype),  // the second block has half a tile
			swiGLUTrial(66, 1, 128, 2, 128, dtype),
		} {
			c.biases, c.seed, c.routing = i%2 == 0, uint64(i), []routing{sentinels, one, random, duplicate}[i]
			c.gradients = arrangement(i % int(arrangements))
			for _, processors := range []int{1, 5} {
				t.Run(c.String(), func(t *testing.T) {
					withMultiProcessors(t, processors)
					require.Regexp(t, "gmoe_experts_hopper_gate_up_e4m3_.* gmoe_experts_hopper_project_e4m3_", c.scaledKernels(t))
					c.verifyScaled(t, e)
				})
			}
		}
	}
	// What does not begin with blocks, or lies across the depth, has the portable ones.
	odd, across := swiGLUTrial(70, 1, 128, 2, 192, core.BFloat16), swiGLUTrial(70, 1, 128, 2, 128, core.BFloat16)
	across.weights = transposed
	for _, c := range []trial{odd, across} {
		require.NotContains(t, c.scaledKernels(t), "hopper_gate_up")
		c.verifyScaled(t, e)
	}
}

// Neither the order of threads nor how many blocks there are shows in a bit.
func TestScaledOrderDoesNotShow(t *testing.T) {
	for _, kernels := range []string{portableKernels, tilesKernels, hopperKernels} {
		withKernels(t, kernels)
		c := swiGLUTrial(40, 3, 256, 3, 256, core.BFloat16)
		if kernels == hopperKernels {
			c.t = 90
		}
		c.routing, c.biases = duplicate, true
		n := c.poseScaled()
		want := c.runScaled(t, n, 0).bits()
		for seed := uint64(1); seed <= 2; seed++ {
			withMultiProcessors(t, int(2*seed+1))
			require.True(t, want == c.runScaled(t, n, seed).bits(), "%s: %s in order %d", kernels, c, seed)
		}
	}
}

// A token with a number that is not finite is NaN where it was multiplied, and the others are as they were.
func TestScaledNonFiniteTokensStayAlone(t *testing.T) {
	for _, kernels := range []string{portableKernels, tilesKernels, hopperKernels} {
		withKernels(t, kernels)
		for _, poison := range []float64{math.NaN(), math.Inf(-1)} {
			c := swiGLUTrial(20, 2, 256, 3, 128, core.Float32)
			if kernels == hopperKernels {
				c.t = 70
			}
			n := c.poseScaled()
			clean := c.runScaled(t, n, 0).values()
			const victim = 5
			n.x[victim*c.h+200] = poison
			dirty := c.runScaled(t, n, 0).values()
			for i := range clean {
				if i/c.h == victim {
					require.True(t, math.IsNaN(dirty[i]), "%s", kernels)
				} else {
					require.Equal(t, clean[i], dirty[i], "%s: token %d", kernels, i/c.h)
				}
			}
		}
	}
}

// Weights are rounded to the last bit as in plain loops, in every layout.
func TestQuantizeWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 4))
	for _, shape := range [][3]int{{1, 1, 1}, {2, 130, 257}, {1, 128, 384}, {3, 5, 12}, {0, 3, 3}, {2, 0, 5}} {
		for _, dtype := range emulatedTypes {
			for layout := range arrangements {
				e, rows, columns := shape[0], shape[1], shape[2]
				w, numbers := make([]float32, e*rows*columns), make([]float64, e*rows*columns)
				for i := range w {
					numbers[i] = rounded(dtype, r.NormFloat64()*math.Ldexp(1, r.IntN(30)-20))
					if e == 2 && i < rows*columns {
						numbers[i] = 0
					}
				}
				if len(w) > 40000 {
					numbers[len(w)-1], numbers[len(w)-300*10] = math.Inf(1), math.NaN()
				}
				for i, v := range numbers {
					w[i] = float32(v)
				}
				want := scaledOf(w, e, rows, columns)
				shape64 := want.shape[:]
				quantized, scale := hold(t, core.Float8E4M3, layout, nil, shape64...), hold(t, core.Float32, layout, nil, want.scaleShape()...)
				a := &core.ExpertsQuantizeArgs{Weight: hold(t, dtype, layout, numbers, shape64...).Tensor, Quantized: quantized.Tensor, Scale: scale.Tensor}
				launches, err := expertsQuantizeLaunches(emulatedDevice, a)
				require.NoError(t, err)
				emulate(t, launches, uint64(layout))
				require.Equal(t, scaledBits(want.scale), scaledBits32(scale.values()), "%v %s %d", shape, dtype, layout)
				for i, v := range quantized.values() {
					require.Equal(t, math.Float32bits(want.values[i].Float32()), math.Float32bits(float32(v)), "element %d: %v %s %d", i, shape, dtype, layout)
				}
				quantized.requireGapsUntouched(t, "quantized")
				scale.requireGapsUntouched(t, "scale")
			}
		}
	}
	_, err := expertsQuantizeWorkspace(emulatedDevice, &core.ExpertsQuantizeArgs{Weight: &core.Tensor{DType: core.Float64, Shape: []int64{1, 1, 1}}})
	require.ErrorContains(t, err, "weight: dtype float64 on cuda, want float32 or bfloat16")
}

// scaledBits compares NaN as one.
func scaledBits(v []float32) []uint32 {
	bits := make([]uint32, len(v))
	for i, x := range v {
		if bits[i] = math.Float32bits(x); x != x {
			bits[i] = math.MaxUint32
		}
	}
	return bits
}

func scaledBits32(v []float64) []uint32 {
	narrow := make([]float32, len(v))
	for i, x := range v {
		narrow[i] = float32(x)
	}
	return scaledBits(narrow)
}
