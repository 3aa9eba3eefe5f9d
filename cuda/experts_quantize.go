package cuda

import (
	"math"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// scaledRows are rows in float8_e4m3fn, with a scale for each of their blocks.
type scaledRows struct{ rows, scale expertsMatrix }

// scaledScratch is memory for so many of them.
func (c *expertsCall) scaledScratch(rows, columns int) scaledRows {
	blocks := core.ScaleBlocks(int64(columns))
	return scaledRows{
		rows:  c.scratch(rows, columns, 1),
		scale: expertsMatrix{data: c.arena.take(4 * uint64(rows) * uint64(blocks)), row: blocks, column: 1},
	}
}

// quantizeX and quantizeH add the launches that round the hidden states, and h: of its rows those that the experts'
// offsets say are there.
func (c *expertsCall) quantizeX(x expertsMatrix) scaledRows {
	q := c.scaledScratch(c.tokens, c.hidden)
	c.quantizeRows(x, q, c.dtype, c.tokens, c.hidden, 0)
	return q
}

func (c *expertsCall) quantizeH(h expertsMatrix, q scaledRows, offset uintptr) {
	c.quantizeRows(h, q, "_f32", c.pairs, c.intermediate, offset+4*uintptr(c.experts))
}

func (c *expertsCall) quantizeRows(source expertsMatrix, q scaledRows, suffix string, rows, columns int, count uintptr) {
	bytes := int64(suffixBytes[suffix])
	p := &quantizeRowsParams{
		source: source, quantized: q.rows, scale: q.scale, count: count, rows: int32(rows), columns: int32(columns),
		vector: flag(source.column == 1 && int64(source.data)%(4*bytes) == 0 && source.row%4 == 0),
	}
	pieces := blocksOf(rows*int(q.scale.row), expertsThreads/32)
	c.launches = append(c.launches, launch("gmoe_experts_quantize_rows"+suffix, c.grid(pieces), expertsThreads, unsafe.Pointer(p)))
}

// suffixBytes is the size of an element, by what ends the names of its kernels.
var suffixBytes = map[string]int{"_f32": 4, "_bf16": 2}

// expertsQuantizeWorkspace is how large a workspace the operation needs: none.
func expertsQuantizeWorkspace(d driver.Attributes, a *core.ExpertsQuantizeArgs) (uint64, error) {
	_, err := expertsQuantizeLaunches(d, a)
	return 0, err
}

// expertsQuantizeLaunches makes weights in float8_e4m3fn: a block of threads for each 128 x 128 of them.
func expertsQuantizeLaunches(d driver.Attributes, a *core.ExpertsQuantizeArgs) ([]driver.Launch, error) {
	suffix := ""
	switch a.Weight.DType {
	case core.Float32:
		suffix = "_f32"
	case core.BFloat16:
		suffix = "_bf16"
	default:
		return nil, core.Errorf(core.Unsupported, "weight: dtype %s on cuda, want float32 or bfloat16; float64 is the CPU's", a.Weight.DType)
	}
	for axis, size := range []string{"E", "R", "C"} {
		if n := a.Weight.Shape[axis]; n > math.MaxInt32-core.ScaleBlock {
			return nil, core.Errorf(core.Unsupported, "weight: %s is %d, want at most %d on cuda", size, n, math.MaxInt32-core.ScaleBlock)
		}
	}
	blocks := a.Weight.Shape[0] * core.ScaleBlocks(a.Weight.Shape[1]) * core.ScaleBlocks(a.Weight.Shape[2])
	fours := func(s expertsStack, bytes int64) int32 {
		return flag(s.column == 1 && int64(s.data)%(4*bytes) == 0 && s.row%4 == 0 && s.expert%4 == 0)
	}
	p := &quantizeWeightsParams{
		source: stackOf(a.Weight), quantized: stackOf(a.Quantized), scale: stackOf(a.Scale),
		experts: int32(a.Weight.Shape[0]), rows: int32(a.Weight.Shape[1]), columns: int32(a.Weight.Shape[2]),
	}
	p.sourceVector, p.quantizedVector = fours(p.source, int64(suffixBytes[suffix])), fours(p.quantized, 1)
	const each = 8 // for every multiprocessor, as c.grid
	grid := min(blocks, int64(each*max(1, d.MultiProcessors)))
	return []driver.Launch{launch("gmoe_experts_quantize_weights"+suffix, int(grid), expertsThreads, unsafe.Pointer(p))}, nil
}
