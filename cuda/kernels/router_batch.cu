/* Solver batch: the prices of the optimum of H over this batch.
 *
 * The iteration of router/batch.go: mu <- mu + a r with r = lambda (rho(mu)/pi - 1) - mu and steps a of
 * Barzilai and Borwein. One launch is one iteration: blocks sum the occupations of their tokens, and the
 * last of them to end takes the step. Launches after the end return at once, so nothing is read
 * back; the last launch is one block that takes all the iterations that may be left. */
#include "router_occupy.h"

namespace {

using namespace router;

constexpr int threads = 256, warps = threads / 32, per_lane = 16, max_experts = 512;
constexpr double price_precision = 1e-4;
constexpr int max_iterations = 2000, patience = 6;

struct Sums {
  double loads[max_experts];
  double of_warp[warps][max_experts / 8]; /* an eighth of the experts at a time */
  uint32_t tokens[warps];
  uint32_t is_last, done;
};

/* Sums p over the block's tokens, a warp each in turns, into this block's part of partial. */
__device__ void occupy_tokens(const RouterBatchParams &p, Sums &sums) {
  const RouterBatchState &state = *p.state;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float per_tau = 1 / p.options.entropy_temperature;
  bool first_time = state.iteration == 0;
  float price[per_lane];
  double load[per_lane];
#pragma unroll
  for (int i = 0; i < per_lane; i++) {
    int e = lane + 32 * i;
    price[i] = e < p.experts ? static_cast<float>(state.price[e]) : 0;
    load[i] = 0;
  }
  uint32_t tokens = 0;
  int64_t begin = blockIdx.x * p.tokens_per_block;
  int64_t end = begin + p.tokens_per_block < p.tokens ? begin + p.tokens_per_block : p.tokens;
  for (int64_t t = begin + warp; t < end; t += warps) {
    float field[per_lane], occupation[per_lane], shift = -CUDART_INF_F;
    bool finite = true;
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      int e = lane + 32 * i;
      field[i] = e < p.experts ? p.scores[t * p.experts + e] : -CUDART_INF_F;
      finite = finite && (e >= p.experts || is_finite(field[i]));
      shift = fmaxf(shift, field[i]);
    }
    if (!__all_sync(all_lanes, finite)) continue;
    tokens++;
    shift = warp_max(shift);
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
      field[i] = lane + 32 * i < p.experts ? (shift - field[i] + price[i]) * per_tau : CUDART_INF_F;
    }
    float start = first_time ? CUDART_NAN_F : p.theta[t];
    float theta = occupy(field, occupation, static_cast<float>(p.options.slots), start);
    __syncwarp();
    if (lane == 0) p.theta[t] = theta;
#pragma unroll
    for (int i = 0; i < per_lane; i++) load[i] += occupation[i];
  }
  if (lane == 0) sums.tokens[warp] = tokens;
  double *partial = p.partial + static_cast<int64_t>(blockIdx.x) * (p.experts + 1);
  /* Two elements of each lane at a time, to keep shared memory small. */
#pragma unroll
  for (int i = 0; i < per_lane; i += 2) {
    if (32 * i >= p.experts) break;
    __syncthreads();
    sums.of_warp[warp][lane] = load[i];
    sums.of_warp[warp][lane + 32] = load[i + 1];
    __syncthreads();
    int e = 32 * i + static_cast<int>(threadIdx.x);
    if (threadIdx.x < 64 && e < p.experts) {
      double sum = 0;
      for (int w = 0; w < warps; w++) sum += sums.of_warp[w][threadIdx.x];
      partial[e] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t sum = 0;
    for (int w = 0; w < warps; w++) sum += sums.tokens[w];
    partial[p.experts] = sum;
  }
}

/* Loads from all blocks' parts, in their order; returns the number of tokens. */
__device__ double add_blocks(const RouterBatchParams &p, Sums &sums) {
  int64_t width = p.experts + 1;
  for (int e = threadIdx.x; e < p.experts; e += threads) {
    double sum = 0;
    for (uint32_t b = 0; b < gridDim.x; b++) sum += p.partial[b * width + e];
    sums.loads[e] = sum;
  }
  double tokens = 0;
  for (uint32_t b = 0; b < gridDim.x; b++) tokens += p.partial[b * width + p.experts];
  __syncthreads();
  return tokens;
}

/* The end: the result, or NaN where the prices did not settle. */
__device__ void finish(const RouterBatchParams &p, bool settled) {
  for (int e = threadIdx.x; e < p.experts; e += 32) {
    float price = settled ? static_cast<float>(p.state->price[e]) : CUDART_NAN_F;
    p.price[e] = price;
  }
  if (threadIdx.x == 0) p.state->done = 1;
}

/* One step of the prices, by one warp. */
__device__ void step_prices(const RouterBatchParams &p, const Sums &sums, double tokens) {
  RouterBatchState &state = *p.state;
  int lane = threadIdx.x;
  double tau = p.options.entropy_temperature, lambda = p.options.load_penalty;
  double share = static_cast<double>(p.options.slots) / p.experts;
  double safe = 1 / (1 + lambda / (4 * share * tau)), first = fmax(tau / (tau + lambda), safe);
  if (tokens == 0) {
    finish(p, true);
    return;
  }
  double worst = 0, along = 0, change = 0;
  for (int e = lane; e < p.experts; e += 32) {
    double residual = lambda * (sums.loads[e] / tokens / share - 1) - state.price[e];
    double before = state.residual[e], difference = residual - before;
    along += before * difference;
    change += difference * difference;
    worst = fmax(worst, fabs(residual));
    state.residual[e] = residual;
  }
  along = warp_sum(along);
  change = warp_sum(change);
  worst = warp_max(worst);
  if (first * worst <= price_precision * tau) {
    finish(p, true);
    return;
  }
  double step = state.iteration == 0 ? first : state.step;
  double ceiling = state.ceiling, lowest = state.lowest;
  int stalled = state.stalled + 1, iteration = state.iteration;
  if (worst < lowest) {
    lowest = worst;
    stalled = 0;
  }
  if (stalled > patience) {
    ceiling = fmax(safe, ceiling / 4);
    stalled = 0;
  }
  /* The last step moved mu by step r; the residual changed by dr: -<dmu,dr>/<dr,dr>. */
  if (iteration > 0 && change > 0) step = fmin(ceiling, fmax(safe, -step * along / change));
  for (int e = lane; e < p.experts; e += 32) state.price[e] += step * state.residual[e];
  __syncwarp();
  if (lane == 0) {
    state.step = step;
    state.ceiling = ceiling;
    state.lowest = lowest;
    state.stalled = stalled;
    state.iteration = iteration + 1;
  }
  if (iteration + 1 == max_iterations) finish(p, false);
}

}  // namespace

GMOE_KERNEL(gmoe_router_batch_step, RouterBatchParams, 256) {
  Sums &sums = shared_memory<Sums>();
  for (int i = 0; i < p.iterations; i++) {
    if (threadIdx.x == 0) sums.done = static_cast<uint32_t>(p.state->done);
    __syncthreads();
    if (sums.done) break;
    occupy_tokens(p, sums);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) sums.is_last = atomicAdd(&p.state->ticket, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!sums.is_last) break;
    __threadfence();
    double tokens = add_blocks(p, sums);
    if (threadIdx.x < 32) step_prices(p, sums, tokens);
    if (threadIdx.x == 0) p.state->ticket = 0;
    __threadfence();
    __syncthreads();
  }
}

/* The prices of the batch to the tensor that asked for them. */
GMOE_KERNEL(gmoe_router_batch_price, RouterBatchParams, 256) {
  int e = blockIdx.x * threads + threadIdx.x;
  if (e < p.experts) store(p.price_out, e * p.price_out.column, p.price[e]);
}
