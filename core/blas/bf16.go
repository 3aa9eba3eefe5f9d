package blas

import (
	"bytes"
	"os"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// HasBF16 reports whether [GemmBF16] runs in hardware made for it: the library has the
// product and the processor AMX. With AVX512_BF16 alone, core/vector has kernels of its own.
func (l *Library) HasBF16() bool { return l.bf16 != 0 }

// GemmBF16 is [Gemm] for bf16 matrices A and B, accumulated in and written as f32.
// It panics where [Library.HasBF16] is false.
func GemmBF16(lib *Library, w *Worker, transA, transB bool, m, n, k int, alpha float32, a *core.BF16, lda int, b *core.BF16, ldb int, beta float32, c *float32, ldc int) {
	if !lib.HasBF16() || max(m, n, k, lda, ldb, ldc) > lib.maxDimension {
		panic(core.Errorf(core.Unsupported, "gemm: %s has no bf16 product of m = %d, n = %d, k = %d here", lib.name, m, n, k))
	}
	lda, ldb, ldc = checkGemm(transA, transB, m, n, k, a != nil, lda, b != nil, ldb, c != nil, ldc)
	if m == 0 || n == 0 {
		return
	}
	if k == 0 || alpha == 0 {
		scale(m, n, beta, c, ldc)
		return
	}
	*(*float32)(unsafe.Pointer(&w.alpha)) = alpha
	*(*float32)(unsafe.Pointer(&w.beta)) = beta
	w.call(lib, lib.bf16, transA, transB, m, n, k, unsafe.Pointer(a), lda, unsafe.Pointer(b), ldb, unsafe.Pointer(c), ldc)
}

// findBF16 looks for OpenBLAS's or MKL's product, which take the same arguments. One
// that gives wrong numbers is as good as none. So is MKL's on a processor that is not
// Intel's: it converts and multiplies in f32, on as many threads as it likes.
func (l *Library) findBF16(object object, naming naming, intel bool) {
	names := []string{"sbgemm", "gemm_bf16bf16f32"}
	if !intel {
		names = names[:1]
	}
	for _, name := range names {
		l.bf16 = object.symbol(naming.prefix + name + naming.suffix)
		if l.bf16 != 0 && selfTestBF16(l) == nil {
			return
		}
	}
	l.bf16 = 0
}

// processorHasBF16 asks the kernel, which also knows whether it saves the registers.
func processorHasBF16() bool {
	return processorIs(" amx_bf16")
}

func intelProcessor() bool { return processorIs("GenuineIntel") }

func processorIs(word string) bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && bytes.Contains(info, []byte(word))
}
