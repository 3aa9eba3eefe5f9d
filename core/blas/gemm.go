package blas

import (
	"structs"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// Float lists the element types of [Gemm].
type Float interface{ float32 | float64 }

// Worker is the block of memory through which one call at a time passes its
// arguments. BLAS takes every argument by address; a worker keeps them in one
// place that is reused, so a call allocates nothing. The zero value is ready. Do not
// share one between concurrent calls.
type Worker struct {
	_              structs.HostLayout // it is also C's; see call_cgo.go
	transA, transB byte
	m, n, k        int64
	lda, ldb, ldc  int64
	alpha, beta    uint64 // the bits of a float32 or a float64
}

// Gemm computes the row-major product
//
//	C[m,n] = alpha op(A)[m,k] op(B)[k,n] + beta C[m,n]
//
// where op transposes if transA or transB is set: A is stored as [m,k], or as [k,m]
// when transposed. lda, ldb and ldc are the distances in elements between the
// stored rows. With beta = 0, C is not read. m, n and k may be 0.
//
// It runs on the calling thread. It panics with a [core.Error] when a size is
// negative, a distance is shorter than its row, or a matrix is missing: the
// caller has validated what came from outside.
func Gemm[F Float](lib *Library, w *Worker, transA, transB bool, m, n, k int, alpha F, a *F, lda int, b *F, ldb int, beta F, c *F, ldc int) {
	lda, ldb, ldc = checkGemm(transA, transB, m, n, k, a != nil, lda, b != nil, ldb, c != nil, ldc)
	if m == 0 || n == 0 {
		return
	}
	if k == 0 || alpha == 0 {
		scale(m, n, beta, c, ldc)
		return
	}
	gemm := lib.sgemm
	if unsafe.Sizeof(alpha) == 8 {
		gemm = lib.dgemm
	}
	if gemm == 0 || max(m, n, k, lda, ldb, ldc) > lib.maxDimension {
		gonumGemm(transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
		return
	}
	*(*F)(unsafe.Pointer(&w.alpha)) = alpha
	*(*F)(unsafe.Pointer(&w.beta)) = beta
	w.call(lib, gemm, transA, transB, m, n, k, unsafe.Pointer(a), lda, unsafe.Pointer(b), ldb, unsafe.Pointer(c), ldc)
}

// call hands a row-major product to a column-major BLAS, which sees every matrix
// transposed: C^T = op(B)^T op(A)^T, so the operands change places.
func (w *Worker) call(lib *Library, gemm uintptr, transA, transB bool, m, n, k int, a unsafe.Pointer, lda int, b unsafe.Pointer, ldb int, c unsafe.Pointer, ldc int) {
	w.transA, w.transB = transposition(transB), transposition(transA)
	// 64-bit cells serve libraries with 32-bit integers too: these read the lower half,
	// which comes first on every machine that genesis-moe builds for.
	w.m, w.n, w.k = int64(n), int64(m), int64(k)
	w.lda, w.ldb, w.ldc = int64(ldb), int64(lda), int64(ldc)
	if lib.threads.set != 0 {
		defer lib.threads.one()()
	}
	callGemm(gemm, w, b, a, c)
}

func transposition(transposed bool) byte {
	if transposed {
		return 'T'
	}
	return 'N'
}

// checkGemm returns the distances to pass on: that of a matrix with a single stored
// row means nothing and may be anything, but BLAS insists on a valid one.
func checkGemm(transA, transB bool, m, n, k int, hasA bool, lda int, hasB bool, ldb int, hasC bool, ldc int) (int, int, int) {
	if m < 0 || n < 0 || k < 0 {
		panic(core.Errorf(core.Internal, "gemm: m = %d, n = %d, k = %d, want none negative", m, n, k))
	}
	if m == 0 || n == 0 {
		return lda, ldb, ldc
	}
	if k > 0 {
		lda = checkMatrix("a", transA, m, k, hasA, lda)
		ldb = checkMatrix("b", transB, k, n, hasB, ldb)
	}
	return lda, ldb, checkMatrix("c", false, m, n, hasC, ldc)
}

func checkMatrix(name string, transposed bool, rows, columns int, present bool, ld int) int {
	if transposed {
		rows, columns = columns, rows
	}
	if !present {
		panic(core.Errorf(core.Internal, "gemm: %s is nil, want a [%d, %d] matrix", name, rows, columns))
	}
	if rows == 1 {
		return columns
	}
	if ld < columns {
		panic(core.Errorf(core.Internal, "gemm: ld%s = %d, want at least %d, the columns of %s", name, ld, columns, name))
	}
	return ld
}

// scale is C = beta C, without reading C when beta is 0.
func scale[F Float](m, n int, beta F, c *F, ldc int) {
	if beta == 1 {
		return
	}
	for i := range m {
		row := unsafe.Slice((*F)(unsafe.Add(unsafe.Pointer(c), i*ldc*int(unsafe.Sizeof(beta)))), n)
		if beta == 0 {
			clear(row)
			continue
		}
		for j := range row {
			row[j] *= beta
		}
	}
}
