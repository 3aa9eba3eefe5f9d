package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// expertsBackwardWorkspace is how large a workspace the backward pass needs.
func expertsBackwardWorkspace(d driver.Attributes, a *core.ExpertsBackwardArgs) (uint64, error) {
	c, err := backwardCall(d, a)
	if err != nil {
		return 0, err
	}
	return c.arena.used, nil
}

// expertsBackwardLaunches is the backward pass, as far as its gradients are wanted: the
// plan, then
//
//	activation_gradient  dh = dy down_proj, and from it and z: dz, w h, parts of <h, dh>
//	project, combine     dx = the sum in slot order of dz gate_up_proj
//	routing_gradient     dw = <h, dh> + <down_bias, dy>
//	weight_gradient      dz^T x and dy^T (w h) of each expert
//	bias_gradient        the sums of dz and of w dy of each expert
func expertsBackwardLaunches(d driver.Attributes, a *core.ExpertsBackwardArgs) ([]driver.Launch, error) {
	c, err := backwardCall(d, a)
	if err != nil {
		return nil, err
	}
	return c.launches, nil
}

func backwardCall(d driver.Attributes, a *core.ExpertsBackwardArgs) (*expertsCall, error) {
	c := &expertsCall{}
	if err := c.open(d, &a.Options, a.Workspace, a.HiddenStates, a.TopKIndex, a.GateUpProj, a.DownProj); err != nil {
		return nil, err
	}
	c.dispatch(a.TopKIndex)
	x, dy, w := matrixOf(a.HiddenStates), matrixOf(a.GradOutput), matrixOf(a.TopKWeights)

	g := &expertsActivationGradientParams{
		activation: c.activation(), rowPair: c.plan.params.rowPair, weights: w, preActivation: matrixOf(a.PreActivation),
	}
	if a.GradHiddenStates != nil || a.GradGateUpProj != nil || a.GradGateUpBias != nil {
		g.dz = c.scratchRows(c.gateUp)
	}
	if a.GradDownProj != nil {
		g.wh = c.scratchRows(c.intermediate)
	}
	depth := 0 // of dh: w h needs none
	if g.dz.data != 0 || a.GradTopKWeights != nil {
		depth = c.hidden
	}
	parts := blocksOf(c.intermediate, expertsTileSide)
	if a.GradTopKWeights != nil {
		g.partial = c.arena.take(4 * uint64(c.pairs) * uint64(parts))
	}
	if depth > 0 || g.wh.data != 0 {
		layout := c.product(&g.product, dy, true, stackOf(a.DownProj).transposed(), c.intermediate, depth)
		parts = c.launchActivationGradient(g, layout)
	}

	if a.GradHiddenStates != nil {
		p := &expertsProjectParams{output: c.scratchRows(c.hidden)}
		layout := c.product(&p.product, g.dz, false, stackOf(a.GateUpProj).transposed(), c.hidden, c.gateUp)
		c.launchProject(p, layout)
		c.combine(p.output, expertsMatrix{}, matrixOf(a.GradHiddenStates))
	}
	if a.GradTopKWeights != nil {
		p := &expertsRoutingGradientParams{
			pairRow: c.plan.params.pairRow, offset: c.plan.params.offset, partial: g.partial,
			downBias: matrixOf(a.DownBias), gradOutput: dy, gradient: matrixOf(a.GradTopKWeights), hidden: int32(c.hidden),
			pairs: int32(c.pairs), slots: int32(c.slots), experts: int32(c.experts), parts: int32(parts),
		}
		c.launch("gmoe_experts_routing_gradient", c.grid(blocksOf(c.pairs, expertsThreads/32)), unsafe.Pointer(p))
	}
	if a.GradGateUpProj != nil {
		c.weightGradient(stackOf(a.GradGateUpProj), c.gateUp, c.hidden, g.dz, false, x, true)
	}
	if a.GradDownProj != nil {
		c.weightGradient(stackOf(a.GradDownProj), c.hidden, c.intermediate, dy, true, g.wh, false)
	}
	if a.GradGateUpBias != nil {
		c.biasGradient(matrixOf(a.GradGateUpBias), c.gateUp, g.dz, expertsMatrix{})
	}
	if a.GradDownBias != nil {
		c.biasGradient(matrixOf(a.GradDownBias), c.hidden, dy, w)
	}
	return c, nil
}

// weightGradient adds gradient[e] = a^T b over the rows of e. A matrix of tokens is gathered.
func (c *expertsCall) weightGradient(gradient expertsStack, m, n int, a expertsMatrix, aOfTokens bool, b expertsMatrix, bOfTokens bool) {
	p := &expertsWeightGradientParams{
		offset: c.plan.params.offset, rowPair: c.plan.params.rowPair, a: a, b: b, gradient: gradient,
		m: int32(m), n: int32(n), slots: int32(c.slots), experts: int32(c.experts),
		aOfTokens: flag(aOfTokens), bOfTokens: flag(bOfTokens),
		aVector: flag(c.vector(a.data, a.column, a.row)), bVector: flag(c.vector(b.data, b.column, b.row)),
		mTiles: int32(blocksOf(m, expertsTileSide)), nTiles: int32(blocksOf(n, expertsTileSide)),
	}
	c.launchWeightGradient(p)
}

// biasGradient adds gradient[e] = the sum over the rows of e of source, or of w times their
// tokens' source.
func (c *expertsCall) biasGradient(gradient expertsMatrix, columns int, source, weights expertsMatrix) {
	p := &expertsBiasGradientParams{
		offset: c.plan.params.offset, rowPair: c.plan.params.rowPair, source: source, weights: weights, gradient: gradient,
		columns: int32(columns), slots: int32(c.slots), experts: int32(c.experts),
	}
	const columnsOfBlock = 32
	c.launch("gmoe_experts_bias_gradient", c.grid(c.experts*blocksOf(columns, columnsOfBlock)), unsafe.Pointer(p))
}
