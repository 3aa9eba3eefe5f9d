/* The products of the backward pass that run over rows; dx is gmoe_experts_project's. */
#include "experts_activation.h"
#include "experts_product.h"

using namespace experts;

namespace {

/* dh = dy down_proj. While it is at hand, the activation is recomputed from z: dz = w dh act'(z);
 * w h, which the gradient of down_proj takes; and this tile's part of <h, dh>, the gradient of w. */
template <class Core, template <class> class Weights>
__device__ __forceinline__ void activation_gradient(const ExpertsActivationGradientParams &p) {
  using X = typename Core::X;
  const ExpertsActivation &a = p.activation;
  multiply_rows<Core, Weights>(p.product, [&](const PlanTile &, int32_t column_tile, int32_t row, const float *dh) {
    float w = weight_of(p.weights, p.row_pair[row], p.product.slots), sum = 0.0f;
    for (int32_t i = threadIdx.x % 32; i < EXPERTS_TILE_SIDE; i += 32) {
      int32_t column = column_tile * EXPERTS_TILE_SIDE + i;
      if (column >= a.intermediate) break;
      GateUpPlace place = gate_up_place(a.gated, a.interleaved, a.intermediate, column);
      float up = a.gated ? load<X>(p.pre_activation, row, place.up) : 0.0f;
      Activated h = activate(a, load<X>(p.pre_activation, row, place.gate), up);
      sum += h.value * dh[i];
      if (p.wh.data != nullptr) store<X>(p.wh, row, column, w * h.value);
      if (p.dz.data == nullptr) continue;
      store<X>(p.dz, row, place.gate, w * dh[i] * h.by_gate);
      if (a.gated) store<X>(p.dz, row, place.up, w * dh[i] * h.by_up);
    }
    sum = warp_sum(sum);
    if (p.partial != nullptr && threadIdx.x % 32 == 0)
      p.partial[static_cast<int64_t>(row) * p.product.column_tiles + column_tile] = sum;
  });
}

}  // namespace

GMOE_KERNEL(gmoe_experts_activation_gradient_nt_f32, ExpertsActivationGradientParams, EXPERTS_THREADS) {
  activation_gradient<FmaCore, AlongDepth>(p);
}
GMOE_KERNEL(gmoe_experts_activation_gradient_nn_f32, ExpertsActivationGradientParams, EXPERTS_THREADS) {
  activation_gradient<FmaCore, AcrossDepth>(p);
}
GMOE_KERNEL(gmoe_experts_activation_gradient_nt_bf16, ExpertsActivationGradientParams, EXPERTS_THREADS) {
  activation_gradient<TensorCore, AlongDepth>(p);
}
GMOE_KERNEL(gmoe_experts_activation_gradient_nn_bf16, ExpertsActivationGradientParams, EXPERTS_THREADS) {
  activation_gradient<TensorCore, AcrossDepth>(p);
}
