/* The product for few tokens: bound by reading weights once. A weight is read as it lies, 16 bytes at a
 * time, by the thread that multiplies it, through a ring in shared memory which only that thread writes and
 * reads; on the tensor core it is the operand with 16 rows, and tokens are the one with 8 columns, so that few
 * tokens waste little. The tokens' rows are shared by the block, one barrier a stage.
 *
 * Both operands name the depth's elements in the same other order: where the tensor core wants four pairs
 * from a register here and one there, each thread has 8 neighbours, 16 bytes (for float32, 4). A sum does
 * not mind.
 *
 * A block of 8 warps multiplies 128 rows of a weight, 16 a warp; with `cut` 2, 64 rows, of which half of the
 * warps have the one half of each stage's depth and half the other. */
#ifndef GMOE_EXPERTS_DECODE_H_
#define GMOE_EXPERTS_DECODE_H_

#include "experts_decode_params.h"
#include "experts_element.h"
#include "experts_schedule.h"
#include "float8.h"

namespace experts {

constexpr int DECODE_WARPS = EXPERTS_THREADS / 32;
constexpr int DECODE_WEIGHT_BYTES = DECODE_SIDE * DECODE_LINE_BYTES; /* of a stage */

/* The sums of a thread, of tokens in eights: sums[n][0] and [1] are row `group` of the warp's 16 by tokens
 * 8 n + 2 pair and the next, [2] and [3] row group + 8. */
template <int eights>
using DecodeSums = float[eights][4];

/* One step of a warp: 16 rows, 32 bytes of the depth. */
template <class X, int eights>
struct DecodeCore;

template <int eights>
struct DecodeCore<__nv_bfloat16, eights> {
  static constexpr int unroll = 2;
  DecodeSums<eights> sums = {};

  /* tokens(n): 16 bytes of token n at this thread's place of the depth. */
  template <class Tokens>
  __device__ __forceinline__ void multiply(const uint4 &upper, const uint4 &lower, const Tokens &tokens) {
    multiply({upper.x, lower.x, upper.y, lower.y}, {upper.z, lower.z, upper.w, lower.w}, tokens);
  }
  /* The weights' fragments of the first and the second half of each thread's elements of the depth. */
  template <class Tokens>
  __device__ __forceinline__ void multiply(const uint32_t (&first)[4], const uint32_t (&second)[4],
                                           const Tokens &tokens) {
#pragma unroll
    for (int n = 0; n < eights; n++) {
      uint4 token = tokens(8 * n + threadIdx.x % 32 / 4);
      uint32_t low[2] = {token.x, token.y}, high[2] = {token.z, token.w};
      mma_bf16(sums[n], first, low);
      mma_bf16(sums[n], second, high);
    }
  }
  __device__ __forceinline__ void finish(DecodeSums<eights> &result) const {
#pragma unroll
    for (int n = 0; n < eights; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) result[n][i] = sums[n][i];
    }
  }
};

/* Four threads have a quarter of the depth each, of every token; their sums are added at the end. */
template <int eights>
struct DecodeCore<float, eights> {
  static constexpr int unroll = 1; /* registers would not do for more */
  float sums[2][8 * eights] = {};

  template <class Tokens>
  __device__ __forceinline__ void multiply(const uint4 &upper, const uint4 &lower, const Tokens &tokens) {
    float a[2][4] = {
        {__uint_as_float(upper.x), __uint_as_float(upper.y), __uint_as_float(upper.z), __uint_as_float(upper.w)},
        {__uint_as_float(lower.x), __uint_as_float(lower.y), __uint_as_float(lower.z), __uint_as_float(lower.w)}};
#pragma unroll
    for (int n = 0; n < 8 * eights; n++) {
      uint4 token = tokens(n);
      float b[4] = {__uint_as_float(token.x), __uint_as_float(token.y), __uint_as_float(token.z),
                    __uint_as_float(token.w)};
#pragma unroll
      for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int k = 0; k < 4; k++) sums[i][n] = fmaf(a[i][k], b[k], sums[i][n]);
      }
    }
  }
  __device__ __forceinline__ void finish(DecodeSums<eights> &result) const {
    int pair = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 8 * eights; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float v = sums[i][n];
        v += __shfl_xor_sync(0xffffffffu, v, 1);
        v += __shfl_xor_sync(0xffffffffu, v, 2);
        if (n % 8 / 2 == pair) result[n / 8][2 * i + n % 2] = v;
      }
    }
  }
};

/* Products in float16, as those of the tiles (experts_scaled.h). What a warp multiplies in a stage is one block of the
 * depth; close() ends it. */
template <int eights>
struct DecodeCore<Float8, eights> {
  static constexpr int unroll = 1;
  DecodeSums<eights> sums = {}, part = {};

  template <class Tokens>
  __device__ __forceinline__ void multiply(const uint4 &upper, const uint4 &lower, const Tokens &tokens) {
    const uint32_t rows[4][2] = {{upper.x, lower.x}, {upper.y, lower.y}, {upper.z, lower.z}, {upper.w, lower.w}};
    uint32_t weights[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float8::unpack(rows[i][0], weights[i][0], weights[i][2]);
      float8::unpack(rows[i][1], weights[i][1], weights[i][3]);
    }
#pragma unroll
    for (int n = 0; n < eights; n++) {
      uint4 token = tokens(8 * n + threadIdx.x % 32 / 4);
      const uint32_t words[4] = {token.x, token.y, token.z, token.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        uint32_t columns[2];
        float8::unpack(words[i], columns[0], columns[1]);
        mma_f16(part[n], weights[i], columns);
      }
    }
  }
  /* The scales of this thread's two rows, and of all tokens. */
  __device__ __forceinline__ void close(const float (&rows)[2], const float *tokens) {
#pragma unroll
    for (int n = 0; n < eights; n++) {
      float2 pair = *reinterpret_cast<const float2 *>(tokens + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        sums[n][i] = fmaf(part[n][i], rows[i / 2] * (i % 2 == 0 ? pair.x : pair.y), sums[n][i]);
        part[n][i] = 0.0f;
      }
    }
  }
  __device__ __forceinline__ void finish(DecodeSums<eights> &result) const {
#pragma unroll
    for (int n = 0; n < eights; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) result[n][i] = sums[n][i];
    }
  }
};

/* The scales of float8_e4m3fn, and of other elements none. */
struct DecodeUnscaled {};

struct DecodeScales {
  const float *rows[2]; /* of this thread's rows of the weight, at depth 0; null for those that are none */
  int64_t stride;       /* from one block of the depth to the next */
  const float *token;   /* of token threadIdx.x % the tokens of a stage, likewise */
  const float *any;     /* an address that can be read from */

  __device__ __forceinline__ float row(int i, int32_t block) const {
    return rows[i] != nullptr ? rows[i][block * stride] : 0.0f;
  }
};

/* The tokens' scales, for each stage of the ring; of a depth that is cut, those of one half behind the other. */
struct DecodeTokenScales {
  alignas(16) float of[4][64];
};

/* Where the 16-byte chunk of a token's line is: the halves of every other line are exchanged, so that the
 * eight threads that are served at once read from different banks. */
__host__ __device__ inline int decode_token_place(int token, int chunk, int line_bytes) {
  return token * line_bytes + (chunk ^ (token & 1) << 2) * 16;
}

/* Weights that lie across the depth: a line is one step of the depth, with 16 bytes of each eight rows. The eight
 * lines that load_matrix reads at once, of which each thread has two neighbours, then lie in different
 * banks. */
__host__ __device__ inline int decode_weight_place(int depth, int eight, int line_bytes) {
  return depth * line_bytes + (eight ^ ((depth & 1) | (depth >> 3 & 3) << 1)) * 16;
}

/* The result of a unit, in the ring's memory: the sum of row `row` of the weight's by token `token`. Lines of
 * tokens are 4 longer, so that the threads of a warp write to different banks. */
template <int cut>
struct DecodeResult {
  static constexpr int side = DECODE_SIDE / cut, tokens = 64 / cut;
  float sums[cut][tokens][side + 4];

  __device__ __forceinline__ float at(int token, int row) const {
    float v = sums[0][token][row];
    return cut == 2 ? v + sums[cut - 1][token][row] : v;
  }
};

/* Copies the 16 bytes from depth k on of a line at depth 0, or zeros: where there is no line, and past the end. */
template <class X>
__device__ __forceinline__ void decode_copy(void *to, const X *line, int32_t k, int32_t end, const X *any) {
  bool there = line != nullptr && k < end;
  copy_async(to, there ? line + k : any, there ? 16 : 0);
}

/* Multiplies rows of a weight by tokens over [begin, end) of the depth. copy_weights(to, i, k) copies 16 bytes of
 * row `group` + 8 i of this warp's from depth k on; or, of weights that lie across the depth, of the unit's
 * rows 8 i to 8 i + 7 at depth k. copy_tokens(to, n, k) copies those of token n from depth k on. All threads of the
 * block come, and find the result when they return. */
template <class X, int eights, int cut, bool along, class Weights, class Tokens, class Scales>
__device__ __forceinline__ void decode_product(int32_t begin, int32_t end, const Weights &copy_weights,
                                               const Tokens &copy_tokens, [[maybe_unused]] const Scales &scales) {
  constexpr bool scaled = sizeof(X) == 1;
  constexpr int line_bytes = DECODE_LINE_BYTES * cut, line = line_bytes / sizeof(X), chunk = 16 / sizeof(X);
  constexpr int token_bytes = 8 * eights * line_bytes, stage_bytes = DECODE_WEIGHT_BYTES + token_bytes;
  constexpr int stages = DECODE_RING_BYTES / stage_bytes < 4 ? DECODE_RING_BYTES / stage_bytes : 4;
  static_assert(stages >= 3, "copies overlap with products");
  static_assert(along || sizeof(X) == 2, "load_matrix moves elements of 16 bits");
  static_assert(!scaled || (line == cut * float8::BLOCK && stages <= 4 && 8 * eights * cut <= 64), "a block a stage");
  constexpr int weight_eights = DECODE_SIDE / cut / 8;
  unsigned char *ring = dynamic_shared_memory<unsigned char>();
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4, half = warp / (DECODE_WARPS / cut);
  int32_t steps = (end - begin + line - 1) / line;
  auto mine = [&](int stage, int i, int c) {
    return ring + stage * stage_bytes + ((warp * 2 + i) * 2 + c) * 512 + lane * 16;
  };
  auto fetch = [&](int32_t step) {
    if (step < steps) {
      int stage = step % stages;
      int32_t first = begin + step * line;
      if constexpr (!along) {
#pragma unroll
        for (int t = 0; t < DECODE_WEIGHT_BYTES / 16 / EXPERTS_THREADS; t++) {
          int n = t * EXPERTS_THREADS + threadIdx.x, d = n / weight_eights, eight = n % weight_eights;
          copy_weights(ring + stage * stage_bytes + decode_weight_place(d, eight, weight_eights * 16), eight,
                       first + d);
        }
      }
#pragma unroll
      for (int i = 0; along && i < 2; i++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          int32_t k = first + half * (DECODE_LINE_BYTES / static_cast<int>(sizeof(X))) + (4 * c + pair) * chunk;
          copy_weights(mine(stage, i, c), i, k);
        }
      }
      unsigned char *tokens = ring + stage * stage_bytes + DECODE_WEIGHT_BYTES;
      constexpr int chunks = line_bytes / 16;
      for (int n = threadIdx.x; n < 8 * eights * chunks; n += EXPERTS_THREADS) {
        int token = n / chunks, place = n % chunks;
        copy_tokens(tokens + decode_token_place(token, place, line_bytes), token, first + place * chunk);
      }
      if constexpr (scaled) {
        int32_t k = first + static_cast<int>(threadIdx.x) / (8 * eights) * float8::BLOCK;
        if (threadIdx.x < 8 * eights * cut) {
          bool there = scales.token != nullptr && k < end;
          copy_async_4(&shared_memory<DecodeTokenScales>().of[stage][threadIdx.x],
                       there ? scales.token + k / float8::BLOCK : scales.any, there ? 4 : 0);
        }
      }
    }
    copy_async_commit();
  };
  DecodeCore<X, eights> core;
#pragma unroll 1
  for (int32_t step = 0; step < stages - 1; step++) fetch(step);
  [[maybe_unused]] float next[2] = {}; /* scales of this thread's rows: asked for a step ahead */
  [[maybe_unused]] auto ask = [&](int32_t step) {
    int32_t k = begin + step * line + half * float8::BLOCK;
    if constexpr (scaled) {
#pragma unroll
      for (int i = 0; i < 2; i++) next[i] = k < end ? scales.row(i, k / float8::BLOCK) : 0.0f;
    }
  };
  ask(0);
#pragma unroll 1
  for (int32_t step = 0; step < steps; step++) {
    [[maybe_unused]] const float rows[2] = {next[0], next[1]};
    ask(step + 1);
    copy_async_wait<stages - 2>();
    __syncthreads(); /* this stage's tokens are there, and the stage before it has been multiplied */
    fetch(step + stages - 1);
    const unsigned char *tokens = ring + step % stages * stage_bytes + DECODE_WEIGHT_BYTES;
#pragma unroll DecodeCore < X, eights> ::unroll
    for (int c = 0; c < 2; c++) {
      auto of_token = [&](int token) {
        return *reinterpret_cast<const uint4 *>(
            tokens + decode_token_place(token, half * (DECODE_LINE_BYTES / 16) + 4 * c + pair, line_bytes));
      };
      if constexpr (along) {
        uint4 upper = *reinterpret_cast<const uint4 *>(mine(step % stages, 0, c));
        uint4 lower = *reinterpret_cast<const uint4 *>(mine(step % stages, 1, c));
        core.multiply(upper, lower, of_token);
      } else {
        /* Lane 8 i + j gives the address of step j of matrix i, which the products take for one of the depth that
         * the tokens' threads have there. */
        int i = lane / 8, j = lane % 8, eight = warp % (DECODE_WARPS / cut) * 2 + i % 2;
        int d = half * 64 + 32 * c + j / 2 * 8 + i / 2 * 2 + j % 2;
        uint32_t fragments[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
          load_matrix_transposed(fragments[m], ring + step % stages * stage_bytes +
                                                   decode_weight_place(d + 4 * m, eight, weight_eights * 16));
        }
        core.multiply(fragments[0], fragments[1], of_token);
      }
    }
    if constexpr (scaled) {
      core.close(rows, shared_memory<DecodeTokenScales>().of[step % stages] + half * 8 * eights);
    }
  }
  copy_async_wait<0>();
  __syncthreads();
  DecodeSums<eights> sums;
  core.finish(sums);
  auto &result = *reinterpret_cast<DecodeResult<cut> *>(ring);
  static_assert(sizeof result <= DECODE_RING_BYTES, "a result fits the ring");
#pragma unroll
  for (int n = 0; n < eights; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int row = warp % (DECODE_WARPS / cut) * 16 + lane / 4 + i / 2 * 8;
      result.sums[half][8 * n + 2 * pair + i % 2][row] = sums[n][i];
    }
  }
  __syncthreads();
}

/* The same for as many eights of tokens as there are. scales_of(n): the scales, with those of the token of this
 * thread's where a stage has so many. */
template <class X, int cut, int most, bool along = true, class Weights, class Tokens, class ScalesOf>
__device__ __forceinline__ void decode_product(int32_t count, int32_t begin, int32_t end, const Weights &weights,
                                               const Tokens &tokens, const ScalesOf &scales_of) {
  if (count <= 8) {
    decode_product<X, 1, cut, along>(begin, end, weights, tokens, scales_of(8));
  } else if (count <= 16) {
    decode_product<X, 2, cut, along>(begin, end, weights, tokens, scales_of(16));
  } else if constexpr (most > 16) {
    if (count <= 32) {
      decode_product<X, 4, cut, along>(begin, end, weights, tokens, scales_of(32));
    } else if constexpr (most > 32) {
      decode_product<X, 8, cut, along>(begin, end, weights, tokens, scales_of(64));
    }
  }
}
template <class X, int cut, int most, bool along = true, class Weights, class Tokens>
__device__ __forceinline__ void decode_product(int32_t count, int32_t begin, int32_t end, const Weights &weights,
                                               const Tokens &tokens) {
  decode_product<X, cut, most, along>(count, begin, end, weights, tokens, [](int) { return DecodeUnscaled(); });
}

/* --- the plan --- */

/* Rows of one expert that are multiplied at once. An expert with more has several groups, which
 * blocks take one after the other, so that its weights come from the L2 cache the second time. */
template <class X, int cut>
constexpr int decode_group_rows = sizeof(X) == 4 ? 16 : 64 / cut;

/* The same of the first product, which in float8_e4m3fn has no registers for more. */
template <class X, int cut>
constexpr int decode_gate_up_rows = sizeof(X) == 1 ? 32 : decode_group_rows<X, cut>;

/* What a block knows of the routing. */
struct DecodeRouting {
  int32_t offset[PLAN_MAX_EXPERTS + 1]; /* of an expert's rows */
  int32_t group[PLAN_MAX_EXPERTS + 1];  /* and of its groups */
};

/* Rows [first, first + rows) of an expert, and a tile of its weight's columns. */
struct DecodeUnit {
  int32_t expert, first, rows, tile;
};

__host__ __device__ inline int32_t decode_groups(int32_t rows, int32_t group_rows) {
  return (rows + group_rows - 1) / group_rows;
}

/* Unit u of groups x tiles: the groups of an expert follow one another, then come its tiles, then
 * experts. */
__host__ __device__ inline DecodeUnit decode_unit(const DecodeRouting &r, int32_t experts, int32_t group_rows,
                                                  int32_t tiles, int64_t u) {
  int32_t target = static_cast<int32_t>(u / tiles), low = 0, high = experts;
  while (high - low > 1) {
    int32_t middle = (low + high) / 2;
    if (r.group[middle] <= target) {
      low = middle;
    } else {
      high = middle;
    }
  }
  int32_t groups = r.group[low + 1] - r.group[low];
  int32_t within = static_cast<int32_t>(u - static_cast<int64_t>(r.group[low]) * tiles);
  int32_t first = r.offset[low] + within % groups * group_rows;
  int32_t left = r.offset[low + 1] - first;
  return {low, first, left < group_rows ? left : group_rows, within / groups};
}

}  // namespace experts

#endif
