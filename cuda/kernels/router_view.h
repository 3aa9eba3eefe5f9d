/* Elements of tensors of any dtype and strides, and sums over a warp. */
#ifndef GMOE_ROUTER_VIEW_H_
#define GMOE_ROUTER_VIEW_H_

#include "router_params.h"
#include "simt.h"

namespace router {

constexpr uint32_t all_lanes = 0xffffffffu;

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ __forceinline__ double load(const RouterView &v, int64_t offset) {
  switch (v.dtype) {
    case router_f32: return static_cast<const float *>(v.data)[offset];
    case router_bf16: return __bfloat162float(static_cast<const __nv_bfloat16 *>(v.data)[offset]);
    default: return static_cast<const double *>(v.data)[offset];
  }
}

__device__ __forceinline__ float load_f32(const RouterView &v, int64_t offset) {
  switch (v.dtype) {
    case router_f32: return static_cast<const float *>(v.data)[offset];
    case router_bf16: return __bfloat162float(static_cast<const __nv_bfloat16 *>(v.data)[offset]);
    default: return static_cast<float>(static_cast<const double *>(v.data)[offset]);
  }
}

__device__ __forceinline__ float load_f32(const RouterView &v, int64_t row, int64_t column) {
  return load_f32(v, row * v.row + column * v.column);
}

/* The value of a tensor [1], or what it is without one. */
__device__ __forceinline__ float scalar(const RouterView &v, float without) {
  return v.data == nullptr ? without : load_f32(v, 0);
}

__device__ __forceinline__ void store(const RouterView &v, int64_t offset, double value) {
  switch (v.dtype) {
    case router_f32: static_cast<float *>(v.data)[offset] = static_cast<float>(value); break;
    case router_bf16:
      static_cast<__nv_bfloat16 *>(v.data)[offset] = __float2bfloat16_rn(static_cast<float>(value));
      break;
    default: static_cast<double *>(v.data)[offset] = value;
  }
}

__device__ __forceinline__ void store_f32(const RouterView &v, int64_t row, int64_t column, float value) {
  int64_t offset = row * v.row + column * v.column;
  if (v.dtype == router_f32) {
    static_cast<float *>(v.data)[offset] = value;
  } else {
    static_cast<__nv_bfloat16 *>(v.data)[offset] = __float2bfloat16_rn(value);
  }
}

__device__ __forceinline__ int64_t load_index(const RouterView &v, int64_t row, int64_t column) {
  int64_t offset = row * v.row + column * v.column;
  if (v.dtype == router_i32) return static_cast<const int32_t *>(v.data)[offset];
  return static_cast<const int64_t *>(v.data)[offset];
}

__device__ __forceinline__ void store_index(const RouterView &v, int64_t row, int64_t column, int64_t value) {
  int64_t offset = row * v.row + column * v.column;
  if (v.dtype == router_i32) {
    static_cast<int32_t *>(v.data)[offset] = static_cast<int32_t>(value);
  } else {
    static_cast<int64_t *>(v.data)[offset] = value;
  }
}

/* Sums and extremes over a warp, by a tree: the same in every lane and every run. */
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(all_lanes, v, bits);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
  for (int bits = 16; bits > 0; bits /= 2) v = fmaxf(v, __shfl_xor_sync(all_lanes, v, bits));
  return v;
}
__device__ __forceinline__ double warp_max(double v) {
  for (int bits = 16; bits > 0; bits /= 2) v = fmax(v, __shfl_xor_sync(all_lanes, v, bits));
  return v;
}
__device__ __forceinline__ float warp_min(float v) {
  for (int bits = 16; bits > 0; bits /= 2) v = fminf(v, __shfl_xor_sync(all_lanes, v, bits));
  return v;
}

/* |v| of a row of a matrix, by one warp. */
__device__ __forceinline__ float row_norm(const RouterView &v, int64_t row, int64_t width) {
  float sum = 0;
  for (int64_t i = threadIdx.x % 32; i < width; i += 32) {
    float x = load_f32(v, row, i);
    sum += x * x;
  }
  return sqrtf(warp_sum(sum));
}

__device__ __forceinline__ bool is_finite(float v) { return v - v == 0; }

__device__ __forceinline__ bool is_budgeted(const RouterOptions &o) {
  return o.mode == router_hamiltonian && o.budgeted;
}

/* An expert that a price of +infinity closes is not there: router/selection.go. */
__device__ __forceinline__ bool is_closed(const RouterOptions &o, double price) {
  return o.mode == router_hamiltonian && price == CUDART_INF;
}

}  // namespace router

#endif
