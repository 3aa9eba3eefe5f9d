/* The products of the forward pass with weights in float8_e4m3fn, and rows that have been rounded to it; h is
 * float32, from which it is rounded. */
#include "experts_forward.h"
#include "experts_scaled.h"

using namespace experts;

GMOE_KERNEL(gmoe_experts_gate_up_nt_e4m3_f32, ExpertsGateUpParams, EXPERTS_THREADS) {
  gate_up<ScaledCore, AlongDepth, float>(p);
}
GMOE_KERNEL(gmoe_experts_gate_up_nn_e4m3_f32, ExpertsGateUpParams, EXPERTS_THREADS) {
  gate_up<ScaledCore, AcrossDepth, float>(p);
}
GMOE_KERNEL(gmoe_experts_gate_up_nt_e4m3_bf16, ExpertsGateUpParams, EXPERTS_THREADS) {
  gate_up<ScaledCore, AlongDepth, __nv_bfloat16, float>(p);
}
GMOE_KERNEL(gmoe_experts_gate_up_nn_e4m3_bf16, ExpertsGateUpParams, EXPERTS_THREADS) {
  gate_up<ScaledCore, AcrossDepth, __nv_bfloat16, float>(p);
}

GMOE_KERNEL(gmoe_experts_project_nt_e4m3_f32, ExpertsProjectParams, EXPERTS_THREADS) {
  project<ScaledCore, AlongDepth, float>(p);
}
GMOE_KERNEL(gmoe_experts_project_nn_e4m3_f32, ExpertsProjectParams, EXPERTS_THREADS) {
  project<ScaledCore, AcrossDepth, float>(p);
}
GMOE_KERNEL(gmoe_experts_project_nt_e4m3_bf16, ExpertsProjectParams, EXPERTS_THREADS) {
  project<ScaledCore, AlongDepth, __nv_bfloat16>(p);
}
GMOE_KERNEL(gmoe_experts_project_nn_e4m3_bf16, ExpertsProjectParams, EXPERTS_THREADS) {
  project<ScaledCore, AcrossDepth, __nv_bfloat16>(p);
}
