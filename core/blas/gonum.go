package blas

import (
	"unsafe"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// Gonum is the library that is always there: pure Go, and many times slower than
// an optimised BLAS.
func Gonum() *Library { return &Library{name: "gonum", path: "built in"} }

// A tile of C small enough that gonum computes it on the calling thread: from four
// blocks of 64x64 on, it starts goroutines of its own. The depth of a step keeps its
// rows of B in the second-level cache.
const (
	tileRows    = 64
	tileColumns = 192
	tileDepth   = 256
)

func gonumGemm[F Float](transA, transB bool, m, n, k int, alpha F, a *F, lda int, b *F, ldb int, beta F, c *F, ldc int) {
	tA, tB := blas.NoTrans, blas.NoTrans
	if transA {
		tA = blas.Trans
	}
	if transB {
		tB = blas.Trans
	}
	for i := 0; i < m; i += tileRows {
		rows := min(tileRows, m-i)
		for j := 0; j < n; j += tileColumns {
			columns := min(tileColumns, n-j)
			for l := 0; l < k; l += tileDepth {
				depth := min(tileDepth, k-l)
				tileBeta := beta
				if l > 0 {
					tileBeta = 1
				}
				gonumTile(tA, tB, rows, columns, depth, alpha,
					block(a, transA, i, l, rows, depth, lda), lda,
					block(b, transB, l, j, depth, columns, ldb), ldb,
					tileBeta, block(c, false, i, j, rows, columns, ldc), ldc)
			}
		}
	}
}

func gonumTile[F Float](tA, tB blas.Transpose, m, n, k int, alpha F, a []F, lda int, b []F, ldb int, beta F, c []F, ldc int) {
	var implementation gonum.Implementation
	switch a := any(a).(type) {
	case []float32:
		implementation.Sgemm(tA, tB, m, n, k, float32(alpha), a, lda, any(b).([]float32), ldb, float32(beta), any(c).([]float32), ldc)
	case []float64:
		implementation.Dgemm(tA, tB, m, n, k, float64(alpha), a, lda, any(b).([]float64), ldb, float64(beta), any(c).([]float64), ldc)
	}
}

// block is op(matrix)[row:row+rows, column:column+columns] as it is stored.
func block[F Float](matrix *F, transposed bool, row, column, rows, columns, ld int) []F {
	if transposed {
		row, column, rows, columns = column, row, columns, rows
	}
	var f F
	first := (*F)(unsafe.Add(unsafe.Pointer(matrix), (row*ld+column)*int(unsafe.Sizeof(f))))
	return unsafe.Slice(first, (rows-1)*ld+columns)
}
