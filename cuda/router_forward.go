package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// routerForwardPass is where a forward pass keeps what lies between its kernels.
type routerForwardPass struct {
	routerShapes
	*core.RouterForwardArgs
	batch bool

	norms, z                              uintptr // [E], [T, D]
	scores, theta, partial, price, states uintptr // of the batch solver
}

// batchTokensPerBlock is the batch solver's share of tokens; see [tokensPerBlock].
func batchTokensPerBlock(tokens int64) int64 { return tokensPerBlock(tokens, 256) }

func newRouterForwardPass(a *core.RouterForwardArgs, w *arena) (*routerForwardPass, error) {
	s := routerShapesOf(a.HiddenStates, a.Projection, a.Centroids, &a.Options)
	if err := checkRouter("hidden_states", a.HiddenStates, s.experts, s.slots); err != nil {
		return nil, err
	}
	p := &routerForwardPass{routerShapes: s, RouterForwardArgs: a}
	p.batch = a.Options.Mode == core.Hamiltonian && a.Options.Solver == core.Batch
	if routerOptionsOf(&a.Options).cosine != 0 {
		p.norms = w.take(uint64(4 * s.experts))
	}
	if a.Projection != nil {
		p.z = w.take(uint64(4 * s.tokens * s.width))
	}
	if p.batch {
		p.price = w.take(uint64(4 * s.experts))
		p.states = w.take(uint64(unsafe.Sizeof(routerBatchState{})))
		p.scores = w.take(uint64(4 * s.tokens * s.experts))
		p.theta = w.take(uint64(4 * s.tokens))
		p.partial = w.take(uint64(8 * blocksFor(s.tokens, batchTokensPerBlock(s.tokens)) * (s.experts + 1)))
	}
	return p, nil
}

func routerForwardWorkspace(_ driver.Attributes, a *core.RouterForwardArgs) (uint64, error) {
	var w arena
	_, err := newRouterForwardPass(a, &w)
	return w.used, err
}

func routerForwardLaunches(_ driver.Attributes, a *core.RouterForwardArgs) ([]driver.Launch, error) {
	p, err := newRouterForwardPass(a, &arena{base: a.Workspace.Base})
	if err != nil {
		return nil, err
	}
	launches := []driver.Launch{p.prepare()}
	z := viewOf(a.HiddenStates)
	if a.Projection != nil {
		product := newRouterProduct("nt", z, viewOf(a.Projection), floatsAt(p.z, p.width), p.tokens, p.width, p.hidden)
		launches = append(launches, product.launches()...)
		z = floatsAt(p.z, p.width)
	}
	route := &routerForwardParams{
		z: z.withVectors(true), centroids: viewOf(a.Centroids).withVectors(true),
		bias: vectorOf(a.Bias), price: vectorOf(usedPrice(a)), temperature: vectorOf(a.Temperature), gap: vectorOf(a.Gap),
		topKIndex: viewOf(a.TopKIndex), topKWeights: viewOf(a.TopKWeights),
		logits: viewOf(a.Logits), counts: vectorOf(a.Counts),
		norms: p.norms, scores: p.scores, tokens: p.tokens, width: p.width,
		options: routerOptionsOf(&a.Options), experts: int32(p.experts),
	}
	launches = append(launches, p.score(route))
	if !p.batch {
		return launches, nil
	}
	launches = append(launches, p.solve()...)
	routed := *route
	routed.price = floatsAt(p.price, p.experts)
	return append(launches, routerLaunch("gmoe_router_route", blocksFor(p.tokens, 8), unsafe.Pointer(&routed))), nil
}

// usedPrice is the price where the mode reads one: mixtral has none, and the batch solver
// finds its own.
func usedPrice(a *core.RouterForwardArgs) *core.Tensor {
	if a.Options.Mode == core.Mixtral || a.Options.Mode == core.Hamiltonian && a.Options.Solver == core.Batch {
		return nil
	}
	return a.Price
}

func (p *routerForwardPass) prepare() driver.Launch {
	return routerLaunch("gmoe_router_prepare", blocksFor(p.experts, 8), unsafe.Pointer(&routerPrepareParams{
		centroids: viewOf(p.Centroids), counts: vectorOf(p.Counts), norms: p.norms, price: p.price, state: p.states,
		width: p.width, experts: int32(p.experts),
	}))
}

// score launches the pass over the router's input. Its kernel is chosen by the types and the number
// of experts, never by the number of tokens: a token's logits do not depend on others.
func (p *routerForwardPass) score(route *routerForwardParams) driver.Launch {
	rows, columns, stages := int64(64), int64(128), int64(4)
	if p.experts > columns {
		rows, columns, stages = 32, 512, 2
	}
	kernel := "gmoe_router_forward_" + route.z.typeName() + "_" + route.centroids.typeName() + mostExperts(p.experts)
	l := routerLaunch(kernel, blocksFor(p.tokens, rows), unsafe.Pointer(route))
	l.SharedBytes = uint32(max(stages*scoreStageBytes(route.z.size(), route.centroids.size(), rows, columns), 4*rows*(columns+8)))
	return l
}

// scoreStageBytes is the size of a Product's Stage in router_tile.h: rows of 16 elements, or
// 32 if all are narrow, and 16 bytes more.
func scoreStageBytes(zSize, centroidSize, rows, columns int64) int64 {
	depth := int64(16)
	if zSize == 2 && centroidSize == 2 {
		depth = 32
	}
	return rows*(depth*zSize+16) + columns*(depth*centroidSize+16)
}

// solve launches the batch solver. Most batches need fewer than the steps that have a launch of their
// own; one block takes what may be left.
func (p *routerForwardPass) solve() []driver.Launch {
	const ownLaunches, mostSteps = 80, 2000
	params := routerBatchParams{
		scores: p.scores, theta: p.theta, partial: p.partial, price: p.price, priceOut: vectorOf(p.PriceOut),
		state: p.states, tokens: p.tokens, tokensPerBlock: batchTokensPerBlock(p.tokens),
		options: routerOptionsOf(&p.Options), experts: int32(p.experts), iterations: 1,
	}
	var launches []driver.Launch
	if p.slots < p.experts && p.tokens > 0 { // else every load is its target
		blocks := blocksFor(p.tokens, params.tokensPerBlock)
		if blocks > 1 {
			for range ownLaunches {
				launches = append(launches, routerLaunch("gmoe_router_batch_step", blocks, unsafe.Pointer(&params)))
			}
		}
		rest := params
		rest.tokensPerBlock, rest.iterations = p.tokens, mostSteps
		launches = append(launches, routerLaunch("gmoe_router_batch_step", 1, unsafe.Pointer(&rest)))
	}
	if p.PriceOut != nil {
		launches = append(launches, routerLaunch("gmoe_router_batch_price", blocksFor(p.experts, routerThreads), unsafe.Pointer(&params)))
	}
	return launches
}
