/* One token's choice of experts and their gates, by one warp. */
#ifndef GMOE_ROUTER_CHOICE_H_
#define GMOE_ROUTER_CHOICE_H_

#include "router_view.h"

namespace router {

__device__ __forceinline__ float sigmoid(float v) { return 1 / (1 + expf(-v)); }

/* An integer that orders as the score does; NaN as -infinity, and 0 below every score. */
__device__ __forceinline__ uint32_t rank_of(float score) {
  if (score != score) score = -CUDART_INF_F;
  uint32_t bits = __float_as_uint(score + 0.0f); /* -0 is 0 */
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float score_of(uint32_t rank) {
  return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
}

/* A lane's share of one value per expert: expert lane + 32 i is element i. */
template <int per_lane>
struct Ranks {
  uint32_t rank[per_lane];

  /* Takes the best out and returns its index and rank; equal ranks by lower index. */
  __device__ __forceinline__ uint32_t take(uint32_t *best) {
    uint32_t lane = threadIdx.x % 32, mine = 0, index = 0xffffffffu;
#pragma unroll
    for (int i = 0; i < per_lane; i++) mine = max(mine, rank[i]);
    *best = __reduce_max_sync(all_lanes, mine);
#pragma unroll
    for (int i = per_lane - 1; i >= 0; i--) {
      if (rank[i] == *best) index = lane + 32 * i;
    }
    index = __reduce_min_sync(all_lanes, index);
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      if (lane + 32 * i == index) rank[i] = 0;
    }
    return index;
  }
};

/* What is chosen: lane i < active has slot i. */
struct Choice {
  int active;
  int expert;
};

/* What the choice ranks by: -(u+mu), the logits, or sigmoid + bias. */
__device__ __forceinline__ float choice_score(const RouterForwardParams &p, const float *price, float logit,
                                              int expert) {
  if (p.options.mode == router_deepseek) return sigmoid(logit) + price[expert];
  return logit - price[expert];
}

/* Bars the experts outside of the top_k_groups groups with the largest sum of their two best
 * scores (DeepSeek-V3, arXiv 2412.19437, section 2.1.2). row: the logits; open: 512 bits of this warp. */
template <int per_lane>
__device__ __forceinline__ void keep_best_groups(const RouterForwardParams &p, const float *price, const float *row,
                                                 uint32_t *open, Ranks<per_lane> &experts) {
  int lane = threadIdx.x % 32, size = p.experts / p.options.groups;
  Ranks<per_lane> groups;
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    int group = lane + 32 * i;
    groups.rank[i] = 0;
    if (group >= p.options.groups) continue;
    float one = -CUDART_INF_F, two = -CUDART_INF_F;
    for (int e = group * size; e < (group + 1) * size; e++) {
      float score = score_of(rank_of(choice_score(p, price, row[e], e)));
      two = fmaxf(two, fminf(one, score));
      one = fmaxf(one, score);
    }
    groups.rank[i] = rank_of(size == 1 ? one : one + two);
  }
  __syncwarp(); /* the last token's are read */
  if (lane < 16) open[lane] = 0;
  __syncwarp();
  for (int i = 0; i < p.options.top_k_groups; i++) {
    uint32_t rank, group = groups.take(&rank);
    if (lane == 0) open[group / 32] |= 1u << group % 32;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    int expert = lane + 32 * i;
    if (expert >= p.experts) continue;
    int group = expert / size;
    if (!(open[group / 32] >> group % 32 & 1)) experts.rank[i] = 0;
  }
}

/* Experts of a token with the logits row, best first; fewer than slots if fewer are open. */
template <int per_lane>
__device__ __forceinline__ Choice choose(const RouterForwardParams &p, const float *price, const float *row,
                                         uint32_t *open) {
  int lane = threadIdx.x % 32;
  Ranks<per_lane> experts;
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    int e = lane + 32 * i;
    bool open = e < p.experts && !is_closed(p.options, price[e]);
    experts.rank[i] = open ? rank_of(choice_score(p, price, row[e], e)) : 0;
  }
  if (p.options.groups > 1) keep_best_groups(p, price, row, open, experts);
  bool budgeted = is_budgeted(p.options);
  float gap = budgeted ? scalar(p.gap, 0) : 0, ground = 0;
  Choice c = {0, p.experts};
  for (; c.active < p.options.slots; c.active++) {
    uint32_t rank, expert = experts.take(&rank);
    if (rank == 0) break;
    if (c.active == 0) ground = score_of(rank);
    /* f - min f <= gap, f being minus the score. At least the ground state. */
    if (budgeted && c.active > 0 && !(ground - score_of(rank) <= gap)) break;
    if (lane == c.active) c.expert = static_cast<int>(expert);
  }
  return c;
}

/* The ways to weigh the chosen. */
enum Gate { softmax_over_chosen, softmax_over_all, sigmoid_scores };

__device__ __forceinline__ Gate gate_of(const RouterOptions &o) {
  if (o.mode == router_deepseek) return sigmoid_scores;
  return o.mode == router_mixtral && !o.normalize_top_k ? softmax_over_all : softmax_over_chosen;
}

/* T_g; 1 in other modes. A NaN stays one. */
__device__ __forceinline__ float gate_temperature(const RouterOptions &o, const RouterView &temperature) {
  if (o.mode != router_hamiltonian) return 1;
  float t = scalar(temperature, 1);
  return t < o.temperature_floor ? o.temperature_floor : t;
}
__device__ __forceinline__ float gate_scale(const RouterOptions &o) {
  return o.mode == router_hamiltonian ? 1 : o.scaling_factor;
}

/* Keeps the sum of sigmoid scores away from 0, as the CPU's router does. */
constexpr float normalization = 1e-20f;

/* exp(l/T_g) over its sum for the lanes with a chosen expert, 0 in others. */
__device__ __forceinline__ float softmax_of_chosen(bool chosen, float logit, float temperature) {
  float largest = warp_max(chosen ? logit : -CUDART_INF_F);
  float weight = chosen ? expf((logit - largest) / temperature) : 0;
  return weight / warp_sum(weight);
}

/* The largest logit and the sum of exp(l - largest) over all experts. */
template <int per_lane>
__device__ __forceinline__ void softmax_over_experts(const float (&logits)[per_lane], int experts, float *largest,
                                                     float *sum) {
  int lane = threadIdx.x % 32;
  float top = -CUDART_INF_F, total = 0;
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    if (lane + 32 * i < experts) top = fmaxf(top, logits[i]);
  }
  top = warp_max(top);
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    if (lane + 32 * i < experts) total += expf(logits[i] - top);
  }
  *largest = top;
  *sum = warp_sum(total);
}

}  // namespace router

#endif
