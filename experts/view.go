package experts

import (
	"math"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// matrix is a typed view of a tensor with two axes and any strides.
type matrix[S stored] struct {
	data          *S // element (0, 0); nil where there is none
	row, column   int
	rows, columns int
	present       bool
	direct        bool // the elements of a row lie one behind the other
	multipliable  bool // and a BLAS can take rows that follow one another where they are
}

func matrixOf[S stored](t *core.Tensor) matrix[S] {
	if t == nil {
		return matrix[S]{}
	}
	m := matrix[S]{
		rows: int(t.Shape[0]), columns: int(t.Shape[1]),
		row: int(t.Stride(0)), column: int(t.Stride(1)), present: true,
	}
	if t.Elements() > 0 {
		m.data = (*S)(t.At(0))
	}
	if m.rows <= 1 {
		m.row = max(1, m.columns)
	}
	m.direct = m.column == 1 || m.columns <= 1
	m.multipliable = m.direct && m.row >= max(1, m.columns) && m.row <= math.MaxInt32
	return m
}

// at is the address of an element.
func (m *matrix[S]) at(i, j int) *S { return offset(m.data, i*m.row+j*m.column) }

// read converts row i from column j on.
func read[F blas.Float, S stored](dst []F, m *matrix[S], i, j int) {
	if len(dst) == 0 {
		return
	}
	if m.direct {
		load(dst, unsafe.Slice(m.at(i, j), len(dst)))
		return
	}
	gather(dst, m.at(i, j), m.column)
}

// write converts into row i from column j on.
func write[S stored, F blas.Float](m *matrix[S], i, j int, src []F) {
	if len(src) == 0 {
		return
	}
	if m.direct {
		store(unsafe.Slice(m.at(i, j), len(src)), src)
		return
	}
	scatter(m.at(i, j), m.column, src)
}

// stack is a typed view of weights: one matrix for each expert, any strides.
type stack[S any] struct {
	data                   *S
	expert, row, column    int
	experts, rows, columns int
	present                bool
}

func stackOf[S any](t *core.Tensor) stack[S] {
	if t == nil {
		return stack[S]{}
	}
	s := stack[S]{
		experts: int(t.Shape[0]), rows: int(t.Shape[1]), columns: int(t.Shape[2]),
		expert: int(t.Stride(0)), row: int(t.Stride(1)), column: int(t.Stride(2)), present: true,
	}
	if t.Elements() > 0 {
		s.data = (*S)(t.At(0))
	}
	// The stride of an axis with one element means nothing.
	if s.columns <= 1 {
		s.column = 1
	}
	if s.rows <= 1 {
		s.row = max(1, s.columns)
	}
	return s
}

func (s *stack[S]) at(expert, i, j int) *S {
	return offset(s.data, expert*s.expert+i*s.row+j*s.column)
}

// layout says how a BLAS can use a matrix of the stack in place.
func (s *stack[S]) layout() layout {
	switch {
	case s.column == 1 && s.row >= max(1, s.columns) && s.row <= math.MaxInt32:
		return rowMajor
	case s.row == 1 && s.column >= max(1, s.rows) && s.column <= math.MaxInt32:
		return columnMajor
	default:
		return scattered
	}
}

type layout uint8

const (
	rowMajor layout = iota
	columnMajor
	scattered
)

// block is a part of a weight matrix as a matrix product takes it: element (i, j) is
// data[i*ld+j], or data[j*ld+i] when transposed.
type block[S any] struct {
	data       *S
	ld         int
	transposed bool
}

// inPlace is the block of rows from i and columns from j on. The layout is not scattered.
func (s *stack[S]) inPlace(expert, i, j int) block[S] {
	if s.layout() == columnMajor {
		return block[S]{s.at(expert, i, j), s.column, true}
	}
	return block[S]{s.at(expert, i, j), s.row, false}
}

// copied converts a block of rows [i0, i1) and columns [j0, j1) into memory for
// (i1-i0)*(j1-j0) elements, keeping a transposed layout as it is.
func copied[F blas.Float, S stored](memory []F, s *stack[S], expert, i0, i1, j0, j1 int) block[F] {
	rows, columns, row, column := i1-i0, j1-j0, s.row, s.column
	transposed := s.layout() == columnMajor
	if transposed {
		rows, columns, row, column = columns, rows, column, row
	}
	first := s.at(expert, i0, j0)
	for i := range rows {
		dst := memory[i*columns : (i+1)*columns]
		if column == 1 {
			load(dst, unsafe.Slice(offset(first, i*row), columns))
		} else {
			gather(dst, offset(first, i*row), column)
		}
	}
	return block[F]{unsafe.SliceData(memory), columns, transposed}
}

// offset is the address n elements further on.
func offset[S any](p *S, n int) *S {
	return (*S)(unsafe.Add(unsafe.Pointer(p), n*int(unsafe.Sizeof(*p))))
}

func gather[F blas.Float, S stored](dst []F, src *S, stride int) {
	for j := range dst {
		load(dst[j:j+1], unsafe.Slice(offset(src, j*stride), 1))
	}
}

func scatter[S stored, F blas.Float](dst *S, stride int, src []F) {
	for j := range src {
		store(unsafe.Slice(offset(dst, j*stride), 1), src[j:j+1])
	}
}
