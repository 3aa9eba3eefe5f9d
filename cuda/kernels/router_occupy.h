/* Occupations of one token in a field: the inner problem of the routing energy. */
#ifndef GMOE_ROUTER_OCCUPY_H_
#define GMOE_ROUTER_OCCUPY_H_

#include "router_view.h"

namespace router {

/* Fills p with 1/(1+exp(field-theta)) with sum p = active and returns theta, one warp, expert
 * lane + 32 i at i. All energies are in units of tau. field is +infinity for an expert that is
 * barred or not there, and its p is 0; with active such experts or fewer left, all have p = 1 and
 * theta is infinite. start is a guess, or NaN. Newton's steps and bisection within a bracket:
 * router/energy.go says when which, and has the bounds. */
template <int per_lane>
__device__ __forceinline__ float occupy(const float (&field)[per_lane], float (&p)[per_lane], float active,
                                        float start) {
  float low = CUDART_INF_F, high = -CUDART_INF_F, open = 0;
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    if (field[i] == CUDART_INF_F) continue;
    low = fminf(low, field[i]);
    high = fmaxf(high, field[i]);
    open++;
  }
  low = warp_min(low);
  high = warp_max(high);
  open = warp_sum(open);
  if (active >= open) {
#pragma unroll
    for (int i = 0; i < per_lane; i++) p[i] = field[i] == CUDART_INF_F ? 0 : 1;
    return CUDART_INF_F;
  }
  float logit = logf(active / (open - active));
  low += logit;
  high += logit;
  float theta = start >= low && start <= high ? start : low + (high - low) / 2;
  float step = high - low, before = step;
  for (int iteration = 0; iteration < 200; iteration++) { /* bisection alone needs fewer */
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      p[i] = 1 / (1 + expf(field[i] - theta));
      sum += p[i];
      squares += p[i] * p[i];
    }
    sum = warp_sum(sum);
    squares = warp_sum(squares);
    if (fabsf(sum - active) <= 1e-6f * active) break;
    if (sum < active) {
      low = theta;
    } else {
      high = theta;
    }
    float next = theta + (active - sum) / (sum - squares);
    if (!(next > low && next < high) || 2 * fabsf(next - theta) > fabsf(before)) next = low + (high - low) / 2;
    before = step;
    step = next - theta;
    if (next == theta) break; /* there is no closer theta */
    theta = next;
  }
  return theta;
}

}  // namespace router

#endif
