package cuda

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// planned is a plan as the device made it.
type planned struct {
	offset, rowPair, pairRow []int32
	tiles, spans             []planTile
}

func emulatePlan(t *testing.T, index *core.Tensor, experts int, seed uint64) planned {
	var sizes arena
	newPlan(&sizes, index, experts, seed%2 == 0)
	a := arena{base: workspace(t, sizes.used).Base}
	p := newPlan(&a, index, experts, seed%2 == 0)
	emulate(t, p.launches(), seed)
	count := *device[int32](p.params.tileCount, 1)
	require.LessOrEqual(t, int(count[0]), p.tiles)
	pairs := int(p.params.pairs)
	var spans []planTile
	if p.spans > 0 {
		n := *device[int32](p.params.spanCount, 1)
		require.LessOrEqual(t, int(n[0]), p.spans)
		spans = *device[planTile](p.params.spans, int(n[0]))
	}
	return planned{
		spans:  spans,
		offset: *device[int32](p.params.offset, experts+1), pairRow: *device[int32](p.params.pairRow, pairs),
		rowPair: *device[int32](p.params.rowPair, pairs), tiles: *device[planTile](p.params.tiles, int(count[0])),
	}
}

// device views emulated device memory.
func device[T any](address uintptr, n int) *[]T {
	s := unsafe.Slice((*T)(*(*unsafe.Pointer)(unsafe.Pointer(&address))), n)
	return &s
}

// The plan is the stable counting sort of the pairs by expert.
func TestPlan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ tokens, slots, experts, choices int }{
		{0, 2, 4, 4},
		{1, 1, 1, 1},
		{17, 0, 4, 4},
		{17, 3, 0, 5},
		{33, 4, 8, 8},
		{33, 4, 8, 12},     // a third absent
		{500, 2, 3, 1},     // one expert takes all
		{700, 8, 512, 512}, // several chunks and blocks
		{2000, 3, 130, 140},
	} {
		for _, dtype := range []core.DType{core.Int32, core.Int64} {
			for how := range arrangements {
				values := make([]float64, c.tokens*c.slots)
				for i := range values {
					values[i] = float64(r.IntN(c.choices))
				}
				index := hold(t, dtype, how, values, int64(c.tokens), int64(c.slots))
				got := emulatePlan(t, index.Tensor, c.experts, uint64(how))

				var want planned
				want.offset = []int32{0}
				want.pairRow = make([]int32, len(values))
				for e := range c.experts {
					for pair, expert := range values {
						if int(expert) == e {
							want.pairRow[pair] = int32(len(want.rowPair))
							want.rowPair = append(want.rowPair, int32(pair))
						}
					}
					first, end := want.offset[e], int32(len(want.rowPair))
					want.offset = append(want.offset, end)
					for row := first; row < end; row += planTileRows {
						want.tiles = append(want.tiles, planTile{int32(e), row, min(row+planTileRows, end)})
					}
					for row := first; row < end && how%2 == 0; row += planSpanRows {
						want.spans = append(want.spans, planTile{int32(e), row, min(row+planSpanRows, end)})
					}
				}
				for pair, expert := range values {
					if int(expert) >= c.experts {
						want.pairRow[pair] = -1
					}
				}
				require.Equal(t, want.offset, got.offset, "%v", c)
				require.Equal(t, want.pairRow, got.pairRow, "%v", c)
				require.Equal(t, append([]int32{}, want.rowPair...), got.rowPair[:len(want.rowPair)], "%v", c)
				require.Equal(t, append([]planTile{}, want.tiles...), append([]planTile{}, got.tiles...), "%v", c)
				require.Equal(t, append([]planTile{}, want.spans...), append([]planTile{}, got.spans...), "%v", c)
			}
		}
	}
}

// A negative index, which the CPU refuses, is absent: nothing is read back to say so.
func TestPlanOfNegativeIndices(t *testing.T) {
	index := hold(t, core.Int64, compact, []float64{1, -1, -1 << 40, 0}, 2, 2)
	got := emulatePlan(t, index.Tensor, 2, 0)
	require.Equal(t, []int32{1, -1, -1, 0}, got.pairRow)
	require.Equal(t, []int32{0, 1, 2}, got.offset)
}

// Chunks are many enough for a GPU and few enough to be summed quickly.
func TestPlanChunks(t *testing.T) {
	for _, pairs := range []int{0, 1, 128, 129, 131072, 131073, 524288, maxPairs} {
		chunk := planChunk(pairs)
		require.Zero(t, chunk%32)
		require.GreaterOrEqual(t, chunk, 128)
		require.LessOrEqual(t, blocksOf(pairs, chunk), 1024)
		require.GreaterOrEqual(t, chunk*max(1, blocksOf(pairs, chunk)), pairs)
	}
}

func TestArena(t *testing.T) {
	a := arena{base: 4096}
	require.Equal(t, []uintptr{4096, 4352, 4352, 4608, 5120}, []uintptr{a.take(1), a.take(0), a.take(256), a.take(257), a.take(8)})
	require.EqualValues(t, 1280, a.used)
}
