/* The products of the forward pass: a tile's epilogues. */
#ifndef GMOE_EXPERTS_FORWARD_H_
#define GMOE_EXPERTS_FORWARD_H_

#include "experts_activation.h"
#include "experts_product.h"

namespace experts {

/* z = x gate_up_proj^T + bias, kept for backward if wanted, and h = act(z) while z is at hand. X is what biases and z
 * have, H what h has. */
template <class Core, template <class> class Weights, class X = typename Core::X, class H = X>
__device__ __forceinline__ void gate_up(const ExpertsGateUpParams &p) {
  const ExpertsActivation &a = p.activation;
  auto element = [&](const PlanTile &tile, int32_t row, int32_t column, float product) {
    float z = p.bias.data != nullptr ? product + load<X>(p.bias, tile.expert, column) : product;
    if (p.pre_activation.data != nullptr) store<X>(p.pre_activation, row, column, z);
    return z;
  };
  int32_t width = a.gated ? EXPERTS_TILE_SIDE / 2 : EXPERTS_TILE_SIDE; /* columns of h in a tile */
  multiply_rows<Core, Weights>(p.product, [&](const PlanTile &tile, int32_t column_tile, int32_t row, const float *z) {
    for (int32_t i = threadIdx.x % 32; i < width; i += 32) {
      int32_t column = column_tile * width + i;
      if (column >= a.intermediate) break;
      GateUpPlace there = gate_up_place(a.gated, a.interleaved, a.intermediate, column);
      GateUpPlace here = gate_up_place(a.gated, a.interleaved, width, i);
      float gate = element(tile, row, there.gate, z[here.gate]);
      float up = a.gated ? element(tile, row, there.up, z[here.up]) : 0.0f;
      store<H>(p.h, row, column, activate(a, gate, up).value);
    }
  });
}

/* X is what biases and the output have. */
template <class Core, template <class> class Weights, class X = typename Core::X>
__device__ __forceinline__ void project(const ExpertsProjectParams &p) {
  multiply_rows<Core, Weights>(p.product, [&](const PlanTile &tile, int32_t column_tile, int32_t row, const float *y) {
    for (int32_t i = threadIdx.x % 32; i < EXPERTS_TILE_SIDE; i += 32) {
      int32_t column = column_tile * EXPERTS_TILE_SIDE + i;
      if (column >= p.product.columns) break;
      store<X>(p.output, row, column, p.bias.data != nullptr ? y[i] + load<X>(p.bias, tile.expert, column) : y[i]);
    }
  });
}

}  // namespace experts

#endif
