/* float16: a sign, 5 bits of exponent, 10 of mantissa. */
#ifndef GMOE_EMULATOR_FLOAT16_H_
#define GMOE_EMULATOR_FLOAT16_H_

#include "language.h"

namespace emulator {

inline float f16_of(uint16_t bits) {
  int exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff;
  float v = exponent == 31
                ? (mantissa ? CUDART_NAN_F : CUDART_INF_F)
                : std::ldexp(static_cast<float>(exponent ? mantissa | 0x400 : mantissa), std::max(exponent, 1) - 25);
  return bits >> 15 ? -v : v;
}

/* To the nearest, of two as near the even one. */
inline uint16_t f16_bits(float v) {
  uint16_t sign = static_cast<uint16_t>(__float_as_uint(v) >> 16 & 0x8000);
  float m = std::fabs(v);
  if (m != m) return 0x7fff; /* the device's NaN */
  if (m >= 65520.0f) return sign | 0x7c00;
  int exponent = std::max(m > 0 ? std::ilogb(m) : -14, -14);
  int steps = static_cast<int>(std::nearbyint(std::ldexp(m, 10 - exponent))); /* 2^11 of them are the next exponent's */
  return static_cast<uint16_t>(sign | (steps + ((exponent + 14) << 10)));
}

} // namespace emulator

inline uint32_t multiply_halves(uint32_t a, uint32_t b) {
  auto product = [&](int shift) {
    return static_cast<uint32_t>(emulator::f16_bits(emulator::f16_of(static_cast<uint16_t>(a >> shift)) *
                                                    emulator::f16_of(static_cast<uint16_t>(b >> shift))))
           << shift;
  };
  return product(0) | product(16);
}

#endif
