/* A BLAS in plain C for the tests: what its names, integers and answers are is set by
 * macros. INT is the integer type, NAME(x) decorates a name, ERROR is added to
 * every product. */
#include <stdint.h>

#ifndef INT
#define INT int32_t
#endif
#ifndef NAME
#define NAME(x) x##_
#endif
#ifndef ERROR
#define ERROR 0
#endif

static int count = 4;
int MKL_Set_Num_Threads_Local(int n) {
  int previous = count;
  count = n;
  return previous;
}
int thread_count(void) { return count; }

#define GEMM(name, type)                                                                        \
  void name(const char *ta, const char *tb, const INT *m, const INT *n, const INT *k,            \
            const type *alpha, const type *a, const INT *lda, const type *b, const INT *ldb,     \
            const type *beta, type *c, const INT *ldc, intptr_t la, intptr_t lb) {               \
    if (la != 1 || lb != 1 || count != 1) return;                                                \
    for (INT j = 0; j < *n; j++)                                                                 \
      for (INT i = 0; i < *m; i++) {                                                             \
        type sum = 0;                                                                            \
        for (INT l = 0; l < *k; l++)                                                             \
          sum += a[*ta == 'N' ? i + l * *lda : l + i * *lda] *                                   \
                 b[*tb == 'N' ? l + j * *ldb : j + l * *ldb];                                    \
        type *at = &c[i + j * *ldc];                                                             \
        *at = *alpha * sum + (*beta == 0 ? 0 : *beta * *at) + ERROR;                             \
      }                                                                                          \
  }
GEMM(NAME(sgemm), float)
GEMM(NAME(dgemm), double)
