/* CUDA's keywords, built-in types and per-thread intrinsics, as C++. */
#ifndef GMOE_EMULATOR_LANGUAGE_H_
#define GMOE_EMULATOR_LANGUAGE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define __host__
#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

using std::isnan;
using std::max;
using std::min;

struct uint3 {
  uint32_t x, y, z;
};
struct dim3 {
  uint32_t x, y, z;
  constexpr dim3(uint32_t x = 1, uint32_t y = 1, uint32_t z = 1) : x(x), y(y), z(z) {}
};

/* Aligned as on the device, where a vector is loaded in one instruction. */
#define GMOE_EMULATOR_VECTOR(T, name)                                             \
  struct __align__(2 * sizeof(T)) name##2 { T x, y; };                            \
  struct __align__(sizeof(T) < 8 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                      \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
GMOE_EMULATOR_VECTOR(int32_t, int)
GMOE_EMULATOR_VECTOR(uint32_t, uint)
GMOE_EMULATOR_VECTOR(float, float)
GMOE_EMULATOR_VECTOR(double, double)
#undef GMOE_EMULATOR_VECTOR

/* Where the running thread is. The scheduler sets them at each switch. */
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

#define CUDART_INF_F (__builtin_inff())
#define CUDART_NAN_F (__builtin_nanf(""))
#define CUDART_INF (__builtin_inf())
#define CUDART_NAN (__builtin_nan(""))

template <class To, class From>
To gmoe_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(uint32_t x) { return gmoe_bits<float>(x); }
inline float __int_as_float(int32_t x) { return gmoe_bits<float>(x); }
inline uint32_t __float_as_uint(float x) { return gmoe_bits<uint32_t>(x); }
inline int32_t __float_as_int(float x) { return gmoe_bits<int32_t>(x); }
inline long long __double_as_longlong(double x) { return gmoe_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return gmoe_bits<double>(x); }

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __clz(uint32_t x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }

/* The approximate ones are exact here: tests allow what the device's are documented to be off. */
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }

template <class T>
T __ldg(const T *p) {
  return *p;
}
template <class T>
T __ldcg(const T *p) {
  return *p;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

#endif
