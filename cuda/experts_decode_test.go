package cuda

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
)

// infer runs the forward pass of a trial, without pre-activations, on the device.
func (c trial) infer(t testing.TB, n *numbers, seed uint64) *outcome {
	forward, _, o := c.tensors(t, n)
	forward.PreActivation = nil
	emulateForward(t, forward, seed)
	return o
}

// verifyInference compares an output with the reference.
func (c trial) verifyInference(t testing.TB, e *core.Engine, o *outcome, n *numbers) {
	t.Helper()
	c.requireClose(t, "output", o.output.values(), c.expectOutput(t, e, n))
	o.output.requireGapsUntouched(t, c.String())
	require.Equal(t, strings.Repeat("\xff", len(o.preActivation.bits())), o.preActivation.bits(), "%s: pre_activation was written", c)
}

// expectOutput computes the output in float64 on the CPU.
func (c trial) expectOutput(t testing.TB, e *core.Engine, n *numbers) []float64 {
	tokens, k, h, count, i, z := int64(c.t), int64(c.k), int64(c.h), int64(c.e), int64(c.i), int64(c.gateUp())
	output := make([]float64, tokens*h)
	a := &core.ExpertsForwardArgs{
		Options: c.options, HiddenStates: core.FromSlice(n.x, tokens, h), TopKIndex: core.FromSlice(n.index, tokens, k),
		TopKWeights: core.FromSlice(n.weights, tokens, k), GateUpProj: core.FromSlice(n.gateUpProj, count, z, h),
		DownProj: core.FromSlice(n.downProj, count, h, i), Output: core.FromSlice(output, tokens, h),
	}
	if c.biases {
		a.GateUpBias, a.DownBias = core.FromSlice(n.gateUpBias, count, z), core.FromSlice(n.downBias, count, h)
	}
	require.NoError(t, experts.Forward(e, a), c.String())
	return output
}

// kernelsOf are the kernels that a forward pass without pre-activations has.
func (c trial) kernelsOf(t testing.TB) (names []string) {
	forward, _, _ := c.tensors(t, c.pose())
	forward.PreActivation = nil
	launches, err := expertsForwardLaunches(emulatedDevice, forward)
	require.NoError(t, err)
	for _, l := range launches {
		names = append(names, l.Kernel)
	}
	return names
}

// Two launches, no plan: rows by eights up to the most that are multiplied at once and beyond; depths that are
// no multiple of a stage, more stages than the ring has, both cuts of the depth; tails of columns; every
// routing; weights with gaps between their lines.
func TestDecode(t *testing.T) {
	e := cpu(t)
	for _, dtype := range emulatedTypes {
		suffix := map[core.DType]string{core.Float32: "_f32", core.BFloat16: "_bf16"}[dtype]
		for i, c := range []trial{
			swiGLUTrial(1, 2, 8, 4, 8, dtype),
			swiGLUTrial(1, 4, 776, 7, 40, dtype),
			swiGLUTrial(7, 2, 64, 3, 24, dtype),
			swiGLUTrial(20, 2, 136, 2, 72, dtype),
			swiGLUTrial(30, 1, 32, 2, 600, dtype),
			swiGLUTrial(64, 1, 72, 1, 136, dtype),
			swiGLUTrial(64, 16, 16, 40, 8, dtype),
		} {
			for routing := range routings {
				if i > 1 && int(routing) != i%int(routings) {
					continue
				}
				c.routing, c.seed, c.biases = routing, uint64(i), i%2 == 0
				c.weights = []arrangement{compact, aligned}[i%2]
				c.indexType = []core.DType{core.Int64, core.Int32}[i%2]
				t.Run(c.String(), func(t *testing.T) {
					names := c.kernelsOf(t)
					require.Len(t, names, 2)
					require.Regexp(t, "^gmoe_experts_decode_gate_up_[12]"+suffix+"$", names[0])
					require.Equal(t, "gmoe_experts_decode_down"+suffix, names[1])
					n := c.pose()
					c.verifyInference(t, e, c.infer(t, n, c.seed), n)
				})
			}
		}
	}
}

// Weights across the depth, as Llama 4's and gpt-oss's: tails of columns and of the depth, gates first,
// alternating and none.
func TestDecodeTransposed(t *testing.T) {
	e := cpu(t)
	for i, c := range []trial{
		swiGLUTrial(1, 2, 264, 4, 40, core.BFloat16),
		swiGLUTrial(9, 2, 136, 3, 72, core.BFloat16),
		swiGLUTrial(64, 1, 72, 1, 136, core.BFloat16),
		swiGLUTrial(30, 1, 32, 2, 600, core.BFloat16),
	} {
		for _, how := range []struct{ gated, interleaved bool }{{true, false}, {true, true}, {false, false}} {
			c.options.Gated, c.options.Interleaved = how.gated, how.interleaved
			c.weights, c.biases, c.seed = transposed, true, uint64(i)
			t.Run(c.String(), func(t *testing.T) {
				names := c.kernelsOf(t)
				require.Regexp(t, "^gmoe_experts_decode_gate_up_nn_2_bf16$", names[0])
				require.Equal(t, "gmoe_experts_decode_down_nn_bf16", names[1])
				n := c.pose()
				c.verifyInference(t, e, c.infer(t, n, c.seed), n)
			})
		}
	}
}

// Activations, gates that alternate with their ups, and none.
func TestDecodeActivations(t *testing.T) {
	e := cpu(t)
	for i, activation := range []core.Activation{core.SiLU, core.GELU, core.ReLUSquared, core.ClippedSwiGLU} {
		for _, how := range []struct{ gated, interleaved bool }{{true, true}, {false, false}} {
			c := swiGLUTrial(5, 2, 24, 3, 40, emulatedTypes[i%2])
			c.options.Activation, c.options.Gated, c.options.Interleaved = activation, how.gated, how.interleaved
			c.options.Limit, c.biases = 0.8, true
			if !how.gated && activation.Clipped() {
				continue
			}
			t.Run(c.String(), func(t *testing.T) {
				require.Contains(t, c.kernelsOf(t)[0], "decode")
				n := c.pose()
				c.verifyInference(t, e, c.infer(t, n, c.seed), n)
			})
		}
	}
}

// The order in which threads and blocks run, and so which block is the last with a tile, shows in no bit.
func TestDecodeOrderDoesNotShow(t *testing.T) {
	for _, dtype := range emulatedTypes {
		c := swiGLUTrial(19, 3, 200, 4, 264, dtype)
		c.routing, c.biases = duplicate, true
		n := c.pose()
		want := c.infer(t, n, 0).output.bits()
		for seed := uint64(1); seed <= 2; seed++ {
			require.True(t, want == c.infer(t, n, seed).output.bits(), "%s in order %d", c, seed)
		}
	}
}

// What a token gets does not depend on the others of its call, finite or not.
func TestDecodeTokensStayAlone(t *testing.T) {
	for _, dtype := range emulatedTypes {
		c := swiGLUTrial(12, 2, 24, 3, 40, dtype)
		n := c.pose()
		clean := c.infer(t, n, 0).output.values()
		const victim = 5
		for i := range c.h {
			n.x[victim*c.h+i] = math.NaN()
		}
		n.index[(victim+1)*c.k] = int64(c.e) // another's slot becomes absent, with a weight that is no number
		n.weights[(victim+1)*c.k] = math.NaN()
		dirty := c.infer(t, n, 0).output.values()
		for i := range clean {
			if token := i / c.h; token != victim && token != victim+1 {
				require.Equal(t, clean[i], dirty[i], "token %d", token)
			}
		}
		for _, v := range dirty[(victim+1)*c.h : (victim+2)*c.h] {
			require.Equal(t, v, v, "the token with an absent slot")
		}
	}
}

// What does not suit, and what the caller wants otherwise, has the tiles.
func TestDecodeFallsBack(t *testing.T) {
	e := cpu(t)
	many := swiGLUTrial(65, 1, 8, 2, 8, core.BFloat16)
	odd := swiGLUTrial(5, 2, 12, 3, 8, core.BFloat16)
	exchanged := swiGLUTrial(5, 2, 16, 3, 8, core.Float32)
	exchanged.weights = transposed
	for _, c := range []trial{many, odd, exchanged} {
		require.Contains(t, c.kernelsOf(t), "gmoe_plan_scan", c.String())
		n := c.pose()
		c.verifyInference(t, e, c.infer(t, n, 0), n)
	}
	c := swiGLUTrial(5, 2, 16, 3, 8, core.Float32)
	require.NotContains(t, c.kernelsOf(t), "gmoe_plan_scan")
	withKernels(t, tilesKernels)
	require.Contains(t, c.kernelsOf(t), "gmoe_plan_scan")
}
