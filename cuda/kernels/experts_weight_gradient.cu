/* The gradients of the weights and biases: for every expert, sums over its rows in order. An
 * expert without rows has zeros. */
#include "experts_product.h"

using namespace experts;

namespace {

/* One side of a weight's gradient, from its element `first` on: a row of the depth is a row of the
 * expert, gathered from its token if the matrix is one of tokens. */
template <class Core>
__device__ __forceinline__ AcrossDepth<Core> side_of(const ExpertsMatrix &m, const ExpertsWeightGradientParams &p,
                                                     bool of_tokens, bool vector, int32_t first, int32_t end,
                                                     int32_t first_row, int32_t rows) {
  using X = typename Core::X;
  int32_t place = first + Tile<Core, false>::position(threadIdx.x);
  const X *start = address<X>(m, of_tokens ? 0 : first_row, place);
  return {static_cast<const X *>(m.data),
          start,
          end - place,
          m.column,
          m.row,
          rows,
          of_tokens ? p.row_pair + first_row : nullptr,
          p.slots,
          vector};
}

template <class Core>
__device__ __forceinline__ void weight_gradient(const ExpertsWeightGradientParams &p) {
  using X = typename Core::X;
  int64_t of_expert = static_cast<int64_t>(p.m_tiles) * p.n_tiles;
  for (int64_t t = blockIdx.x; t < p.experts * of_expert; t += gridDim.x) {
    int32_t expert = static_cast<int32_t>(t / of_expert);
    TilePlace place = tile_place(t % of_expert, p.m_tiles, p.n_tiles);
    int32_t first_row = p.offset[expert], rows = p.offset[expert + 1] - first_row;
    int32_t m = place.row * EXPERTS_TILE_SIDE, n = place.column * EXPERTS_TILE_SIDE;
    AcrossDepth<Core> a = side_of<Core>(p.a, p, p.a_of_tokens, p.a_vector, m, p.m, first_row, rows);
    AcrossDepth<Core> b = side_of<Core>(p.b, p, p.b_of_tokens, p.b_vector, n, p.n, first_row, rows);
    X *gradient =
        static_cast<X *>(p.gradient.data) + expert * p.gradient.expert + m * p.gradient.row + n * p.gradient.column;
    int32_t m_left = min(p.m - m, static_cast<int32_t>(EXPERTS_TILE_SIDE));
    int32_t n_left = min(p.n - n, static_cast<int32_t>(EXPERTS_TILE_SIDE));
    product<Core>(a, b, Unscaled(), rows, m_left, [&](int row, const float *columns) {
      for (int32_t i = threadIdx.x % 32; i < n_left; i += 32) {
        gradient[row * p.gradient.row + i * p.gradient.column] = from_float<X>(columns[i]);
      }
    });
  }
}

constexpr int bias_columns = 32, bias_rows = EXPERTS_THREADS / bias_columns;

struct BiasSums {
  float of[bias_rows][bias_columns];
};

/* A block sums 32 columns of one expert; each of its warps every eighth row. */
template <class X>
__device__ __forceinline__ void bias_gradient(const ExpertsBiasGradientParams &p) {
  BiasSums &sums = shared_memory<BiasSums>();
  int64_t column_tiles = (p.columns + bias_columns - 1) / bias_columns;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t t = blockIdx.x; t < p.experts * column_tiles; t += gridDim.x) {
    int32_t expert = static_cast<int32_t>(t / column_tiles);
    int32_t column = static_cast<int32_t>(t % column_tiles) * bias_columns + lane;
    float sum = 0.0f;
    for (int32_t row = p.offset[expert] + warp; row < p.offset[expert + 1] && column < p.columns; row += bias_rows) {
      if (p.weights.data != nullptr) {
        int32_t pair = p.row_pair[row];
        sum += weight_of(p.weights, pair, p.slots) * load<X>(p.source, pair / p.slots, column);
      } else {
        sum += load<X>(p.source, row, column);
      }
    }
    sums.of[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < p.columns) {
      for (int other = 1; other < bias_rows; other++) sum += sums.of[other][lane];
      store<X>(p.gradient, expert, column, sum);
    }
    __syncthreads();
  }
}

}  // namespace

GMOE_KERNEL(gmoe_experts_weight_gradient_f32, ExpertsWeightGradientParams, EXPERTS_THREADS) {
  weight_gradient<FmaCore>(p);
}
GMOE_KERNEL(gmoe_experts_weight_gradient_bf16, ExpertsWeightGradientParams, EXPERTS_THREADS) {
  weight_gradient<TensorCore>(p);
}
GMOE_KERNEL(gmoe_experts_bias_gradient_f32, ExpertsBiasGradientParams, EXPERTS_THREADS) { bias_gradient<float>(p); }
GMOE_KERNEL(gmoe_experts_bias_gradient_bf16, ExpertsBiasGradientParams, EXPERTS_THREADS) {
  bias_gradient<__nv_bfloat16>(p);
}
