// Attention of many query rows: a prefill's, causal, over a run of keys and values, and that of
// pictures, in which each row sees all of its own.
//
// kTileCols query rows of a head are computed side by side, one to a lane, so that a softmax is
// kept up with lane by lane. Scores are keys times queries, what is attended is values times
// weights: both are products of row-major rows with a panel, and nothing is laid out anew but the
// queries. A row meets keys in blocks counted from the first, so that its result has the same bits
// however a prompt is cut, and whatever is computed beside it.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>

#include "run.h"
#include "tile.h"

namespace dyvte {
namespace {

constexpr int64_t kKeys = 64;  // in a block
constexpr int64_t kMaxDim = 512;
constexpr int64_t kAlone = 1 << 17;  // multiplications that one thread does faster than two
constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Scratch {
  alignas(64) float query[kMaxDim * kTileCols];   // [dim, rows]
  alignas(64) float scores[kKeys * kTileCols];    // [keys, rows]
  alignas(64) float attended[kMaxDim * kTileCols];  // [dim, rows]
};

// out[r] = (add ? out[r] : 0) + x[r] * panel, for R rows of kTileCols numbers.
template <int R>
void multiply(const float* x, int64_t row, int64_t step, int64_t depth, const float* panel,
              bool add, float* out) {
  Vec sums[R][2];
  for (int r = 0; r < R; r++)
    for (int side = 0; side < 2; side++)
      sums[r][side] = add ? load(out + r * kTileCols + side * kLanes) : Vec{};
  accumulate<R>(sums, x, row, step, depth, panel);
  for (int r = 0; r < R; r++)
    for (int side = 0; side < 2; side++)
      store(out + r * kTileCols + side * kLanes, sums[r][side]);
}

void multiply_all(int64_t rows, const float* x, int64_t row, int64_t step, int64_t depth,
                  const float* panel, bool add, float* out) {
  for_tiles(rows, [&](int64_t from, auto count) {
    multiply<count>(x + from * row, row, step, depth, panel, add, out + from * kTileCols);
  });
}

constexpr int64_t kAll = std::numeric_limits<int32_t>::max();

// At most kTileCols rows of one head. The first sees keys up to `last`, each other one more than the
// row before it, or all see all (kAll).
struct Rows {
  const float* query;
  int64_t query_stride;
  float* out;
  int64_t out_stride;
  int64_t rows, last;
};

// What they see of one head.
struct Seen {
  const float* keys;
  int64_t key_stride;  // from row to row
  const float* values;
  int64_t value_stride;
  int64_t rows;
};

struct Softmax {
  Vec largest[2] = {all(kNever), all(kNever)};
  Vec total[2] = {Vec{}, Vec{}};

  // Scores of keys from `key` on become weights; what was attended is scaled to match. `last` is
  // the key that the first row sees last.
  void take(float* scores, int64_t key, int64_t keys, int64_t last, float* attended, int64_t dim) {
    if (key + keys - 1 > last) hide(scores, keys, last - key);
    Vec most[2] = {largest[0], largest[1]};
    for (int64_t i = 0; i < keys; i++)
      for (int side = 0; side < 2; side++)
        most[side] = larger(load(scores + i * kTileCols + side * kLanes), most[side]);
    Vec added[2] = {Vec{}, Vec{}};
    for (int64_t i = 0; i < keys; i++)
      for (int side = 0; side < 2; side++) {
        float* at = scores + i * kTileCols + side * kLanes;
        const Vec weight = exponential(load(at) - most[side]);
        store(at, weight);
        added[side] += weight;
      }
    Vec shrink[2];
    for (int side = 0; side < 2; side++) {
      shrink[side] = exponential(largest[side] - most[side]);
      total[side] = total[side] * shrink[side] + added[side];
      largest[side] = most[side];
    }
    if (key > 0) scale(attended, dim, shrink);
  }

  // A row sees one key more than the row before it: what it may not see weighs nothing.
  static void hide(float* scores, int64_t keys, int64_t last) {
    for (int side = 0; side < 2; side++) {
      Ints seen;
      for (int lane = 0; lane < kLanes; lane++)
        seen[lane] = static_cast<int32_t>(last + side * kLanes + lane);
      for (int64_t i = 0; i < keys; i++) {
        float* at = scores + i * kTileCols + side * kLanes;
        store(at, static_cast<int32_t>(i) > seen ? all(kNever) : load(at));
      }
    }
  }

  static void scale(float* attended, int64_t dim, const Vec (&by)[2]) {
    for (int64_t d = 0; d < dim; d++)
      for (int side = 0; side < 2; side++) {
        float* at = attended + d * kTileCols + side * kLanes;
        store(at, load(at) * by[side]);
      }
  }
};

void attend_rows(const Rows& r, const Seen& seen, int64_t dim, float scale, Scratch& s) {
  for (int64_t i = 0; i < kTileCols; i++) {
    const float* query = r.query + std::min(i, r.rows - 1) * r.query_stride;
    for (int64_t d = 0; d < dim; d++) s.query[d * kTileCols + i] = query[d] * scale;
  }
  Softmax softmax;
  for (int64_t key = 0; key < seen.rows; key += kKeys) {
    const int64_t count = std::min(kKeys, seen.rows - key);
    const float* keys = seen.keys + key * seen.key_stride;
    const float* values = seen.values + key * seen.value_stride;
    multiply_all(count, keys, seen.key_stride, 1, dim, s.query, false, s.scores);
    softmax.take(s.scores, key, count, r.last, s.attended, dim);
    multiply_all(dim, values, 1, seen.value_stride, count, s.scores, key > 0, s.attended);
  }
  const Vec parts[2] = {1.0f / softmax.total[0], 1.0f / softmax.total[1]};
  Softmax::scale(s.attended, dim, parts);
  for (int64_t i = 0; i < r.rows; i++)
    for (int64_t d = 0; d < dim; d++)
      r.out[i * r.out_stride + d] = s.attended[d * kTileCols + i];
}

Scratch& scratch() {
  thread_local std::unique_ptr<Scratch> own = std::make_unique<Scratch>();
  return *own;
}

}  // namespace
}  // namespace dyvte

extern "C" {

// query [rows, kv_heads * group, dim], its rows query_stride apart, the last `rows` of the run's;
// out alike, contiguous. `dim` is at most 512.
void dyvte_attend_causally(const float* query, int64_t query_stride, int64_t rows,
                           const DyvteRun* run, int64_t kv_heads, int64_t group, int64_t dim,
                           float scale, float* out, int threads) {
  using namespace dyvte;
  const int64_t heads = kv_heads * group, blocks = (rows + kTileCols - 1) / kTileCols;
  if (rows * run->rows * heads * dim < kAlone) threads = 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t task = 0; task < heads * blocks; task++) {
    // The blocks of a head one after the other, since they read the same keys; long ones first.
    const int64_t head = task / blocks, from = (blocks - 1 - task % blocks) * kTileCols;
    const int64_t run_at = head / group * run->head_stride;
    Rows r;
    r.query = query + from * query_stride + head * dim;
    r.query_stride = query_stride;
    r.out = out + (from * heads + head) * dim;
    r.out_stride = heads * dim;
    r.rows = std::min<int64_t>(kTileCols, rows - from);
    r.last = run->rows - rows + from;
    const Seen seen{static_cast<const float*>(run->keys) + run_at, dim,
                    static_cast<const float*>(run->values) + run_at, dim, r.last + r.rows};
    attend_rows(r, seen, dim, scale, scratch());
  }
}

// Rows of `images` pictures one behind the other, `rows` of each; a row sees all of its picture.
// query, keys, values [images * rows, heads, dim], their rows `..._stride` apart; out alike,
// contiguous. `dim` is at most 512.
void dyvte_attend_pictures(const float* query, int64_t query_stride, const float* keys,
                           int64_t key_stride, const float* values, int64_t value_stride,
                           int64_t images, int64_t rows, int64_t heads, int64_t dim, float scale,
                           float* out, int threads) {
  using namespace dyvte;
  const int64_t blocks = (rows + kTileCols - 1) / kTileCols;
  if (images * rows * rows * heads * dim < kAlone) threads = 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t task = 0; task < images * heads * blocks; task++) {
    const int64_t head = task / blocks % heads, first = task / blocks / heads * rows;
    const int64_t from = rows * (task % blocks) / blocks, stop = rows * (task % blocks + 1) / blocks;
    const int64_t at = first + from;
    const Rows r{query + at * query_stride + head * dim, query_stride,
                 out + (at * heads + head) * dim,        heads * dim,
                 stop - from,                            kAll};
    const Seen seen{keys + first * key_stride + head * dim, key_stride,
                    values + first * value_stride + head * dim, value_stride, rows};
    attend_rows(r, seen, dim, scale, scratch());
  }
}
}
