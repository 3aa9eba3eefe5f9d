package cuda

import (
	"math"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// The limits of kernels/plan_params.h, and its constants.
const (
	maxExperts   = 512
	maxSlots     = maxExperts
	maxPairs     = math.MaxInt32 - planTileRows // T*K: rows are numbered in 32 bits
	planTileRows = 128
	planSpanRows = 256
	planWarps    = 8
	planThreads  = 32 * planWarps
)

// planParams mirrors PlanParams of kernels/plan_params.h, which says what is what.
type planParams struct {
	index                                           uintptr
	tokenStride, slotStride                         int64
	narrow, slots, pairs, experts, chunk, chunks    int32
	before, totals, offset, rowPair, pairRow, tiles uintptr
	tileCount, spans, spanCount                     uintptr
}

// planTile mirrors PlanTile.
type planTile struct{ expert, first, end int32 }

// plan is the dispatch of tokens to experts: where its parts are in the workspace, and
// bounds for what only the device will know.
type plan struct {
	params planParams
	tiles  int // at most
	spans  int // at most; 0 when they are not wanted
}

// newCount lays out the part of a plan that counts the rows of each expert, for counting.
func newCount(a *arena, index *core.Tensor, experts int) *plan {
	tokens, slots := int(index.Shape[0]), int(index.Shape[1])
	pairs := tokens * slots
	chunk := planChunk(pairs)
	chunks := (pairs + chunk - 1) / chunk
	return &plan{params: planParams{
		index: addressOf(index), tokenStride: index.Stride(0), slotStride: index.Stride(1), narrow: flag(index.DType == core.Int32),
		slots: int32(slots), pairs: int32(pairs), experts: int32(experts), chunk: int32(chunk), chunks: int32(chunks),
		before: a.take(4 * uint64(experts) * uint64(chunks)),
		totals: a.take(4 * uint64(experts)),
	}}
}

// newPlan lays out the plan of a routing over so many experts, with spans if they are wanted.
func newPlan(a *arena, index *core.Tensor, experts int, spans bool) *plan {
	p := newCount(a, index, experts)
	pairs := int(p.params.pairs)
	p.tiles = planPieces(pairs, experts, planTileRows)
	p.params.offset = a.take(4 * uint64(experts+1))
	p.params.rowPair, p.params.pairRow = a.take(4*uint64(pairs)), a.take(4*uint64(pairs))
	p.params.tiles, p.params.tileCount = a.take(uint64(unsafe.Sizeof(planTile{}))*uint64(p.tiles)), a.take(4)
	if spans {
		p.spans = planPieces(pairs, experts, planSpanRows)
		p.params.spans, p.params.spanCount = a.take(uint64(unsafe.Sizeof(planTile{}))*uint64(p.spans)), a.take(4)
	}
	return p
}

// planChunk is how many pairs a warp counts and places: few, so that many warps work,
// unless so many chunks would have to be summed that this costs more.
func planChunk(pairs int) int {
	const least, mostChunks = 128, 1024
	return max(least, (pairs+mostChunks*32-1)/(mostChunks*32)*32)
}

// planPieces bounds the pieces of so many rows that pairs can make: full ones, and one more for each expert.
func planPieces(pairs, experts, rows int) int { return pairs/rows + min(pairs, experts) }

// counting finds totals, the rows of each expert.
func (p *plan) counting() []driver.Launch {
	params := unsafe.Pointer(&p.params)
	return []driver.Launch{
		launch("gmoe_plan_count", p.chunkBlocks(), planThreads, params),
		launch("gmoe_plan_scan", blocksOf(int(p.params.experts), planWarps), planThreads, params),
	}
}

// launches makes the plan.
func (p *plan) launches() []driver.Launch {
	// One block at least: no pair is a plan too.
	return append(p.counting(), launch("gmoe_plan_scatter", max(1, p.chunkBlocks()), planThreads, unsafe.Pointer(&p.params)))
}

func (p *plan) chunkBlocks() int { return blocksOf(int(p.params.chunks), planWarps) }

// blocksOf is how many blocks do n things of which each does a few.
func blocksOf(n, each int) int { return (n + each - 1) / each }

// launch is a launch of so many blocks in a row.
func launch(kernel string, blocks, threads int, params unsafe.Pointer) driver.Launch {
	return driver.Launch{
		Kernel: kernel, Grid: driver.Dim{X: uint32(blocks), Y: 1, Z: 1}, Block: driver.Dim{X: uint32(threads), Y: 1, Z: 1},
		Params: params,
	}
}

// addressOf is where a tensor's elements begin on the device; 0 for none.
func addressOf(t *core.Tensor) uintptr {
	if t == nil {
		return 0
	}
	return uintptr(t.Data) + uintptr(t.ByteOffset)
}
