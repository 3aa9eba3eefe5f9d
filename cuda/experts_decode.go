package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/decode"
)

// decodes reports whether the kernels for few tokens take a forward pass, which the host knows from shapes
// and layouts alone: at most decode.Tokens tokens, no pre-activations wanted, and tokens and weights that can be
// read 16 bytes at a time.
func (c *expertsCall) decodes(a *core.ExpertsForwardArgs) bool {
	x, chunk := matrixOf(a.HiddenStates), 16/int(c.elementBytes)
	return !c.tilesOnly && a.PreActivation == nil &&
		c.tokens > 0 && c.tokens <= decode.Tokens && c.pairs > 0 && c.pairs <= decode.Pairs &&
		c.experts > 0 && c.hidden > 0 && c.intermediate > 0 && c.hidden%chunk == 0 && c.intermediate%chunk == 0 &&
		(c.scaled || c.vector(x.data, x.column, x.row)) && c.decodeLayout(stackOf(a.GateUpProj)) != unread && c.decodeLayout(stackOf(a.DownProj)) != unread
}

// unread is the layout of weights that the kernels for few tokens do not read.
const unread = "unread"

// decodeLayout is what says in a kernel's name how a weight lies: nothing along the depth of the product, _nn
// across it, which only bfloat16 has a kernel for.
func (c *expertsCall) decodeLayout(w expertsStack) string {
	switch {
	case c.vector(w.data, w.column, w.row, w.expert):
		return ""
	case c.elementBytes == 2 && c.vector(w.data, w.row, w.column, w.expert):
		return "_nn"
	}
	return unread
}

// decode adds the forward pass of few tokens: h of every present pair with the plan, then the output; with weights in
// float8_e4m3fn, each after what it multiplies has been rounded.
func (c *expertsCall) decode(a *core.ExpertsForwardArgs) {
	l := decode.Layer{
		Hidden: c.hidden, Intermediate: c.intermediate, Experts: c.experts, Slots: c.slots, Tokens: c.tokens,
		ElementBytes: int(c.elementBytes), Gated: c.options.Gated, Across: c.decodeLayout(stackOf(a.GateUpProj)) == "_nn",
	}
	schedule := l.Schedule(c.device.MultiProcessors)
	plan := decodePlan{
		index: addressOf(a.TopKIndex), tokenStride: a.TopKIndex.Stride(0), slotStride: a.TopKIndex.Stride(1),
		narrow: flag(a.TopKIndex.DType == core.Int32), tokens: int32(c.tokens), slots: int32(c.slots), experts: int32(c.experts),
		offset: c.arena.take(4 * uint64(c.experts+1)), pairRow: c.arena.take(4 * uint64(c.pairs)),
		arrived: c.arena.take(4 * uint64(l.ColumnTiles())), columnTiles: int32(l.ColumnTiles()),
	}
	var h expertsMatrix
	if c.scaled {
		h = c.scratch(c.pairs, c.intermediate, suffixBytes["_f32"])
	} else {
		h = c.scratchRows(c.intermediate)
	}

	up := &decodeGateUpParams{
		plan: plan, activation: c.activation(), x: matrixOf(a.HiddenStates), weights: stackOf(a.GateUpProj),
		bias: matrixOf(a.GateUpBias), h: h, depth: int32(c.hidden),
	}
	if c.scaled {
		q := c.quantizeX(up.x)
		up.x, up.xScale, up.weightsScale = q.rows, q.scale, stackOf(a.GateUpScale)
	}
	cut := "_1"
	if schedule.Cut == 2 {
		cut = "_2"
	}
	c.launchDecode("gmoe_experts_decode_gate_up"+c.decodeLayout(up.weights)+cut, schedule.GateUpUnits, unsafe.Pointer(up))

	down := &decodeDownParams{
		plan: plan, h: h, weights: stackOf(a.DownProj), bias: matrixOf(a.DownBias), routing: matrixOf(a.TopKWeights), output: matrixOf(a.Output),
		partial: c.arena.take(4 * uint64(schedule.Parts) * uint64(c.pairs) * uint64(l.ColumnTiles()) * decode.Side),
		columns: int32(c.hidden), depth: int32(c.intermediate), parts: int32(schedule.Parts), part: int32(schedule.Part),
	}
	if c.scaled {
		q := c.scaledScratch(c.pairs, c.intermediate)
		c.quantizeH(h, q, plan.offset)
		down.h, down.hScale, down.weightsScale = q.rows, q.scale, stackOf(a.DownScale)
	}
	c.launchDecode("gmoe_experts_decode_down"+c.decodeLayout(down.weights), schedule.DownUnits, unsafe.Pointer(down))
}

// launchDecode adds a launch of blocks that stay and take piece after piece, of at most so many.
func (c *expertsCall) launchDecode(kernel string, pieces int, params unsafe.Pointer) {
	l := launch(kernel+c.suffix, min(pieces, decode.BlocksOfProcessor*max(1, c.device.MultiProcessors)), expertsThreads, params)
	l.SharedBytes = decode.RingBytes
	c.launches = append(c.launches, l)
}
