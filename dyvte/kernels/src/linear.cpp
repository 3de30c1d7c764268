// out = x W^T + bias + residual, all sums in float32, over weights that are laid out in panels.
//
// Panel j holds kTileCols outputs: for each input k the weights of these outputs lie side by side.
// Weights are float32, or 16-bit numbers that are widened in registers: a weight that was bfloat16
// or float16 in the checkpoint is the same number then, and half the bytes are read.
//
// Every output is one sum over k in rising order, whatever the rows beside it: a row's result has
// the same bits alone and in any batch. Few rows are bound by reading W, which is read once; many
// by the multiplications, for which kBlockRows rows of kDepth inputs stay in the second-level cache.

#include <algorithm>
#include <memory>
#include <new>

#include "tile.h"

namespace dyvte {
namespace {

constexpr int64_t kDepth = 1408;
constexpr int64_t kBlockRows = 11 * kTileRows;
constexpr int64_t kStride = kDepth + 16;  // rows a power of two apart would share cache sets
constexpr int64_t kAlone = 1 << 17;       // multiplications that one thread does faster than two

// A tile's place in its product. `first` and `last` depth: sums begin at 0, or are finished.
struct Tile {
  const float* x;
  int64_t x_stride;
  float* out;
  const float* residual;  // null: none
  int64_t out_stride;
  const float* bias;  // null: none
  int64_t depth;
  int cols;
  bool first, last;
};

template <int R>
inline void finish(const Tile& t, Vec (&sums)[R][2], bool whole) {
  if (whole) {
    for (int r = 0; r < R; r++)
      for (int side = 0; side < 2; side++) {
        Vec value = sums[r][side];
        if (t.last && t.bias) value += load(t.bias + side * kLanes);
        if (t.last && t.residual) value += load(t.residual + r * t.out_stride + side * kLanes);
        store(t.out + r * t.out_stride + side * kLanes, value);
      }
    return;
  }
  for (int r = 0; r < R; r++)
    for (int col = 0; col < t.cols; col++) {
      float value = sums[r][col / kLanes][col % kLanes];
      if (t.last && t.bias) value += t.bias[col];
      if (t.last && t.residual) value += t.residual[r * t.out_stride + col];
      t.out[r * t.out_stride + col] = value;
    }
}

template <int R>
inline void begin(const Tile& t, Vec (&sums)[R][2], bool whole) {
  for (int r = 0; r < R; r++) {
    sums[r][0] = sums[r][1] = Vec{};
    if (t.first) continue;
    const float* so_far = t.out + r * t.out_stride;
    if (whole) {
      sums[r][0] = load(so_far);
      sums[r][1] = load(so_far + kLanes);
    } else {
      float padded[kTileCols] = {};
      std::memcpy(padded, so_far, t.cols * sizeof(float));
      sums[r][0] = load(padded);
      sums[r][1] = load(padded + kLanes);
    }
  }
}

template <int R, class Weight>
void multiply(const Tile& t, const Weight* panel) {
  Vec sums[R][2];
  const bool whole = t.cols == kTileCols;
  begin<R>(t, sums, whole);
  accumulate<R>(sums, t.x, t.x_stride, 1, t.depth, panel);
  finish<R>(t, sums, whole);
}

struct Product {
  const float* x;
  int64_t rows, x_stride, inputs;
  int64_t outputs;
  const float* bias;
  const float* residual;
  float* out;
  int64_t out_stride;
};

// The tiles of one panel with a block of rows: rows `from .. from + rows - 1`, inputs from `k`.
template <class Weight>
void cross(const Product& p, const Weight* weights, int64_t j, int64_t k, const float* x,
           int64_t x_stride, int64_t from, int64_t rows) {
  Tile tile;
  tile.x_stride = x_stride;
  tile.out_stride = p.out_stride;
  tile.depth = std::min(kDepth, p.inputs - k);
  tile.first = k == 0;
  tile.last = k + tile.depth == p.inputs;
  const int64_t col = j * kTileCols;
  tile.cols = static_cast<int>(std::min<int64_t>(kTileCols, p.outputs - col));
  tile.bias = p.bias ? p.bias + col : nullptr;
  const Weight* panel = weights + (j * p.inputs + k) * kTileCols;
  for_tiles(rows, [&](int64_t start, auto count) {
    const int64_t at = (from + start) * p.out_stride + col;
    tile.x = x + start * x_stride;
    tile.out = p.out + at;
    tile.residual = p.residual ? p.residual + at : nullptr;
    multiply<count>(tile, panel);
  });
}

float* scratch() {
  struct Free {
    void operator()(float* block) const { ::operator delete[](block, std::align_val_t(64)); }
  };
  thread_local std::unique_ptr<float[], Free> block(
      static_cast<float*>(::operator new[](kBlockRows * kStride * sizeof(float), std::align_val_t(64))));
  return block.get();
}

template <class Weight>
void linear(const Product& p, const Weight* weights, int threads) {
  const int64_t panels = (p.outputs + kTileCols - 1) / kTileCols;
  const int64_t blocks = (p.rows + kBlockRows - 1) / kBlockRows;
  const bool copies = p.rows > 2;
  if (p.rows * p.inputs * p.outputs < kAlone) threads = 1;
  float* block = copies ? scratch() : nullptr;
#pragma omp parallel num_threads(threads)
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t from = p.rows * b / blocks, rows = p.rows * (b + 1) / blocks - from;
    for (int64_t k = 0; k < p.inputs; k += kDepth) {
      const int64_t bytes = std::min(kDepth, p.inputs - k) * sizeof(float);
      if (copies) {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
          std::memcpy(block + r * kStride, p.x + (from + r) * p.x_stride + k, bytes);
      }
#pragma omp for schedule(dynamic, 2)
      for (int64_t j = 0; j < panels; j++) {
        if (copies)
          cross(p, weights, j, k, block, kStride, from, rows);
        else
          cross(p, weights, j, k, p.x + from * p.x_stride + k, p.x_stride, from, rows);
      }
    }
  }
}

}  // namespace
}  // namespace dyvte

extern "C" {

// Outputs of a panel: weights are laid out for as many.
int dyvte_panel() { return dyvte::kTileCols; }

// `form`: 0 float32, 1 bfloat16, 2 float16. `bias` and `residual` may be null; `residual` lies as
// `out` does and may not overlap it.
void dyvte_linear(const float* x, int64_t rows, int64_t x_stride, int64_t inputs,
                  const void* weights, int form, int64_t outputs, const float* bias,
                  const float* residual, float* out, int64_t out_stride, int threads) {
  using namespace dyvte;
  const Product p{x, rows, x_stride, inputs, outputs, bias, residual, out, out_stride};
  if (form == 0) linear(p, static_cast<const float*>(weights), threads);
  if (form == 1) linear(p, static_cast<const Bfloat16*>(weights), threads);
  if (form == 2) linear(p, static_cast<const Float16*>(weights), threads);
}
}
