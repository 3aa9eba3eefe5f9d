/* Numbers as float8_e4m3fn with scales: rows of activations by 128 columns, weights by 128 x 128. A scale is
 * the largest magnitude over 448, 1 where that is 0, and NaN where a number is not finite. */
#include "experts_element.h"
#include "experts_quantize_params.h"
#include "experts_schedule.h"
#include "float8.h"

using namespace experts;

namespace {

constexpr int warps = EXPERTS_THREADS / 32, each = float8::BLOCK / 32;
static_assert(each == 4, "a lane has four neighbours of a block's row");

/* The first `there` of four neighbours, and zeros. */
template <class X>
__device__ __forceinline__ void load_four(const X *from, int64_t stride, int32_t there, bool vector, float (&v)[4]) {
  if (vector && there >= 4) {
    if constexpr (sizeof(X) == 4) {
      float4 four = *reinterpret_cast<const float4 *>(from);
      v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
      uint2 four = *reinterpret_cast<const uint2 *>(from);
      v[0] = __uint_as_float(four.x << 16), v[1] = __uint_as_float(four.x & 0xffff0000u);
      v[2] = __uint_as_float(four.y << 16), v[3] = __uint_as_float(four.y & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = i < there ? to_float(from[i * stride]) : 0.0f;
}

__device__ __forceinline__ void store_four(Float8 *to, int64_t stride, int32_t there, bool vector, const float (&v)[4],
                                           float scale) {
  uint32_t four = float8::pack(v[0] / scale, v[1] / scale, v[2] / scale, v[3] / scale);
  if (vector && there >= 4) {
    *reinterpret_cast<uint32_t *>(to) = four;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (i < there) to[i * stride].bits = static_cast<uint8_t>(four >> 8 * i);
  }
}

__device__ __forceinline__ float largest_of(const float (&v)[4]) {
  float most = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; i++) most = float8::larger(most, float8::magnitude(v[i]));
  return most;
}

__device__ __forceinline__ float largest_in_warp(float v) {
  for (int bits = 16; bits > 0; bits /= 2) v = float8::larger(v, __shfl_xor_sync(0xffffffffu, v, bits));
  return v;
}

/* A warp takes a block of a row at a time. */
template <class X>
__device__ __forceinline__ void quantize_rows(const QuantizeRowsParams &p) {
  int lane = threadIdx.x % 32;
  int32_t rows = p.count != nullptr ? min(*p.count, p.rows) : p.rows, blocks = float8::blocks(p.columns);
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32; n < static_cast<int64_t>(rows) * blocks;
       n += static_cast<int64_t>(gridDim.x) * warps) {
    int32_t row = static_cast<int32_t>(n / blocks), block = static_cast<int32_t>(n % blocks);
    int32_t column = block * float8::BLOCK + lane * each, there = p.columns - column;
    float v[4];
    load_four(address<X>(p.source, row, there > 0 ? column : 0), p.source.column, there, p.vector, v);
    float scale = float8::scale_of(largest_in_warp(largest_of(v)));
    store_four(address<Float8>(p.quantized, row, column), 1, there, true, v, scale);
    if (lane == 0) *address<float>(p.scale, row, block) = scale;
  }
}

template <class X>
__device__ __forceinline__ X *at(const ExpertsStack &s, int32_t e, int64_t row, int64_t column) {
  return static_cast<X *>(s.data) + e * s.expert + row * s.row + column * s.column;
}

struct BlockMemory {
  float largest[warps];
};

/* A block of threads takes 128 x 128 at a time, a warp every eighth row of it. */
template <class X>
__device__ __forceinline__ void quantize_weights(const QuantizeWeightsParams &p) {
  constexpr int turns = float8::BLOCK / warps;
  BlockMemory &memory = shared_memory<BlockMemory>();
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t down = float8::blocks(p.rows), across = float8::blocks(p.columns);
  for (int64_t n = blockIdx.x; n < static_cast<int64_t>(p.experts) * down * across; n += gridDim.x) {
    int32_t expert = static_cast<int32_t>(n / (static_cast<int64_t>(down) * across));
    int32_t place = static_cast<int32_t>(n % (static_cast<int64_t>(down) * across));
    int32_t first = place / across * float8::BLOCK + warp;
    int32_t column = place % across * float8::BLOCK + lane * each, left = p.columns - column;
    float v[turns][4], most = 0.0f;
#pragma unroll
    for (int i = 0; i < turns; i++) {
      int32_t row = first + i * warps, there = row < p.rows ? left : 0;
      load_four(at<X>(p.source, expert, there > 0 ? row : 0, there > 0 ? column : 0), p.source.column, there,
                p.source_vector, v[i]);
      most = float8::larger(most, largest_of(v[i]));
    }
    most = largest_in_warp(most);
    if (lane == 0) memory.largest[warp] = most;
    __syncthreads();
    most = 0.0f;
    for (int w = 0; w < warps; w++) most = float8::larger(most, memory.largest[w]);
    float scale = float8::scale_of(most);
#pragma unroll
    for (int i = 0; i < turns; i++) {
      int32_t row = first + i * warps, there = row < p.rows ? left : 0;
      if (there > 0) {
        store_four(at<Float8>(p.quantized, expert, row, column), p.quantized.column, there, p.quantized_vector, v[i],
                   scale);
      }
    }
    if (threadIdx.x == 0) *at<float>(p.scale, expert, place / across, place % across) = scale;
    __syncthreads(); /* all have read the largest */
  }
}

}  // namespace

GMOE_KERNEL(gmoe_experts_quantize_rows_f32, QuantizeRowsParams, EXPERTS_THREADS) { quantize_rows<float>(p); }
GMOE_KERNEL(gmoe_experts_quantize_rows_bf16, QuantizeRowsParams, EXPERTS_THREADS) { quantize_rows<__nv_bfloat16>(p); }
GMOE_KERNEL(gmoe_experts_quantize_weights_f32, QuantizeWeightsParams, EXPERTS_THREADS) { quantize_weights<float>(p); }
GMOE_KERNEL(gmoe_experts_quantize_weights_bf16, QuantizeWeightsParams, EXPERTS_THREADS) {
  quantize_weights<__nv_bfloat16>(p);
}
