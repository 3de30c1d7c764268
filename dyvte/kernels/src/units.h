// Gated units: silu(gate) * up.

#pragma once

#include <cmath>

#include "vector.h"

namespace dyvte {

// Below -89 e^-x counts as infinite: 0 comes out as it should, and of -infinity no number.
inline Vec silu(Vec x) { return x / (1.0f + exponential(-larger(x, all(-89.0f)))); }

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
