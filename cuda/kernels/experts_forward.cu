/* The products of the forward pass. Their names say how the weight lies: nt with the depth
 * of the product running fastest, nn with the result's columns. */
#include "experts_activation.h"
#include "experts_product.h"

using namespace experts;

namespace {

/* z = x gate_up_proj^T + bias, kept for backward if wanted, and h = act(z) while z is at hand. */
template <class Core, template <class> class Weights>
__device__ __forceinline__ void gate_up(const ExpertsGateUpParams &p) {
  using X = typename Core::X;
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
      store<X>(p.h, row, column, activate(a, gate, up).value);
    }
  });
}

template <class Core, template <class> class Weights>
__device__ __forceinline__ void project(const ExpertsProjectParams &p) {
  using X = typename Core::X;
  multiply_rows<Core, Weights>(p.product, [&](const PlanTile &tile, int32_t column_tile, int32_t row, const float *y) {
    for (int32_t i = threadIdx.x % 32; i < EXPERTS_TILE_SIDE; i += 32) {
      int32_t column = column_tile * EXPERTS_TILE_SIDE + i;
      if (column >= p.product.columns) break;
      store<X>(p.output, row, column, p.bias.data != nullptr ? y[i] + load<X>(p.bias, tile.expert, column) : y[i]);
    }
  });
}

}  // namespace

GMOE_KERNEL(gmoe_experts_gate_up_nt_f32, ExpertsGateUpParams, EXPERTS_THREADS) { gate_up<FmaCore, AlongDepth>(p); }
GMOE_KERNEL(gmoe_experts_gate_up_nn_f32, ExpertsGateUpParams, EXPERTS_THREADS) { gate_up<FmaCore, AcrossDepth>(p); }
GMOE_KERNEL(gmoe_experts_gate_up_nt_bf16, ExpertsGateUpParams, EXPERTS_THREADS) { gate_up<TensorCore, AlongDepth>(p); }
GMOE_KERNEL(gmoe_experts_gate_up_nn_bf16, ExpertsGateUpParams, EXPERTS_THREADS) { gate_up<TensorCore, AcrossDepth>(p); }

GMOE_KERNEL(gmoe_experts_project_nt_f32, ExpertsProjectParams, EXPERTS_THREADS) { project<FmaCore, AlongDepth>(p); }
GMOE_KERNEL(gmoe_experts_project_nn_f32, ExpertsProjectParams, EXPERTS_THREADS) { project<FmaCore, AcrossDepth>(p); }
GMOE_KERNEL(gmoe_experts_project_nt_bf16, ExpertsProjectParams, EXPERTS_THREADS) { project<TensorCore, AlongDepth>(p); }
GMOE_KERNEL(gmoe_experts_project_nn_bf16, ExpertsProjectParams, EXPERTS_THREADS) {
  project<TensorCore, AcrossDepth>(p);
}
