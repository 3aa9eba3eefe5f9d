/* The products of the forward pass. Their names say how the weight lies: nt with the depth
 * of the product running fastest, nn with the result's columns. */
#include "experts_forward.h"

using namespace experts;

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
