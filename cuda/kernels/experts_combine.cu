/* What each token gets from its experts' rows: sums in slot order, so that results do not depend
 * on how rows were sorted, and no atomics. */
#include "experts_element.h"
#include "experts_schedule.h"

using namespace experts;

namespace {

/* A block takes a token at a time, a thread every 256th column. */
template <class X>
__device__ __forceinline__ void combine(const ExpertsCombineParams &p) {
  for (int64_t token = blockIdx.x; token < p.tokens; token += gridDim.x) {
    for (int32_t column = threadIdx.x; column < p.hidden; column += EXPERTS_THREADS) {
      float sum = 0.0f;
      for (int32_t slot = 0; slot < p.slots; slot++) {
        int32_t row = p.pair_row[token * p.slots + slot];
        if (row < 0) continue;
        float v = load<X>(p.rows, row, column);
        sum += p.weights.data != nullptr ? load<float>(p.weights, token, slot) * v : v;
      }
      store<X>(p.output, token, column, sum);
    }
  }
}

/* The expert of a row. */
__device__ __forceinline__ int32_t expert_of(const ExpertsRoutingGradientParams &p, int32_t row) {
  int32_t low = 0, high = p.experts;
  while (high - low > 1) {
    int32_t middle = (low + high) / 2;
    if (p.offset[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/* A warp takes a pair at a time. */
template <class X>
__device__ __forceinline__ void routing_gradient(const ExpertsRoutingGradientParams &p) {
  constexpr int32_t warps = EXPERTS_THREADS / 32;
  int32_t lane = threadIdx.x % 32;
  for (int64_t pair = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32; pair < p.pairs;
       pair += static_cast<int64_t>(gridDim.x) * warps) {
    int32_t row = p.pair_row[pair];
    float sum = 0.0f;
    if (row >= 0) {
      for (int32_t part = lane; part < p.parts; part += 32)
        sum += p.partial[static_cast<int64_t>(row) * p.parts + part];
      if (p.down_bias.data != nullptr) {
        int32_t expert = expert_of(p, row);
        for (int32_t column = lane; column < p.hidden; column += 32) {
          sum += load<X>(p.down_bias, expert, column) * load<X>(p.grad_output, pair / p.slots, column);
        }
      }
    }
    sum = warp_sum(sum);
    if (lane == 0) store<float>(p.gradient, pair / p.slots, pair % p.slots, sum);
  }
}

}  // namespace

GMOE_KERNEL(gmoe_experts_combine_f32, ExpertsCombineParams, EXPERTS_THREADS) { combine<float>(p); }
GMOE_KERNEL(gmoe_experts_combine_bf16, ExpertsCombineParams, EXPERTS_THREADS) { combine<__nv_bfloat16>(p); }
GMOE_KERNEL(gmoe_experts_routing_gradient_f32, ExpertsRoutingGradientParams, EXPERTS_THREADS) {
  routing_gradient<float>(p);
}
GMOE_KERNEL(gmoe_experts_routing_gradient_bf16, ExpertsRoutingGradientParams, EXPERTS_THREADS) {
  routing_gradient<__nv_bfloat16>(p);
}
