package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// The router on a GPU: router*.go lay out workspaces and make launches, kernels/router_*.cu
// compute. Meanings are those of package router. As no values are read back (but a report's), what
// the CPU refuses because of them goes another way: with a price that is NaN, a gap that is not 0 or more, or a
// batch whose prices do not settle, all gates are NaN; an update with impossible counts or prices
// that are not finite changes nothing; a negative expert in top_k_index is an absent slot, and so is
// one for which no expert is open.

// The limits of the router's kernels: an expert has a bit and a thread of its own in some
// of them, and a slot a lane of a warp.
const (
	routerMaxExperts = 512
	routerMaxSlots   = 16
)

// routerShapes are the sizes of a call, in the letters of genesis_moe.h.
type routerShapes struct{ tokens, hidden, width, experts, slots int64 }

func routerShapesOf(hiddenStates, projection, centroids *core.Tensor, o *core.RouterOptions) routerShapes {
	s := routerShapes{
		tokens: hiddenStates.Shape[0], hidden: hiddenStates.Shape[1], width: hiddenStates.Shape[1],
		experts: centroids.Shape[0], slots: int64(o.TopK),
	}
	if projection != nil {
		s.width = projection.Shape[0]
	}
	return s
}

// checkRouter refuses what the kernels cannot do.
func checkRouter(named string, floating *core.Tensor, experts, slots int64) error {
	if floating != nil && floating.DType == core.Float64 {
		return core.Errorf(core.Unsupported, "%s: dtype float64 on cuda, want float32 or bfloat16: the float64 reference is the CPU's", named)
	}
	if experts > routerMaxExperts {
		return core.Errorf(core.Unsupported, "%d experts on cuda, want at most %d", experts, routerMaxExperts)
	}
	if slots > routerMaxSlots {
		return core.Errorf(core.Unsupported, "options.top_k: %d on cuda, want at most %d", slots, routerMaxSlots)
	}
	return nil
}

func routerOptionsOf(o *core.RouterOptions) routerOptions {
	r := routerOptions{
		mode: int32(o.Mode), cosine: flag(o.Mode == core.Hamiltonian && o.Binding == core.Cosine), slots: int32(o.TopK),
		budgeted: flag(o.Budgeted), normalizeTopK: flag(o.NormalizeTopK), groups: 1, topKGroups: 1,
		scalingFactor: o.ScalingFactor, epsilon: o.Epsilon, temperatureFloor: o.TemperatureFloor,
		entropyTemperature: o.EntropyTemperature, loadPenalty: o.LoadPenalty,
	}
	if o.Mode == core.DeepSeek {
		r.groups, r.topKGroups = int32(o.NumGroups), int32(o.TopKGroups)
	}
	return r
}

// routerDTypes are the numbers of router_params.h.
var routerDTypes = map[core.DType]int32{core.Float32: 0, core.BFloat16: 1, core.Float64: 2, core.Int32: 3, core.Int64: 4}

// vectorOf views a tensor [n] along column; nil is absent.
func vectorOf(t *core.Tensor) routerView {
	if t == nil {
		return routerView{}
	}
	return routerView{data: uintptr(t.At(0)), column: t.Stride(0), dtype: routerDTypes[t.DType]}
}

// viewOf views a tensor [rows, columns]; nil is absent.
func viewOf(t *core.Tensor) routerView {
	if t == nil {
		return routerView{}
	}
	return routerView{data: uintptr(t.At(0)), row: t.Stride(0), column: t.Stride(1), dtype: routerDTypes[t.DType]}
}

// floatsAt views compact float32 [rows, columns] of the workspace.
func floatsAt(address uintptr, columns int64) routerView {
	return routerView{data: address, row: columns, column: 1}
}

// transposed exchanges rows and columns.
func (v routerView) transposed() routerView {
	v.row, v.column = v.column, v.row
	return v
}

// size is the bytes of an element, of the floating types that products have.
func (v routerView) size() int64 {
	if v.dtype == routerDTypes[core.BFloat16] {
		return 2
	}
	return 4
}

// typeName is the part of a kernel's name.
func (v routerView) typeName() string {
	if v.dtype == routerDTypes[core.BFloat16] {
		return "bf16"
	}
	return "f32"
}

// withVectors finds out whether 16 bytes at a time can be read where neighbours of a row
// (along) or of a column are neighbours in memory.
func (v routerView) withVectors(along bool) routerView {
	inner, outer := v.column, v.row
	if !along {
		inner, outer = outer, inner
	}
	v.vectors = flag(inner == 1 && v.data%16 == 0 && outer*v.size()%16 == 0)
	return v
}

// routerProduct is out [m, n] = a [m, k] b [n, k]^T less pull along; see RouterProductParams.
// How elements lie in memory chooses the kernel. Splits of k are summed in their order; they
// are for sums over tokens only, as one token's result may not depend on the others.
type routerProduct struct {
	routerProductParams
	layout string // nt, nn or tn, as in router_product.cu
}

const routerProductTile = 64 // rows and columns of a block

func newRouterProduct(layout string, a, b, out routerView, m, n, k int64) *routerProduct {
	p := &routerProduct{layout: layout}
	p.a, p.b = a.withVectors(layout[0] == 'n'), b.withVectors(layout == "nt")
	p.out, p.m, p.n, p.k = out, m, n, k
	p.split, p.splits = max(32, (k+31)/32*32), 1
	return p
}

func (p *routerProduct) tiles() int64 {
	return blocksFor(p.m, routerProductTile) * blocksFor(p.n, routerProductTile)
}

// splitTokens cuts k so that there are about two blocks for each multiprocessor of a large device.
// The number depends on the shapes only, as results must.
func (p *routerProduct) splitTokens(w *arena) *routerProduct {
	const wanted, least = 256, 512
	splits := min(blocksFor(wanted, max(1, p.tiles())), blocksFor(p.k, least))
	if splits > 1 {
		p.split = blocksFor(blocksFor(p.k, splits), 32) * 32
		p.splits = int32(blocksFor(p.k, p.split))
		p.partial = w.take(uint64(int64(p.splits) * p.m * p.n * 4))
	}
	return p
}

// less subtracts pull[m] along(m, n).
func (p *routerProduct) less(pull uintptr, along routerView) *routerProduct {
	p.pull, p.along = pull, along
	return p
}

func (p *routerProduct) launches() []driver.Launch {
	kernel := "gmoe_router_product_" + p.layout + "_" + p.a.typeName() + "_" + p.b.typeName()
	product := routerLaunch(kernel, p.tiles(), unsafe.Pointer(&p.routerProductParams))
	product.Grid.Y = uint32(p.splits)
	if p.splits == 1 {
		return []driver.Launch{product}
	}
	sum := routerLaunch("gmoe_router_product_sum", blocksFor(p.m*p.n, routerThreads), unsafe.Pointer(&p.routerProductParams))
	return []driver.Launch{product, sum}
}

const routerThreads = 256

func routerLaunch(kernel string, blocks int64, params unsafe.Pointer) driver.Launch {
	return driver.Launch{
		Kernel: kernel, Grid: driver.Dim{X: uint32(blocks), Y: 1, Z: 1}, Block: driver.Dim{X: routerThreads, Y: 1, Z: 1},
		Params: params,
	}
}

// blocksFor is how many blocks of some size cover n.
func blocksFor(n, size int64) int64 { return (n + size - 1) / size }

// mostExperts is the end of the name of kernels that come in two sizes.
func mostExperts(experts int64) string {
	if experts <= 128 {
		return "_128"
	}
	return "_512"
}

// tokensPerBlock keeps the number of blocks, and so of partial sums, bounded. It depends on the
// number of tokens only, as results must.
func tokensPerBlock(tokens, mostBlocks int64) int64 {
	return max(64, blocksFor(tokens, mostBlocks))
}
