/* The products of the backward pass over rows on Hopper; see experts_backward.cu. dx is
 * gmoe_experts_hopper_project's. */
#include "experts_activation.h"
#include "experts_hopper.h"

using namespace experts;

namespace {

using X = __nv_bfloat16;

/* SwiGLU with the gates first. A row's part of <h, dh> is summed by the four threads that have it. */
template <class Tile, bool along>
__device__ __forceinline__ void activation_gradient(const HopperActivationGradientParams &maps) {
  const ExpertsActivationGradientParams &p = maps.of;
  hopper_product<Tile, true, along>(
      p.product, maps.rows_map, maps.weights_map,
      [&](int32_t, int32_t first_row, int32_t end_row, int32_t block, const float (&sums)[Tile::sums]) {
        HopperLane lane;
        int32_t end = p.activation.intermediate;
#pragma unroll
        for (int lower = 0; lower < 2; lower++) {
          int32_t row = first_row + lane.row + 8 * lower;
          bool there = row < end_row;
          float w = there ? weight_of(p.weights, p.row_pair[row], p.product.slots) : 0.0f, sum = 0.0f;
          const X *z = there ? address<X>(p.pre_activation, row, 0) : nullptr;
          X *dz = there && p.dz.data != nullptr ? address<X>(p.dz, row, 0) : nullptr;
          X *wh = there && p.wh.data != nullptr ? address<X>(p.wh, row, 0) : nullptr;
#pragma unroll
          for (int first = 0; first < Tile::block; first += 32) {
            int32_t column = block * Tile::block + first;
            uint32_t gates[4], ups[4], scaled[4];
            load_pairs(z, column, end, gates);
            load_pairs(z != nullptr ? z + end : nullptr, column, end, ups);
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const float *dh = sums + first / 2 + 4 * i + 2 * lower;
              float g[2] = {low_of(gates[i]), high_of(gates[i])}, u[2] = {low_of(ups[i]), high_of(ups[i])}, v[2];
#pragma unroll
              for (int n = 0; n < 2; n++) {
                Slope s = swish(g[n], 1.0f);
                float h = s.value * u[n];
                sum += h * dh[n];
                v[n] = w * h;
                g[n] = w * dh[n] * (s.derivative * u[n]);
                u[n] = w * dh[n] * s.value;
              }
              gates[i] = pack(g[0], g[1]), ups[i] = pack(u[0], u[1]), scaled[i] = pack(v[0], v[1]);
            }
            store_pairs(dz, column, end, gates);
            store_pairs(dz != nullptr ? dz + end : nullptr, column, end, ups);
            store_pairs(wh, column, end, scaled);
          }
          sum += __shfl_xor_sync(0xffffffffu, sum, 1);
          sum += __shfl_xor_sync(0xffffffffu, sum, 2);
          if (there && lane.pair == 0 && p.partial != nullptr && block < p.product.column_tiles)
            p.partial[static_cast<int64_t>(row) * p.product.column_tiles + block] = sum;
        }
      });
}

}  // namespace

GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_activation_gradient_nt_128, HopperActivationGradientParams, HOPPER_THREADS,
                    HOPPER_CLUSTER) {
  activation_gradient<HopperPingPong<128>, true>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_activation_gradient_nn_128, HopperActivationGradientParams, HOPPER_THREADS,
                    HOPPER_CLUSTER) {
  activation_gradient<HopperPingPong<128>, false>(p);
}
