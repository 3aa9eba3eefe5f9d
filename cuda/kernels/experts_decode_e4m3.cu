/* The forward pass of few tokens with weights in float8_e4m3fn, which are read at one byte each; tokens and h have
 * been rounded to the same. */
#include "experts_decode_forward.h"

using namespace experts;

GMOE_KERNEL_BLOCKS(gmoe_experts_decode_gate_up_1_e4m3_bf16, DecodeGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<Float8, 1, true, __nv_bfloat16, float>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_gate_up_2_e4m3_bf16, DecodeGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<Float8, 2, true, __nv_bfloat16, float>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_gate_up_1_e4m3_f32, DecodeGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<Float8, 1, true, float, float>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_gate_up_2_e4m3_f32, DecodeGateUpParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  gate_up<Float8, 2, true, float, float>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_down_e4m3_bf16, DecodeDownParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  down<Float8, true, __nv_bfloat16>(p);
}
GMOE_KERNEL_BLOCKS(gmoe_experts_decode_down_e4m3_f32, DecodeDownParams, EXPERTS_THREADS, DECODE_BLOCKS) {
  down<Float8, true, float>(p);
}
