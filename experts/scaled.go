package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// Weights in float8_e4m3fn have a scale for each block of 128 x 128, and are multiplied by rows that are rounded to e4m3
// too, by blocks of 128 columns. Here both factors carry their scales: a rounded number is e4m3(x/s) s, a decoded weight
// its value times its block's scale, each rounded once to what is computed with. So the sums are those of genesis_moe.h
// but for rounding of float32, and any product of floats will do.

// scaled is a typed view of such weights.
type scaled struct {
	codes stack[core.E4M3]
	scale stack[float32]
}

func scaledOf(weight, scale *core.Tensor) scaled {
	return scaled{stackOf[core.E4M3](weight), stackOf[float32](scale)}
}

// timesScaled is y[m, i1-i0] = x[m, columns] W^T with rows [i0, i1) of an expert's weight W. The rows of x are rounded.
func timesScaled[F blas.Float](lib *blas.Library, w *worker[F], m int, x *F, ldx int, s *scaled, expert, i0, i1 int, y *F, ldy int) {
	n, k := i1-i0, s.codes.columns
	switch {
	case m == 0 || n == 0:
	case k == 0:
		clearRows(m, n, y, ldy)
	case is32[F]() && m <= rowsInPlace && s.codes.layout() == rowMajor:
		timesCodes(w, m, reinterpretPointer[float32](x), ldx, s, expert, i0, i1, reinterpretPointer[float32](y), ldy)
	default:
		ranges(n, max(1, convertedElements/k), func(first, last int) {
			b := decoded(w.weights, s, expert, i0+first, i0+last)
			multiply(lib, w, m, last-first, k, x, ldx, b, true, offset(y, first), ldy)
		})
	}
}

// rowsInPlace is up to how many rows are multiplied by the bytes of a weight as they lie; more are worth decoding them once.
const rowsInPlace = 10

// timesCodes is timesScaled for few rows, which reads a weight once, a byte for a number. Rows of a weight come in bands that
// share their scales, so these go to the columns of x.
func timesCodes[F blas.Float](w *worker[F], m int, x *float32, ldx int, s *scaled, expert, i0, i1 int, y *float32, ldy int) {
	k, rows := s.codes.columns, reinterpret[float32](w.scaled)
	for i := i0; i < i1; {
		end := min(i/core.ScaleBlock*core.ScaleBlock+core.ScaleBlock, i1)
		for row := range m {
			from, to := unsafe.Slice(offset(x, row*ldx), k), rows[row*k:(row+1)*k]
			ranges(k, core.ScaleBlock, func(first, last int) {
				vector.Scale(to[first:last], s.scaleOf(expert, i, first), from[first:last])
			})
		}
		vector.GemmNTE4M3(m, end-i, k, unsafe.SliceData(rows), k, s.codes.at(expert, i, 0), s.codes.row, offset(y, i-i0), ldy, false)
		i = end
	}
}

// scaledSize is the scratch for rows with a band's scales.
func scaledSize(slotRows int, s *scaled) int { return min(slotRows, rowsInPlace) * s.codes.columns }

// decodedSize is the scratch for a decoded part of a weight.
func decodedSize(s *scaled) int {
	if !s.codes.present {
		return 0
	}
	return max(convertedElements, s.codes.columns)
}

// decoded decodes rows [i0, i1) of an expert's weight into memory, keeping a transposed layout as it is.
func decoded[F blas.Float](memory []F, s *scaled, expert, i0, i1 int) block[F] {
	rows, columns := i1-i0, s.codes.columns
	if s.codes.layout() == columnMajor {
		for j := range columns {
			for i := i0; i < i1; {
				end := min(i/core.ScaleBlock*core.ScaleBlock+core.ScaleBlock, i1)
				decode(memory[j*rows+i-i0:j*rows+end-i0], s.codes.at(expert, i, j), s.codes.row, s.scaleOf(expert, i, j))
				i = end
			}
		}
		return block[F]{unsafe.SliceData(memory), rows, true}
	}
	for i := i0; i < i1; i++ {
		line := memory[(i-i0)*columns : (i-i0+1)*columns]
		ranges(columns, core.ScaleBlock, func(first, last int) {
			decode(line[first:last], s.codes.at(expert, i, first), s.codes.column, s.scaleOf(expert, i, first))
		})
	}
	return block[F]{unsafe.SliceData(memory), columns, false}
}

func (s *scaled) scaleOf(expert, i, j int) float32 {
	return *s.scale.at(expert, i/core.ScaleBlock, j/core.ScaleBlock)
}

// decode is dst[i] = scale src[i*stride].
func decode[F blas.Float](dst []F, src *core.E4M3, stride int, scale float32) {
	if is32[F]() && stride == 1 {
		vector.FromE4M3(reinterpret[float32](dst), unsafe.Slice(src, len(dst)), scale)
		return
	}
	for i := range dst {
		dst[i] = F(offset(src, i*stride).Float32()) * F(scale)
	}
}

// roundBlocks rounds a row to e4m3 with a scale for each block of columns; it begins where a block does.
func roundBlocks[F blas.Float](row []F) {
	ranges(len(row), core.ScaleBlock, func(first, last int) { roundBlock(row[first:last]) })
}

// roundBlock is x = s e4m3(x / s) with s = max |x| / 448, or 1 where that is 0.
func roundBlock[F blas.Float](x []F) {
	if is32[F]() {
		vector.RoundE4M3(reinterpret[float32](x))
		return
	}
	largest := float32(0)
	for _, v := range x {
		largest = max(largest, float32(max(v, -v)))
	}
	s := scaleOf(largest)
	for i, v := range x {
		x[i] = F(core.E4M3Of(float32(v)/s).Float32()) * F(s)
	}
}
