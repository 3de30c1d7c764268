// out = x W^T + bias + residual, or an activation of that, all sums in float32, over weights that are
// laid out in panels.
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
#include "units.h"

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
[[gnu::always_inline]] inline void finish(const Tile& t, Vec (&sums)[R][2], bool whole) {
  if (whole) {
#pragma GCC unroll 14
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int side = 0; side < 2; side++) {
        Vec value = sums[r][side];
        if (t.last && t.bias) value += load(t.bias + side * kLanes);
        if (t.last && t.residual) value += load(t.residual + r * t.out_stride + side * kLanes);
        store(t.out + r * t.out_stride + side * kLanes, value);
      }
    return;
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; r++) {
    float numbers[kTileCols];
    store(numbers, sums[r][0]);
    store(numbers + kLanes, sums[r][1]);
    for (int col = 0; col < t.cols; col++) {
      float value = numbers[col];
      if (t.last && t.bias) value += t.bias[col];
      if (t.last && t.residual) value += t.residual[r * t.out_stride + col];
      t.out[r * t.out_stride + col] = value;
    }
  }
}

template <int R>
[[gnu::always_inline]] inline void begin(const Tile& t, Vec (&sums)[R][2], bool whole) {
#pragma GCC unroll 14
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
  Activation activation;
  const float* residual;  // null: none
  float* out;
  int64_t out_stride;
};

template <class Weight>
struct Weights {
  const Weight* panels;  // null: there are none
  const float* bias;     // null: none
};

// Where the results of one panel with a block of rows go, from the first of both on.
struct Place {
  float* out;
  const float* residual;
  int64_t stride;
};

// Inputs from `k` on of a block of rows.
struct Block {
  const float* x;
  int64_t stride, rows, k;
};

// The tiles of panel `j` with a block of rows.
template <class Weight>
void cross(const Product& p, const Weights<Weight>& weights, int64_t j, const Block& block,
           const Place& place) {
  Tile tile;
  tile.x_stride = block.stride;
  tile.out_stride = place.stride;
  tile.depth = std::min(kDepth, p.inputs - block.k);
  tile.first = block.k == 0;
  tile.last = block.k + tile.depth == p.inputs;
  const int64_t col = j * kTileCols;
  tile.cols = static_cast<int>(std::min<int64_t>(kTileCols, p.outputs - col));
  tile.bias = weights.bias ? weights.bias + col : nullptr;
  const Weight* panel = weights.panels + (j * p.inputs + block.k) * kTileCols;
  for_tiles(block.rows, [&](int64_t start, auto count) {
    tile.x = block.x + start * block.stride;
    tile.out = place.out + start * place.stride;
    tile.residual = place.residual ? place.residual + start * place.stride : nullptr;
    multiply<count>(tile, panel);
  });
}

// Of what a panel and a block of rows gave, while it is in the cache.
void activate_block(const Product& p, int64_t j, const Block& block, const Place& place) {
  const int64_t cols = std::min<int64_t>(kTileCols, p.outputs - j * kTileCols);
  for (int64_t r = 0; r < block.rows; r++)
    activate(p.activation, place.out + r * place.stride, cols);
}

// As `cross`, but what comes out is multiplied with silu of the same rows' product with `gate`,
// which is summed up in `gates`.
template <class Weight>
void cross_gated(const Product& p, const Weights<Weight>& weights, const Weights<Weight>& gate,
                 int64_t j, const Block& block, const Place& place, const Place& gates) {
  cross(p, gate, j, block, gates);
  cross(p, weights, j, block, place);
  if (block.k + kDepth < p.inputs) return;
  const int64_t cols = std::min<int64_t>(kTileCols, p.outputs - j * kTileCols);
  for (int64_t r = 0; r < block.rows; r++) {
    float* out = place.out + r * place.stride;
    gated_units(gates.out + r * gates.stride, out, out, cols);
  }
}

float* scratch() {
  struct Free {
    void operator()(float* block) const { ::operator delete[](block, std::align_val_t(64)); }
  };
  thread_local std::unique_ptr<float[], Free> block(
      static_cast<float*>(::operator new[](kBlockRows * kStride * sizeof(float), std::align_val_t(64))));
  return block.get();
}

float* gate_scratch() {
  alignas(64) thread_local float block[kBlockRows * kTileCols];
  return block;
}

template <class Weight>
void linear(const Product& p, const Weights<Weight>& weights, const Weights<Weight>& gate,
            int threads) {
  const int64_t panels = (p.outputs + kTileCols - 1) / kTileCols;
  const int64_t blocks = (p.rows + kBlockRows - 1) / kBlockRows;
  const bool copies = p.rows > 2;
  if (p.rows * p.inputs * p.outputs < kAlone) threads = 1;
  float* copied = copies ? scratch() : nullptr;
  // Sums over several depths must last from one to the next.
  std::unique_ptr<float[]> sums;
  if (gate.panels && p.inputs > kDepth) sums.reset(new float[kBlockRows * p.outputs]);
#pragma omp parallel num_threads(threads)
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t from = p.rows * b / blocks, rows = p.rows * (b + 1) / blocks - from;
    for (int64_t k = 0; k < p.inputs; k += kDepth) {
      const float* x = p.x + from * p.x_stride + k;
      if (copies) {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
          std::memcpy(copied + r * kStride, x + r * p.x_stride,
                      std::min(kDepth, p.inputs - k) * sizeof(float));
      }
      const Block block{copies ? copied : x, copies ? kStride : p.x_stride, rows, k};
#pragma omp for schedule(guided, 1)
      for (int64_t j = 0; j < panels; j++) {
        const int64_t col = j * kTileCols, at = from * p.out_stride + col;
        const Place place{p.out + at, p.residual ? p.residual + at : nullptr, p.out_stride};
        if (!gate.panels) {
          cross(p, weights, j, block, place);
          if (p.activation != kNone && k + kDepth >= p.inputs) activate_block(p, j, block, place);
          continue;
        }
        const Place gates = sums ? Place{sums.get() + col, nullptr, p.outputs}
                                 : Place{gate_scratch(), nullptr, kTileCols};
        cross_gated(p, weights, gate, j, block, place, gates);
      }
    }
  }
}

template <class Weight>
void linear(const Product& p, const void* weights, const float* bias, const void* gate,
            const float* gate_bias, int threads) {
  linear<Weight>(p, {static_cast<const Weight*>(weights), bias},
                 {static_cast<const Weight*>(gate), gate_bias}, threads);
}

}  // namespace
}  // namespace dyvte

extern "C" {

// Outputs of a panel: weights are laid out for as many.
int dyvte_panel() { return dyvte::kTileCols; }

// out = x W^T + bias + residual, times silu(x G^T + gate_bias) if there is a `gate` G, or an
// `activation` of it (units.h) if there is none.
// `form` of W and G: 0 float32, 1 bfloat16, 2 float16. All but x, W and out may be null; `residual`
// lies as `out` does and may not overlap it.
void dyvte_linear(const float* x, int64_t rows, int64_t x_stride, int64_t inputs,
                  const void* weights, int form, int64_t outputs, const float* bias,
                  const void* gate, const float* gate_bias, int activation, const float* residual,
                  float* out, int64_t out_stride, int threads) {
  using namespace dyvte;
  const Product p{x, rows, x_stride, inputs, outputs, static_cast<Activation>(activation),
                  residual, out, out_stride};
  if (form == 0) linear<float>(p, weights, bias, gate, gate_bias, threads);
  if (form == 1) linear<Bfloat16>(p, weights, bias, gate, gate_bias, threads);
  if (form == 2) linear<Float16>(p, weights, bias, gate, gate_bias, threads);
}
}
