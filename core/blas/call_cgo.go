//go:build cgo

package blas

/*
#include <stdint.h>

// The Go type Worker.
struct worker {
	char trans_a, trans_b;
	int64_t m, n, k, lda, ldb, ldc;
	uint64_t alpha, beta;
};

typedef void fortran_gemm(const char *, const char *, const int64_t *, const int64_t *, const int64_t *,
	const void *, const void *, const int64_t *, const void *, const int64_t *,
	const void *, void *, const int64_t *, intptr_t, intptr_t);

// All arguments by address, then the lengths of the two strings, which compilers of
// Fortran pass at the end.
static void call_gemm(uintptr_t gemm, const struct worker *w, const char *a, const char *b, char *c) {
	((fortran_gemm *)gemm)(&w->trans_a, &w->trans_b, &w->m, &w->n, &w->k,
		&w->alpha, a, &w->lda, b, &w->ldb, &w->beta, c, &w->ldc, 1, 1);
}
#cgo noescape call_gemm
#cgo nocallback call_gemm
*/
import "C"

import "unsafe"

// Through cgo a call costs about 60 ns, through purego 350 ns. The matrices travel as
// pointers to bytes because cgo would search what an unsafe.Pointer points to.
func callGemm(gemm uintptr, w *Worker, a, b, c unsafe.Pointer) {
	C.call_gemm(C.uintptr_t(gemm), (*C.struct_worker)(unsafe.Pointer(w)), (*C.char)(a), (*C.char)(b), (*C.char)(c))
}

// The two declarations of a worker agree in size, or this does not compile.
const _ = -(unsafe.Sizeof(Worker{}) ^ unsafe.Sizeof(C.struct_worker{}))
