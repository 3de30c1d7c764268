// Activations: what becomes of the numbers of an MLP between its products.

#pragma once

#include <cmath>

#include "vector.h"

namespace dyvte {

// x times the sigmoid of u. Below -89 e^-u counts as infinite: 0 comes out as it should, and of
// -infinity no number.
inline Vec gate(Vec x, Vec u) { return x / (1.0f + exponential(-larger(u, all(-89.0f)))); }

inline Vec silu(Vec x) { return gate(x, x); }

inline Vec quick_gelu(Vec x) { return gate(x, x * 1.702f); }

// (1 + tanh(u)) / 2 is the sigmoid of 2 u.
inline Vec gelu_tanh(Vec x) { return gate(x, x * 1.59576912f * (x * x * 0.044715f + 1.0f)); }

// x times the normal distribution up to x. What lies above z = |x| / sqrt(2) of it is half of
// e^(-z^2) times what a polynomial in 1 / (1 + 0.3 z) is to 2e-8 of it (fitted for this), so that the
// small results of negative x keep their digits.
inline Vec gelu(Vec x) {
  const Vec z = (x < 0 ? -x : x) * 0.707106781f, t = 1.0f / (z * 0.3f + 1.0f);
  Vec p = all(-0.129456718f);
  p = p * t + 0.485216044f;
  p = p * t - 0.511497299f;
  p = p * t + 0.546738032f;
  p = p * t - 0.0938964584f;
  p = p * t + 0.214564306f;
  p = p * t + 0.148444805f;
  p = p * t + 0.170698081f;
  p = p * t + 0.169189188f;
  const Vec above = p * t * exponential(-(z * z)) * 0.5f;
  return x * (x < 0 ? above : 1.0f - above);
}

enum Activation { kNone = 0, kQuickGelu = 1, kGelu = 2, kGeluTanh = 3 };

template <class F>
inline void each(float* x, int64_t width, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(x + i, f(load(x + i)));
  if (i == width) return;
  float rest[kLanes] = {};
  std::memcpy(rest, x + i, (width - i) * sizeof(float));
  store(rest, f(load(rest)));
  std::memcpy(x + i, rest, (width - i) * sizeof(float));
}

// In place.
inline void activate(Activation activation, float* x, int64_t width) {
  if (activation == kQuickGelu) each(x, width, [](Vec v) { return quick_gelu(v); });
  if (activation == kGelu) each(x, width, [](Vec v) { return gelu(v); });
  if (activation == kGeluTanh) each(x, width, [](Vec v) { return gelu_tanh(v); });
}

template <class T>
inline void gated_units(const T* gate, const T* up, T* out, int64_t width) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, silu(load(gate + i)) * load(up + i));
  for (; i < width; i++) {
    const float x = number(gate[i]);
    put(out + i, x / (1.0f + std::exp(-x)) * number(up[i]));
  }
}

}  // namespace dyvte
