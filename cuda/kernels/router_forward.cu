/* Logits, chosen experts, gates and counts, in one pass over the router's input. */
#include "router_choice.h"
#include "router_tile.h"

namespace {

using namespace router;

constexpr int max_experts = 512;

/* What a block keeps beside the logits of its tokens. */
struct Routing {
  float price[max_experts];
  uint32_t counts[max_experts];
  uint32_t open[warps][max_experts / 32];
};

__device__ __forceinline__ void start_routing(const RouterForwardParams &p, Routing &routing) {
  for (int e = threadIdx.x; e < p.experts; e += threads) {
    routing.counts[e] = 0;
    routing.price[e] = p.price.data == nullptr ? 0 : load_f32(p.price, e * p.price.column);
  }
}

/* Stores the routing of a token whose logits are row. One warp. The values of price and gap cannot be
 * refused here: where the CPU does, all gates are NaN. */
template <int per_lane>
__device__ __forceinline__ void route_token(const RouterForwardParams &p, Routing &routing, int64_t token,
                                            const float *row) {
  const RouterOptions &o = p.options;
  int lane = threadIdx.x % 32;
  bool finite = true;
  for (int e = lane; e < p.experts; e += 32) finite = finite && is_finite(row[e]) && !isnan(routing.price[e]);
  if (is_budgeted(o)) finite = finite && scalar(p.gap, 0) >= 0;
  finite = __all_sync(all_lanes, finite);
  Choice c = choose<per_lane>(p, routing.price, row, routing.open[threadIdx.x / 32]);
  bool chosen = lane < c.active;
  float logit = chosen ? row[c.expert] : 0, weight = 0;
  switch (gate_of(o)) {
    case softmax_over_chosen:
      weight = softmax_of_chosen(chosen, logit, gate_temperature(o, p.temperature)) * gate_scale(o);
      break;
    case softmax_over_all: {
      float logits[per_lane], largest, sum;
#pragma unroll
      for (int i = 0; i < per_lane; i++) logits[i] = lane + 32 * i < p.experts ? row[lane + 32 * i] : 0;
      softmax_over_experts(logits, p.experts, &largest, &sum);
      weight = expf(logit - largest) / sum * gate_scale(o);
      break;
    }
    case sigmoid_scores: {
      float score = chosen ? sigmoid(logit) : 0, sum = warp_sum(score) + normalization;
      weight = score * (gate_scale(o) / (o.normalize_top_k ? sum : 1));
      break;
    }
  }
  if (!finite) weight = CUDART_NAN_F;
  if (chosen) atomicAdd(&routing.counts[c.expert], 1u);
  if (lane < o.slots) {
    store_f32(p.top_k_weights, token, lane, chosen ? weight : 0);
    store_index(p.top_k_index, token, lane, chosen ? c.expert : p.experts);
  }
}

/* Adds the block's counts to the tensor's, which began as zeros: integers, in any order. */
__device__ __forceinline__ void finish_routing(const RouterForwardParams &p, Routing &routing) {
  __syncthreads();
  if (p.counts.data == nullptr) return;
  auto *counts = static_cast<unsigned long long *>(p.counts.data);
  for (int e = threadIdx.x; e < p.experts; e += threads) {
    if (routing.counts[e] != 0)
      atomicAdd(&counts[e * p.counts.column], static_cast<unsigned long long>(routing.counts[e]));
  }
}

/* Adds the squares of a thread's share of its row of z. */
template <int threads_per_row, class Tile>
__device__ __forceinline__ void add_squares(const Tile &z, float *sum) {
  constexpr int share = Tile::inner / threads_per_row;
  int row = threadIdx.x / threads_per_row, first = threadIdx.x % threads_per_row * share;
  if (share == 0) return;
#pragma unroll
  for (int i = 0; i < share; i++) {
    float v = widen(z.at(row, first + i));
    *sum += v * v;
  }
}

/* rows tokens of a block and all experts, at most columns. The products <z, c_e> stay on the chip:
 * they become logits, and these a routing, in shared memory. */
template <class Z, class C, int rows, int columns, int warp_rows, int stages>
__device__ __forceinline__ void score_and_route(const RouterForwardParams &p) {
  using Block = Product<Z, C, rows, columns, warp_rows, false, false>;
  constexpr int threads_per_row = threads / rows, pitch = columns + 8, per_lane = columns / 32;
  auto *memory = dynamic_shared_memory<typename Block::Stage>();
  Routing &routing = shared_memory<Routing>();
  struct Lengths {
    float of_row[rows];
  };
  float *length = shared_memory<Lengths>().of_row;
  start_routing(p, routing);

  int64_t first = static_cast<int64_t>(blockIdx.x) * rows;
  Block block;
  float squares = 0;
  block.template run<stages>(memory, p.z, first, p.tokens, p.centroids, 0, p.experts, 0, p.width,
                             [&](const typename Block::Stage &stage) {
                               if (p.options.cosine) add_squares<threads_per_row>(stage.a, &squares);
                             });
#pragma unroll
  for (int bits = threads_per_row / 2; bits > 0; bits /= 2) squares += __shfl_xor_sync(all_lanes, squares, bits);
  if (threadIdx.x % threads_per_row == 0) length[threadIdx.x / threads_per_row] = sqrtf(squares) + p.options.epsilon;

  float *products = reinterpret_cast<float *>(memory); /* [rows][pitch]; the stages are done with */
  block.for_each(p.experts, [&](int row, int column, float v, float w) {
    *reinterpret_cast<float2 *>(&products[row * pitch + column]) = make_float2(v, w);
  });
  __syncthreads();

  for (int r = threadIdx.x / 32; r < rows && first + r < p.tokens; r += warps) {
    float *row = &products[r * pitch];
    int64_t token = first + r;
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) {
      float logit = row[e];
      if (p.options.cosine) {
        logit = logit / (length[r] * (p.norms[e] + p.options.epsilon)) - 1;
      } else if (p.bias.data != nullptr) {
        logit += load_f32(p.bias, e * p.bias.column);
      }
      row[e] = logit;
      if (p.logits.data != nullptr) store_f32(p.logits, token, e, logit);
      if (p.scores != nullptr) p.scores[token * p.experts + e] = logit;
    }
    __syncwarp();
    if (p.scores == nullptr) route_token<per_lane>(p, routing, token, row);
  }
  finish_routing(p, routing);
}

}  // namespace

/* Named by the types of z and of the centroids, and the most experts. */
#define GMOE_ROUTER_FORWARD(suffix, Z, C)                                     \
  GMOE_KERNEL(gmoe_router_forward_##suffix##_128, RouterForwardParams, 256) { \
    score_and_route<Z, C, 64, 128, 2, 4>(p);                                  \
  }                                                                           \
  GMOE_KERNEL(gmoe_router_forward_##suffix##_512, RouterForwardParams, 256) { score_and_route<Z, C, 32, 512, 1, 2>(p); }
GMOE_ROUTER_FORWARD(f32_f32, float, float)
GMOE_ROUTER_FORWARD(f32_bf16, float, __nv_bfloat16)
GMOE_ROUTER_FORWARD(bf16_f32, __nv_bfloat16, float)
GMOE_ROUTER_FORWARD(bf16_bf16, __nv_bfloat16, __nv_bfloat16)

/* Routes by the scores that a pass before stored: after the batch solver. A warp a token. */
GMOE_KERNEL(gmoe_router_route, RouterForwardParams, 256) {
  struct Rows {
    float row[warps][max_experts];
  };
  Routing &routing = shared_memory<Routing>();
  float *row = shared_memory<Rows>().row[threadIdx.x / 32];
  start_routing(p, routing);
  __syncthreads();
  int64_t token = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (token < p.tokens) {
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) row[e] = p.scores[token * p.experts + e];
    __syncwarp();
    route_token<max_experts / 32>(p, routing, token, row);
  }
  finish_routing(p, routing);
}

/* A warp an expert. */
GMOE_KERNEL(gmoe_router_prepare, RouterPrepareParams, 256) {
  int expert = blockIdx.x * warps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (expert >= p.experts) return;
  if (p.norms != nullptr) {
    float norm = row_norm(p.centroids, expert, p.width);
    if (lane == 0) p.norms[expert] = norm;
  }
  if (lane != 0) return;
  if (p.counts.data != nullptr) static_cast<int64_t *>(p.counts.data)[expert * p.counts.column] = 0;
  if (p.price != nullptr) p.price[expert] = 0;
  if (p.state == nullptr) return;
  p.state->price[expert] = p.state->residual[expert] = 0;
  if (expert == 0) {
    p.state->step = 0;
    p.state->ceiling = 1;
    p.state->lowest = CUDART_INF;
    p.state->iteration = p.state->stalled = p.state->done = 0;
    p.state->ticket = 0;
  }
}
