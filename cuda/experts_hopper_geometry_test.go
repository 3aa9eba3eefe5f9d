package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/hopper"
)

// A layer of the size that is trained has the kernels for Hopper: blocks that stay, a ring that fits, maps
// inside of the limits.
func TestHopperGeometry(t *testing.T) {
	withKernels(t, hopperKernels)
	launches, err := expertsForwardLaunches(h200, layer(32768, 8, 4096, 128, 1024))
	require.NoError(t, err)
	l, p := find[hopperGateUpParams](t, launches, "gmoe_experts_hopper_gate_up_nt_256")
	require.Equal(t, [2]int32{1, 0}, [2]int32{p.of.product.group, p.of.product.backwards}) // weights of 16 MiB
	require.EqualValues(t, h200.MultiProcessors, l.Grid.X)
	require.EqualValues(t, hopper.Threads, l.Block.X)
	require.LessOrEqual(t, l.SharedBytes, uint32(227<<10))
	require.EqualValues(t, 1024/128, p.of.product.columnTiles) // 128 gates with their ups
	require.Len(t, l.Maps, 1)
	require.Equal(t, [3]uint64{4096, 2048, 128}, l.Maps[0].Size)
	require.Equal(t, [2]uint64{2 * 4096, 2 * 4096 * 2048}, l.Maps[0].StrideBytes)
	require.Equal(t, [3]uint32{64, 64, 1}, l.Maps[0].Box)

	l, down := find[hopperProjectParams](t, launches, "gmoe_experts_hopper_project_nt_192")
	require.Equal(t, [3]uint32{64, 96, 1}, l.Maps[0].Box)
	require.Equal(t, [2]int32{1, 1}, [2]int32{down.of.product.group, down.of.product.backwards})
	require.Len(t, l.Maps, 2) // its rows are sorted: a map of them too
	require.Equal(t, [3]uint64{1024, 32768 * 8, 1}, l.Maps[1].Size)
}

// With weights in float8_e4m3fn maps count bytes, and the ring has room for scales.
func TestScaledHopperGeometry(t *testing.T) {
	withKernels(t, hopperKernels)
	a := layer(32768, 8, 4096, 128, 1024)
	a.PreActivation = nil
	a.GateUpProj.DType, a.DownProj.DType = core.Float8E4M3, core.Float8E4M3
	a.GateUpScale, a.DownScale = layer(0, 0, 32, 128, 8).GateUpProj, layer(0, 0, 32, 128, 8).DownProj
	a.GateUpScale.DType, a.DownScale.DType = core.Float32, core.Float32
	launches, err := expertsForwardLaunches(h200, a)
	require.NoError(t, err)
	l, p := find[hopperGateUpParams](t, launches, "gmoe_experts_hopper_gate_up_e4m3_bf16")
	require.EqualValues(t, h200.MultiProcessors, l.Grid.X)
	require.LessOrEqual(t, l.SharedBytes, uint32(227<<10))
	require.EqualValues(t, hopper.ScaledSharedBytes, l.SharedBytes)
	require.EqualValues(t, 1024/128, p.of.product.columnTiles) // 128 gates with their ups
	require.EqualValues(t, 1024/128, p.hScale.row)
	require.Equal(t, [3]int64{16 * 32, 32, 1}, [3]int64{p.of.product.weightsScale.expert, p.of.product.weightsScale.row, p.of.product.weightsScale.column})
	require.Len(t, l.Maps, 1)
	require.Equal(t, 1, l.Maps[0].ElementBytes)
	require.Equal(t, [3]uint64{4096, 2048, 128}, l.Maps[0].Size)
	require.Equal(t, [2]uint64{4096, 4096 * 2048}, l.Maps[0].StrideBytes)
	require.Equal(t, [3]uint32{128, 64, 1}, l.Maps[0].Box)
	l, _ = find[hopperProjectParams](t, launches, "gmoe_experts_hopper_project_e4m3_bf16")
	require.Len(t, l.Maps, 1) // its rows are copied, as their scales are
	var names []string
	for _, l := range launches {
		names = append(names, l.Kernel)
	}
	require.Equal(t, []string{
		"gmoe_plan_count", "gmoe_plan_scan", "gmoe_plan_scatter", "gmoe_experts_quantize_rows_bf16",
		"gmoe_experts_hopper_gate_up_e4m3_bf16", "gmoe_experts_hopper_project_e4m3_bf16", "gmoe_experts_combine_bf16",
	}, names) // h is rounded where it is made
}

// The widest tile where the depth is long, and little is computed in vain.
func TestHopperTiles(t *testing.T) {
	for _, c := range []struct {
		product              string
		columns, depth, want int
	}{
		{hopper.GateUp, 2 * 1024, 4096, 256},
		{hopper.GateUp, 2 * 14336, 4096, 256},
		{hopper.GateUp, 2 * 512, 1024, 128},
		{hopper.GateUp, 2 * 192, 4096, 128}, // 512 columns would be computed for 384
		{hopper.Project, 4096, 14336, 256},
		{hopper.Project, 4096, 1024, 192},
		{hopper.Project, 1024, 512, 128},
		{hopper.Project, 576, 1536, 192},
		{hopper.Project, 576, 3072, 192},
		{hopper.Project, 8, 64, 128},
		{hopper.Project, 8, 4096, 128},
		{hopper.ActivationGradient, 4096, 4096, 128},
		{hopper.WeightGradient, 4096, 2048, 256},
		{hopper.WeightGradient, 4096, 128, 128},
	} {
		require.Equal(t, c.want, hopper.Columns(c.product, c.columns, c.depth), "%v", c)
	}
	for _, columns := range []int{128, 192, 256} {
		require.LessOrEqual(t, hopper.SharedBytes(columns), 227<<10)
	}
}

// Spans share weights that the L2 cache does not hold.
func TestHopperGroups(t *testing.T) {
	require.Equal(t, 1, hopper.Group(2*2*1024*4096, 50<<20))
	require.Equal(t, 8, hopper.Group(2*2*14336*4096, 50<<20))
}
