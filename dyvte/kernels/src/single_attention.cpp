// One query row of each of several sequences over its own keys and values: a decode step's
// attention.
//
// A head's keys lie row by row, its values likewise. They are read once for all query heads that
// share them, some at a time, and the softmax is kept up with as they come. What a sequence gets
// does not depend on the sequences beside it. Rows are float32 or bfloat16, computed in float32.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "run.h"
#include "vector.h"

namespace dyvte {
namespace {

constexpr int64_t kKeys = 64;     // keys whose scores are held at a time
constexpr int64_t kAhead = 512;  // numbers that are asked for beforehand
constexpr int64_t kAlone = 1 << 15;

// The products of one row with a vector's width of others, before their lanes are summed.
template <class T>
inline void multiply(const float* query, const T* keys, int64_t dim, Vec (&sums)[kLanes]) {
  for (int key = 0; key < kLanes; key++) {
    const T* at = keys + key * dim;
    Vec total = Vec{};
    for (int64_t i = 0; i < dim; i += kLanes) {
      __builtin_prefetch(at + kAhead + i);
      total += load(query + i) * load(at + i);
    }
    sums[key] = total;
  }
}

// Where lane `lane` of two vectors that are folded into one is taken from: of each pair of lanes
// `step` apart the lower one's sum is a's, the upper one's b's.
constexpr int source(int lane, int step, bool upper) {
  return (upper ? lane | step : lane & ~step) + (lane & step ? kLanes : 0);
}

// Lane i of the result is the sum of the lanes of sums[i]: halves are folded until one is left.
template <int Step = 1, int... Lane>
inline Vec sum_lanes(Vec (&sums)[kLanes], std::integer_sequence<int, Lane...> lanes) {
  if constexpr (Step == kLanes) return sums[0];
  else {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; i += 2 * Step)
      sums[i] = picked<source(Lane, Step, false)...>(sums[i], sums[i + Step]) +
                picked<source(Lane, Step, true)...>(sums[i], sums[i + Step]);
    return sum_lanes<2 * Step>(sums, lanes);
  }
}

template <class T>
inline float dot(const float* a, const T* b, int64_t dim) {
  Vec sums = Vec{};
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) sums += load(a + i) * load(b + i);
  float total = sum(sums);
  for (; i < dim; i++) total += a[i] * number(b[i]);
  return total;
}

template <class T>
inline void score(const float* query, const T* keys, int64_t dim, float scale, int64_t count,
                  float* scores) {
  int64_t key = 0;
  if (dim % kLanes == 0)
    for (; key + kLanes <= count; key += kLanes) {
      Vec sums[kLanes];
      multiply(query, keys + key * dim, dim, sums);
      store(scores + key, sum_lanes(sums, Lanes{}) * scale);
    }
  for (; key < count; key++) scores[key] = dot(query, keys + key * dim, dim) * scale;
}

// V vectors of every value row, weighted and added to `to`.
template <int V, class T>
inline void add_weighted(const T* values, int64_t dim, const float* weights, int64_t keys,
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

template <class T>
inline void add_rows(const T* values, int64_t dim, const float* weights, int64_t keys,
                     float* to) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= dim; i += 4 * kLanes)
    add_weighted<4>(values + i, dim, weights, keys, to + i);
  for (; i + kLanes <= dim; i += kLanes) add_weighted<1>(values + i, dim, weights, keys, to + i);
  for (; i < dim; i++)
    for (int64_t key = 0; key < keys; key++) to[i] += weights[key] * number(values[key * dim + i]);
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

// What a thread computes with: the query heads that share keys and values, in float32.
struct Scratch {
  std::vector<float> query, out;
  std::vector<Softmax> softmax;
};

// The query heads [group, dim] that share a head's keys and values [rows, dim].
template <class T>
void attend_head(const T* query, int64_t group, const T* keys, const T* values, int64_t rows,
                 int64_t dim, float scale, T* to) {
  thread_local Scratch own;
  alignas(64) float scores[kKeys];
  own.query.resize(group * dim);
  for (int64_t i = 0; i < group * dim; i++) own.query[i] = number(query[i]);
  own.out.assign(group * dim, 0.0f);
  own.softmax.assign(group, Softmax{});
  for (int64_t from = 0; from < rows; from += kKeys) {
    const int64_t count = std::min(kKeys, rows - from);
    for (int64_t g = 0; g < group; g++) {
      float* out = own.out.data() + g * dim;
      score(own.query.data() + g * dim, keys + from * dim, dim, scale, count, scores);
      own.softmax[g].take(scores, count, out, dim);
      add_rows(values + from * dim, dim, scores, count, out);
    }
  }
  for (int64_t g = 0; g < group; g++)
    for (int64_t i = 0; i < dim; i++)
      put(to + g * dim + i, own.out[g * dim + i] / own.softmax[g].total);
}

template <class T>
void attend(const T* query, int64_t query_stride, const DyvteRun* runs, int64_t sequences,
            int64_t kv_heads, int64_t group, int64_t dim, float scale, T* out, int threads) {
  int64_t numbers = 0;
  for (int64_t s = 0; s < sequences; s++) numbers += runs[s].rows * kv_heads * dim;
  if (numbers < kAlone) threads = 1;
#pragma omp parallel for schedule(dynamic, 2) num_threads(threads)
  for (int64_t task = 0; task < sequences * kv_heads; task++) {
    const int64_t s = task / kv_heads, head = task % kv_heads, at = head * runs[s].head_stride;
    attend_head(query + s * query_stride + head * group * dim, group,
                static_cast<const T*>(runs[s].keys) + at,
                static_cast<const T*>(runs[s].values) + at, runs[s].rows, dim, scale,
                out + (s * kv_heads + head) * group * dim);
  }
}

}  // namespace
}  // namespace dyvte

extern "C" {

// Put the newest key and value of each sequence, [sequences, heads, dim] with rows key_stride and
// value_stride apart, at the end of its run, whose `rows` counts them already. `bytes` of a number.
void dyvte_append_single(int64_t bytes, const char* key, int64_t key_stride, const char* value,
                         int64_t value_stride, const DyvteRun* runs, int64_t sequences,
                         int64_t heads, int64_t dim) {
  const int64_t row = dim * bytes;
  for (int64_t s = 0; s < sequences; s++)
    for (int64_t h = 0; h < heads; h++) {
      const int64_t at = h * runs[s].head_stride * bytes + (runs[s].rows - 1) * row;
      std::memcpy(static_cast<char*>(runs[s].keys) + at, key + s * key_stride * bytes + h * row, row);
      std::memcpy(static_cast<char*>(runs[s].values) + at, value + s * value_stride * bytes + h * row,
                  row);
    }
}

// query [sequences, kv_heads * group, dim], its rows query_stride apart; out alike, contiguous.
// `form`: 0 float32, 1 bfloat16.
void dyvte_attend_single(int form, const void* query, int64_t query_stride, const DyvteRun* runs,
                         int64_t sequences, int64_t kv_heads, int64_t group, int64_t dim,
                         float scale, void* out, int threads) {
  using namespace dyvte;
  if (form == 0)
    attend(static_cast<const float*>(query), query_stride, runs, sequences, kv_heads, group, dim,
           scale, static_cast<float*>(out), threads);
  if (form == 1)
    attend(static_cast<const Bfloat16*>(query), query_stride, runs, sequences, kv_heads, group,
           dim, scale, static_cast<Bfloat16*>(out), threads);
}
}
