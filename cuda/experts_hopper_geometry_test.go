package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/cuda/internal/hopper"
)

// A layer of the size that is trained has the kernels for Hopper: blocks that stay, a ring that fits, maps
// inside of the limits.
func TestHopperGeometry(t *testing.T) {
	withHopper(t)
	launches, err := expertsForwardLaunches(h200, layer(32768, 8, 4096, 128, 1024))
	require.NoError(t, err)
	l, p := find[hopperGateUpParams](t, launches, "gmoe_experts_hopper_gate_up_nt_256")
	require.EqualValues(t, h200.MultiProcessors, l.Grid.X)
	require.EqualValues(t, hopper.Threads, l.Block.X)
	require.LessOrEqual(t, l.SharedBytes, uint32(227<<10))
	require.EqualValues(t, 1024/128, p.of.product.columnTiles) // 128 gates with their ups
	require.Len(t, l.Maps, 1)
	require.Equal(t, [3]uint64{4096, 2048, 128}, l.Maps[0].Size)
	require.Equal(t, [2]uint64{2 * 4096, 2 * 4096 * 2048}, l.Maps[0].StrideBytes)
	require.Equal(t, [3]uint32{64, 128, 1}, l.Maps[0].Box)

	l, _ = find[hopperProjectParams](t, launches, "gmoe_experts_hopper_project_nt_256")
	require.Len(t, l.Maps, 2) // its rows are sorted: a map of them too
	require.Equal(t, [3]uint64{1024, 32768 * 8, 1}, l.Maps[1].Size)
}

// Where the last wide tile would be half empty, a small product has narrow ones.
func TestHopperTiles(t *testing.T) {
	for _, c := range []struct {
		product       string
		columns, want int
	}{
		{hopper.Project, 4096, 256},
		{hopper.Project, 256, 256},
		{hopper.Project, 320, 128},
		{hopper.Project, 8, 128},
		{hopper.Project, 1152, 256},
		{hopper.GateUp, 3072, 256},
		{hopper.ActivationGradient, 4096, 128},
	} {
		require.Equal(t, c.want, hopper.Columns(c.product, c.columns), "%s of %d columns", c.product, c.columns)
	}
	for _, columns := range []int{128, 256} {
		require.LessOrEqual(t, hopper.SharedBytes(columns), 227<<10)
	}
}
