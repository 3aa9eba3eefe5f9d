package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// convertedElements is how much of a weight is converted at a time when it cannot be
// used in place: it should stay in the second-level cache until it is multiplied.
const convertedElements = 256 << 10

// convertedSize is the scratch for a converted part of a weight; none where it is used
// in place, as it also is where core/vector multiplies any number of rows of bfloat16.
func convertedSize[F blas.Float, S stored](s *stack[S]) int {
	if !s.present || (same[S, F]() || vector.HasHalves()) && s.layout() != scattered {
		return 0
	}
	return max(convertedElements, s.rows, s.columns)
}

// timesTransposed is y[m, i1-i0] = x[m, columns] W^T with rows [i0, i1) of an expert's
// weight W.
func timesTransposed[F blas.Float, S stored](lib *blas.Library, w *worker[F], m int, x *F, ldx int, s *stack[S], expert, i0, i1 int, y *F, ldy int) {
	n, k := i1-i0, s.columns
	switch {
	case m == 0 || n == 0:
	case k == 0:
		clearRows(m, n, y, ldy)
	case halved[F](lib, s, m):
		multiplyHalves(lib, w, m, n, k, x, ldx, s.inPlace(expert, i0, 0), true, y, ldy)
	case usedInPlace[F](s, m, true):
		multiplyStored(lib, w, m, n, k, x, ldx, s.inPlace(expert, i0, 0), true, y, ldy)
	default:
		ranges(n, max(1, convertedElements/k), func(first, last int) {
			b := copied(w.weights, s, expert, i0+first, i0+last, 0, k)
			multiply(lib, w, m, last-first, k, x, ldx, b, true, offset(y, first), ldy)
		})
	}
}

// times is y[m, j1-j0] = x[m, rows] W with columns [j0, j1) of an expert's weight W.
func times[F blas.Float, S stored](lib *blas.Library, w *worker[F], m int, x *F, ldx int, s *stack[S], expert, j0, j1 int, y *F, ldy int) {
	n, k := j1-j0, s.rows
	switch {
	case m == 0 || n == 0:
	case k == 0:
		clearRows(m, n, y, ldy)
	case halved[F](lib, s, m):
		multiplyHalves(lib, w, m, n, k, x, ldx, s.inPlace(expert, 0, j0), false, y, ldy)
	case usedInPlace[F](s, m, false):
		multiplyStored(lib, w, m, n, k, x, ldx, s.inPlace(expert, 0, j0), false, y, ldy)
	default:
		ranges(n, max(1, convertedElements/k), func(first, last int) {
			b := copied(w.weights, s, expert, 0, k, j0+first, j0+last)
			multiply(lib, w, m, last-first, k, x, ldx, b, false, offset(y, first), ldy)
		})
	}
}

// usedInPlace reports whether m rows are multiplied by a weight, or its transpose, where
// it is: without a BLAS, also a bfloat16 one.
func usedInPlace[F blas.Float, S stored](s *stack[S], m int, transpose bool) bool {
	layout := s.layout()
	return layout != scattered && (same[S, F]() || few[F](m, transpose != (layout == columnMajor)))
}

// few reports whether m rows are multiplied by core/vector: y = x B^T when transposed.
func few[F blas.Float](m int, transposed bool) bool {
	if transposed {
		return is32[F]() && m <= vector.SmallRowsNT
	}
	return is32[F]() && m <= vector.SmallRowsNN
}

// multiplyStored multiplies by a weight in place.
func multiplyStored[F blas.Float, S stored](lib *blas.Library, w *worker[F], m, n, k int, x *F, ldx int, b block[S], transpose bool, y *F, ldy int) {
	if same[S, F]() {
		multiply(lib, w, m, n, k, x, ldx, block[F]{(*F)(unsafe.Pointer(b.data)), b.ld, b.transposed}, transpose, y, ldy)
		return
	}
	x32, b16, y32 := (*float32)(unsafe.Pointer(x)), (*core.BF16)(unsafe.Pointer(b.data)), (*float32)(unsafe.Pointer(y))
	if transpose != b.transposed {
		vector.GemmNTBF16(m, n, k, x32, ldx, b16, b.ld, y32, ldy, false)
	} else {
		vector.GemmNNBF16(m, n, k, x32, ldx, b16, b.ld, y32, ldy, false)
	}
}

// multiply is y[m,n] = x[m,k] B, or x B^T with transpose.
func multiply[F blas.Float](lib *blas.Library, w *worker[F], m, n, k int, x *F, ldx int, b block[F], transpose bool, y *F, ldy int) {
	if !few[F](m, transpose != b.transposed) {
		blas.Gemm(lib, &w.blas, false, transpose != b.transposed, m, n, k, 1, x, ldx, b.data, b.ld, 0, y, ldy)
		return
	}
	x32, b32, y32 := (*float32)(unsafe.Pointer(x)), (*float32)(unsafe.Pointer(b.data)), (*float32)(unsafe.Pointer(y))
	if transpose != b.transposed {
		vector.GemmNT(m, n, k, x32, ldx, b32, b.ld, y32, ldy, false)
	} else {
		vector.GemmNN(m, n, k, x32, ldx, b32, b.ld, y32, ldy, false)
	}
}

func clearRows[F blas.Float](m, n int, y *F, ldy int) {
	for i := range m {
		clear(unsafe.Slice(offset(y, i*ldy), n))
	}
}

// A weight's gradient is the sum over rows r of a[r, i] b[r, j]. It is computed in the
// gradient's own memory where that is laid out for it; else a part at a time, or, for
// an expert of several units, in memory that keeps the sum from one to the next.

// gradientTile is the scratch for a part of a gradient that is not computed in place.
func gradientTile[F blas.Float, S stored](g *stack[S]) int {
	if !g.present || same[S, F]() && g.layout() != scattered {
		return 0
	}
	return max(convertedElements, g.rows, g.columns)
}

// weightGradient writes rows [i0, i1) of an expert's gradient, or adds to them when the
// unit does not open its expert. sum is memory for the whole matrix, needed only
// for experts of several units whose gradient is not computed in place.
func weightGradient[F blas.Float, S stored](lib *blas.Library, w *worker[F], u *unit, a *F, lda int, b *F, ldb int, g *stack[S], i0, i1 int, sum []F) {
	m, n, k := i1-i0, g.columns, u.rows()
	if m == 0 || n == 0 {
		return
	}
	row, column, accumulate := g.row, g.column, !u.opens
	sumLD, sumFirst := g.columns, i0*g.columns
	first := g.at(u.expert, i0, 0)
	a = offset(a, i0)
	if g.layout() == columnMajor {
		m, n, a, lda, b, ldb, row, column = n, m, b, ldb, a, lda, column, row
		sumLD, sumFirst = g.rows, i0
	}
	switch {
	case same[S, F]() && g.layout() != scattered:
		outer[S](lib, w, m, n, k, a, lda, b, ldb, accumulate, (*F)(unsafe.Pointer(first)), row, true)
	case u.opens && u.ends:
		ranges(m, max(1, convertedElements/n), func(p, q int) {
			outer[S](lib, w, q-p, n, k, offset(a, p), lda, b, ldb, false, unsafe.SliceData(w.gradient), n, false)
			writeBlock(offset(first, p*row), row, column, q-p, n, w.gradient, n)
		})
	default:
		outer[S](lib, w, m, n, k, a, lda, b, ldb, accumulate, &sum[sumFirst], sumLD, false)
		if u.ends {
			writeBlock(first, row, column, m, n, sum[sumFirst:], sumLD)
		}
	}
}

// outer is y[m,n] = a[k,m]^T b[k,n], or y += with accumulate, for a gradient of S.
func outer[S stored, F blas.Float](lib *blas.Library, w *worker[F], m, n, k int, a *F, lda int, b *F, ldb int, accumulate bool, y *F, ldy int, stream bool) {
	if is32[F]() && k <= vector.SmallRowsTN && !accumulate && !inHardware[S, F](lib, k) {
		vector.GemmTN(m, n, k, (*float32)(unsafe.Pointer(a)), lda, (*float32)(unsafe.Pointer(b)), ldb, (*float32)(unsafe.Pointer(y)), ldy, stream)
		return
	}
	if inHardware[S, F](lib, k) {
		outerHalves(lib, w, m, n, k, a, lda, b, ldb, accumulate, y, ldy)
		return
	}
	beta := F(0)
	if accumulate {
		beta = 1
	}
	blas.Gemm(lib, &w.blas, true, false, m, n, k, 1, a, lda, b, ldb, beta, y, ldy)
}

func writeBlock[S stored, F blas.Float](first *S, row, column, m, n int, src []F, ld int) {
	for i := range m {
		line := src[i*ld : i*ld+n]
		if column == 1 {
			store(unsafe.Slice(offset(first, i*row), n), line)
		} else {
			scatter(offset(first, i*row), column, line)
		}
	}
}
