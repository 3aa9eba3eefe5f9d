package cuda

import (
	"math"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// The constants of kernels/experts_schedule.h.
const (
	expertsThreads  = 256
	expertsTileSide = 128
)

// expertsCall is one call: what forward and backward have in common.
type expertsCall struct {
	device       driver.Attributes
	suffix       string // of the products' kernels: the dtype of what they multiply, and of what they make of it
	dtype        string // of the others
	elementBytes int64  // of what is multiplied
	scaled       bool   // that is float8_e4m3fn with scales
	options      *core.ExpertsOptions

	tokens, slots, pairs, hidden, experts, intermediate, gateUp int

	hopper    bool  // the kernels for Hopper are wanted where they suit
	tilesOnly bool  // and those for few tokens and for small experts are not
	reuse     bool  // the kernels for Hopper visit tiles in the order that reuses what is in the L2 cache
	products  int32 // of theirs, so far
	arena     arena
	plan      *plan
	launches  []driver.Launch
}

// open refuses what the kernels cannot do and finds the sizes. The arguments are valid: package experts has
// seen to it.
func (c *expertsCall) open(d driver.Attributes, o *core.ExpertsOptions, ws core.Workspace, x, index, gateUpProj, downProj *core.Tensor) error {
	if x.DType == core.Float64 {
		return core.Errorf(core.Unsupported, "hidden_states: dtype %s on cuda, want float32 or bfloat16; float64 is the CPU's", x.DType)
	}
	for _, limit := range []struct {
		argument, size string
		value, most    int64
	}{
		{"gate_up_proj", "E", gateUpProj.Shape[0], maxExperts},
		{"top_k_index", "K", index.Shape[1], maxSlots},
		{"hidden_states", "T", x.Shape[0], maxPairs},
		{"top_k_index", "T*K", index.Elements(), maxPairs},
		{"gate_up_proj", "Z", gateUpProj.Shape[1], math.MaxInt32 - expertsTileSide},
		{"hidden_states", "H", x.Shape[1], math.MaxInt32 - expertsTileSide},
	} {
		if limit.value > limit.most {
			return core.Errorf(core.Unsupported, "%s: %s is %d, want at most %d on cuda", limit.argument, limit.size, limit.value, limit.most)
		}
	}
	c.device, c.options = d, o
	c.dtype, c.elementBytes = "_f32", 4
	if x.DType == core.BFloat16 {
		c.dtype, c.elementBytes = "_bf16", 2
	}
	c.suffix = c.dtype
	if gateUpProj.DType == core.Float8E4M3 {
		c.suffix, c.elementBytes, c.scaled = "_e4m3"+c.dtype, 1, true
	}
	c.tokens, c.slots = int(index.Shape[0]), int(index.Shape[1])
	c.pairs, c.hidden = c.tokens*c.slots, int(x.Shape[1])
	c.experts, c.gateUp = int(gateUpProj.Shape[0]), int(gateUpProj.Shape[1])
	c.intermediate = int(downProj.Shape[2])
	var err error
	if c.hopper, c.tilesOnly, err = c.wantedKernels(d); err != nil {
		return err
	}
	c.arena = arena{base: ws.Base}
	return nil
}

// dispatch plans which rows each expert has.
func (c *expertsCall) dispatch(index *core.Tensor) {
	c.plan = newPlan(&c.arena, index, c.experts, c.hopper)
	c.launches = c.plan.launches()
}

// launch adds the launch of a kernel of this call's dtype, and launchProduct that of one that multiplies.
func (c *expertsCall) launch(kernel string, blocks int, params unsafe.Pointer) {
	c.launches = append(c.launches, launch(kernel+c.dtype, blocks, expertsThreads, params))
}

func (c *expertsCall) launchProduct(kernel string, p *expertsProduct, params unsafe.Pointer) {
	c.launches = append(c.launches, launch(kernel+c.suffix, c.productGrid(p), expertsThreads, params))
}

// grid is how many blocks share so many pieces of work: all kernels take any number of
// blocks. A few for each multiprocessor, so that short pieces make up for long ones.
func (c *expertsCall) grid(pieces int) int {
	const each = 8
	return min(pieces, each*max(1, c.device.MultiProcessors))
}

// activation is how the kernels read z.
func (c *expertsCall) activation() expertsActivation {
	return expertsActivation{
		kind: int32(c.options.Activation), gated: flag(c.options.Gated), interleaved: flag(c.options.Interleaved),
		intermediate: int32(c.intermediate), alpha: c.options.Alpha, limit: c.options.Limit,
	}
}

// scratchRows is memory for a row of so many columns for each pair, in the dtype of the hidden states.
func (c *expertsCall) scratchRows(columns int) expertsMatrix {
	return c.scratch(c.pairs, columns, suffixBytes[c.dtype])
}

// scratch is memory for rows of elements of so many bytes. They begin at multiples of 16 bytes, whatever their
// number of columns.
func (c *expertsCall) scratch(rows, columns, bytes int) expertsMatrix {
	each := max(8, 16/bytes)
	pitch := (columns + each - 1) / each * each
	return expertsMatrix{data: c.arena.take(uint64(rows) * uint64(pitch) * uint64(bytes)), row: int64(pitch), column: 1}
}

// product fills in what all products over rows have in common: result[r, n] = sum over
// d of rows[r, d] weights[e][n, d]. It returns the kernel's ending, which says how the weight lies.
func (c *expertsCall) product(p *expertsProduct, rows expertsMatrix, gathered bool, weights expertsStack, columns, depth int) (layout string) {
	p.tiles, p.tileCount = c.plan.params.tiles, c.plan.params.tileCount
	if gathered {
		p.rowPair = c.plan.params.rowPair
	}
	p.rows, p.weights = rows, weights
	p.columns, p.depth, p.slots = int32(columns), int32(depth), int32(c.slots)
	p.columnTiles = int32(blocksOf(columns, expertsTileSide))
	if p.halves != 0 {
		p.columnTiles = int32(blocksOf(columns/2, expertsTileSide/2))
	}
	p.rowsVector = flag(c.vector(rows.data, rows.column, rows.row))
	if weights.column != 1 && weights.row == 1 {
		// The second half of the columns begins where it does.
		half := int64(0)
		if p.halves != 0 {
			half = int64(columns / 2)
		}
		p.weightsVector = flag(c.vector(weights.data, weights.row, weights.column, weights.expert, half))
		return "_nn"
	}
	p.weightsVector = flag(c.vector(weights.data, weights.column, weights.row, weights.expert))
	return "_nt"
}

// productGrid is the grid of a product.
func (c *expertsCall) productGrid(p *expertsProduct) int {
	return c.grid(c.plan.tiles * int(p.columnTiles))
}

// vector reports whether lines can be copied 16 bytes at a time: their elements lie one
// behind the other and all lines begin at multiples of 16 bytes.
func (c *expertsCall) vector(data uintptr, between int64, strides ...int64) bool {
	if between != 1 || data%16 != 0 {
		return false
	}
	for _, stride := range strides {
		if stride*c.elementBytes%16 != 0 {
			return false
		}
	}
	return true
}

// matrixOf is a tensor with two axes as the kernels see it; the zero matrix for none.
func matrixOf(t *core.Tensor) expertsMatrix {
	if t == nil {
		return expertsMatrix{}
	}
	return expertsMatrix{addressOf(t), lineStride(t, 0), innerStride(t, 1)}
}

// stackOf is a tensor with three axes as the kernels see it.
func stackOf(t *core.Tensor) expertsStack {
	return expertsStack{addressOf(t), lineStride(t, 0), lineStride(t, 1), innerStride(t, 2)}
}

// transposed exchanges the axes of the matrices.
func (s expertsStack) transposed() expertsStack {
	s.row, s.column = s.column, s.row
	return s
}

// lineStride and innerStride are strides, with the ones that suit best for axes with one
// element at most, whose strides mean nothing.
func lineStride(t *core.Tensor, axis int) int64 {
	if t.Shape[axis] <= 1 {
		return 0
	}
	return t.Stride(axis)
}

func innerStride(t *core.Tensor, axis int) int64 {
	if t.Shape[axis] <= 1 {
		return 1
	}
	return t.Stride(axis)
}

func flag(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
