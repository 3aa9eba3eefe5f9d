//go:build !cgo && (linux || darwin || freebsd || netbsd)

package blas

import (
	"unsafe"

	"github.com/ebitengine/purego"
)

// callGemm is what call_cgo.go does in C, for builds without a C compiler.
func callGemm(gemm uintptr, w *Worker, a, b, c unsafe.Pointer) {
	purego.SyscallN(gemm,
		uintptr(unsafe.Pointer(&w.transA)), uintptr(unsafe.Pointer(&w.transB)),
		uintptr(unsafe.Pointer(&w.m)), uintptr(unsafe.Pointer(&w.n)), uintptr(unsafe.Pointer(&w.k)),
		uintptr(unsafe.Pointer(&w.alpha)), uintptr(a), uintptr(unsafe.Pointer(&w.lda)),
		uintptr(b), uintptr(unsafe.Pointer(&w.ldb)),
		uintptr(unsafe.Pointer(&w.beta)), uintptr(c), uintptr(unsafe.Pointer(&w.ldc)),
		1, 1)
}
