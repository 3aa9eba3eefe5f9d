package cuda

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/hopper"
)

// withKernels lets a test have the kernels of that choice.
func withKernels(t testing.TB, choice string) {
	before := expertKernels
	expertKernels = func() (string, error) { return choice, nil }
	t.Cleanup(func() { expertKernels = before })
}

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

// withTiles lets a test have tiles of this width in all kernels that have them, however short the depth.
func withTiles(t testing.TB, width int) {
	before := hopperColumns
	hopperColumns = func(product string, columns, depth int) int {
		for _, has := range map[int][]string{
			256: {hopper.GateUp, hopper.Project, hopper.WeightGradient},
			192: {hopper.Project},
		}[width] {
			if has == product {
				return width
			}
		}
		return 128
	}
	t.Cleanup(func() { hopperColumns = before })
}

// withOrder lets a test have tiles visited in this order.
func withOrder(t testing.TB, order string) {
	before := expertOrder
	expertOrder = func() (string, error) { return order, nil }
	t.Cleanup(func() { expertOrder = before })
}

// withMultiProcessors lets a test have so many on the emulated device.
func withMultiProcessors(t testing.TB, n int) {
	before := emulatedDevice
	emulatedDevice.MultiProcessors = n
	t.Cleanup(func() { emulatedDevice = before })
}

// The kernels for Hopper, with operands found through descriptors, maps and swizzles as the hardware finds
// them: several tiles, stages and turns of the ring, tails in every direction, both layouts of the weights.
// Of the rows of an expert there are few, up to half a tile, up to a tile, and more than a span.
func TestHopperExperts(t *testing.T) {
	withKernels(t, hopperKernels)
	e := cpu(t)
	for i, c := range []trial{
		swiGLUTrial(20, 2, 72, 3, 40, core.BFloat16),
		swiGLUTrial(1, 2, 8, 4, 8, core.BFloat16),
		swiGLUTrial(140, 2, 328, 2, 136, core.BFloat16), // one expert: 280 rows
		swiGLUTrial(9, 1, 640, 1, 264, core.BFloat16),
		swiGLUTrial(140, 1, 128, 2, 256, core.BFloat16), // 70 rows
		swiGLUTrial(190, 1, 96, 1, 72, core.BFloat16),   // 190 rows: the second block has half a tile
	} {
		for j, weights := range []arrangement{compact, transposed} {
			c.biases, c.seed, c.weights, c.gradients = i%2 == 0, uint64(i), weights, weights
			c.routing = routing(i % int(routings))
			if i == 5 {
				c.routing = random
			}
			width := []int{128, 256, 192}[(i+j)%3]
			t.Run(fmt.Sprintf("%d columns %s", width, c), func(t *testing.T) {
				withTiles(t, width)
				withMultiProcessors(t, 1+4*j)
				requireHopper(t, c)
				c.verify(t, e)
			})
		}
	}
}

// Neither the order of threads, bulk copies and tiles, nor the tiles, nor how many blocks there are shows in any
// bit.
func TestHopperOrderDoesNotShow(t *testing.T) {
	withKernels(t, hopperKernels)
	c := swiGLUTrial(150, 2, 200, 3, 80, core.BFloat16)
	c.routing = duplicate
	n := c.pose()
	want := c.run(t, n, 0).bits()
	for seed, way := range []struct {
		width, multiProcessors int
		order                  string
	}{{128, 1, plainOrder}, {256, 1, reuseOrder}, {192, 4, reuseOrder}, {256, 7, plainOrder}} {
		t.Run(fmt.Sprint(way), func(t *testing.T) {
			withTiles(t, way.width)
			withOrder(t, way.order)
			withMultiProcessors(t, way.multiProcessors)
			for name, bits := range c.run(t, n, uint64(seed+1)).bits() {
				require.True(t, want[name] == bits, "%s: %s", c, name)
			}
		})
	}
}

// A captured pass visits the tiles of every second product backwards, unless it is to be plain.
func TestHopperVisits(t *testing.T) {
	withKernels(t, hopperKernels)
	visits := func() (backwards []int32) {
		forward, backward, _ := swiGLUTrial(20, 2, 72, 3, 40, core.BFloat16).tensors(t, swiGLUTrial(20, 2, 72, 3, 40, core.BFloat16).pose())
		first, err := expertsForwardLaunches(emulatedDevice, forward)
		require.NoError(t, err)
		second, err := expertsBackwardLaunches(emulatedDevice, backward)
		require.NoError(t, err)
		for _, l := range append(first, second...) {
			switch {
			case strings.Contains(l.Kernel, "hopper_gate_up"):
				backwards = append(backwards, (*hopperGateUpParams)(l.Params).of.product.backwards)
			case strings.Contains(l.Kernel, "hopper_project"):
				backwards = append(backwards, (*hopperProjectParams)(l.Params).of.product.backwards)
			case strings.Contains(l.Kernel, "hopper_activation"):
				backwards = append(backwards, (*hopperActivationGradientParams)(l.Params).of.product.backwards)
			case strings.Contains(l.Kernel, "hopper_weight"):
				backwards = append(backwards, (*expertsWeightGradientParams)(l.Params).backwards)
			}
		}
		return backwards
	}
	require.Equal(t, []int32{0, 1, 0, 1, 0, 1}, visits())
	withOrder(t, plainOrder)
	require.Equal(t, make([]int32, 6), visits())
}

// What does not suit has the portable kernels.
func TestHopperFallsBack(t *testing.T) {
	withKernels(t, hopperKernels)
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
		got, err := parseChoice(expertKernelsVariable, text, portableKernels, tilesKernels, hopperKernels)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := parseChoice(expertKernelsVariable, "fast", portableKernels, tilesKernels, hopperKernels)
	require.ErrorContains(t, err, `GENESIS_MOE_EXPERT_KERNELS: "fast", want portable, tiles or hopper`)
	_, err = parseChoice(expertOrderVariable, "random", reuseOrder, plainOrder)
	require.ErrorContains(t, err, `GENESIS_MOE_EXPERT_ORDER: "random", want reuse or plain`)
}
