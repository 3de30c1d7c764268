// One query row of each of several sequences over its own keys and values: a decode step's
// attention.
//
// A head's keys lie row by row, its values likewise. They are read once for all query heads that
// share them, some at a time, and the softmax is kept up with as they come. What a sequence gets
// does not depend on the sequences beside it.

#include <algorithm>
#include <cmath>
#include <limits>

#include "run.h"
#include "vector.h"

namespace dyvte {
namespace {

constexpr int64_t kKeys = 64;     // keys whose scores are held at a time
constexpr int64_t kAhead = 512;  // numbers that are asked for beforehand
constexpr int64_t kAlone = 1 << 15;

// The products of one row with a vector's width of others, before their lanes are summed.
inline void multiply(const float* query, const float* keys, int64_t dim, Vec (&sums)[kLanes]) {
  for (int key = 0; key < kLanes; key++) {
    const float* at = keys + key * dim;
    Vec total = Vec{};
    for (int64_t i = 0; i < dim; i += kLanes) {
      __builtin_prefetch(at + kAhead + i);
      total += load(query + i) * load(at + i);
    }
    sums[key] = total;
  }
}

// Lane i of the result is the sum of the lanes of sums[i]: halves are folded until one is left.
inline Vec sum_lanes(Vec (&sums)[kLanes]) {
  Ints lanes;
  for (int lane = 0; lane < kLanes; lane++) lanes[lane] = lane;
  for (int step = 1; step < kLanes; step *= 2) {
    // Of each pair of lanes `step` apart the even one comes from a, the odd one from b.
    const Ints odd = (lanes & step) != 0, one = lanes & ~step, other = lanes | step;
    const Ints left = odd ? one + kLanes : one, right = odd ? other + kLanes : other;
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; i += 2 * step)
      sums[i] = __builtin_shuffle(sums[i], sums[i + step], left) +
                __builtin_shuffle(sums[i], sums[i + step], right);
  }
  return sums[0];
}

inline float dot(const float* a, const float* b, int64_t dim) {
  Vec sums = Vec{};
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) sums += load(a + i) * load(b + i);
  float total = sum(sums);
  for (; i < dim; i++) total += a[i] * b[i];
  return total;
}

inline void score(const float* query, const float* keys, int64_t dim, float scale, int64_t count,
                  float* scores) {
  int64_t key = 0;
  if (dim % kLanes == 0)
    for (; key + kLanes <= count; key += kLanes) {
      Vec sums[kLanes];
      multiply(query, keys + key * dim, dim, sums);
      store(scores + key, sum_lanes(sums) * scale);
    }
  for (; key < count; key++) scores[key] = dot(query, keys + key * dim, dim) * scale;
}

// V vectors of every value row, weighted and added to `to`.
template <int V>
inline void add_weighted(const float* values, int64_t dim, const float* weights, int64_t keys,
                         float* to) {
  Vec sums[V];
  for (int v = 0; v < V; v++) sums[v] = load(to + v * kLanes);
  for (int64_t key = 0; key < keys; key++) {
    const Vec weight = all(weights[key]);
    for (int v = 0; v < V; v++) __builtin_prefetch(values + key * dim + kAhead + v * kLanes);
    for (int v = 0; v < V; v++) sums[v] += weight * load(values + key * dim + v * kLanes);
  }
  for (int v = 0; v < V; v++) store(to + v * kLanes, sums[v]);
}

inline void add_rows(const float* values, int64_t dim, const float* weights, int64_t keys,
                     float* to) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= dim; i += 4 * kLanes)
    add_weighted<4>(values + i, dim, weights, keys, to + i);
  for (; i + kLanes <= dim; i += kLanes) add_weighted<1>(values + i, dim, weights, keys, to + i);
  for (; i < dim; i++)
    for (int64_t key = 0; key < keys; key++) to[i] += weights[key] * values[key * dim + i];
}

struct Softmax {
  float largest = -std::numeric_limits<float>::infinity();
  float total = 0;

  // Scores become weights; what was summed before is scaled to the new largest score.
  void take(float* scores, int64_t keys, float* out, int64_t dim) {
    const float before = largest;
    for (int64_t key = 0; key < keys; key++) largest = std::max(largest, scores[key]);
    std::fill(scores + keys, scores + kKeys, -std::numeric_limits<float>::infinity());
    Vec added = Vec{};
    for (int64_t key = 0; key < kKeys; key += kLanes) {
      const Vec weights = exponential(load(scores + key) - largest);
      store(scores + key, weights);
      added += weights;
    }
    const float shrink = std::exp(before - largest);
    total = total * shrink + sum(added);
    if (shrink != 1)
      for (int64_t i = 0; i < dim; i++) out[i] *= shrink;
  }
};

// The query heads [group, dim] that share a head's keys and values [rows, dim].
void attend_head(const float* query, int64_t group, const float* keys, const float* values,
                 int64_t rows, int64_t dim, float scale, Softmax* softmax, float* out) {
  alignas(64) float scores[kKeys];
  std::fill(softmax, softmax + group, Softmax{});
  std::fill(out, out + group * dim, 0.0f);
  for (int64_t from = 0; from < rows; from += kKeys) {
    const int64_t count = std::min(kKeys, rows - from);
    for (int64_t g = 0; g < group; g++) {
      score(query + g * dim, keys + from * dim, dim, scale, count, scores);
      softmax[g].take(scores, count, out + g * dim, dim);
      add_rows(values + from * dim, dim, scores, count, out + g * dim);
    }
  }
  for (int64_t g = 0; g < group; g++)
    for (int64_t i = 0; i < dim; i++) out[g * dim + i] /= softmax[g].total;
}

}  // namespace
}  // namespace dyvte

extern "C" {

// Put the newest key and value of each sequence, [sequences, heads, dim] with rows key_stride and
// value_stride apart, at the end of its run, whose `rows` counts them already.
void dyvte_append_single(const float* key, int64_t key_stride, const float* value,
                         int64_t value_stride, const DyvteRun* runs, int64_t sequences,
                         int64_t heads, int64_t dim) {
  for (int64_t s = 0; s < sequences; s++) {
    const DyvteRun& run = runs[s];
    for (int64_t h = 0; h < heads; h++) {
      const int64_t at = h * run.head_stride + (run.rows - 1) * dim;
      std::memcpy(run.keys + at, key + s * key_stride + h * dim, dim * sizeof(float));
      std::memcpy(run.values + at, value + s * value_stride + h * dim, dim * sizeof(float));
    }
  }
}

// query [sequences, kv_heads * group, dim], its rows query_stride apart; out alike, contiguous.
// `group` is at most 64.
void dyvte_attend_single(const float* query, int64_t query_stride, const DyvteRun* runs,
                  int64_t sequences, int64_t kv_heads, int64_t group, int64_t dim, float scale,
                  float* out, int threads) {
  using namespace dyvte;
  int64_t numbers = 0;
  for (int64_t s = 0; s < sequences; s++) numbers += runs[s].rows * kv_heads * dim;
  if (numbers < kAlone) threads = 1;
#pragma omp parallel for schedule(dynamic, 2) num_threads(threads)
  for (int64_t task = 0; task < sequences * kv_heads; task++) {
    const int64_t s = task / kv_heads, head = task % kv_heads;
    const DyvteRun& run = runs[s];
    Softmax softmax[64];
    attend_head(query + s * query_stride + head * group * dim, group,
                run.keys + head * run.head_stride, run.values + head * run.head_stride, run.rows,
                dim, scale, softmax, out + (s * kv_heads + head) * group * dim);
  }
}
}
