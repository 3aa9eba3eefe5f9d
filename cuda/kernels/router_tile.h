/* Matrix products of the router on the tensor core, at float32's precision.
 *
 * A float32 is the exact sum of three bfloat16: its 24 bits, 8 at a time. A product of two
 * is then nine products of bfloat16, each exact in float32, of which the six largest are kept; the
 * others are below 2^-21 of the whole. With bfloat16 operands it is three, or one. The tensor core
 * does not round its sums to nearest, so each sums one step along k only, and the steps are
 * added in float32 arithmetic. An element does not depend on how many rows there are.
 *
 * An infinity or NaN among the operands of an element makes it an infinity or NaN. */
#ifndef GMOE_ROUTER_TILE_H_
#define GMOE_ROUTER_TILE_H_

#include "router_view.h"

namespace router {

constexpr int threads = 256, warps = threads / 32;

template <class T>
struct Parts;
template <>
struct Parts<__nv_bfloat16> {
  static constexpr int count = 1;
};
template <>
struct Parts<float> {
  static constexpr int count = 3;
};

/* Elements along k of one step: 64 bytes of the wider operand. */
template <class A, class B>
constexpr int step_depth() {
  return sizeof(A) > 2 || sizeof(B) > 2 ? 16 : 32;
}

/* One operand of one step in shared memory: [rows][depth] as it lies in memory, or
 * [depth][rows] where rows is the dimension of stride 1. The padding spreads the banks. */
template <class T, int rows, int depth, bool rows_adjacent>
struct Tile {
  static constexpr int outer = rows_adjacent ? depth : rows, inner = rows_adjacent ? rows : depth;
  static constexpr int per_vector = 16 / sizeof(T), pitch = inner + per_vector;

  __align__(16) T elements[outer * pitch];

  __device__ __forceinline__ T at(int row, int k) const {
    return rows_adjacent ? elements[k * pitch + row] : elements[row * pitch + k];
  }

  /* Starts to fetch rows [row, row+rows) and columns [k, k+depth) of a matrix; 0 beyond its ends. */
  __device__ __forceinline__ void fetch(const RouterView &v, int64_t row, int64_t row_end, int64_t k, int64_t k_end) {
    constexpr int vectors = inner / per_vector;
    const T *data = static_cast<const T *>(v.data);
    int64_t outer_stride = rows_adjacent ? v.column : v.row, inner_stride = rows_adjacent ? v.row : v.column;
    int64_t first = rows_adjacent ? row : k, end = rows_adjacent ? row_end : k_end;
    int64_t outer_first = rows_adjacent ? k : row, outer_end = rows_adjacent ? k_end : row_end;
#pragma unroll
    for (int i = threadIdx.x; i < outer * vectors; i += threads) {
      int64_t o = outer_first + i / vectors, c = first + i % vectors * per_vector;
      T *to = &elements[i / vectors * pitch + i % vectors * per_vector];
      int64_t left = o < outer_end ? end - c : 0;
      int count = left <= 0 ? 0 : left < per_vector ? static_cast<int>(left) : per_vector;
      if (v.vectors) {
        copy_async(to, count > 0 ? data + o * outer_stride + c : data, count * sizeof(T));
        continue;
      }
#pragma unroll
      for (int j = 0; j < per_vector; j++) {
        T element{};
        if (j < count) element = data[o * outer_stride + (c + j) * inner_stride];
        to[j] = element;
      }
    }
  }

  /* Elements k and k+1 of a row as a register of the tensor core, for each part. */
  __device__ __forceinline__ void pair(int row, int k, uint32_t (&parts)[Parts<T>::count]) const;
};

/* The upper halves of two float32, which truncates them to bfloat16. */
__device__ __forceinline__ uint32_t upper_halves(float low, float high) {
  return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
}
__device__ __forceinline__ float without_upper_half(float v) {
  return v - __uint_as_float(__float_as_uint(v) & 0xffff0000u);
}

__device__ __forceinline__ void split(float low, float high, uint32_t (&parts)[3]) {
  for (int i = 0; i < 3; i++) {
    parts[i] = upper_halves(low, high);
    low = without_upper_half(low);
    high = without_upper_half(high);
  }
}
__device__ __forceinline__ void split(__nv_bfloat16 low, __nv_bfloat16 high, uint32_t (&parts)[1]) {
  parts[0] = __bfloat16_as_ushort(low) | static_cast<uint32_t>(__bfloat16_as_ushort(high)) << 16;
}

template <class T, int rows, int depth, bool rows_adjacent>
__device__ __forceinline__ void Tile<T, rows, depth, rows_adjacent>::pair(int row, int k,
                                                                          uint32_t (&parts)[Parts<T>::count]) const {
  if constexpr (rows_adjacent) {
    split(at(row, k), at(row, k + 1), parts);
  } else if constexpr (sizeof(T) == 4) {
    float2 v = *reinterpret_cast<const float2 *>(&elements[row * pitch + k]);
    split(v.x, v.y, parts);
  } else {
    parts[0] = *reinterpret_cast<const uint32_t *>(&elements[row * pitch + k]);
  }
}

/* A block's product [rows, columns]. Warps form a grid of warp_rows by warp_columns; a warp
 * has m_tiles of 16 rows each, one below the other, and n_tiles of 8 columns, dealt out in turns, so that
 * few columns still occupy all warps. */
template <class A, class B, int rows, int columns, int warp_rows, bool a_rows_adjacent, bool b_rows_adjacent>
struct Product {
  static constexpr int depth = step_depth<A, B>(), warp_columns = warps / warp_rows;
  static constexpr int m_tiles = rows / warp_rows / 16, n_tiles = columns / warp_columns / 8;
  static_assert(m_tiles * warp_rows * 16 == rows && n_tiles * warp_columns * 8 == columns, "");

  struct Stage {
    Tile<A, rows, depth, a_rows_adjacent> a;
    Tile<B, columns, depth, b_rows_adjacent> b;
  };

  float sums[m_tiles][n_tiles][4];

  __device__ __forceinline__ Product() {
#pragma unroll
    for (int i = 0; i < m_tiles * n_tiles * 4; i++) sums[i / (4 * n_tiles)][i / 4 % n_tiles][i % 4] = 0;
  }

  static __device__ __forceinline__ int tile_row(int m) { return (threadIdx.x / 32 % warp_rows * m_tiles + m) * 16; }
  static __device__ __forceinline__ int tile_column(int n) {
    return (n * warp_columns + threadIdx.x / 32 / warp_rows) * 8;
  }

  /* Adds one step, for columns below a limit. */
  __device__ __forceinline__ void add(const Stage &stage, int column_end) {
    constexpr int steps = depth / 16;
    int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    uint32_t a[steps][m_tiles][Parts<A>::count][4];
#pragma unroll
    for (int s = 0; s < steps; s++) {
#pragma unroll
      for (int m = 0; m < m_tiles; m++) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
          uint32_t parts[Parts<A>::count];
          stage.a.pair(tile_row(m) + group + r % 2 * 8, 16 * s + 2 * pair + r / 2 * 8, parts);
#pragma unroll
          for (int i = 0; i < Parts<A>::count; i++) a[s][m][i][r] = parts[i];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < n_tiles; n++) {
      if (tile_column(n) >= column_end) break;
      uint32_t b[steps][Parts<B>::count][2];
#pragma unroll
      for (int s = 0; s < steps; s++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
          uint32_t parts[Parts<B>::count];
          stage.b.pair(tile_column(n) + group, 16 * s + 2 * pair + 8 * r, parts);
#pragma unroll
          for (int i = 0; i < Parts<B>::count; i++) b[s][i][r] = parts[i];
        }
      }
#pragma unroll
      for (int m = 0; m < m_tiles; m++) {
        float step[4] = {0, 0, 0, 0};
#pragma unroll
        for (int s = 0; s < steps; s++) {
          /* The small products first. */
#pragma unroll
          for (int order = 2; order >= 0; order--) {
#pragma unroll
            for (int i = 0; i <= order; i++) {
              if (i < Parts<A>::count && order - i < Parts<B>::count) mma_bf16(step, a[s][m][i], b[s][order - i]);
            }
          }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) sums[m][n][i] += step[i];
      }
    }
  }

  /* Calls put(row, column, v, w) for neighbours (row, column) and (row, column+1) of the block. */
  template <class Put>
  __device__ __forceinline__ void for_each(int column_end, Put put) const {
    int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < n_tiles; n++) {
      if (tile_column(n) >= column_end) break;
#pragma unroll
      for (int m = 0; m < m_tiles; m++) {
        put(tile_row(m) + group, tile_column(n) + 2 * pair, sums[m][n][0], sums[m][n][1]);
        put(tile_row(m) + group + 8, tile_column(n) + 2 * pair, sums[m][n][2], sums[m][n][3]);
      }
    }
  }

  /* The whole product of rows from `row` and columns from `column` of two matrices, over [k, k_end), with
   * `count` stages in shared memory. each(stage) sees every step. */
  template <int count, class Each>
  __device__ __forceinline__ void run(Stage *stages, const RouterView &a, int64_t row, int64_t row_end,
                                      const RouterView &b, int64_t column, int64_t column_end, int64_t k, int64_t k_end,
                                      Each each) {
    int64_t left = column_end - column;
    int local_end = left < columns ? static_cast<int>(left) : columns;
    int64_t steps = k_end > k ? (k_end - k + depth - 1) / depth : 0;
    auto fetch = [&](int64_t s) {
      if (s < steps) {
        stages[s % count].a.fetch(a, row, row_end, k + s * depth, k_end);
        stages[s % count].b.fetch(b, column, column_end, k + s * depth, k_end);
      }
      copy_async_commit();
    };
#pragma unroll
    for (int s = 0; s < count - 1; s++) fetch(s);
    for (int64_t s = 0; s < steps; s++) {
      copy_async_wait<count - 2>();
      __syncthreads(); /* step s is there for all, and all are through with step s-1 */
      fetch(s + count - 1);
      add(stages[s % count], local_end);
      each(stages[s % count]);
    }
    copy_async_wait<0>();
    __syncthreads();
  }
};

}  // namespace router

#endif
