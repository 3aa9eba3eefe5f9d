package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// routerBackwardPass makes the launches of a backward pass. Laying out the workspace and launching
// are one walk, so that they cannot disagree.
type routerBackwardPass struct {
	routerShapes
	*core.RouterBackwardArgs
	options routerOptions
	w       arena

	norms, q                             uintptr // [E], [T, E]
	tokenPull, centroidPull, partialSums uintptr // [T] r, [E] v, [blocks, 2E+1]
	launches                             []driver.Launch
}

func routerBackwardWorkspace(_ driver.Attributes, a *core.RouterBackwardArgs) (uint64, error) {
	p := routerBackwardPass{RouterBackwardArgs: a}
	err := p.run()
	return p.w.used, err
}

func routerBackwardLaunches(_ driver.Attributes, a *core.RouterBackwardArgs) ([]driver.Launch, error) {
	p := routerBackwardPass{RouterBackwardArgs: a, w: arena{base: a.Workspace.Base}}
	err := p.run()
	return p.launches, err
}

func (p *routerBackwardPass) add(l ...driver.Launch) { p.launches = append(p.launches, l...) }

// wantsTokens reports whether dz is needed.
func (p *routerBackwardPass) wantsTokens() bool {
	return p.GradHiddenStates != nil || p.GradProjection != nil
}

func (p *routerBackwardPass) run() error {
	p.routerShapes = routerShapesOf(p.HiddenStates, p.Projection, p.Centroids, &p.Options)
	if err := checkRouter("hidden_states", p.HiddenStates, p.experts, p.slots); err != nil {
		return err
	}
	p.options = routerOptionsOf(&p.Options)
	if !p.wantsTokens() && p.GradCentroids == nil {
		p.options.cosine = 0 // the binding matters to those only
	}
	z := p.routerInput()
	p.logitsGradient(z)
	if p.GradCentroids != nil {
		p.centroidGradient(z)
	}
	if p.wantsTokens() {
		p.tokenGradients(z)
	}
	return nil
}

// routerInput is z: x itself, or computed again, where it is needed.
func (p *routerBackwardPass) routerInput() routerView {
	x := viewOf(p.HiddenStates)
	if p.options.cosine != 0 {
		p.norms = p.w.take(uint64(4 * p.experts))
		p.add(routerLaunch("gmoe_router_prepare", blocksFor(p.experts, 8), unsafe.Pointer(&routerPrepareParams{
			centroids: viewOf(p.Centroids), norms: p.norms, width: p.width, experts: int32(p.experts),
		})))
	}
	if p.Projection == nil || p.options.cosine == 0 && p.GradCentroids == nil {
		return x
	}
	z := floatsAt(p.w.take(uint64(4*p.tokens*p.width)), p.width)
	p.add(newRouterProduct("nt", x, viewOf(p.Projection), z, p.tokens, p.width, p.hidden).launches()...)
	return z
}

// logitsGradient finds q, r and v, and with them the gradients of bias and temperature.
func (p *routerBackwardPass) logitsGradient(z routerView) {
	each := tokensPerBlock(p.tokens, 1024)
	blocks := blocksFor(p.tokens, each)
	p.q = p.w.take(uint64(4 * p.tokens * p.experts))
	p.tokenPull = p.w.take(uint64(4 * p.tokens))
	p.partialSums = p.w.take(uint64(8 * blocks * (2*p.experts + 1)))
	if p.options.cosine != 0 {
		p.centroidPull = p.w.take(uint64(4 * p.experts))
	}
	var temperature *core.Tensor
	if p.Options.Mode == core.Hamiltonian {
		temperature = p.Temperature
	}
	p.add(
		routerLaunch("gmoe_router_gradient"+mostExperts(p.experts), blocks, unsafe.Pointer(&routerGradientParams{
			z: z, logits: viewOf(p.Logits), topKIndex: viewOf(p.TopKIndex),
			gradWeights: viewOf(p.GradTopKWeights), gradLogits: viewOf(p.GradLogits), temperature: vectorOf(temperature),
			norms: p.norms, q: p.q, pull: p.tokenPull, partial: p.partialSums,
			tokens: p.tokens, tokensPerBlock: each, width: p.width, options: p.options, experts: int32(p.experts),
		})),
		routerLaunch("gmoe_router_gradient_sums", blocksFor(2*p.experts+1, routerThreads), unsafe.Pointer(&routerSumsParams{
			partial: p.partialSums, norms: p.norms, pull: p.centroidPull,
			gradBias: vectorOf(p.GradBias), gradTemperature: vectorOf(p.GradTemperature),
			blocks: blocks, epsilon: p.options.epsilon, experts: int32(p.experts),
		})),
	)
}

// centroidGradient is q^T z - v c.
func (p *routerBackwardPass) centroidGradient(z routerView) {
	product := newRouterProduct("tn", floatsAt(p.q, p.experts).transposed(), z.transposed(), viewOf(p.GradCentroids),
		p.experts, p.width, p.tokens).splitTokens(&p.w)
	if p.options.cosine != 0 {
		product.less(p.centroidPull, viewOf(p.Centroids))
	}
	p.add(product.launches()...)
}

// tokenGradients are dz = q c - r z, dx = dz W and dW = dz^T x.
func (p *routerBackwardPass) tokenGradients(z routerView) {
	dz := viewOf(p.GradHiddenStates)
	if p.Projection != nil {
		dz = floatsAt(p.w.take(uint64(4*p.tokens*p.width)), p.width)
	}
	product := newRouterProduct("nn", floatsAt(p.q, p.experts), viewOf(p.Centroids).transposed(), dz, p.tokens, p.width, p.experts)
	if p.options.cosine != 0 {
		product.less(p.tokenPull, z)
	}
	p.add(product.launches()...)
	if p.Projection == nil {
		return
	}
	if p.GradHiddenStates != nil {
		p.add(newRouterProduct("nn", dz, viewOf(p.Projection).transposed(), viewOf(p.GradHiddenStates),
			p.tokens, p.hidden, p.width).launches()...)
	}
	if p.GradProjection != nil {
		p.add(newRouterProduct("tn", dz.transposed(), viewOf(p.HiddenStates).transposed(), viewOf(p.GradProjection),
			p.width, p.hidden, p.tokens).splitTokens(&p.w).launches()...)
	}
}
