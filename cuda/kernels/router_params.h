/* The parameters of the router's kernels. cuda/router_params.go mirrors them; a test compares
 * sizes and offsets. Members are ordered so that no compiler pads between them. */
#ifndef GMOE_ROUTER_PARAMS_H_
#define GMOE_ROUTER_PARAMS_H_

#include <stdint.h>

enum { router_f32, router_bf16, router_f64, router_i32, router_i64 }; /* dtypes */

/* A tensor of two dimensions, or of one along column, or of one element; any strides. */
typedef struct {
  void *data;          /* NULL: absent */
  int64_t row, column; /* strides in elements */
  int32_t dtype;       /* router_f32... */
  int32_t vectors;     /* 1: 16 bytes can be read at once along the dimension of stride 1 */
} RouterView;

enum { router_hamiltonian, router_mixtral, router_deepseek }; /* modes */

typedef struct {
  int32_t mode; /* router_hamiltonian... */
  int32_t cosine;
  int32_t slots; /* k */
  int32_t budgeted;
  int32_t normalize_top_k;
  int32_t groups, top_k_groups; /* 1 and 1 without */
  float scaling_factor, epsilon, temperature_floor, entropy_temperature, load_penalty;
} RouterOptions;

/* The state of the batch solver between its steps: router_batch.cu. */
typedef struct {
  double price[512], residual[512];
  double step, ceiling, lowest;
  int32_t iteration, stalled, done;
  uint32_t ticket; /* blocks of this step that are ready */
} RouterBatchState;

/* Before everything: norms of the centroids, and zeros where sums will be. */
typedef struct {
  RouterView centroids; /* [E, D] */
  RouterView counts;    /* [E] or absent */
  float *norms;         /* [E] |c_e|, or NULL */
  float *price;         /* [E] the batch solver's, or NULL */
  RouterBatchState *state;
  int64_t width;
  int32_t experts, reserved;
} RouterPrepareParams;

/* out [m, n] = sum_k a(m, k) b(n, k) - pull[m] along(m, n). */
typedef struct {
  RouterView a, b, out;
  RouterView along;  /* [m, n], or absent */
  const float *pull; /* [m] */
  float *partial;    /* [splits, m, n]: with splits > 1 the sums go here, to gmoe_router_product_sum */
  int64_t m, n, k;
  int64_t split; /* k of one split, a multiple of 32 */
  int32_t splits, reserved;
} RouterProductParams;

typedef struct {
  RouterView z;                                   /* [T, D] router input: hidden states, or projected */
  RouterView centroids;                           /* [E, D] */
  RouterView bias, price, temperature, gap;       /* [E], [E], [1], [1], or absent */
  RouterView top_k_index, top_k_weights;          /* [T, K] */
  RouterView logits, counts;                      /* [T, E], [E], or absent */
  const float *norms;                             /* [E] with cosine binding */
  float *scores;                                  /* [T, E] the logits for the batch solver, or NULL: route at once */
  int64_t tokens, width;
  RouterOptions options;
  int32_t experts, reserved;
} RouterForwardParams;

typedef struct {
  const float *scores; /* [T, E] logits */
  float *theta;        /* [T] of the last step */
  double *partial;     /* [blocks, E+1] sums of p, and the number of tokens */
  float *price;        /* [E] the result */
  RouterView price_out;
  RouterBatchState *state;
  int64_t tokens, tokens_per_block;
  RouterOptions options;
  int32_t experts, iterations; /* more than one only with one block */
} RouterBatchParams;

typedef struct {
  RouterView z;                                    /* [T, D] with cosine binding */
  RouterView logits, top_k_index;                  /* [T, E], [T, K] */
  RouterView grad_weights, grad_logits;            /* [T, K], [T, E], or absent */
  RouterView temperature;                          /* [1], or absent */
  const float *norms;                              /* [E] with cosine binding */
  float *q;                                        /* [T, E] */
  float *pull;                                     /* [T] r */
  double *partial; /* [blocks, 2 E + 1] sums of dl, of dl s, and of the temperature's */
  int64_t tokens, tokens_per_block, width;
  RouterOptions options;
  int32_t experts, reserved;
} RouterGradientParams;

/* Sums the partial sums in the order of the blocks. */
typedef struct {
  const double *partial;
  const float *norms;
  float *pull; /* [E] v, or NULL */
  RouterView grad_bias, grad_temperature;
  int64_t blocks;
  float epsilon;
  int32_t experts;
} RouterSumsParams;

typedef struct {
  RouterView counts, price, gap;
  double rate, step_limit, budget, gap_rate;
  int64_t tokens;
  RouterOptions options;
  int32_t experts, reserved;
} RouterUpdateParams;

typedef struct {
  RouterView logits, top_k_index, price, previous;
  int64_t *active; /* [blocks] present slots */
  double *partial; /* [blocks, 9 + 3 E] a tally each: router_report.cu */
  double *result; /* [9 + 4 E] their sum, and the prices */
  int64_t tokens, tokens_per_block, blocks;
  RouterOptions options;
  int32_t experts, reserved;
} RouterReportParams;

#endif
