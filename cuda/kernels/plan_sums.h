/* Prefix sums of a warp, which plans are made of. */
#ifndef GMOE_PLAN_SUMS_H_
#define GMOE_PLAN_SUMS_H_

#include "simt.h"

namespace plan {

constexpr uint32_t all_lanes = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x / 32); }

/* The sum of the values of this lane and those before it. */
__device__ __forceinline__ int32_t inclusive_sum(int32_t value) {
  for (int distance = 1; distance < 32; distance *= 2) {
    int32_t other = __shfl_up_sync(all_lanes, value, distance);
    if (lane_index() >= distance) value += other;
  }
  return value;
}

/* For one warp: sums[i] = the sum of values(0) to values(i-1), for i = 0 to n. */
template <class Values>
__device__ __forceinline__ void exclusive_sums(int32_t *sums, int32_t n, Values values) {
  int32_t carry = 0;
  for (int32_t first = 0; first < n; first += 32) {
    int32_t i = first + lane_index(), value = i < n ? values(i) : 0, sum = inclusive_sum(value);
    if (i < n) sums[i] = carry + sum - value;
    carry += __shfl_sync(all_lanes, sum, 31);
  }
  if (lane_index() == 0) sums[n] = carry;
}

}  // namespace plan

#endif
