/* float8_e4m3fn: a sign, 4 bits of exponent, 3 of mantissa; no infinity, 448 the largest. Devices since compute
 * capability 8.9 convert by an instruction; the others, and the host, do it by the bits. */
#ifndef GMOE_FLOAT8_H_
#define GMOE_FLOAT8_H_

#include "simt.h"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#define GMOE_FLOAT8_INSTRUCTIONS
#endif

struct Float8 {
  uint8_t bits;
};

namespace float8 {

constexpr float LARGEST = 448.0f;
constexpr int BLOCK = 128; /* neighbours that share a scale */

__host__ __device__ constexpr int32_t blocks(int32_t n) { return n / BLOCK + (n % BLOCK != 0); }

/* The nearest e4m3, of two as near the even one; what is larger than the largest becomes that. */
__device__ __forceinline__ uint32_t rounded(float v) {
  uint32_t bits = __float_as_uint(v), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7f; /* NaN */
  if (magnitude >= 0x43e00000) return sign | 0x7e;
  /* Below the normal ones they are 2^-9 apart, as are float32 from 2^14 on. */
  if (magnitude < 0x3c800000) return sign | (__float_as_uint(__uint_as_float(magnitude) + 16384.0f) & 0xf);
  constexpr uint32_t bias = 127 - 7;
  return sign | (((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (bias << 3));
}

/* Four of them, the first in the low byte. */
__device__ __forceinline__ uint32_t pack(float a, float b, float c, float d) {
#ifdef GMOE_FLOAT8_INSTRUCTIONS
  uint32_t four;
  asm("{\n.reg .b16 low, high;\n"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n}"
      : "=r"(four)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return four;
#else
  return rounded(a) | rounded(b) << 8 | rounded(c) << 16 | rounded(d) << 24;
#endif
}

/* Four of them as float16, which has them all: the first two in `low`, the others in `high`. */
__device__ __forceinline__ void unpack(uint32_t four, uint32_t &low, uint32_t &high) {
#ifdef GMOE_FLOAT8_INSTRUCTIONS
  asm("{\n.reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n}"
      : "=r"(low), "=r"(high)
      : "r"(four));
#else
  /* Exponent and mantissa in float16's places are the number over 2^8, of either kind. 0x7f, NaN, is the one whose
   * bits carry into the sign. */
  auto halves = [](uint32_t pair) {
    uint32_t magnitude = pair & 0x7f007f00u, nan = (magnitude + 0x01000100u) & 0x80008000u;
    return multiply_halves((pair & 0x80008000u) | magnitude >> 1, 0x5c005c00u) | (nan >> 15) * 0x7c00u;
  };
  low = halves((four & 0xff) << 8 | (four & 0xff00) << 16);
  high = halves((four >> 16 & 0xff) << 8 | (four & 0xff000000u));
#endif
}

/* The scale of numbers whose largest magnitude is this: NaN if it is. */
__device__ __forceinline__ float scale_of(float largest) {
  float scale = largest / LARGEST;
  return scale == 0.0f ? 1.0f : scale;
}

/* The larger of two magnitudes; NaN, which stands for whatever is not finite, wins. */
__device__ __forceinline__ float larger(float a, float b) { return a >= b || a != a ? a : b; }
__device__ __forceinline__ float magnitude(float v) {
  float m = fabsf(v);
  return m <= 3.4028235e38f ? m : CUDART_NAN_F;
}

}  // namespace float8

#endif
