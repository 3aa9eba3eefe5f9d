/* The products of the forward pass on Hopper with weights in float8_e4m3fn, and rows that have been rounded to it. */
#include "experts_activation.h"
#include "experts_hopper_project.h"

using namespace experts;

namespace {

/* SwiGLU with the gates first. A tile has 128 gates and their ups, in each block of sums 64 of them: a block of h, which
 * is rounded here with its scale. X is what biases have. */
template <class X>
__device__ __forceinline__ void gate_up(const HopperGateUpParams &maps) {
  using Tile = HopperScaled;
  static_assert(Tile::columns == 2 * float8::BLOCK, "a tile has a block of h");
  const ExpertsGateUpParams &p = maps.of;
  constexpr int ups = Tile::sums / 2; /* of a block of sums, the first that is one */
  hopper_product<Tile, true, true>(
      p.product, maps.rows_map, maps.weights_map,
      [&](int32_t expert, int32_t first_row, int32_t end_row, int32_t tile, float (&low)[Tile::sums],
          float (&high)[Tile::sums]) {
        if (tile * float8::BLOCK >= p.activation.intermediate) return; /* the tile behind the last */
        HopperLane lane;
        const X *bias = p.bias.data != nullptr ? address<X>(p.bias, expert, tile * float8::BLOCK) : nullptr;
        float *blocks[2] = {low, high};
        float largest[2] = {}; /* of a thread's two rows */
#pragma unroll
        for (int block = 0; block < 2; block++) {
#pragma unroll
          for (int i = 0; i < ups; i++) {
            float &gate = blocks[block][i], up = blocks[block][ups + i];
            if (bias != nullptr) {
              int32_t column = block * (float8::BLOCK / 2) + i / 4 * 8 + 2 * lane.pair + i % 2;
              gate += to_float(bias[column]), up += to_float(bias[p.activation.intermediate + column]);
            }
            gate = swish(gate, 1.0f).value * up;
            largest[i / 2 % 2] = float8::larger(largest[i / 2 % 2], float8::magnitude(gate));
          }
        }
#pragma unroll
        for (int lower = 0; lower < 2; lower++) {
          int32_t row = first_row + lane.row + 8 * lower;
          float most = largest[lower];
#pragma unroll
          for (int bits = 1; bits < 4; bits *= 2) {
            most = float8::larger(most, __shfl_xor_sync(0xffffffffu, most, bits)); /* lanes with the same rows */
          }
          float scale = float8::scale_of(most);
          if (row < end_row && lane.pair == 0) *address<float>(maps.h_scale, row, tile) = scale;
#pragma unroll
          for (int block = 0; block < 2; block++) {
            uint32_t w[4]; /* each two columns of an eight, and of the next */
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const float *first = blocks[block] + 8 * i + 2 * lower, *next = first + 4;
              w[i] = float8::pack(first[0] / scale, first[1] / scale, next[0] / scale, next[1] / scale);
            }
            exchange(w);
            if (row < end_row) {
              uint4 chunk = make_uint4((w[0] & 0xffff) | w[1] << 16, (w[2] & 0xffff) | w[3] << 16,
                                       w[0] >> 16 | (w[1] & 0xffff0000u), w[2] >> 16 | (w[3] & 0xffff0000u));
              int32_t column = tile * float8::BLOCK + block * (float8::BLOCK / 2) + 16 * lane.pair;
              *reinterpret_cast<uint4 *>(address<Float8>(p.h, row, column)) = chunk;
            }
          }
        }
      });
}

/* X is what biases and the output have. */
template <class X>
__device__ __forceinline__ void project(const HopperProjectParams &maps) {
  const ExpertsProjectParams &p = maps.of;
  using Tile = HopperScaled;
  hopper_product<Tile, false, true>(p.product, maps.rows_map, maps.weights_map,
                                    [&](int32_t expert, int32_t first_row, int32_t end_row, int32_t tile,
                                        const float (&low)[Tile::sums], const float (&high)[Tile::sums]) {
                                      write_block<X>(p, expert, first_row, end_row, 2 * tile, low);
                                      write_block<X>(p, expert, first_row, end_row, 2 * tile + 1, high);
                                    });
}

}  // namespace

GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_gate_up_e4m3_f32, HopperGateUpParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  gate_up<float>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_gate_up_e4m3_bf16, HopperGateUpParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  gate_up<__nv_bfloat16>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_project_e4m3_f32, HopperProjectParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  project<float>(p);
}
GMOE_CLUSTER_KERNEL(gmoe_experts_hopper_project_e4m3_bf16, HopperProjectParams, HOPPER_THREADS, HOPPER_CLUSTER) {
  project<__nv_bfloat16>(p);
}
