/* The numbers of a report, from the outputs of one forward pass: router/report.go. The host makes the
 * report of the result. */
#include "router_choice.h"
#include "router_occupy.h"

namespace {

using namespace router;

constexpr int threads = 256, warps = threads / 32;

/* Where the sums are in a tally of 9 + 3 E numbers; loads, softmax and counts follow. */
enum Sum {
  finite_tokens,
  margins,
  active_slots,
  previous_slots,
  changed_slots,
  bind,
  entropy_sum,
  token_entropy,
  margin,
  scalars
};

/* -p ln p. */
__device__ __forceinline__ float information(float p) { return p == 0 ? 0 : -p * logf(p); }

/* s of the occupation with logit x, p = 1/(1+exp(-x)), arranged so that nothing cancels. */
__device__ __forceinline__ float entropy(float x, float p) {
  if (x > 0) return x * (1 - p) + log1pf(expf(-x));
  return p == 0 ? 0 : log1pf(expf(x)) - x * p;
}

__device__ __forceinline__ bool is_slot(const RouterReportParams &p, int64_t expert) {
  if (expert < 0 || expert >= p.experts) return false;
  return p.price.data == nullptr || !is_closed(p.options, load(p.price, expert * p.price.column));
}

/* mu in u + mu; of deepseek it is minus the bias, of mixtral 0. */
__device__ __forceinline__ float price_of(const RouterReportParams &p, int expert) {
  if (p.price.data == nullptr || p.options.mode == router_mixtral) return 0;
  float mu = static_cast<float>(load(p.price, expert * p.price.column));
  return p.options.mode == router_deepseek ? -mu : mu;
}

/* Tokens of the block: [begin, end). */
struct Range {
  int64_t begin, end;
};
__device__ __forceinline__ Range tokens_of_block(const RouterReportParams &p) {
  int64_t begin = blockIdx.x * p.tokens_per_block, end = begin + p.tokens_per_block;
  return {begin, end < p.tokens ? end : p.tokens};
}

}  // namespace

/* The number of present slots of each block, which the energy of a budgeted routing needs. */
GMOE_KERNEL(gmoe_router_report_active, RouterReportParams, 256) {
  struct Sums {
    uint32_t of_warp[warps];
  };
  Sums &sums = shared_memory<Sums>();
  Range range = tokens_of_block(p);
  uint32_t present = 0;
  int64_t slots = p.options.slots;
  for (int64_t i = range.begin * slots + threadIdx.x; i < range.end * slots; i += threads) {
    present += is_slot(p, load_index(p.top_k_index, i / slots, i % slots));
  }
  present = __reduce_add_sync(all_lanes, present);
  if (threadIdx.x % 32 == 0) sums.of_warp[threadIdx.x / 32] = present;
  __syncthreads();
  if (threadIdx.x != 0) return;
  int64_t sum = 0;
  for (int w = 0; w < warps; w++) sum += sums.of_warp[w];
  p.active[blockIdx.x] = sum;
}

namespace {

/* One tally a block: its warps take turns with the tokens, and their sums are added in order. */
template <int per_lane>
__device__ __forceinline__ void survey(const RouterReportParams &p) {
  struct Sums {
    float loads[warps][32 * per_lane], softmax[warps][32 * per_lane];
    uint32_t counts[32 * per_lane];
    double scalar[warps][scalars];
  };
  Sums &sums = shared_memory<Sums>();
  const RouterOptions &o = p.options;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, experts = p.experts;
  for (int e = threadIdx.x; e < experts; e += threads) sums.counts[e] = 0;
  __syncthreads();
  float active = static_cast<float>(o.slots);
  if (is_budgeted(o)) {
    int64_t present = 0;
    for (int64_t b = 0; b < p.blocks; b++) present += p.active[b];
    active = present == 0 ? 1.0f : static_cast<float>(static_cast<double>(present) / static_cast<double>(p.tokens));
  }
  float mu[per_lane], loads[per_lane], softmax[per_lane];
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    mu[i] = lane + 32 * i < experts ? price_of(p, lane + 32 * i) : 0;
    loads[i] = softmax[i] = 0;
  }
  double total[scalars] = {};
  Range range = tokens_of_block(p);
  for (int64_t token = range.begin + warp; token < range.end; token += warps) {
    /* Slots: lane i has slot i of this routing and of the previous one. */
    int64_t slot = lane < o.slots ? load_index(p.top_k_index, token, lane) : -1;
    int64_t before = lane < o.slots && p.previous.data != nullptr ? load_index(p.previous, token, lane) : -1;
    bool present = is_slot(p, slot), was = is_slot(p, before), again = false;
    uint32_t members[per_lane]; /* is expert lane + 32 i chosen? */
#pragma unroll
    for (int i = 0; i < per_lane; i++) members[i] = 0;
    for (int s = 0; s < o.slots; s++) {
      int expert = __shfl_sync(all_lanes, present ? static_cast<int>(slot) : -1, s);
      again = again || (was && before == expert);
#pragma unroll
      for (int i = 0; i < per_lane; i++) members[i] |= lane + 32 * i == expert;
    }
    if (present) atomicAdd(&sums.counts[slot], 1u);
    total[active_slots] += __popc(__ballot_sync(all_lanes, present));
    total[previous_slots] += __popc(__ballot_sync(all_lanes, was));
    total[changed_slots] += __popc(__ballot_sync(all_lanes, was && !again));

    float logits[per_lane];
    bool finite = true;
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      logits[i] = lane + 32 * i < experts ? load_f32(p.logits, token, lane + 32 * i) : 0;
      finite = finite && is_finite(logits[i]);
    }
    if (!__all_sync(all_lanes, finite)) continue;
    total[finite_tokens]++;
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      if (is_closed(o, mu[i])) logits[i] = -CUDART_INF_F; /* no share of any sum */
    }

    float largest, sum, of_token = 0;
    softmax_over_experts(logits, experts, &largest, &sum);
    float field[per_lane], occupation[per_lane];
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      field[i] = CUDART_INF_F;
      if (lane + 32 * i >= experts) continue;
      float probability = expf(logits[i] - largest) / sum;
      softmax[i] += probability;
      of_token += information(probability);
      if (o.mode == router_deepseek) logits[i] = sigmoid(logits[i]);
      field[i] = (mu[i] - logits[i]) / o.entropy_temperature;
    }
    total[token_entropy] += warp_sum(of_token);

    float theta = occupy(field, occupation, active, CUDART_NAN_F);
    float of_bind = 0, of_entropy = 0, worst = -CUDART_INF_F, next = CUDART_INF_F;
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      if (lane + 32 * i >= experts) continue;
      float q = occupation[i], f = mu[i] - logits[i];
      loads[i] += q;
      if (q > 0) of_bind -= q * logits[i];
      if (q < 1) of_entropy += entropy(theta - field[i], q); /* else theta may be infinite, and s is 0 */
      if (members[i]) {
        worst = fmaxf(worst, f);
      } else {
        next = fminf(next, f);
      }
    }
    total[bind] += warp_sum(of_bind);
    total[entropy_sum] += warp_sum(of_entropy);
    /* From the worst chosen to the best not chosen. */
    float distance = warp_min(next) - warp_max(worst);
    if (is_finite(distance)) {
      total[margin] += distance;
      total[margins]++;
    }
  }
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    sums.loads[warp][lane + 32 * i] = loads[i];
    sums.softmax[warp][lane + 32 * i] = softmax[i];
  }
#pragma unroll
  for (int i = 0; i < scalars; i++) {
    if (lane == i) sums.scalar[warp][i] = total[i];
  }
  __syncthreads();
  double *partial = p.partial + static_cast<int64_t>(blockIdx.x) * (scalars + 3 * experts);
  for (int i = threadIdx.x; i < scalars + 3 * experts; i += threads) {
    int e = (i - scalars) % experts, kind = i < scalars ? -1 : (i - scalars) / experts;
    double sum = kind == 2 ? sums.counts[e] : 0;
    for (int w = 0; w < warps && kind != 2; w++) {
      sum += kind < 0 ? sums.scalar[w][i] : kind == 0 ? sums.loads[w][e] : sums.softmax[w][e];
    }
    partial[i] = sum;
  }
}

}  // namespace

/* Named by the most experts. */
GMOE_KERNEL(gmoe_router_report_survey_128, RouterReportParams, 256) { survey<4>(p); }
GMOE_KERNEL(gmoe_router_report_survey_512, RouterReportParams, 256) { survey<16>(p); }

/* The sum of all tallies in the order of the blocks, then the prices as they are. */
GMOE_KERNEL(gmoe_router_report_sum, RouterReportParams, 256) {
  int width = scalars + 3 * p.experts, i = blockIdx.x * threads + threadIdx.x;
  if (i < width) {
    double sum = 0;
    for (int64_t b = 0; b < p.blocks; b++) sum += p.partial[b * width + i];
    p.result[i] = sum;
  } else if (i < width + p.experts) {
    p.result[i] = p.price.data == nullptr ? 0 : load(p.price, (i - width) * p.price.column);
  }
}
