// What a layer does to rows between its products: norms, rotary embeddings, gated units.
//
// Rows are float32 or bfloat16, computed in float32 and rounded once; those that have their mean
// taken off are float32.

#include <cmath>

#include "units.h"

namespace dyvte {
namespace {

constexpr int64_t kAlone = 1 << 14;  // numbers that one thread turns faster than two

template <class T>
inline float rms_scale(const T* x, int64_t width, float eps) {
  Vec squares = Vec{};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec v = load(x + i);
    squares += v * v;
  }
  float total = sum(squares);
  for (; i < width; i++) total += number(x[i]) * number(x[i]);
  return 1.0f / std::sqrt(total / width + eps);
}

template <class T>
inline void scale_row(const T* x, const T* weight, float scale, T* out, int64_t width) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, load(x + i) * scale * load(weight + i));
  for (; i < width; i++) put(out + i, number(x[i]) * scale * number(weight[i]));
}

inline float mean_of(const float* x, int64_t width) {
  Vec numbers = Vec{};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) numbers += load(x + i);
  float total = sum(numbers);
  for (; i < width; i++) total += x[i];
  return total / width;
}

inline float variance_of(const float* x, float mean, int64_t width) {
  Vec squares = Vec{};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec v = load(x + i) - mean;
    squares += v * v;
  }
  float total = sum(squares);
  for (; i < width; i++) total += (x[i] - mean) * (x[i] - mean);
  return total / width;
}

inline void layer_norm_row(const float* x, const float* weight, const float* bias, float eps,
                           float* out, int64_t width) {
  const float mean = mean_of(x, width);
  const float scale = 1.0f / std::sqrt(variance_of(x, mean, width) + eps);
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    store(out + i, (load(x + i) - mean) * scale * load(weight + i) + load(bias + i));
  for (; i < width; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

template <class T>
inline void turn(T* head, const T* cos, const T* sin, int64_t half) {
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec a = load(head + i), b = load(head + half + i);
    store(head + i, a * load(cos + i) - b * load(sin + i));
    store(head + half + i, b * load(cos + half + i) + a * load(sin + half + i));
  }
  for (; i < half; i++) {
    const float a = number(head[i]), b = number(head[half + i]);
    put(head + i, a * number(cos[i]) - b * number(sin[i]));
    put(head + half + i, b * number(cos[half + i]) + a * number(sin[half + i]));
  }
}

template <class T>
void rms_norm(const T* x, int64_t rows, int64_t x_stride, int64_t width, const T* weight,
              float eps, T* out, int threads) {
  if (rows * width < kAlone) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < rows; r++) {
    const T* from = x + r * x_stride;
    scale_row(from, weight, rms_scale(from, width, eps), out + r * width, width);
  }
}

template <class T>
void turn_heads(T* x, int64_t rows, int64_t x_stride, int64_t heads, int64_t dim, const T* weight,
                float eps, const T* cos, const T* sin, int threads) {
  if (rows * heads * dim < kAlone) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < rows; r++)
    for (int64_t h = 0; h < heads; h++) {
      T* head = x + r * x_stride + h * dim;
      if (weight) scale_row(head, weight, rms_scale(head, dim, eps), head, dim);
      turn(head, cos + r * dim, sin + r * dim, dim / 2);
    }
}

template <class T>
void silu_mul(const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, int64_t rows,
              int64_t width, T* out, int threads) {
  if (rows * width < kAlone) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < rows; r++)
    gated_units(gate + r * gate_stride, up + r * up_stride, out + r * width, width);
}

}  // namespace
}  // namespace dyvte

// `form` of all rows and weights: 0 float32, 1 bfloat16. Rows lie `..._stride` apart, out without
// gaps.
extern "C" {

// out[r] = x[r] / rms(x[r]) * weight.
void dyvte_rms_norm(int form, const void* x, int64_t rows, int64_t x_stride, int64_t width,
                    const void* weight, float eps, void* out, int threads) {
  using namespace dyvte;
  if (form == 0)
    rms_norm(static_cast<const float*>(x), rows, x_stride, width,
             static_cast<const float*>(weight), eps, static_cast<float*>(out), threads);
  if (form == 1)
    rms_norm(static_cast<const Bfloat16*>(x), rows, x_stride, width,
             static_cast<const Bfloat16*>(weight), eps, static_cast<Bfloat16*>(out), threads);
}

// out[r] = (x[r] - mean(x[r])) / deviation(x[r]) * weight + bias, float32.
void dyvte_layer_norm(const float* x, int64_t rows, int64_t x_stride, int64_t width,
                      const float* weight, const float* bias, float eps, float* out, int threads) {
  using namespace dyvte;
  if (rows * width < kAlone) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < rows; r++)
    layer_norm_row(x + r * x_stride, weight, bias, eps, out + r * width, width);
}

// Heads of `dim` numbers in place: a norm of its own for each if `weight` is not null, then turned
// by the row's angle, cos and sin [rows, dim], the first half of a head against its second.
void dyvte_turn_heads(int form, void* x, int64_t rows, int64_t x_stride, int64_t heads,
                      int64_t dim, const void* weight, float eps, const void* cos,
                      const void* sin, int threads) {
  using namespace dyvte;
  if (form == 0)
    turn_heads(static_cast<float*>(x), rows, x_stride, heads, dim,
               static_cast<const float*>(weight), eps, static_cast<const float*>(cos),
               static_cast<const float*>(sin), threads);
  if (form == 1)
    turn_heads(static_cast<Bfloat16*>(x), rows, x_stride, heads, dim,
               static_cast<const Bfloat16*>(weight), eps, static_cast<const Bfloat16*>(cos),
               static_cast<const Bfloat16*>(sin), threads);
}

// out = silu(gate) * up.
void dyvte_silu_mul(int form, const void* gate, int64_t gate_stride, const void* up,
                    int64_t up_stride, int64_t rows, int64_t width, void* out, int threads) {
  using namespace dyvte;
  if (form == 0)
    silu_mul(static_cast<const float*>(gate), gate_stride, static_cast<const float*>(up),
             up_stride, rows, width, static_cast<float*>(out), threads);
  if (form == 1)
    silu_mul(static_cast<const Bfloat16*>(gate), gate_stride, static_cast<const Bfloat16*>(up),
             up_stride, rows, width, static_cast<Bfloat16*>(out), threads);
}
}
