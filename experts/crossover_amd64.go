//go:build !purego

package experts

// Up to so many rows the kernels of core/vector beat a BLAS, which packs the weights
// anew for every product: measured against OpenBLAS 0.3.34 on an Ice Lake, one
// thread, weights from memory. In their own terms: NT for x W^T, NN for x W, and TN
// for gradients of the weights, where the rows are summed over.
const (
	fewRowsNT = 192
	fewRowsNN = 160
	fewRowsTN = 104
)
