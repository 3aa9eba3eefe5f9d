/* The tiles' core for float8_e4m3fn with scales: products in float16, which has every such number, are exact and
 * summed in float32 over the depth of a tile, half of a block's; then they are multiplied by the scales of the
 * row's block and of the weight's. */
#ifndef GMOE_EXPERTS_SCALED_H_
#define GMOE_EXPERTS_SCALED_H_

#include "experts_product.h"
#include "float8.h"

namespace experts {

/* The scales of a tile's rows and columns, for its step of the depth. */
struct ScaleTiles {
  alignas(16) float of[2][2 * EXPERTS_TILE_SIDE];
};

struct TileScales;

struct ScaledCore : TensorSums {
  using X = Float8;
  using Scales = TileScales;
  static constexpr int depth = 64;
  /* Elements across the depth are scattered, so that either direction gives [side][depth]: load_matrix transposes
   * no bytes. */
  template <bool along>
  static constexpr int chunk = 16;
  static constexpr int line_elements = depth + 16;
  template <bool along>
  static constexpr int step = along ? 1 : line_elements;
  template <bool along>
  static constexpr int elements = EXPERTS_TILE_SIDE * line_elements;

  template <bool along>
  __host__ __device__ static int place(int line, int position) {
    return along ? line * line_elements + position : position * line_elements + line;
  }

  __device__ __forceinline__ void multiply(const X *a, const X *b, const float *scales) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, within = lane % 8, matrix = lane / 8;
    constexpr int steps = depth / 32;
    uint32_t rows[2][steps][2][4]; /* of each half, for two products each */
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int k = 0; k < steps; k++) {
        uint32_t four[4];
        int side = half * SLICE_ROWS + warp / 2 * 16 + matrix % 2 * 8 + within;
        load_matrix(four, a + place<true>(side, k * 32 + matrix / 2 * 16));
#pragma unroll
        for (int i = 0; i < 4; i++)
          float8::unpack(four[i], rows[half][k][i / 2][i % 2], rows[half][k][i / 2][i % 2 + 2]);
      }
    }
    const float *row_scales = scales + warp / 2 * 16 + lane / 4;
    const float *column_scales = scales + EXPERTS_TILE_SIDE + warp % 2 * 64 + lane % 4 * 2;
#pragma unroll
    for (int columns = 0; columns < 8; columns += 2) {
      float part[2][2][4] = {}; /* half, 8 columns */
#pragma unroll
      for (int k = 0; k < steps; k++) {
        uint32_t four[4];
        int side = warp % 2 * 64 + columns * 8 + matrix / 2 * 8 + within;
        load_matrix(four, b + place<true>(side, k * 32 + matrix % 2 * 16));
#pragma unroll
        for (int i = 0; i < 4; i++) {
          uint32_t weights[2];
          float8::unpack(four[i], weights[0], weights[1]);
#pragma unroll
          for (int half = 0; half < 2; half++) mma_f16(part[half][i / 2], rows[half][k][i % 2], weights);
        }
      }
#pragma unroll
      for (int eight = 0; eight < 2; eight++) {
        float2 column = *reinterpret_cast<const float2 *>(column_scales + (columns + eight) * 8);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          int half = i / 4, n = i % 4;
          float scale = row_scales[half * SLICE_ROWS + n / 2 * 8] * (n % 2 == 0 ? column.x : column.y);
          float &sum = sums[half][columns + eight][n];
          sum = fmaf(part[half][eight][n], scale, sum);
        }
      }
    }
  }
};

/* Each thread brings the scale of a row or of a column. */
struct TileScales {
  const float *scale; /* at depth 0; null for what the tile lacks */
  const float *any;   /* an address that can be read from */
  int64_t stride;

  __device__ __forceinline__ TileScales(const ExpertsProduct &p, const PlanTile &tile, int32_t column_tile)
      : scale(nullptr), any(static_cast<const float *>(p.weights_scale.data)) {
    int n = threadIdx.x % EXPERTS_TILE_SIDE;
    if (threadIdx.x < EXPERTS_TILE_SIDE) {
      stride = 1;
      if (int32_t line = tile.first + n; line < tile.end) {
        scale = address<float>(p.rows_scale, p.row_pair != nullptr ? p.row_pair[line] / p.slots : line, 0);
      }
    } else {
      stride = p.weights_scale.column;
      if (ColumnRun run = column_run(p.halves, p.columns, column_tile, n); run.count > 0) {
        scale = any + tile.expert * p.weights_scale.expert + run.first / float8::BLOCK * p.weights_scale.row;
      }
    }
  }
  __device__ __forceinline__ void fetch(int32_t step) const {
    int32_t block = step / (float8::BLOCK / ScaledCore::depth);
    copy_async_4(&shared_memory<ScaleTiles>().of[step % 2][threadIdx.x],
                 scale != nullptr ? scale + block * stride : any, scale != nullptr ? 4 : 0);
  }
  template <bool a_along, bool b_along>
  __device__ __forceinline__ void multiply(ScaledCore &core, const Float8 *a, const Float8 *b, int32_t step) const {
    core.multiply(a, b, shared_memory<ScaleTiles>().of[step % 2]);
  }
};

}  // namespace experts

#endif
