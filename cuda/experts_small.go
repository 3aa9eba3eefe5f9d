package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/decode"
)

// small reports whether the kernels for many small experts take a forward pass, which the host knows from
// shapes and layouts alone: no pre-activations and no bias of the output are wanted, x and gate_up_proj can be
// read 16 bytes at a time along the depth and down_proj 4, and decode.Small. Where a down_proj has numbers that
// are not finite, tokens that do not have that expert may get NaN from it too.
func (c *expertsCall) small(a *core.ExpertsForwardArgs) bool {
	x, up, down := matrixOf(a.HiddenStates), stackOf(a.GateUpProj), stackOf(a.DownProj)
	chunk := 16 / int(c.elementBytes)
	return !c.tilesOnly && !c.scaled && a.PreActivation == nil && a.DownBias == nil &&
		c.tokens > 0 && c.pairs > 0 && c.hidden > 0 && c.hidden%chunk == 0 &&
		decode.Small(c.tokens, c.gateUp, c.experts, c.slots, c.intermediate) &&
		c.vector(x.data, x.column, x.row) && c.vector(up.data, up.column, up.row, up.expert) &&
		down.column == 1 && down.data%4 == 0 && down.row*c.elementBytes%4 == 0 && down.expert*c.elementBytes%4 == 0 &&
		c.intermediate*int(c.elementBytes)%4 == 0
}

// smallForward adds the forward pass of many small experts.
func (c *expertsCall) smallForward(a *core.ExpertsForwardArgs) {
	if a.Options.Layer != 0 && c.pairs > decode.Pairs {
		// The ledger's one block would take longer to count so many pairs than the products take.
		c.plan = newCount(&c.arena, a.TopKIndex, c.experts)
		c.launches = c.plan.counting()
	}
	l := decode.SmallLayer{
		Hidden: c.hidden, Columns: c.experts * c.intermediate, Tokens: c.tokens, ElementBytes: int(c.elementBytes), Gated: c.options.Gated,
	}
	s := l.Schedule(c.device.MultiProcessors)
	table := smallTable{
		index: addressOf(a.TopKIndex), tokenStride: a.TopKIndex.Stride(0), slotStride: a.TopKIndex.Stride(1),
		narrow: flag(a.TopKIndex.DType == core.Int32), tokens: int32(c.tokens), slots: int32(c.slots), experts: int32(c.experts),
		groups: int32(s.Groups), groupTokens: int32(l.GroupTokens()), routing: matrixOf(a.TopKWeights),
		table:   c.arena.take(4 * uint64(c.tokens) * uint64(c.experts)),
		present: c.arena.take(uint64(s.Groups) * uint64(c.experts)),
		arrived: c.arena.take(4 * uint64(s.Groups) * uint64(l.ColumnTiles())), columnTiles: int32(l.ColumnTiles()),
	}
	pitch := uint64(l.Columns+7) / 8 * 8
	h := expertsMatrix{data: c.arena.take(uint64(c.tokens) * pitch * uint64(c.elementBytes)), row: int64(pitch), column: 1}
	c.launches = append(c.launches, launch("gmoe_experts_small_table", c.grid(s.Groups), expertsThreads, unsafe.Pointer(&table)))

	c.launchDecode("gmoe_experts_small_gate_up", s.Groups*l.GateUpTiles(), unsafe.Pointer(&smallGateUpParams{
		table: table, activation: c.activation(), x: matrixOf(a.HiddenStates), weights: stackOf(a.GateUpProj), bias: matrixOf(a.GateUpBias),
		h: h, depth: int32(c.hidden),
	}))

	w := stackOf(a.DownProj)
	down := &smallDownParams{
		table: table, h: h, weights: w, output: matrixOf(a.Output), columns: int32(c.hidden), intermediate: int32(c.intermediate),
		parts: int32(s.Parts), part: int32(s.Part),
		vector: flag(c.intermediate*int(c.elementBytes)%16 == 0 && c.vector(w.data, w.column, w.row, w.expert)),
	}
	if s.Parts > 1 {
		down.partial = c.arena.take(4 * uint64(s.Parts) * uint64(c.tokens) * uint64(l.ColumnTiles()) * decode.Side)
	}
	c.launchDecode("gmoe_experts_small_down", s.Groups*l.ColumnTiles()*s.Parts, unsafe.Pointer(down))
}
