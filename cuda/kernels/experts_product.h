/* The grouped matrix product that every expert kernel is made of: a prologue that says where the
 * operands' lines are (AlongDepth, AcrossDepth), the loop over the depth, and an epilogue that is
 * given the result row by row. */
#ifndef GMOE_EXPERTS_PRODUCT_H_
#define GMOE_EXPERTS_PRODUCT_H_

#include "experts_core.h"
#include "experts_tile.h"

namespace experts {

/* Two tiles of each operand, one of which is multiplied while the other is filled; afterwards
 * half of the result. */
template <class Core, bool a_along, bool b_along>
union ProductMemory {
  struct {
    alignas(16) typename Core::X a[2][Core::template elements<a_along>];
    alignas(16) typename Core::X b[2][Core::template elements<b_along>];
  } tiles;
  alignas(16) float slice[SLICE_ROWS * SLICE_COLUMNS];
};

/* Sums a b^T over the depth and calls epilogue(row, columns) for the first rows of the result, each
 * by a whole warp. */
template <class Core, class A, class B, class Epilogue>
__device__ __forceinline__ void product(const A &a, const B &b, const typename Core::Scales &scales, int32_t depth,
                                        int32_t rows, const Epilogue &epilogue) {
  auto &memory = shared_memory<ProductMemory<Core, A::along, B::along>>();
  Core core;
  int32_t steps = (depth + Core::depth - 1) / Core::depth;
  auto fetch = [&](int32_t step) {
    if (step < steps) {
      a.fetch(memory.tiles.a[step % 2], step * Core::depth);
      b.fetch(memory.tiles.b[step % 2], step * Core::depth);
      scales.fetch(step);
    }
    copy_async_commit();
  };
  fetch(0);
#pragma unroll 1
  for (int32_t step = 0; step < steps; step++) {
    fetch(step + 1);
    copy_async_wait<1>();
    __syncthreads();
    scales.template multiply<A::along, B::along>(core, memory.tiles.a[step % 2], memory.tiles.b[step % 2], step);
    __syncthreads();
  }
#pragma unroll 1
  for (int half = 0; half < 2; half++) {
    core.spill(half, memory.slice);
    __syncthreads();
    for (int row = threadIdx.x / 32; row < SLICE_ROWS && half * SLICE_ROWS + row < rows; row += EXPERTS_THREADS / 32) {
      epilogue(half * SLICE_ROWS + row, memory.slice + row * SLICE_COLUMNS);
    }
    __syncthreads();
  }
}

/* Columns of an expert's weight as an operand. */
template <class Core>
__device__ __forceinline__ AlongDepth<Core> weight_operand(const ExpertsProduct &p, int32_t expert, int32_t column_tile,
                                                           AlongDepth<Core> *) {
  using X = typename Core::X;
  const X *first = static_cast<const X *>(p.weights.data) + expert * p.weights.expert;
  return AlongDepth<Core>(p.weights.data, p.weights.column, p.depth, p.weights_vector, [&](int n) -> const X * {
    ColumnRun run = column_run(p.halves, p.columns, column_tile, n);
    return run.count > 0 ? first + run.first * p.weights.row : nullptr;
  });
}
template <class Core>
__device__ __forceinline__ AcrossDepth<Core> weight_operand(const ExpertsProduct &p, int32_t expert,
                                                            int32_t column_tile, AcrossDepth<Core> *) {
  using X = typename Core::X;
  const X *first = static_cast<const X *>(p.weights.data) + expert * p.weights.expert;
  ColumnRun run = column_run(p.halves, p.columns, column_tile, Tile<Core, false>::position(threadIdx.x));
  return {static_cast<const X *>(p.weights.data),
          first + run.first * p.weights.row,
          run.count,
          p.weights.row,
          p.weights.column,
          p.depth,
          nullptr,
          1,
          p.weights_vector != 0};
}

/* Multiplies the rows of every tile of the plan with the weight of its expert. The grid may have any
 * number of blocks: how many tiles there are is known on the device only. Calls
 * epilogue(tile, column_tile, row, columns). */
template <class Core, template <class> class Weights, class Epilogue>
__device__ __forceinline__ void multiply_rows(const ExpertsProduct &p, const Epilogue &epilogue) {
  using X = typename Core::X;
  int32_t row_tiles = *p.tile_count;
  for (int64_t t = blockIdx.x; t < static_cast<int64_t>(row_tiles) * p.column_tiles; t += gridDim.x) {
    TilePlace place = tile_place(t, row_tiles, p.column_tiles);
    PlanTile tile = p.tiles[place.row];
    int32_t rows = tile.end - tile.first;
    AlongDepth<Core> a(p.rows.data, p.rows.column, p.depth, p.rows_vector, [&](int row) -> const X * {
      if (row >= rows) return nullptr;
      int32_t line = tile.first + row;
      return address<X>(p.rows, p.row_pair != nullptr ? p.row_pair[line] / p.slots : line, 0);
    });
    auto b = weight_operand<Core>(p, tile.expert, place.column, static_cast<Weights<Core> *>(nullptr));
    typename Core::Scales scales(p, tile, place.column);
    product<Core>(a, b, scales, p.depth, rows,
                  [&](int row, const float *columns) { epilogue(tile, place.column, tile.first + row, columns); });
  }
}

}  // namespace experts

#endif
