/* What the C tests share. A failed check says where and ends the program with 1. */
#ifndef CHECK_H_
#define CHECK_H_

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "genesis_moe.h"

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

#define OK(call)                                                                                                       \
  do {                                                                                                                 \
    const gmoe_status status_ = (call);                                                                                \
    if (status_ != GMOE_OK) {                                                                                          \
      fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, gmoe_status_name(status_), gmoe_last_error()); \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

/* The call must fail with this status and a message that contains this text. */
#define FAILS(call, want, text)                                                                \
  do {                                                                                         \
    const gmoe_status status_ = (call);                                                        \
    if (status_ != (want) || strstr(gmoe_last_error(), (text)) == NULL) {                      \
      fprintf(stderr, "%s:%d: %s: got %s: %s\n want %s with: %s\n", __FILE__, __LINE__, #call, \
              gmoe_status_name(status_), gmoe_last_error(), gmoe_status_name(want), (text));   \
      exit(1);                                                                                 \
    }                                                                                          \
  } while (0)

static inline DLTensor tensor(void *data, uint8_t code, uint8_t bits, int32_t ndim, int64_t *shape) {
  DLTensor t = {data, {kDLCPU, 0}, ndim, {code, bits, 1}, shape, NULL, 0};
  return t;
}

/* The numbers of a layer, small and the same in every run. */
enum { T = 12, H = 16, E = 4, I = 8, K = 2 };
struct layer {
  float hidden_states[T * H], centroids[E * H], gate_up_proj[E * 2 * I * H], down_proj[E * H * I];
  float weights[T * K], output[T * H];
  int64_t top_k_index[T * K];
  int64_t th[2], eh[2], tk[2], gate_up[3], down[3];
  DLTensor x, c, w, ids, up, dn, y;
  gmoe_router_options router;
  gmoe_experts_options experts;
  gmoe_router_forward_args route;
  gmoe_experts_forward_args forward;
};

static inline void layer_init(struct layer *l, uint32_t seed) {
  static const gmoe_router_options router = GMOE_ROUTER_OPTIONS_INIT;
  static const gmoe_experts_options experts = GMOE_EXPERTS_OPTIONS_INIT;
  static const gmoe_router_forward_args route = GMOE_ROUTER_FORWARD_ARGS_INIT;
  static const gmoe_experts_forward_args forward = GMOE_EXPERTS_FORWARD_ARGS_INIT;
  float *arrays[4];
  size_t sizes[4] = {T * H, E * H, E * 2 * I * H, E * H * I};
  memset(l, 0, sizeof *l);
  arrays[0] = l->hidden_states, arrays[1] = l->centroids, arrays[2] = l->gate_up_proj, arrays[3] = l->down_proj;
  for (int a = 0; a < 4; a++)
    for (size_t i = 0; i < sizes[a]; i++) {
      seed = seed * 1664525u + 1013904223u;
      arrays[a][i] = (float)((double)seed / 2147483648.0 - 1.0);
    }
  l->th[0] = T, l->th[1] = H, l->eh[0] = E, l->eh[1] = H, l->tk[0] = T, l->tk[1] = K;
  l->gate_up[0] = E, l->gate_up[1] = 2 * I, l->gate_up[2] = H;
  l->down[0] = E, l->down[1] = H, l->down[2] = I;
  l->x = tensor(l->hidden_states, kDLFloat, 32, 2, l->th);
  l->c = tensor(l->centroids, kDLFloat, 32, 2, l->eh);
  l->w = tensor(l->weights, kDLFloat, 32, 2, l->tk);
  l->ids = tensor(l->top_k_index, kDLInt, 64, 2, l->tk);
  l->up = tensor(l->gate_up_proj, kDLFloat, 32, 3, l->gate_up);
  l->dn = tensor(l->down_proj, kDLFloat, 32, 3, l->down);
  l->y = tensor(l->output, kDLFloat, 32, 2, l->th);
  l->router = router, l->experts = experts, l->route = route, l->forward = forward;
  l->route.options = &l->router;
  l->route.hidden_states = &l->x, l->route.centroids = &l->c;
  l->route.top_k_index = &l->ids, l->route.top_k_weights = &l->w;
  l->forward.options = &l->experts;
  l->forward.hidden_states = &l->x, l->forward.top_k_index = &l->ids, l->forward.top_k_weights = &l->w;
  l->forward.gate_up_proj = &l->up, l->forward.down_proj = &l->dn, l->forward.output = &l->y;
}

#endif /* CHECK_H_ */
