/* A BLAS in plain C for the tests: what its names, integers and answers are is set by
 * macros. INT is the integer type, NAME(x) decorates a name, BF16 is the full name of a
 * bf16 product (with INT integers), ERROR is added to
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

static float value_f32(const float *x) { return *x; }
static double value_f64(const double *x) { return *x; }
static float value_bf16(const uint16_t *x) {
  union {
    uint32_t bits;
    float value;
  } u = {(uint32_t)*x << 16};
  return u.value;
}

#define GEMM(name, in, type, value)                                                                                   \
  void name(const char *ta, const char *tb, const INT *m, const INT *n, const INT *k, const type *alpha, const in *a, \
            const INT *lda, const in *b, const INT *ldb, const type *beta, type *c, const INT *ldc, intptr_t la,      \
            intptr_t lb) {                                                                                            \
    if (la != 1 || lb != 1 || count != 1) return;                                                                     \
    for (INT j = 0; j < *n; j++)                                                                                      \
      for (INT i = 0; i < *m; i++) {                                                                                  \
        type sum = 0;                                                                                                 \
        for (INT l = 0; l < *k; l++)                                                                                  \
          sum += value(&a[*ta == 'N' ? i + l * *lda : l + i * *lda]) *                                                \
                 value(&b[*tb == 'N' ? l + j * *ldb : j + l * *ldb]);                                                 \
        type *at = &c[i + j * *ldc];                                                                                  \
        *at = *alpha * sum + (*beta == 0 ? 0 : *beta * *at) + ERROR;                                                  \
      }                                                                                                               \
  }
GEMM(NAME(sgemm), float, float, value_f32)
GEMM(NAME(dgemm), double, double, value_f64)
#ifdef BF16
GEMM(BF16, uint16_t, float, value_bf16)
#endif
