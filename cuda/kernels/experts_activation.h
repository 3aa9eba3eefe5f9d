/* The activations of an expert and their derivatives, one element at a time. Plain functions,
 * which tests also call on the host. */
#ifndef GMOE_EXPERTS_ACTIVATION_H_
#define GMOE_EXPERTS_ACTIVATION_H_

#include "../../include/genesis_moe.h"
#include "experts_params.h"
#include "simt.h"

namespace experts {

struct Slope {
  float value, derivative;
};

__host__ __device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* x sigmoid(a x): SiLU with a = 1, the quick GELU with a = 1.702. */
__host__ __device__ inline Slope swish(float x, float a) {
  float s = sigmoid(a * x);
  return {x * s, s + a * x * s * (1.0f - s)};
}

__host__ __device__ inline Slope gelu(float x) {
  constexpr float sqrt_half = 0.70710678f, density = 0.39894228f; /* 1/sqrt(2), 1/sqrt(2 pi) */
  float below = 0.5f * erfcf(-x * sqrt_half);
  return {x * below, below + x * expf(-0.5f * x * x) * density};
}

/* The tanh approximation, with torch's coefficients. */
__host__ __device__ inline Slope gelu_tanh(float x) {
  constexpr float scale = 0.79788456f, cube = 0.044715f; /* sqrt(2/pi) */
  float t = tanhf(scale * (x + cube * x * x * x));
  return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * scale * (1.0f + 3.0f * cube * x * x)};
}

/* A function of the gate alone: every kind but the clipped ones. */
__host__ __device__ inline Slope slope(int32_t kind, float x) {
  float positive = x > 0.0f ? x : 0.0f;
  switch (kind) {
    case GMOE_ACTIVATION_GELU: return gelu(x);
    case GMOE_ACTIVATION_GELU_TANH: return gelu_tanh(x);
    case GMOE_ACTIVATION_RELU: return {x != x ? x : positive, x > 0.0f ? 1.0f : 0.0f};
    case GMOE_ACTIVATION_RELU_SQUARED: return {x != x ? x : positive * positive, 2.0f * positive};
    case GMOE_ACTIVATION_QUICK_GELU: return swish(x, 1.702f);
    case GMOE_ACTIVATION_SIGMOID: {
      float s = sigmoid(x);
      return {s, s * (1.0f - s)};
    }
    case GMOE_ACTIVATION_TANH: {
      float t = tanhf(x);
      return {t, 1.0f - t * t};
    }
    case GMOE_ACTIVATION_IDENTITY: return {x, 1.0f};
    default: return swish(x, 1.0f);
  }
}

/* One element of h with its derivatives. */
struct Activated {
  float value, by_gate, by_up;
};

/* (up + up_offset) gate sigmoid(alpha gate) of the clamped gate and up. A clamp passes gradient on
 * its bounds and none outside, as torch's does. */
__host__ __device__ inline Activated clipped(float gate, float up, float alpha, float limit, float up_offset) {
  float g = gate > limit ? limit : gate, u = (up > limit ? limit : up < -limit ? -limit : up) + up_offset;
  Slope s = swish(g, alpha);
  return {u * s.value, gate <= limit ? u * s.derivative : 0.0f, -limit <= up && up <= limit ? s.value : 0.0f};
}

__host__ __device__ inline Activated activate(const ExpertsActivation &a, float gate, float up) {
  if (a.kind == GMOE_ACTIVATION_CLIPPED_SWIGLU) return clipped(gate, up, a.alpha, a.limit, 1.0f);
  if (a.kind == GMOE_ACTIVATION_CLIPPED_SILU) return clipped(gate, up, 1.0f, a.limit, 0.0f);
  Slope s = slope(a.kind, gate);
  if (!a.gated) return {s.value, s.derivative, 0.0f};
  return {s.value * up, s.derivative * up, s.value};
}

}  // namespace experts

#endif
