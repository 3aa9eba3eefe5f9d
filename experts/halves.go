package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// Where the processor multiplies bfloat16, products with bfloat16 weights take these as
// they are and the other factor rounded to bfloat16, as torch does; sums are float32 all
// the same. That is about twice as fast as converting the weights, from so many rows on:
// for the kernels of core/vector, which serve AVX512_BF16, and for a BLAS that knows AMX.
const (
	halvesFrom     = 12
	halvesFromBLAS = 48
)

// gradientRows is how many rows of a weight's gradient core/vector computes at a time:
// enough to pay for packing what they have in common, few enough to need little scratch.
const gradientRows = 256

// inHardware reports whether a product over tensors of S, with so many rows, is one of
// bfloat16 factors.
func inHardware[S stored, F blas.Float](lib *blas.Library, rows int) bool {
	if same[S, F]() {
		return false
	}
	if lib.HasBF16() {
		return rows >= halvesFromBLAS
	}
	return vector.HasHalves() && rows >= halvesFrom
}

// halved is inHardware for a weight that is used in place.
func halved[F blas.Float, S stored](lib *blas.Library, s *stack[S], rows int) bool {
	return inHardware[S, F](lib, rows) && s.layout() != scattered
}

// halvesSize is the scratch for the factors of products of up to so many rows with a
// weight, and for those of the weight's gradient.
func halvesSize[S stored, F blas.Float](lib *blas.Library, rows int, weight *stack[S]) int {
	columns := max(weight.rows, weight.columns)
	switch {
	case !inHardware[S, F](lib, rows):
		return 0
	case lib.HasBF16():
		return rows * (weight.rows + weight.columns)
	default:
		return max(vector.HalvesScratch(rows, columns), vector.HalvesScratch(min(gradientRows, columns), rows))
	}
}

// multiplyHalves is y[m,n] = x[m,k] B, or x B^T with transpose.
func multiplyHalves[F blas.Float, S stored](lib *blas.Library, w *worker[F], m, n, k int, x *F, ldx int, b block[S], transpose bool, y *F, ldy int) {
	b16, y32 := (*core.BF16)(unsafe.Pointer(b.data)), (*float32)(unsafe.Pointer(y))
	transpose = transpose != b.transposed
	switch {
	case lib.HasBF16():
		half, _ := round(w.halves, m, k, x, ldx)
		blas.GemmBF16(lib, &w.blas, false, transpose, m, n, k, 1, half, k, b16, b.ld, 0, y32, ldy)
	case transpose:
		vector.GemmNTHalves(m, n, k, (*float32)(unsafe.Pointer(x)), ldx, b16, b.ld, y32, ldy, false, w.halves)
	default:
		vector.GemmNNHalves(m, n, k, (*float32)(unsafe.Pointer(x)), ldx, b16, b.ld, y32, ldy, false, w.halves)
	}
}

// outerHalves is y[m,n] = a[k,m]^T b[k,n], or y += with accumulate.
func outerHalves[F blas.Float](lib *blas.Library, w *worker[F], m, n, k int, a *F, lda int, b *F, ldb int, accumulate bool, y *F, ldy int) {
	y32 := (*float32)(unsafe.Pointer(y))
	if !lib.HasBF16() {
		a32, b32 := (*float32)(unsafe.Pointer(a)), (*float32)(unsafe.Pointer(b))
		ranges(m, gradientRows, func(first, last int) {
			vector.GemmTNHalves(last-first, n, k, offset(a32, first), lda, b32, ldb, offset(y32, first*ldy), ldy, accumulate, w.halves)
		})
		return
	}
	halfA, rest := round(w.halves, k, m, a, lda)
	halfB, _ := round(rest, k, n, b, ldb)
	beta := float32(0)
	if accumulate {
		beta = 1
	}
	blas.GemmBF16(lib, &w.blas, true, false, m, n, k, 1, halfA, m, halfB, n, beta, y32, ldy)
}

// round converts rows one behind the other into memory, and returns what is left of it.
func round[F blas.Float](memory []core.BF16, rows, columns int, x *F, ldx int) (half *core.BF16, rest []core.BF16) {
	for i := range rows {
		store(memory[i*columns:(i+1)*columns], unsafe.Slice(offset(x, i*ldx), columns))
	}
	return unsafe.SliceData(memory), memory[rows*columns:]
}
