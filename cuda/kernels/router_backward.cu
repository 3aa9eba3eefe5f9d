/* Gradients of the logits, and the sums over tokens that go with them.
 *
 * With z = W x, a = |z|+eps, b = |c|+eps and the cosine s = <z,c>/(a b), a gradient dl of the logits
 * gives, for cosine binding (router/backward.go),
 *   dz_t = sum_e q_te c_e - r_t z_t      q_te = dl_te/(a_t b_e)   r_t = sum_e dl_te s_te / (a_t |z_t|)
 *   dc_e = sum_t q_te z_t - v_e c_e                               v_e = sum_t dl_te s_te / (b_e |c_e|)
 * and with linear logits q = dl, r = v = 0. These kernels find q, r and v; products do the rest. */
#include "router_choice.h"

namespace {

using namespace router;

constexpr int threads = 256, warps = threads / 32;

/* Adds to dl of a token what comes from the gradient of its gates; returns the temperature's, the
 * same in every lane. Expert lane + 32 i at i; lane s has slot s. */
template <int per_lane>
__device__ __forceinline__ float gates_gradient(const RouterGradientParams &p, int64_t token,
                                                const float (&logits)[per_lane], float (&grad)[per_lane]) {
  const RouterOptions &o = p.options;
  int lane = threadIdx.x % 32;
  int64_t expert = lane < o.slots ? load_index(p.top_k_index, token, lane) : p.experts;
  bool present = expert >= 0 && expert < p.experts;
  if (!__any_sync(all_lanes, present)) return 0;
  bool finite = true;
#pragma unroll
  for (int i = 0; i < per_lane; i++) finite = finite && is_finite(logits[i]);
  if (!__all_sync(all_lanes, finite)) {
#pragma unroll
    for (int i = 0; i < per_lane; i++) grad[i] = CUDART_NAN_F;
    return CUDART_NAN_F;
  }
  float upstream = present ? load_f32(p.grad_weights, token, lane) : 0;
  float logit = present ? load_f32(p.logits, token, expert) : 0;
  float scale = gate_scale(o), mine = 0, of_temperature = 0;
  switch (gate_of(o)) {
    case softmax_over_chosen: {
      /* w = c softmax(l/T): dl_i = w_i (dw_i - <dw, softmax>) / T; dT = -<dl, l>/T, where l may be shifted, as the
       * dl sum to 0. */
      float temperature = gate_temperature(o, p.temperature);
      float weight = softmax_of_chosen(present, logit, temperature);
      float mean = warp_sum(weight * upstream);
      mine = present ? scale * weight * (upstream - mean) / temperature : 0;
      float largest = warp_max(present ? logit : -CUDART_INF_F);
      of_temperature = -warp_sum(present ? mine * ((logit - largest) / temperature) : 0.0f);
      if (scalar(p.temperature, 1) < o.temperature_floor) of_temperature = 0;
      break;
    }
    case softmax_over_all: {
      /* w = c p[chosen]: dl_e = p_e (dp_e - <dp, p>), dense. */
      float largest, sum;
      softmax_over_experts(logits, p.experts, &largest, &sum);
      float weight = present ? expf(logit - largest) / sum : 0;
      float mean = warp_sum(weight * upstream);
#pragma unroll
      for (int i = 0; i < per_lane; i++) {
        if (lane + 32 * i < p.experts) grad[i] -= scale * (expf(logits[i] - largest) / sum) * mean;
      }
      mine = scale * weight * upstream;
      break;
    }
    case sigmoid_scores: {
      /* w = c s/N, N the sum or 1: ds_i = c (dw_i - <dw, s>/N) / N; dl = ds s (1-s). */
      float score = present ? sigmoid(logit) : 0;
      float total = warp_sum(score) + normalization, sum = o.normalize_top_k ? total : 1;
      float mean = warp_sum(score / sum * upstream);
      if (!o.normalize_top_k) mean = 0;
      mine = scale * (upstream - mean) * (score / sum) * (1 - score);
      break;
    }
  }
  for (int slot = 0; slot < o.slots; slot++) {
    int to = __shfl_sync(all_lanes, present ? static_cast<int>(expert) : -1, slot);
    float of_slot = __shfl_sync(all_lanes, mine, slot);
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      if (lane + 32 * i == to) grad[i] += of_slot;
    }
  }
  return of_temperature;
}

/* Tokens of a block, a warp each in turns; the warps' sums are added in their order. */
template <int per_lane>
__device__ __forceinline__ void logits_gradient(const RouterGradientParams &p) {
  struct Sums {
    float of_warp[warps][2 * 32 * per_lane];
    double temperature[warps];
  };
  Sums &sums = shared_memory<Sums>();
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, experts = p.experts;
  float norms[per_lane], sum_grad[per_lane], sum_along[per_lane];
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    norms[i] = p.options.cosine && lane + 32 * i < experts ? p.norms[lane + 32 * i] : 0;
    sum_grad[i] = sum_along[i] = 0;
  }
  double temperature = 0;
  int64_t begin = blockIdx.x * p.tokens_per_block;
  int64_t end = begin + p.tokens_per_block < p.tokens ? begin + p.tokens_per_block : p.tokens;
  for (int64_t token = begin + warp; token < end; token += warps) {
    float logits[per_lane], grad[per_lane];
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      int e = lane + 32 * i;
      logits[i] = e < experts ? load_f32(p.logits, token, e) : 0;
      grad[i] = e < experts && p.grad_logits.data != nullptr ? load_f32(p.grad_logits, token, e) : 0;
    }
    if (p.grad_weights.data != nullptr) temperature += gates_gradient(p, token, logits, grad);
    float scale = 1, length = 0, along = 0;
    if (p.options.cosine) {
      length = row_norm(p.z, token, p.width);
      scale = 1 / (length + p.options.epsilon);
    }
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      int e = lane + 32 * i;
      if (e >= experts) continue;
      sum_grad[i] += grad[i];
      if (p.options.cosine) {
        float part = grad[i] * (logits[i] + 1);
        sum_along[i] += part;
        along += part;
        grad[i] *= scale / (norms[i] + p.options.epsilon);
      }
      p.q[token * experts + e] = grad[i];
    }
    along = warp_sum(along);
    if (lane == 0) p.pull[token] = length == 0 ? 0 : along * scale / length;
  }
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    sums.of_warp[warp][lane + 32 * i] = sum_grad[i];
    sums.of_warp[warp][lane + 32 * i + 32 * per_lane] = sum_along[i];
  }
  if (lane == 0) sums.temperature[warp] = temperature;
  __syncthreads();
  double *partial = p.partial + static_cast<int64_t>(blockIdx.x) * (2 * experts + 1);
  for (int i = threadIdx.x; i <= 2 * experts; i += threads) {
    double sum = 0;
    for (int w = 0; w < warps; w++) {
      sum += i == 2 * experts ? sums.temperature[w] : sums.of_warp[w][i < experts ? i : i - experts + 32 * per_lane];
    }
    partial[i] = sum;
  }
}

}  // namespace

/* Named by the most experts. */
GMOE_KERNEL(gmoe_router_gradient_128, RouterGradientParams, 256) { logits_gradient<4>(p); }
GMOE_KERNEL(gmoe_router_gradient_512, RouterGradientParams, 256) { logits_gradient<16>(p); }

GMOE_KERNEL(gmoe_router_gradient_sums, RouterSumsParams, 256) {
  int i = blockIdx.x * threads + threadIdx.x, width = 2 * p.experts + 1;
  if (i >= width) return;
  double sum = 0;
  for (int64_t b = 0; b < p.blocks; b++) sum += p.partial[b * width + i];
  if (i < p.experts) {
    if (p.grad_bias.data != nullptr) store(p.grad_bias, i * p.grad_bias.column, sum);
  } else if (i < 2 * p.experts) {
    int e = i - p.experts;
    if (p.pull == nullptr) return;
    double norm = p.norms[e];
    p.pull[e] = norm > 0 ? static_cast<float>(sum / ((norm + p.epsilon) * norm)) : 0;
  } else if (p.grad_temperature.data != nullptr) {
    store(p.grad_temperature, 0, sum);
  }
}
