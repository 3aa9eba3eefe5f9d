/* The products of the forward pass on Hopper; see experts_forward.cu for what they are. */
#include "experts_activation.h"
#include "experts_hopper_project.h"

using namespace experts;

namespace {

using X = __nv_bfloat16;

/* SwiGLU with the gates first: a block of sums has gates in the first half of its columns and their ups in the
 * other, so that each thread has both. */
template <class Tile, bool along>
__device__ __forceinline__ void gate_up(const HopperGateUpParams &maps) {
  const ExpertsGateUpParams &p = maps.of;
  constexpr int width = Tile::block / 2;
  hopper_product<Tile, true, along>(
      p.product, maps.rows_map, maps.weights_map,
      [&](int32_t expert, int32_t first_row, int32_t end_row, int32_t block, const float (&sums)[Tile::sums]) {
        HopperLane lane;
        int32_t end = p.activation.intermediate;
        const X *bias = p.bias.data != nullptr ? address<X>(p.bias, expert, 0) : nullptr;
#pragma unroll
        for (int lower = 0; lower < 2; lower++) {
          int32_t row = first_row + lane.row + 8 * lower;
          bool there = row < end_row;
          X *h = there ? address<X>(p.h, row, 0) : nullptr;
          X *z = there && p.pre_activation.data != nullptr ? address<X>(p.pre_activation, row, 0) : nullptr;
#pragma unroll
          for (int first = 0; first < width; first += 32) {
            uint32_t gates[4], ups[4], values[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const float *gate = sums + first / 2 + 4 * i + 2 * lower, *up = gate + width / 2;
              float g[2] = {gate[0], gate[1]}, u[2] = {up[0], up[1]};
              int32_t column = block * width + first + 8 * i + 2 * lane.pair;
              if (bias != nullptr && column < end) {
#pragma unroll
                for (int n = 0; n < 2; n++)
                  g[n] += to_float(bias[column + n]), u[n] += to_float(bias[end + column + n]);
              }
              gates[i] = pack(g[0], g[1]), ups[i] = pack(u[0], u[1]);
              values[i] = pack(swish(g[0], 1.0f).value * u[0], swish(g[1], 1.0f).value * u[1]);
            }
            int32_t column = block * width + first;
            store_pairs(h, column, end, values);
            if (p.pre_activation.data != nullptr) {
              store_pairs(z, column, end, gates);
              store_pairs(z != nullptr ? z + end : nullptr, column, end, ups);
            }
          }
        }
      });
}

template <class Tile, bool along>
__device__ __forceinline__ void project(const HopperProjectParams &maps) {
  const ExpertsProjectParams &p = maps.of;
  hopper_product<Tile, false, along>(
      p.product, maps.rows_map, maps.weights_map,
      [&](int32_t expert, int32_t first_row, int32_t end_row, int32_t block, const float (&sums)[Tile::sums]) {
        write_block<X>(p, expert, first_row, end_row, block, sums);
      });
}

}  // namespace

GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_gate_up_nt_256, HopperGateUpParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  gate_up<HopperWide, true>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_gate_up_nt_128, HopperGateUpParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  gate_up<HopperPingPong<128>, true>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_gate_up_nn_256, HopperGateUpParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  gate_up<HopperWide, false>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_gate_up_nn_128, HopperGateUpParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  gate_up<HopperPingPong<128>, false>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_project_nt_256, HopperProjectParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  project<HopperWide, true>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_project_nt_192, HopperProjectParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  project<HopperPingPong<192>, true>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_project_nt_128, HopperProjectParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  project<HopperPingPong<128>, true>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_project_nn_256, HopperProjectParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  project<HopperWide, false>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_project_nn_192, HopperProjectParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  project<HopperPingPong<192>, false>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_project_nn_128, HopperProjectParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  project<HopperPingPong<128>, false>(p);
}
