//go:build !amd64 || purego

package experts

// Without assembly, core/vector is plain Go and any BLAS is faster.
const (
	fewRowsNT = 0
	fewRowsNN = 0
	fewRowsTN = 0
)
