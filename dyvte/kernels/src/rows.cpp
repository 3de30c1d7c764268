// What a decoder layer does to rows between its products: norms, rotary embeddings, gated units.

#include <cmath>

#include "vector.h"

namespace dyvte {
namespace {

constexpr int64_t kAlone = 1 << 14;  // numbers that one thread turns faster than two

// Below -89 e^-x counts as infinite: 0 comes out as it should, and of -infinity no number.
inline Vec silu(Vec x) { return x / (1.0f + exponential(-larger(x, all(-89.0f)))); }

inline float rms_scale(const float* x, int64_t width, float eps) {
  Vec squares = Vec{};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec v = load(x + i);
    squares += v * v;
  }
  float total = sum(squares);
  for (; i < width; i++) total += x[i] * x[i];
  return 1.0f / std::sqrt(total / width + eps);
}

inline void scale_row(const float* x, const float* weight, float scale, float* out, int64_t width) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, load(x + i) * scale * load(weight + i));
  for (; i < width; i++) out[i] = x[i] * scale * weight[i];
}

}  // namespace
}  // namespace dyvte

extern "C" {

// out[r] = x[r] / rms(x[r]) * weight. Rows lie x_stride and out_stride apart; in place is allowed.
void dyvte_rms_norm(const float* x, int64_t rows, int64_t x_stride, int64_t width,
                    const float* weight, float eps, float* out, int64_t out_stride, int threads) {
  using namespace dyvte;
  if (rows * width < kAlone) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < rows; r++) {
    const float* from = x + r * x_stride;
    scale_row(from, weight, rms_scale(from, width, eps), out + r * out_stride, width);
  }
}

// Heads of `dim` numbers in place: a norm of its own for each if `weight` is not null, then turned
// by the row's angle, cos and sin [rows, dim], the first half of a head against its second.
void dyvte_turn_heads(float* x, int64_t rows, int64_t x_stride, int64_t heads, int64_t dim,
                      const float* weight, float eps, const float* cos, const float* sin,
                      int threads) {
  using namespace dyvte;
  const int64_t half = dim / 2;
  if (rows * heads * dim < kAlone) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < rows; r++) {
    const float *c = cos + r * dim, *s = sin + r * dim;
    for (int64_t h = 0; h < heads; h++) {
      float* head = x + r * x_stride + h * dim;
      if (weight) scale_row(head, weight, rms_scale(head, dim, eps), head, dim);
      int64_t i = 0;
      for (; i + kLanes <= half; i += kLanes) {
        const Vec a = load(head + i), b = load(head + half + i);
        store(head + i, a * load(c + i) - b * load(s + i));
        store(head + half + i, b * load(c + half + i) + a * load(s + half + i));
      }
      for (; i < half; i++) {
        const float a = head[i], b = head[half + i];
        head[i] = a * c[i] - b * s[i];
        head[half + i] = b * c[half + i] + a * s[half + i];
      }
    }
  }
}

// out = silu(x[:, :width]) * x[:, width:2 width].
void dyvte_silu_mul(const float* x, int64_t rows, int64_t x_stride, int64_t width, float* out,
                    int threads) {
  using namespace dyvte;
  if (rows * width < kAlone) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < rows; r++) {
    const float *gate = x + r * x_stride, *up = gate + width;
    float* to = out + r * width;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(to + i, silu(load(gate + i)) * load(up + i));
    for (; i < width; i++) to[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
  }
}
}
