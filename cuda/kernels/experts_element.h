/* The elements of tensors, computed with in float32, and of matrices with any strides. */
#ifndef GMOE_EXPERTS_ELEMENT_H_
#define GMOE_EXPERTS_ELEMENT_H_

#include "experts_params.h"
#include "simt.h"

namespace experts {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class X>
__device__ __forceinline__ X from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

template <class X>
__device__ __forceinline__ X *address(const ExpertsMatrix &m, int64_t i, int64_t j) {
  return static_cast<X *>(m.data) + i * m.row + j * m.column;
}
template <class X>
__device__ __forceinline__ float load(const ExpertsMatrix &m, int64_t i, int64_t j) {
  return to_float(*address<X>(m, i, j));
}
template <class X>
__device__ __forceinline__ void store(const ExpertsMatrix &m, int64_t i, int64_t j, float v) {
  *address<X>(m, i, j) = from_float<X>(v);
}

/* The routing weight of a (token, slot) pair. */
__device__ __forceinline__ float weight_of(const ExpertsMatrix &weights, int32_t pair, int32_t slots) {
  return load<float>(weights, pair / slots, pair % slots);
}

/* The sum over the lanes of a warp, the same for all and in the same order always. */
__device__ __forceinline__ float warp_sum(float v) {
  for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(0xffffffffu, v, bits);
  return v;
}

}  // namespace experts

#endif
