/* The forward pass of few tokens, without what backward needs, in two launches:
 *
 *   gate_up  every block sorts the (token, slot) pairs by expert for itself; h = act(x gate_up_proj^T)
 *   down     parts of h down_proj^T; the last block that writes one of a tile's parts sums them, for
 *            each token in slot order
 *
 * Which block is the last decides no result: it reads what all have written, in an order of its own. */
#ifndef GMOE_EXPERTS_DECODE_FORWARD_H_
#define GMOE_EXPERTS_DECODE_FORWARD_H_

#include "experts_activation.h"
#include "experts_decode.h"
#include "plan_sums.h"
#include "simt_blocks.h"

namespace experts {

using plan::all_lanes;

/* --- gate_up --- */

struct GateUpMemory {
  DecodeRouting routing;
  uint16_t row_pair[DECODE_MAX_PAIRS];
  const void *lines[64]; /* of a unit's tokens */
};

/* What a block needs for sorting, in the ring's memory. */
struct SortMemory {
  uint16_t count[DECODE_WARPS][PLAN_MAX_EXPERTS]; /* of a warp's pairs, by expert; then of those before */
  int32_t total[PLAN_MAX_EXPERTS];
};

__device__ __forceinline__ int32_t expert_of(const DecodePlan &p, int32_t pair) {
  int64_t place = pair / p.slots * p.token_stride + pair % p.slots * p.slot_stride;
  int64_t expert =
      p.narrow ? static_cast<const int32_t *>(p.index)[place] : static_cast<const int64_t *>(p.index)[place];
  return expert >= 0 && expert < p.experts ? static_cast<int32_t>(expert) : -1;
}

/* The stable counting sort of the pairs. The first block writes it down. */
__device__ __forceinline__ void sort_pairs(const DecodePlan &p, int32_t group_rows, GateUpMemory &memory) {
  constexpr int strips = DECODE_MAX_PAIRS / (32 * DECODE_WARPS); /* of 32 pairs, of a warp */
  SortMemory &sort = *dynamic_shared_memory<SortMemory>();
  int warp = plan::warp_index(), lane = plan::lane_index();
  int32_t pairs = p.tokens * p.slots, each = (pairs + EXPERTS_THREADS - 1) / EXPERTS_THREADS * 32;
  for (int32_t e = lane; e < p.experts; e += 32) sort.count[warp][e] = 0;
  __syncwarp();
  int32_t experts[strips], ranks[strips];
#pragma unroll
  for (int s = 0; s < strips; s++) {
    int32_t pair = warp * each + s * 32 + lane;
    int32_t expert = s * 32 < each && pair < pairs ? expert_of(p, pair) : -1;
    uint32_t peers = __match_any_sync(all_lanes, expert), earlier = peers & ((1u << lane) - 1);
    experts[s] = expert;
    ranks[s] = expert >= 0 ? sort.count[warp][expert] + __popc(earlier) : 0;
    __syncwarp();
    if (expert >= 0 && earlier == 0) sort.count[warp][expert] += __popc(peers);
    __syncwarp();
  }
  __syncthreads();
  for (int32_t e = threadIdx.x; e < p.experts; e += EXPERTS_THREADS) {
    int32_t sum = 0;
    for (int w = 0; w < DECODE_WARPS; w++) {
      int32_t count = sort.count[w][e];
      sort.count[w][e] = sum;
      sum += count;
    }
    sort.total[e] = sum;
  }
  __syncthreads();
  DecodeRouting &r = memory.routing;
  if (warp == 0) plan::exclusive_sums(r.offset, p.experts, [&](int32_t e) { return sort.total[e]; });
  if (warp == 1) {
    plan::exclusive_sums(r.group, p.experts, [&](int32_t e) { return decode_groups(sort.total[e], group_rows); });
  }
  __syncthreads();
#pragma unroll
  for (int s = 0; s < strips; s++) {
    int32_t pair = warp * each + s * 32 + lane, expert = experts[s];
    int32_t row = expert >= 0 ? r.offset[expert] + sort.count[warp][expert] + ranks[s] : -1;
    if (row >= 0) memory.row_pair[row] = static_cast<uint16_t>(pair);
    if (blockIdx.x == 0 && s * 32 < each && pair < pairs) p.pair_row[pair] = row;
  }
  if (blockIdx.x == 0) {
    for (int32_t e = threadIdx.x; e <= p.experts; e += EXPERTS_THREADS) p.offset[e] = r.offset[e];
    for (int32_t i = threadIdx.x; i < p.column_tiles; i += EXPERTS_THREADS) p.arrived[i] = 0;
  }
  __syncthreads();
}

/* Copies the rows 8 i to 8 i + 7 of a unit at depth k, from weights across the depth: `there` of them, from row n of
 * the weight on. */
template <class X>
__device__ __forceinline__ void copy_across(void *to, const X *expert, const ExpertsStack &w, int32_t n, int32_t there,
                                            int32_t k, int32_t end) {
  int32_t count = k < end ? (there < 0 ? 0 : there < 8 ? there : 8) : 0;
  copy_async(to, count > 0 ? expert + k * w.column + n : expert, count * sizeof(X));
}

/* The scales of a unit's rows and of its tokens, whose own are scale_of(n). */
template <class ScaleOf>
__device__ __forceinline__ DecodeScales unit_scales(const ExpertsStack &scales, const DecodeUnit &unit, int tokens,
                                                    const bool (&there)[2], const int32_t (&z)[2],
                                                    const ScaleOf &scale_of) {
  const float *any = static_cast<const float *>(scales.data), *expert = any + unit.expert * scales.expert;
  auto row = [&](int i) { return there[i] ? expert + z[i] / float8::BLOCK * scales.row : nullptr; };
  int token = threadIdx.x % tokens;
  return {{row(0), row(1)}, scales.column, token < unit.rows ? scale_of(token) : nullptr, any};
}

/* X: tokens and weights have it; B: biases; H: h. */
template <class X, int cut, bool along, class B, class H>
__device__ __forceinline__ void gate_up_unit(const DecodeGateUpParams &p, const DecodeUnit &unit, const X *const *lines,
                                             const uint16_t *row_pair) {
  const ExpertsActivation &a = p.activation;
  constexpr int tiles = DECODE_WARPS / cut; /* of 16 rows, in a unit */
  int warp_tile = threadIdx.x / 32 % tiles, group = threadIdx.x % 32 / 4;
  int32_t each = a.gated ? 8 : 16, first = unit.tile * tiles * each; /* columns of h: of a tile of 16 rows, here */
  /* Rows `group` and group + 8 of the warp's 16 are a gate and its up, or two columns. */
  int32_t column = first + warp_tile * each + group;
  GateUpPlace place = gate_up_place(a.gated, a.interleaved, a.intermediate, column);
  int32_t z[2] = {place.gate, a.gated ? place.up : column + 8};
  bool there[2] = {column < a.intermediate, (a.gated ? column : column + 8) < a.intermediate};
  const X *expert = static_cast<const X *>(p.weights.data) + unit.expert * p.weights.expert;
  const X *weights[2];
#pragma unroll
  for (int i = 0; i < 2; i++) weights[i] = there[i] ? expert + z[i] * p.weights.row : nullptr;
  auto tokens = [&](void *to, int token, int32_t k) { decode_copy(to, lines[token], k, p.depth, expert); };
  if constexpr (along) {
    auto copy = [&](void *to, int i, int32_t k) { decode_copy(to, weights[i], k, p.depth, expert); };
    if constexpr (sizeof(X) == 1) {
      decode_product<X, cut, decode_gate_up_rows<X, cut>>(unit.rows, 0, p.depth, copy, tokens, [&](int count) {
        return unit_scales(p.weights_scale, unit, count, there, z, [&](int n) {
          return address<const float>(p.x_scale, row_pair[unit.first + n] / p.plan.slots, 0);
        });
      });
    } else {
      decode_product<X, cut, decode_gate_up_rows<X, cut>>(unit.rows, 0, p.depth, copy, tokens);
    }
  } else {
    /* Of gates that come first, every other eight rows are their ups. */
    bool halves = a.gated && !a.interleaved;
    decode_product<X, cut, decode_gate_up_rows<X, cut>, false>(
        unit.rows, 0, p.depth,
        [&](void *to, int i, int32_t k) {
          int32_t n = halves ? first + i / 2 * 8 : unit.tile * (DECODE_SIDE / cut) + i * 8;
          int32_t end = halves ? a.intermediate : a.gated ? 2 * a.intermediate : a.intermediate;
          copy_across(to, expert, p.weights, n + (halves ? i % 2 * a.intermediate : 0), end - n, k, p.depth);
        },
        tokens);
  }

  const auto &result = *dynamic_shared_memory<DecodeResult<cut>>();
  auto element = [&](int32_t token, int row, int32_t z) {
    float v = result.at(token, row);
    return p.bias.data != nullptr ? v + load<B>(p.bias, unit.expert, z) : v;
  };
  for (int32_t i = threadIdx.x; i < unit.rows * tiles * each; i += EXPERTS_THREADS) {
    int32_t token = i / (tiles * each), at = i % (tiles * each), column = first + at;
    if (column >= a.intermediate) continue;
    GateUpPlace place = gate_up_place(a.gated, a.interleaved, a.intermediate, column);
    int row = at / each * 16 + at % each, up_row = row + 8;
    if (!along && a.interleaved) row = 2 * at, up_row = row + 1;
    float gate = element(token, row, place.gate), up = a.gated ? element(token, up_row, place.up) : 0.0f;
    store<H>(p.h, unit.first + token, column, activate(a, gate, up).value);
  }
}

template <class X, int cut, bool along = true, class B = X, class H = X>
__device__ __forceinline__ void gate_up(const DecodeGateUpParams &p) {
  constexpr int group_rows = decode_gate_up_rows<X, cut>;
  GateUpMemory &memory = shared_memory<GateUpMemory>();
  sort_pairs(p.plan, group_rows, memory);
  const ExpertsActivation &a = p.activation;
  constexpr int side = DECODE_SIDE / cut;
  int32_t tiles = decode_groups(a.intermediate, a.gated ? side / 2 : side);
  int64_t units = static_cast<int64_t>(memory.routing.group[p.plan.experts]) * tiles;
#pragma unroll 1
  for (int64_t u = blockIdx.x; u < units; u += gridDim.x) {
    DecodeUnit unit = decode_unit(memory.routing, p.plan.experts, group_rows, tiles, u);
    if (threadIdx.x < group_rows) {
      int32_t token = threadIdx.x;
      memory.lines[token] =
          token < unit.rows ? address<X>(p.x, memory.row_pair[unit.first + token] / p.plan.slots, 0) : nullptr;
    }
    __syncthreads();
    gate_up_unit<X, cut, along, B, H>(p, unit, reinterpret_cast<const X *const *>(memory.lines), memory.row_pair);
  }
}

/* --- down --- */

struct DownMemory {
  DecodeRouting routing;
  const void *lines[64];
  bool last;
};

__device__ __forceinline__ int64_t partial_place(const DecodeDownParams &p, int32_t part, int32_t row, int32_t column) {
  int64_t pairs = static_cast<int64_t>(p.plan.tokens) * p.plan.slots;
  return (part * pairs + row) * (static_cast<int64_t>(p.plan.column_tiles) * DECODE_SIDE) + column;
}

template <class X, bool along, class Y>
__device__ __forceinline__ void down_unit(const DecodeDownParams &p, const DecodeUnit &unit, int32_t part,
                                          const X *const *lines) {
  int32_t first = unit.tile * DECODE_SIDE;
  int32_t column = first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
  const X *expert = static_cast<const X *>(p.weights.data) + unit.expert * p.weights.expert;
  const X *weights[2];
#pragma unroll
  for (int i = 0; i < 2; i++)
    weights[i] = column + 8 * i < p.columns ? expert + (column + 8 * i) * p.weights.row : nullptr;
  int32_t begin = part * p.part, end = min(begin + p.part, p.depth);
  auto tokens = [&](void *to, int token, int32_t k) { decode_copy(to, lines[token], k, end, expert); };
  if constexpr (along) {
    auto copy = [&](void *to, int i, int32_t k) { decode_copy(to, weights[i], k, end, expert); };
    if constexpr (sizeof(X) == 1) {
      bool there[2] = {column < p.columns, column + 8 < p.columns};
      int32_t rows[2] = {column, column + 8};
      decode_product<X, 1, decode_group_rows<X, 1>>(unit.rows, begin, end, copy, tokens, [&](int count) {
        return unit_scales(p.weights_scale, unit, count, there, rows,
                           [&](int n) { return address<const float>(p.h_scale, unit.first + n, 0); });
      });
    } else {
      decode_product<X, 1, decode_group_rows<X, 1>>(unit.rows, begin, end, copy, tokens);
    }
  } else {
    decode_product<X, 1, decode_group_rows<X, 1>, false>(
        unit.rows, begin, end,
        [&](void *to, int i, int32_t k) {
          copy_across(to, expert, p.weights, first + 8 * i, p.columns - first - 8 * i, k, end);
        },
        tokens);
  }

  const auto &result = *dynamic_shared_memory<DecodeResult<1>>();
  for (int32_t i = threadIdx.x; i < unit.rows * DECODE_SIDE; i += EXPERTS_THREADS) {
    int32_t token = i / DECODE_SIDE, at = i % DECODE_SIDE;
    if (first + at >= p.columns) continue;
    float v = result.at(token, at);
    if (part == 0 && p.bias.data != nullptr) v += load<Y>(p.bias, unit.expert, first + at);
    p.partial[partial_place(p, part, unit.first + token, first + at)] = v;
  }
}

/* The output's columns of a tile, from all parts. */
template <class Y>
__device__ __forceinline__ void combine_tile(const DecodeDownParams &p, int32_t tile) {
  int32_t column = tile * DECODE_SIDE + threadIdx.x % DECODE_SIDE;
  if (column >= p.columns) return;
  for (int32_t token = threadIdx.x / DECODE_SIDE; token < p.plan.tokens; token += 32 * DECODE_WARPS / DECODE_SIDE) {
    float sum = 0.0f;
    for (int32_t slot = 0; slot < p.plan.slots; slot++) {
      int32_t row = p.plan.pair_row[token * p.plan.slots + slot];
      if (row < 0) continue;
      float v = 0.0f;
      for (int32_t part = 0; part < p.parts; part++) v += __ldcg(p.partial + partial_place(p, part, row, column));
      sum += load<float>(p.routing, token, slot) * v;
    }
    store<Y>(p.output, token, column, sum);
  }
}

/* X: h and weights have it; Y: biases and the output. */
template <class X, bool along = true, class Y = X>
__device__ __forceinline__ void down(const DecodeDownParams &p) {
  constexpr int group_rows = decode_group_rows<X, 1>;
  DownMemory &memory = shared_memory<DownMemory>();
  DecodeRouting &r = memory.routing;
  int32_t experts = p.plan.experts, tiles = p.plan.column_tiles;
  for (int32_t e = threadIdx.x; e <= experts; e += EXPERTS_THREADS) r.offset[e] = p.plan.offset[e];
  __syncthreads();
  if (threadIdx.x < 32) {
    plan::exclusive_sums(r.group, experts,
                         [&](int32_t e) { return decode_groups(r.offset[e + 1] - r.offset[e], group_rows); });
  }
  __syncthreads();
  int32_t groups = r.group[experts];
  if (groups == 0) { /* nobody has a part: zeros */
    for (int32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) combine_tile<Y>(p, tile);
    return;
  }
  int64_t units = static_cast<int64_t>(groups) * tiles * p.parts;
#pragma unroll 1
  for (int64_t u = blockIdx.x; u < units; u += gridDim.x) {
    DecodeUnit unit = decode_unit(r, experts, group_rows, tiles, u / p.parts);
    int32_t part = static_cast<int32_t>(u % p.parts);
    if (threadIdx.x < group_rows) {
      int32_t token = threadIdx.x;
      memory.lines[token] = token < unit.rows ? address<X>(p.h, unit.first + token, 0) : nullptr;
    }
    __syncthreads();
    down_unit<X, along, Y>(p, unit, part, reinterpret_cast<const X *const *>(memory.lines));
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) memory.last = atomicAdd(&p.plan.arrived[unit.tile], 1) == groups * p.parts - 1;
    __syncthreads();
    if (memory.last) {
      __threadfence();
      combine_tile<Y>(p, unit.tile);
    }
  }
}

}  // namespace experts

#endif
