// Package vector holds the float32 kernels that experts and router run on the
// CPU: small matrix products that read a weight matrix once at the speed of
// memory, SwiGLU, softmax, and conversions from and to bfloat16.
//
// Each kernel exists as a readable Go function, its twin, and as assembly for
// AVX-512 and for AVX2 with FMA. What runs is chosen once, when the program starts;
// the build tag purego leaves the twins. The assembly is written by the program in
// gen, with avo: go generate runs it, and go -C gen test . checks that the files
// committed here, zz_generated_*, are what it writes. (Go's own simd package,
// GOEXPERIMENT=simd, was tried first: of the 32 registers of AVX-512 it uses 15,
// and spills the sums that a matrix product must keep.)
//
// Lengths are checked where slices say them, and a mismatch panics. The matrix
// products take addresses, as a BLAS does, and touch exactly the elements that
// their arguments describe. Arguments need no alignment. An output may be an
// input where a function says so, and must not overlap it otherwise.
//
// Every kernel is deterministic: equal arguments give equal bits on one machine.
package vector
