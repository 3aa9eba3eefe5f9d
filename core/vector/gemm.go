package vector

import "github.com/genesis-moe/genesis-moe/core"

// Up to so many rows, m of [GemmNT] and [GemmNN] and k of [GemmTN], these kernels
// beat a BLAS with this machine's instruction set; 0 where only the twins run.
// Measured against OpenBLAS 0.3.34 on one Ice Lake core, with float32 matrices of
// 512 to 4096 columns from memory: 2 to 4 times as fast up to 16 rows, 1.3 times at
// 64, even at the numbers given. In AVX2 on both sides the advantage ends sooner.
var SmallRowsNT, SmallRowsNN, SmallRowsTN = smallRows()

// SmallRows serves all three.
var SmallRows = min(SmallRowsNT, SmallRowsNN, SmallRowsTN)

// GemmNT multiplies by a transposed matrix:
//
//	y[m,n] = x[m,k] w[n,k]^T      (y += with accumulate)
//
// All are row-major, with ldx, ldw and ldy elements from row to row. It reads w
// once for every few rows of x: for few rows it runs at the speed of memory.
//
// An element of y does not depend on m and n: rows computed one at a time, or
// columns in parts, equal all computed at once, bit for bit.
func GemmNT(m, n, k int, x *float32, ldx int, w *float32, ldw int, y *float32, ldy int, accumulate bool) {
	if k <= 0 {
		emptyProduct(m, n, y, ldy, accumulate)
		return
	}
	if m > 0 && n > 0 {
		gemmNT(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
	}
}

// GemmNTBF16 is [GemmNT] with a w of bfloat16.
func GemmNTBF16(m, n, k int, x *float32, ldx int, w *core.BF16, ldw int, y *float32, ldy int, accumulate bool) {
	if k <= 0 {
		emptyProduct(m, n, y, ldy, accumulate)
		return
	}
	if m > 0 && n > 0 {
		gemmNTBF16(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
	}
}

// GemmNTE4M3 is [GemmNT] with a w of e4m3.
func GemmNTE4M3(m, n, k int, x *float32, ldx int, w *core.E4M3, ldw int, y *float32, ldy int, accumulate bool) {
	if k <= 0 {
		emptyProduct(m, n, y, ldy, accumulate)
		return
	}
	if m > 0 && n > 0 {
		gemmNTE4M3(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
	}
}

// GemmNN multiplies by a matrix:
//
//	y[m,n] = x[m,k] w[k,n]      (y += with accumulate)
//
// All are row-major, with ldx, ldw and ldy elements from row to row. As with
// [GemmNT], an element of y does not depend on m and n.
func GemmNN(m, n, k int, x *float32, ldx int, w *float32, ldw int, y *float32, ldy int, accumulate bool) {
	if k <= 0 {
		emptyProduct(m, n, y, ldy, accumulate)
		return
	}
	if m > 0 && n > 0 {
		gemmNN(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
	}
}

// GemmNNBF16 is [GemmNN] with a w of bfloat16.
func GemmNNBF16(m, n, k int, x *float32, ldx int, w *core.BF16, ldw int, y *float32, ldy int, accumulate bool) {
	if k <= 0 {
		emptyProduct(m, n, y, ldy, accumulate)
		return
	}
	if m > 0 && n > 0 {
		gemmNNBF16(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
	}
}

// GemmTN multiplies a transposed matrix, for the gradient of a weight matrix over
// few rows k:
//
//	y[m,n] = a[k,m]^T b[k,n]
//
// All are row-major, with lda, ldb and ldy elements from row to row. y is written
// once; with stream past the caches, where the rows of y can be aligned for it,
// which is best when y is larger than them.
func GemmTN(m, n, k int, a *float32, lda int, b *float32, ldb int, y *float32, ldy int, stream bool) {
	if k <= 0 {
		emptyProduct(m, n, y, ldy, false)
		return
	}
	if m > 0 && n > 0 {
		gemmTN(m, n, k, a, lda, b, ldb, y, ldy, stream)
	}
}

// emptyProduct is a product over no elements: it adds nothing, to y or to zero.
func emptyProduct(m, n int, y *float32, ldy int, accumulate bool) {
	if accumulate || n <= 0 {
		return
	}
	for i := range m {
		clear(rowOf(y, ldy, i, n))
	}
}
