package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// expertsForwardWorkspace is how large a workspace the forward pass needs.
func expertsForwardWorkspace(d driver.Attributes, a *core.ExpertsForwardArgs) (uint64, error) {
	c, err := forwardCall(d, a)
	if err != nil {
		return 0, err
	}
	return c.arena.used, nil
}

// expertsForwardLaunches is the forward pass: the plan, then
//
//	gate_up  z = x gate_up_proj^T and h = act(z), rows sorted by expert
//	project  y = h down_proj^T
//	combine  output = the sum of w y in slot order
//
// With weights in float8_e4m3fn x is rounded before the first product, and h before the second.
//
// Many small experts and few tokens have kernels of their own: experts_small.go, experts_decode.go.
func expertsForwardLaunches(d driver.Attributes, a *core.ExpertsForwardArgs) ([]driver.Launch, error) {
	c, err := forwardCall(d, a)
	if err != nil {
		return nil, err
	}
	return c.launches, nil
}

func forwardCall(d driver.Attributes, a *core.ExpertsForwardArgs) (*expertsCall, error) {
	c := &expertsCall{}
	if err := c.open(d, &a.Options, a.Workspace, a.HiddenStates, a.TopKIndex, a.GateUpProj, a.DownProj); err != nil {
		return nil, err
	}
	if c.small(a) {
		c.smallForward(a)
		return c, nil
	}
	if c.decodes(a) {
		c.decode(a)
		return c, nil
	}
	c.dispatch(a.TopKIndex)
	x, y := matrixOf(a.HiddenStates), c.scratchRows(c.hidden)
	up := &expertsGateUpParams{
		activation: c.activation(), bias: matrixOf(a.GateUpBias), preActivation: matrixOf(a.PreActivation),
	}
	down := &expertsProjectParams{bias: matrixOf(a.DownBias), output: y}
	up.product.halves = flag(a.Options.Gated && !a.Options.Interleaved)
	var h scaledRows // or, without scales, rows
	if c.scaled {
		q := c.quantizeX(x)
		x, h = q.rows, c.scaledScratch(c.pairs, c.intermediate)
		up.product.rowsScale, up.product.weightsScale = q.scale, stackOf(a.GateUpScale)
		down.product.rowsScale, down.product.weightsScale = h.scale, stackOf(a.DownScale)
	} else {
		h.rows = c.scratchRows(c.intermediate)
	}
	up.h = h.rows
	layout := c.product(&up.product, x, true, stackOf(a.GateUpProj), c.gateUp, c.hidden)
	c.launchGateUp(up, layout, h)

	layout = c.product(&down.product, h.rows, false, stackOf(a.DownProj), c.hidden, c.intermediate)
	c.launchProject(down, layout)

	c.combine(y, matrixOf(a.TopKWeights), matrixOf(a.Output))
	return c, nil
}

// combine sums each token's rows, times the weights if there are any.
func (c *expertsCall) combine(rows, weights, output expertsMatrix) {
	p := &expertsCombineParams{
		pairRow: c.plan.params.pairRow, rows: rows, weights: weights, output: output,
		tokens: int32(c.tokens), hidden: int32(c.hidden), slots: int32(c.slots),
	}
	c.launch("gmoe_experts_combine", c.grid(c.tokens), unsafe.Pointer(p))
}
