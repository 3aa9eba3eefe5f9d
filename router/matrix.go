package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// matrix is rows of F, each contiguous, stride elements apart.
type matrix[F blas.Float] struct {
	data   []F
	stride int
}

// row is the first n elements of row i.
func (m matrix[F]) row(i, n int) []F { return m.data[i*m.stride : i*m.stride+n] }

// from is the matrix without its first rows.
func (m matrix[F]) from(row int) matrix[F] { return matrix[F]{m.data[row*m.stride:], m.stride} }

// at is the part of the matrix that starts at a column.
func (m matrix[F]) at(column int) matrix[F] { return matrix[F]{m.data[column:], m.stride} }

// view is the tensor [rows, columns] itself where its rows are contiguous F, which
// is what the kernels read; else it has to be copied.
func view[F blas.Float](t *core.Tensor) (matrix[F], bool) {
	rows, columns := t.Shape[0], t.Shape[1]
	if t.DType != core.DTypeOf[F]() || columns > 1 && t.Stride(1) != 1 {
		return matrix[F]{}, false
	}
	stride := columns
	if rows > 1 {
		stride = t.Stride(0)
	}
	if stride < columns {
		return matrix[F]{}, false
	}
	if rows == 0 {
		return matrix[F]{nil, int(columns)}, true
	}
	return matrix[F]{core.Slice[F](t, 0, (rows-1)*stride+columns), int(stride)}, true
}

// load reads n elements of a tensor, from an element offset on, stride apart.
func load[F blas.Float](dst []F, t *core.Tensor, offset, stride int64) {
	n := int64(len(dst))
	if wide, ok := any(dst).([]float32); ok && stride == 1 && t.DType == core.BFloat16 {
		vector.FromBF16(wide, core.Slice[core.BF16](t, offset, n))
		return
	}
	if stride == 1 && t.DType == core.DTypeOf[F]() {
		copy(dst, core.Slice[F](t, offset, n))
		return
	}
	for i := range dst {
		switch p := t.At(offset + int64(i)*stride); t.DType {
		case core.Float32:
			dst[i] = F(*(*float32)(p))
		case core.Float64:
			dst[i] = F(*(*float64)(p))
		default:
			dst[i] = F(math.Float32frombits(uint32(*(*core.BF16)(p)) << 16))
		}
	}
}

// store writes src to elements of a tensor, rounding to bfloat16 where it holds that.
func store[F blas.Float](t *core.Tensor, offset, stride int64, src []F) {
	n := int64(len(src))
	if narrow, ok := any(src).([]float32); ok && stride == 1 && t.DType == core.BFloat16 {
		vector.ToBF16(core.Slice[core.BF16](t, offset, n), narrow)
		return
	}
	if stride == 1 && t.DType == core.DTypeOf[F]() {
		copy(core.Slice[F](t, offset, n), src)
		return
	}
	for i, v := range src {
		switch p := t.At(offset + int64(i)*stride); t.DType {
		case core.Float32:
			*(*float32)(p) = float32(v)
		case core.Float64:
			*(*float64)(p) = float64(v)
		default:
			one := [1]float32{float32(v)}
			vector.ToBF16((*[1]core.BF16)(p)[:], one[:])
		}
	}
}

// loadVector copies a tensor [n] into scratch; nil if there is none.
func loadVector[F blas.Float](s *core.Scratch, t *core.Tensor) []F {
	if t == nil {
		return nil
	}
	v := core.Take[F](s, int(t.Shape[0]))
	load(v, t, 0, t.Stride(0))
	return v
}

// loadScalar is the value of a tensor [1], or what it is without one.
func loadScalar[F blas.Float](t *core.Tensor, without F) F {
	if t == nil {
		return without
	}
	var v [1]F
	load(v[:], t, 0, 1)
	return v[0]
}

// loadMatrix is the tensor [rows, columns] in place, or copied into scratch.
func loadMatrix[F blas.Float](s *core.Scratch, t *core.Tensor) matrix[F] {
	if m, ok := view[F](t); ok {
		return m
	}
	rows, columns := int(t.Shape[0]), int(t.Shape[1])
	m := matrix[F]{core.Take[F](s, rows*columns), columns}
	for i := range rows {
		load(m.row(i, columns), t, int64(i)*t.Stride(0), t.Stride(1))
	}
	return m
}

// reader gives blocks of rows of a tensor [T, n]: in place where it can.
type reader[F blas.Float] struct {
	tensor *core.Tensor
	whole  matrix[F]
	direct bool
}

func newReader[F blas.Float](t *core.Tensor) reader[F] {
	whole, direct := view[F](t)
	return reader[F]{t, whole, direct}
}

// bufferSize is the number of elements that block needs for its buffer.
func (r reader[F]) bufferSize(rows, columns int) int {
	if r.direct {
		return 0
	}
	return rows * columns
}

// block is rows [first, first+rows) and columns [column, column+columns).
func (r reader[F]) block(buffer []F, first, rows, column, columns int) matrix[F] {
	if r.direct {
		return r.whole.from(first).at(column)
	}
	m := matrix[F]{buffer[:rows*columns], columns}
	for i := range rows {
		offset := int64(first+i)*r.tensor.Stride(0) + int64(column)*r.tensor.Stride(1)
		load(m.row(i, columns), r.tensor, offset, r.tensor.Stride(1))
	}
	return m
}

// writer takes blocks of rows of a tensor [T, n]: they are computed in place where
// they can be, else in a buffer that flush copies.
type writer[F blas.Float] struct {
	reader[F]
}

func newWriter[F blas.Float](t *core.Tensor) writer[F] {
	if t == nil {
		return writer[F]{}
	}
	return writer[F]{newReader[F](t)}
}

// place is where to compute a block.
func (w writer[F]) place(buffer []F, first, rows, column, columns int) matrix[F] {
	if w.direct {
		return w.whole.from(first).at(column)
	}
	return matrix[F]{buffer[:rows*columns], columns}
}

// flush stores a block that place put into a buffer.
func (w writer[F]) flush(m matrix[F], first, rows, column, columns int) {
	if w.direct || w.tensor == nil {
		return
	}
	for i := range rows {
		offset := int64(first+i)*w.tensor.Stride(0) + int64(column)*w.tensor.Stride(1)
		store(w.tensor, offset, w.tensor.Stride(1), m.row(i, columns))
	}
}

// copyFrom stores a block that was computed elsewhere.
func (w writer[F]) copyFrom(m matrix[F], first, rows, columns int) {
	if w.tensor == nil {
		return
	}
	for i := range rows {
		store(w.tensor, int64(first+i)*w.tensor.Stride(0), w.tensor.Stride(1), m.row(i, columns))
	}
}

// loadIndex is an element of an index tensor.
func loadIndex(t *core.Tensor, offset int64) int64 {
	if t.DType == core.Int32 {
		return int64(*(*int32)(t.At(offset)))
	}
	return *(*int64)(t.At(offset))
}

func storeIndex(t *core.Tensor, offset, value int64) {
	if t.DType == core.Int32 {
		*(*int32)(t.At(offset)) = int32(value)
		return
	}
	*(*int64)(t.At(offset)) = value
}
