/* What multiplies two tiles that are in shared memory: tensor cores for bfloat16, fused
 * multiply-adds for float32. A core holds its thread's part of a 128 x 128 result in registers.
 *
 *   X, depth                 the elements, and the steps of the depth of a tile
 *   chunk, place, step       how a tile lies: elements of a chunk, where one begins, the
 *                            distance of its elements
 *   Scales                   what is fetched with a tile besides the operands, here nothing
 *   multiply(a, b)           result += a b^T
 *   spill(half, to)          writes rows 64 half to 64 half + 63 into lines of slice_columns
 *
 * experts_scaled.h has one for float8_e4m3fn. */
#ifndef GMOE_EXPERTS_CORE_H_
#define GMOE_EXPERTS_CORE_H_

#include "experts_schedule.h"

namespace experts {

enum {
  SLICE_ROWS = EXPERTS_TILE_SIDE / 2,
  SLICE_COLUMNS = EXPERTS_TILE_SIDE + 8 /* of a line: 8 more let the threads of a warp write to different banks */
};

struct Unscaled {
  template <class... Of>
  __device__ __forceinline__ explicit Unscaled(const Of &...) {}
  __device__ __forceinline__ void fetch(int32_t) const {}
  template <bool a_along, bool b_along, class Core>
  __device__ __forceinline__ void multiply(Core &core, const typename Core::X *a, const typename Core::X *b,
                                           int32_t) const {
    core.template multiply<a_along, b_along>(a, b);
  }
};

/* The sums of a block's warps on the tensor core. Warp w has rows 16 (w/2) to +15 of each half and columns
 * 64 (w%2) to +63. */
struct TensorSums {
  float sums[2][8][4] = {}; /* half, 8 columns, element of a fragment */

  __device__ __forceinline__ void spill(int half, float *to) const {
    if (half == 0) {
      spill_half<0>(to);
    } else {
      spill_half<1>(to);
    }
  }

 private:
  template <int half>
  __device__ __forceinline__ void spill_half(float *to) const {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int columns = 0; columns < 8; columns++) {
#pragma unroll
      for (int lower = 0; lower < 2; lower++) {
        int row = warp / 2 * 16 + lower * 8 + lane / 4, column = warp % 2 * 64 + columns * 8 + lane % 4 * 2;
        const float *pair = sums[half][columns] + 2 * lower;
        *reinterpret_cast<float2 *>(to + row * SLICE_COLUMNS + column) = make_float2(pair[0], pair[1]);
      }
    }
  }
};

/* bfloat16 with float32 sums. */
struct TensorCore : TensorSums {
  using X = __nv_bfloat16;
  using Scales = Unscaled;
  static constexpr int depth = 32;
  template <bool along>
  static constexpr int chunk = 8;
  template <bool along>
  static constexpr int step = 1;
  /* A line has 16 bytes more than its elements: 8 lines that load_matrix reads at once then
   * lie in different banks. */
  template <bool along>
  static constexpr int line_elements = (along ? depth : EXPERTS_TILE_SIDE) + 8;
  template <bool along>
  static constexpr int elements = (along ? EXPERTS_TILE_SIDE : depth) * line_elements<along>;

  template <bool along>
  __host__ __device__ static int place(int line, int position) {
    return line * line_elements<along> + position;
  }

  template <bool a_along, bool b_along>
  __device__ __forceinline__ void multiply(const X *a, const X *b) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, within = lane % 8, matrix = lane / 8;
#pragma unroll
    for (int k = 0; k < depth; k += 16) {
      uint32_t a_fragment[2][4];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int side = half * SLICE_ROWS + warp / 2 * 16 + matrix % 2 * 8, d = k + matrix / 2 * 8;
        if (a_along) {
          load_matrix(a_fragment[half], a + place<true>(side + within, d));
        } else {
          load_matrix_transposed(a_fragment[half], a + place<false>(d + within, side));
        }
      }
#pragma unroll
      for (int columns = 0; columns < 8; columns += 2) {
        uint32_t b_fragment[4];
        int side = warp % 2 * 64 + columns * 8 + matrix / 2 * 8, d = k + matrix % 2 * 8;
        if (b_along) {
          load_matrix(b_fragment, b + place<true>(side + within, d));
        } else {
          load_matrix_transposed(b_fragment, b + place<false>(d + within, side));
        }
        uint32_t left[2] = {b_fragment[0], b_fragment[1]}, right[2] = {b_fragment[2], b_fragment[3]};
#pragma unroll
        for (int half = 0; half < 2; half++) {
          mma_bf16(sums[half][columns], a_fragment[half], left);
          mma_bf16(sums[half][columns + 1], a_fragment[half], right);
        }
      }
    }
  }
};

/* float32. Thread t has rows 4 (t/16) to +3 of each half, and columns 4 (t%16) to +3 of each. */
struct FmaCore {
  using X = float;
  using Scales = Unscaled;
  static constexpr int depth = 8;
  /* Elements along the depth are scattered, so that either direction gives [depth][side]. */
  template <bool along>
  static constexpr int chunk = along ? 1 : 4;
  static constexpr int line_elements = EXPERTS_TILE_SIDE + 4;
  template <bool along>
  static constexpr int step = along ? line_elements : 1;
  template <bool along>
  static constexpr int elements = depth * line_elements;

  template <bool along>
  __host__ __device__ static int place(int line, int position) {
    return along ? position * line_elements + line : line * line_elements + position;
  }

  float sums[8][8] = {}; /* rows and columns: 4 of one half, 4 of the other */

  template <bool a_along, bool b_along>
  __device__ __forceinline__ void multiply(const X *a, const X *b) {
/* Unrolled further, registers would not do for two blocks on a multiprocessor. */
#pragma unroll 2
    for (int k = 0; k < depth; k++) {
      float rows[8], columns[8];
      four(rows, a + k * line_elements + threadIdx.x / 16 * 4);
      four(columns, b + k * line_elements + threadIdx.x % 16 * 4);
#pragma unroll
      for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) sums[i][j] = fmaf(rows[i], columns[j], sums[i][j]);
      }
    }
  }

  __device__ __forceinline__ void spill(int half, float *to) const {
    if (half == 0) {
      spill_half<0>(to);
    } else {
      spill_half<1>(to);
    }
  }

 private:
  /* 4 elements of each half of a side. */
  __device__ __forceinline__ static void four(float (&to)[8], const float *from) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float4 v = *reinterpret_cast<const float4 *>(from + half * EXPERTS_TILE_SIDE / 2);
      to[4 * half] = v.x, to[4 * half + 1] = v.y, to[4 * half + 2] = v.z, to[4 * half + 3] = v.w;
    }
  }

  template <int half>
  __device__ __forceinline__ void spill_half(float *to) const {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int right = 0; right < 2; right++) {
        float *place =
            to + (threadIdx.x / 16 * 4 + i) * SLICE_COLUMNS + right * EXPERTS_TILE_SIDE / 2 + threadIdx.x % 16 * 4;
        const float *v = sums[4 * half + i] + 4 * right;
        *reinterpret_cast<float4 *>(place) = make_float4(v[0], v[1], v[2], v[3]);
      }
    }
  }
};

}  // namespace experts

#endif
