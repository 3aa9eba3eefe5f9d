/* A Mixture-of-Experts layer in C: route the tokens, run their experts, and go back.
 *
 *   cc -std=c99 -Iinclude examples/c/layer.c -Lbuild -lgenesis_moe -lm -o layer
 *   LD_LIBRARY_PATH=build ./layer
 *
 * It checks what it computes against plain loops, prints a few lines, and returns 0
 * when everything agrees. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "genesis_moe.h"

/* Sizes: tokens, hidden size, experts, intermediate size, experts per token. */
enum { T = 64, H = 32, E = 8, I = 48, K = 2 };

static float hidden_states[T * H], centroids[E * H], gate_up_proj[E * 2 * I * H], down_proj[E * H * I];
static float weights[T * K], output[T * H], pre_activation[T * K * 2 * I];
static float grad_output[T * H], grad_hidden_states[T * H], grad_weights[T * K];
static float grad_gate_up_proj[E * 2 * I * H], grad_down_proj[E * H * I], grad_centroids[E * H];
static float logits[T * E];
static int64_t top_k_index[T * K], counts[E];

/* Views of the arrays above as tensors: DLPack structs that borrow the memory. */
static int64_t shape_th[] = {T, H}, shape_eh[] = {E, H}, shape_tk[] = {T, K}, shape_te[] = {T, E}, shape_e[] = {E};
static int64_t shape_gate_up[] = {E, 2 * I, H}, shape_down[] = {E, H, I}, shape_rows[] = {T * K, 2 * I};

static DLTensor tensor(void *data, uint8_t code, uint8_t bits, int32_t ndim, int64_t *shape) {
  DLTensor t;
  t.data = data;
  t.device.device_type = kDLCPU;
  t.device.device_id = 0;
  t.ndim = ndim;
  t.dtype.code = code;
  t.dtype.bits = bits;
  t.dtype.lanes = 1;
  t.shape = shape;
  t.strides = NULL; /* compact, row-major */
  t.byte_offset = 0;
  return t;
}
#define FLOATS(array, shape) tensor(array, kDLFloat, 32, (int32_t)(sizeof(shape) / sizeof((shape)[0])), shape)
#define INTS(array, shape) tensor(array, kDLInt, 64, (int32_t)(sizeof(shape) / sizeof((shape)[0])), shape)

static void require(gmoe_status status, const char *what) {
  if (status == GMOE_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, gmoe_status_name(status), gmoe_last_error());
  exit(1);
}

/* Numbers in [-1, 1), the same in every run. */
static void fill(float *values, size_t n, double scale) {
  static uint32_t state = 1;
  for (size_t i = 0; i < n; i++) {
    state = state * 1664525u + 1013904223u;
    values[i] = (float)(scale * ((double)state / 2147483648.0 - 1.0));
  }
}
#define FILL(array, scale) fill(array, sizeof(array) / sizeof((array)[0]), scale)

static double dot(const float *a, const float *b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
  return sum;
}

/* y_t = sum over k of w_tk down_proj[e] (silu(gate) * up), with e = top_k_index_tk, and gate
 * and up the halves of gate_up_proj[e] x_t. Returns the largest difference to output. */
static double largest_error(void) {
  double largest = 0;
  for (int t = 0; t < T; t++) {
    double y[H] = {0};
    for (int k = 0; k < K; k++) {
      const int64_t e = top_k_index[t * K + k];
      for (int i = 0; i < I; i++) {
        const float *x = hidden_states + t * H;
        const double gate = dot(gate_up_proj + (e * 2 * I + i) * H, x, H);
        const double up = dot(gate_up_proj + (e * 2 * I + I + i) * H, x, H);
        const double h = weights[t * K + k] * gate / (1 + exp(-gate)) * up;
        for (int j = 0; j < H; j++) y[j] += h * down_proj[(e * H + j) * I + i];
      }
    }
    for (int j = 0; j < H; j++) largest = fmax(largest, fabs(y[j] - output[t * H + j]));
  }
  return largest;
}

int main(void) {
  gmoe_engine *engine;
  gmoe_engine_options engine_options = GMOE_ENGINE_OPTIONS_INIT;
  gmoe_router_options router = GMOE_ROUTER_OPTIONS_INIT;
  gmoe_experts_options experts = GMOE_EXPERTS_OPTIONS_INIT;
  gmoe_router_forward_args route = GMOE_ROUTER_FORWARD_ARGS_INIT;
  gmoe_router_backward_args route_back = GMOE_ROUTER_BACKWARD_ARGS_INIT;
  gmoe_experts_forward_args forward = GMOE_EXPERTS_FORWARD_ARGS_INIT;
  gmoe_experts_backward_args backward = GMOE_EXPERTS_BACKWARD_ARGS_INIT;
  gmoe_counters counters = GMOE_COUNTERS_INIT;

  const DLTensor x = FLOATS(hidden_states, shape_th), c = FLOATS(centroids, shape_eh);
  const DLTensor w = FLOATS(weights, shape_tk), ids = INTS(top_k_index, shape_tk), n = INTS(counts, shape_e);
  const DLTensor scores = FLOATS(logits, shape_te);
  const DLTensor up = FLOATS(gate_up_proj, shape_gate_up), down = FLOATS(down_proj, shape_down);
  const DLTensor y = FLOATS(output, shape_th), z = FLOATS(pre_activation, shape_rows);
  const DLTensor dy = FLOATS(grad_output, shape_th), dx = FLOATS(grad_hidden_states, shape_th);
  const DLTensor dw = FLOATS(grad_weights, shape_tk), dc = FLOATS(grad_centroids, shape_eh);
  const DLTensor dup = FLOATS(grad_gate_up_proj, shape_gate_up), ddown = FLOATS(grad_down_proj, shape_down);

  FILL(hidden_states, 1.0);
  FILL(centroids, 1.0);
  FILL(gate_up_proj, 0.3);
  FILL(down_proj, 0.3);
  FILL(grad_output, 1.0);

  if (gmoe_abi_version() != GMOE_ABI_VERSION) return 1;
  require(gmoe_engine_create(&engine_options, &engine), "gmoe_engine_create");

  /* Which experts each token goes to, and with which weights. */
  router.top_k = K;
  route.options = &router;
  route.hidden_states = &x;
  route.centroids = &c;
  route.top_k_index = &ids;
  route.top_k_weights = &w;
  route.logits = &scores;
  route.counts = &n;
  require(gmoe_router_forward(engine, &route), "gmoe_router_forward");

  /* The experts. pre_activation is kept for the way back. */
  forward.options = &experts;
  forward.hidden_states = &x;
  forward.top_k_index = &ids;
  forward.top_k_weights = &w;
  forward.gate_up_proj = &up;
  forward.down_proj = &down;
  forward.output = &y;
  forward.pre_activation = &z;
  require(gmoe_experts_forward(engine, &forward), "gmoe_experts_forward");

  backward.options = &experts;
  backward.grad_output = &dy;
  backward.hidden_states = &x;
  backward.top_k_index = &ids;
  backward.top_k_weights = &w;
  backward.gate_up_proj = &up;
  backward.down_proj = &down;
  backward.pre_activation = &z;
  backward.grad_hidden_states = &dx;
  backward.grad_top_k_weights = &dw;
  backward.grad_gate_up_proj = &dup;
  backward.grad_down_proj = &ddown;
  require(gmoe_experts_backward(engine, &backward), "gmoe_experts_backward");

  /* The gradient of the routing weights goes on to the router's parameters. */
  route_back.options = &router;
  route_back.hidden_states = &x;
  route_back.centroids = &c;
  route_back.logits = &scores;
  route_back.top_k_index = &ids;
  route_back.grad_top_k_weights = &dw;
  route_back.grad_centroids = &dc;
  require(gmoe_router_backward(engine, &route_back), "gmoe_router_backward");

  require(gmoe_engine_counters(engine, &counters), "gmoe_engine_counters");
  require(gmoe_engine_destroy(engine), "gmoe_engine_destroy");

  /* The output is linear in down_proj and in the weights, so <p, dp> = <y, dy>. */
  const double error = largest_error(), product = dot(output, grad_output, T * H);
  const double down_gap = fabs(dot(down_proj, grad_down_proj, E * H * I) - product);
  const double weight_gap = fabs(dot(weights, grad_weights, T * K) - product);
  printf("genesis-moe %s\n", gmoe_version());
  printf("tokens per expert:");
  for (int e = 0; e < E; e++) printf(" %d", (int)counts[e]);
  printf("\n%d tokens, %d expert rows, %d flops\n", (int)counters.tokens, (int)counters.expert_rows,
         (int)counters.flops);
  printf("largest difference to plain loops: %.1e\n", error);
  printf("<p, dp> - <y, dy>: %.1e (down_proj), %.1e (weights)\n", down_gap, weight_gap);
  return error < 1e-4 && down_gap < 1e-3 && weight_gap < 1e-3 ? 0 : 1;
}
