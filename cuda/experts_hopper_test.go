package cuda

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// withKernels lets a test have the kernels of that choice.
func withKernels(t testing.TB, choice string) {
	before := expertKernels
	expertKernels = func() (string, error) { return choice, nil }
	t.Cleanup(func() { expertKernels = before })
}

func withHopper(t testing.TB) { withKernels(t, hopperKernels) }

// requireHopper fails when a product has the portable kernel.
func requireHopper(t testing.TB, c trial) {
	forward, backward, o := c.tensors(t, c.pose())
	_ = o
	first, err := expertsForwardLaunches(emulatedDevice, forward)
	require.NoError(t, err)
	second, err := expertsBackwardLaunches(emulatedDevice, backward)
	require.NoError(t, err)
	for _, l := range append(first, second...) {
		for _, product := range []string{"gate_up", "project", "activation_gradient", "weight_gradient"} {
			if strings.Contains(l.Kernel, "_"+product) {
				require.Contains(t, l.Kernel, "_hopper_", c.String())
			}
		}
	}
}

// The kernels for Hopper, with operands found through descriptors, maps and swizzles as the hardware finds
// them: several tiles, stages and turns of the ring, tails in every direction, both layouts of the weights.
func TestHopperExperts(t *testing.T) {
	withHopper(t)
	e := cpu(t)
	for i, c := range []trial{
		swiGLUTrial(20, 2, 72, 3, 40, core.BFloat16),
		swiGLUTrial(1, 2, 8, 4, 8, core.BFloat16),
		swiGLUTrial(150, 2, 328, 2, 136, core.BFloat16),
		swiGLUTrial(9, 1, 640, 1, 264, core.BFloat16),
		swiGLUTrial(140, 1, 128, 2, 256, core.BFloat16),
	} {
		for _, weights := range []arrangement{compact, transposed} {
			c.biases, c.seed, c.weights, c.gradients = i%2 == 0, uint64(i), weights, weights
			c.routing = routing(i % int(routings))
			t.Run(c.String(), func(t *testing.T) {
				requireHopper(t, c)
				c.verify(t, e)
			})
		}
	}
}

// Neither the order of threads and bulk copies nor which kernel shows: the order in no bit, the kernel in
// no more than roundings.
func TestHopperOrderDoesNotShow(t *testing.T) {
	withHopper(t)
	c := swiGLUTrial(40, 2, 392, 3, 80, core.BFloat16)
	c.routing = duplicate
	n := c.pose()
	want := c.run(t, n, 0).bits()
	for seed := uint64(1); seed <= 3; seed++ {
		for name, bits := range c.run(t, n, seed).bits() {
			require.True(t, want[name] == bits, "%s: %s in order %d", c, name, seed)
		}
	}
}

// What does not suit has the portable kernels.
func TestHopperFallsBack(t *testing.T) {
	withHopper(t)
	e := cpu(t)
	odd := swiGLUTrial(20, 2, 67, 3, 20, core.BFloat16)
	clipped := swiGLUTrial(20, 2, 64, 3, 24, core.BFloat16)
	clipped.options.Activation, clipped.options.Limit = core.ClippedSwiGLU, 0.8
	backwards := swiGLUTrial(20, 2, 64, 3, 24, core.BFloat16)
	backwards.weights, backwards.inputs, backwards.outputs, backwards.preActivation = reversed, reversed, reversed, reversed
	for _, c := range []trial{odd, clipped, backwards, swiGLUTrial(0, 2, 64, 3, 24, core.BFloat16), swiGLUTrial(20, 2, 64, 3, 24, core.Float32)} {
		t.Run(c.String(), func(t *testing.T) { c.verify(t, e) })
	}
	old := emulatedDevice
	old.ComputeMajor = 8
	launches, err := expertsForwardLaunches(old, layer(64, 2, 64, 4, 64))
	require.NoError(t, err)
	find[expertsGateUpParams](t, launches, "gmoe_experts_gate_up_nt_bf16")
}

func TestExpertKernelsVariable(t *testing.T) {
	for text, want := range map[string]string{"": portableKernels, "portable": portableKernels, "tiles": tilesKernels, "hopper": hopperKernels} {
		got, err := parseExpertKernels(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := parseExpertKernels("fast")
	require.ErrorContains(t, err, `GENESIS_MOE_EXPERT_KERNELS: "fast", want portable, tiles or hopper`)
}
