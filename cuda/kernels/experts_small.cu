/* The forward pass of many small experts, of which each token has many, without what backward needs. Sorted
 * by expert, tiles would be mostly empty and each token would have a row for every slot. Here all experts are one
 * feed-forward network of E I columns, tiles go across experts, and a table of the routing says what
 * counts:
 *
 *   table    the weight of each expert for each token, and which experts each group of tokens has
 *   gate_up  h = w act(x gate_up_proj^T), zero where a token does not have the expert
 *   down     h times all down_proj; sums go over experts in their order
 *
 * The schedule is sparse by blocks: what no token of a group has is neither read nor multiplied with anything
 * but zeros, and tiles of nothing else are left out. */
#include "experts_activation.h"
#include "experts_decode.h"
#include "experts_small_params.h"
#include "simt_blocks.h"

using namespace experts;

namespace {

constexpr uint32_t all_lanes = 0xffffffffu;

struct TableMemory {
  uint32_t rows[DECODE_WARPS][PLAN_MAX_EXPERTS]; /* of the token that a warp has */
  unsigned char present[PLAN_MAX_EXPERTS];
};

/* A block makes the rows of a group of tokens, a warp one at a time. */
__device__ __forceinline__ void make_table(const SmallTable &p) {
  TableMemory &memory = shared_memory<TableMemory>();
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t *row = memory.rows[warp];
  for (int32_t group = blockIdx.x; group < p.groups; group += gridDim.x) {
    for (int32_t e = threadIdx.x; e < p.experts; e += EXPERTS_THREADS) memory.present[e] = 0;
    for (int32_t i = threadIdx.x; i < p.column_tiles; i += EXPERTS_THREADS) {
      p.arrived[static_cast<int64_t>(group) * p.column_tiles + i] = 0;
    }
    __syncthreads();
    for (int32_t n = warp; n < p.group_tokens; n += DECODE_WARPS) {
      int64_t token = static_cast<int64_t>(group) * p.group_tokens + n;
      if (token >= p.tokens) break;
      for (int32_t e = lane; e < p.experts; e += 32) row[e] = SMALL_ABSENT;
      __syncwarp();
      for (int32_t first = 0; first < p.slots; first += 32) {
        int32_t slot = first + lane;
        int64_t expert = -1;
        float weight = 0.0f;
        if (slot < p.slots) {
          int64_t place = token * p.token_stride + slot * p.slot_stride;
          expert =
              p.narrow ? static_cast<const int32_t *>(p.index)[place] : static_cast<const int64_t *>(p.index)[place];
          weight = load<float>(p.routing, token, slot);
          if (weight != weight) weight = CUDART_NAN_F;
        }
        bool there = expert >= 0 && expert < p.experts;
        uint32_t peers = __match_any_sync(all_lanes, there ? static_cast<int32_t>(expert) : -1);
        int before = __popc(peers & ((1u << lane) - 1));
        /* An expert that the token has twice: its weights are added in slot order. */
        for (int turn = 0; __any_sync(all_lanes, there && before >= turn); turn++) {
          if (there && before == turn) {
            uint32_t old = row[expert];
            row[expert] = __float_as_uint(old == SMALL_ABSENT ? weight : __uint_as_float(old) + weight);
            memory.present[expert] = 1;
          }
          __syncwarp();
        }
      }
      for (int32_t e = lane; e < p.experts; e += 32) p.table[token * p.experts + e] = row[e];
      __syncwarp();
    }
    __syncthreads();
    for (int32_t e = threadIdx.x; e < p.experts; e += EXPERTS_THREADS) {
      p.present[static_cast<int64_t>(group) * p.experts + e] = memory.present[e];
    }
    __syncthreads();
  }
}

/* Which of the experts a group of tokens has. */
struct Present {
  unsigned char of[PLAN_MAX_EXPERTS];

  __device__ __forceinline__ void load(const SmallTable &p, int32_t group) {
    __syncthreads(); /* nobody reads the group before */
    for (int32_t e = threadIdx.x; e < p.experts; e += EXPERTS_THREADS) {
      of[e] = p.present[static_cast<int64_t>(group) * p.experts + e];
    }
    __syncthreads();
  }
};

template <class X>
constexpr int small_group_tokens = decode_group_rows<X, 1>;

/* --- gate_up --- */

template <class X>
__device__ __forceinline__ void gate_up(const SmallGateUpParams &p) {
  const ExpertsActivation &a = p.activation;
  Present &present = shared_memory<Present>();
  constexpr int group_tokens = small_group_tokens<X>;
  int32_t each = a.gated ? 8 : 16, width = DECODE_WARPS * each; /* columns of h: of 16 rows, of a tile */
  int32_t columns = p.table.experts * a.intermediate, tiles = decode_groups(columns, width);
  const X *all = static_cast<const X *>(p.weights.data);
#pragma unroll 1
  for (int64_t u = blockIdx.x; u < static_cast<int64_t>(p.table.groups) * tiles; u += gridDim.x) {
    int32_t group = static_cast<int32_t>(u / tiles), first = static_cast<int32_t>(u % tiles) * width;
    int32_t token = group * group_tokens, count = min(group_tokens, p.table.tokens - token);
    present.load(p.table, group);
    const X *weights[2];
    bool any = false;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int32_t column = first + threadIdx.x / 32 * each + threadIdx.x % 32 / 4 + (a.gated ? 0 : 8 * i);
      int32_t expert = column / a.intermediate;
      weights[i] = nullptr;
      if (column >= columns || !present.of[expert]) continue;
      GateUpPlace place = gate_up_place(a.gated, a.interleaved, a.intermediate, column - expert * a.intermediate);
      weights[i] = all + expert * p.weights.expert + (i == 0 ? place.gate : place.up) * p.weights.row;
      any = true;
    }
    if (__syncthreads_or(any)) {
      auto line = [&](int n) { return n < count ? address<X>(p.x, token + n, 0) : nullptr; };
      decode_product<X, 1, group_tokens>(
          count, 0, p.depth, [&](void *to, int i, int32_t k) { decode_copy(to, weights[i], k, p.depth, all); },
          [&](void *to, int n, int32_t k) { decode_copy(to, line(n), k, p.depth, all); });
    }
    const auto &result = *dynamic_shared_memory<DecodeResult<1>>();
    for (int32_t i = threadIdx.x; i < count * width; i += EXPERTS_THREADS) {
      int32_t n = i / width, at = i % width, column = first + at;
      if (column >= columns) continue;
      int32_t expert = column / a.intermediate, within = column - expert * a.intermediate;
      uint32_t bits = p.table.table[static_cast<int64_t>(token + n) * p.table.experts + expert];
      float h = 0.0f;
      if (bits != SMALL_ABSENT) {
        int row = at / each * 16 + at % each;
        GateUpPlace place = gate_up_place(a.gated, a.interleaved, a.intermediate, within);
        float gate = result.at(n, row), up = a.gated ? result.at(n, row + 8) : 0.0f;
        if (p.bias.data != nullptr) {
          gate += load<X>(p.bias, expert, place.gate);
          if (a.gated) up += load<X>(p.bias, expert, place.up);
        }
        h = __uint_as_float(bits) * activate(a, gate, up).value;
      }
      store<X>(p.h, token + n, column, h);
    }
  }
}

/* --- down --- */

struct SmallDownMemory {
  Present present;
  bool last;
};

__device__ __forceinline__ int64_t partial_place(const SmallDownParams &p, int32_t part, int32_t token,
                                                 int32_t column) {
  int64_t line = static_cast<int64_t>(p.table.column_tiles) * DECODE_SIDE;
  return (part * static_cast<int64_t>(p.table.tokens) + token) * line + column;
}

template <class X>
__device__ __forceinline__ void down(const SmallDownParams &p) {
  constexpr int group_tokens = small_group_tokens<X>, chunk = 16 / sizeof(X), piece = 4 / sizeof(X);
  SmallDownMemory &memory = shared_memory<SmallDownMemory>();
  int32_t tiles = p.table.column_tiles, depth = p.table.experts * p.intermediate;
  const X *all = static_cast<const X *>(p.weights.data);
#pragma unroll 1
  for (int64_t u = blockIdx.x; u < static_cast<int64_t>(p.table.groups) * tiles * p.parts; u += gridDim.x) {
    int32_t part = static_cast<int32_t>(u % p.parts), place = static_cast<int32_t>(u / p.parts);
    int32_t group = place / tiles, first = place % tiles * DECODE_SIDE;
    int32_t token = group * group_tokens, count = min(group_tokens, p.table.tokens - token);
    int32_t begin = part * p.part, end = min(begin + p.part, depth);
    memory.present.load(p.table, group);
    const X *rows[2]; /* in the first expert's weight */
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int32_t column = first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i;
      rows[i] = column < p.columns ? all + column * p.weights.row : nullptr;
    }
    decode_product<X, 1, group_tokens>(
        count, begin, end,
        [&](void *to, int i, int32_t k) {
          int32_t expert = k / p.intermediate, within = k - expert * p.intermediate;
          if (p.vector) {
            bool there = rows[i] != nullptr && k < end && memory.present.of[expert];
            copy_async(to, there ? rows[i] + expert * p.weights.expert + within : all, there ? 16 : 0);
            return;
          }
#pragma unroll
          for (int j = 0; j < 4; j++) {
            bool there = rows[i] != nullptr && k + j * piece < end && memory.present.of[expert];
            copy_async_4(static_cast<X *>(to) + j * piece, there ? rows[i] + expert * p.weights.expert + within : all,
                         there ? 4 : 0);
            within += piece;
            if (within >= p.intermediate) within -= p.intermediate, expert++;
          }
        },
        [&](void *to, int n, int32_t k) {
          int32_t left = n < count ? end - k : 0;
          uint32_t bytes = (left < 0 ? 0 : left < chunk ? left : chunk) * sizeof(X);
          copy_async(to, bytes > 0 ? address<X>(p.h, token + n, k) : static_cast<const X *>(p.h.data), bytes);
        });
    const auto &result = *dynamic_shared_memory<DecodeResult<1>>();
    for (int32_t i = threadIdx.x; i < count * DECODE_SIDE; i += EXPERTS_THREADS) {
      int32_t n = i / DECODE_SIDE, at = i % DECODE_SIDE;
      if (first + at >= p.columns) continue;
      if (p.parts == 1) {
        store<X>(p.output, token + n, first + at, result.at(n, at));
      } else {
        p.partial[partial_place(p, part, token + n, first + at)] = result.at(n, at);
      }
    }
    if (p.parts == 1) continue;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) memory.last = atomicAdd(&p.table.arrived[place], 1) == p.parts - 1;
    __syncthreads();
    if (!memory.last) continue;
    __threadfence();
    for (int32_t i = threadIdx.x; i < count * DECODE_SIDE; i += EXPERTS_THREADS) {
      int32_t n = i / DECODE_SIDE, column = first + i % DECODE_SIDE;
      if (column >= p.columns) continue;
      float sum = 0.0f;
      for (int32_t q = 0; q < p.parts; q++) sum += __ldcg(p.partial + partial_place(p, q, token + n, column));
      store<X>(p.output, token + n, column, sum);
    }
  }
}

}  // namespace

GMOE_KERNEL(gmoe_experts_small_table, SmallTable, EXPERTS_THREADS) { make_table(p); }
GMOE_KERNEL_BLOCKS(gmoe_experts_small_gate_up_bf16, SmallGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<__nv_bfloat16>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_small_gate_up_f32, SmallGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<float>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_small_down_bf16, SmallDownParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  down<__nv_bfloat16>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_small_down_f32, SmallDownParams, EXPERTS_THREADS, DECODE_BLOCKS) { down<float>(p); }
