/* The forward pass of few tokens: experts_decode_forward.h. */
#include "experts_decode_forward.h"

using namespace experts;

GMOE_KERNEL_BLOCKS(gmoe_experts_decode_gate_up_1_bf16, DecodeGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<__nv_bfloat16, 1>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_gate_up_2_bf16, DecodeGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<__nv_bfloat16, 2>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_gate_up_2_f32, DecodeGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<float, 2>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_down_bf16, DecodeDownParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  down<__nv_bfloat16>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_down_f32, DecodeDownParams, EXPERTS_THREADS, DECODE_BLOCKS) { down<float>(p); }

/* Weights across the depth, as transposed ones are. */
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_gate_up_nn_2_bf16, DecodeGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<__nv_bfloat16, 2, false>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_down_nn_bf16, DecodeDownParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  down<__nv_bfloat16, false>(p);
}
