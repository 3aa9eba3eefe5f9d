/* The epilogue of a product whose rows are sorted already, on Hopper. */
#ifndef GMOE_EXPERTS_HOPPER_PROJECT_H_
#define GMOE_EXPERTS_HOPPER_PROJECT_H_

#include "experts_hopper.h"

namespace experts {

/* Writes 64 rows at most, from first_row on and before end_row, of a block of columns, with their biases. */
template <class X, int sums_of_thread>
__device__ __forceinline__ void write_block(const ExpertsProjectParams &p, int32_t expert, int32_t first_row,
                                            int32_t end_row, int32_t block, const float (&sums)[sums_of_thread]) {
  constexpr int columns = 2 * sums_of_thread;
  HopperLane lane;
  int32_t end = p.product.columns;
  const X *bias = p.bias.data != nullptr ? address<X>(p.bias, expert, 0) : nullptr;
#pragma unroll
  for (int lower = 0; lower < 2; lower++) {
    int32_t row = first_row + lane.row + 8 * lower;
    X *line = row < end_row ? address<X>(p.output, row, 0) : nullptr;
#pragma unroll
    for (int first = 0; first < columns; first += 32) {
      float values[8];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float *y = sums + first / 2 + 4 * i + 2 * lower;
        float v[2] = {y[0], y[1]};
        int32_t column = block * columns + first + 8 * i + 2 * lane.pair;
        if (bias != nullptr && column < end) v[0] += to_float(bias[column]), v[1] += to_float(bias[column + 1]);
        values[2 * i] = v[0], values[2 * i + 1] = v[1];
      }
      store_columns(line, block * columns + first, end, values);
    }
  }
}

}  // namespace experts

#endif
