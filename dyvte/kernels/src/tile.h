// The product of a few rows with a panel of kTileCols columns, its sums in registers.
//
// They stay there only where whatever reads or writes them becomes one function with them, its loops
// unrolled, and where no lane is asked for by a number that is not known before: clang++ is stricter
// in that than g++, and products of many rows took it 2.7 times as long.

#pragma once

#include <type_traits>

#include "vector.h"

namespace dyvte {

constexpr int64_t kAhead = 1024;  // bytes of a panel that are asked for beforehand

inline void widen(const float* from, Vec& left, Vec& right) {
  left = load(from);
  right = load(from + kLanes);
}

// A 32-bit word holds column i in its lower half and column i + kLanes in its upper half.
inline void widen(const Bfloat16* from, Vec& left, Vec& right) {
  Bits both;
  std::memcpy(&both, from, sizeof both);
  left = (Vec)(both << 16);
  right = (Vec)(both & 0xffff0000u);
}

// Where the processor has no instruction for it: exponent and fraction take the places that float32
// has for them, and the product makes up for the exponents' bias, exact for what is subnormal, too.
inline Vec widened(const Float16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Bits bits = __builtin_convertvector(halves, Bits);
  const Bits finite = (Bits)((Vec)((bits & 0x7fffu) << 13) * 0x1p112f);
  const Bits none = (bits & 0x7c00u) == 0x7c00u ? Bits{} + 0x7f800000u : Bits{};
  return (Vec)(finite | none | (bits & 0x8000u) << 16);
}

inline void widen(const Float16* from, Vec& left, Vec& right) {
#if defined(__AVX512F__)
  const __m256i* halves = reinterpret_cast<const __m256i*>(from);
  left = (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(halves));
  right = (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(halves + 1));
#elif defined(__AVX2__) && defined(__F16C__)
  const __m128i* halves = reinterpret_cast<const __m128i*>(from);
  left = (Vec)_mm256_cvtph_ps(_mm_loadu_si128(halves));
  right = (Vec)_mm256_cvtph_ps(_mm_loadu_si128(halves + 1));
#else
  left = widened(from);
  right = widened(from + kLanes);
#endif
}

// sums[r] += x[r, :depth] * panel[:depth], for each output in rising order of the inputs. Row r of
// x begins at x + r * row, its inputs lie `step` apart.
template <int R, class Weight>
[[gnu::always_inline]] inline void accumulate(Vec (&sums)[R][2], const float* x, int64_t row, int64_t step, int64_t depth,
                       const Weight* panel) {
  for (int64_t k = 0; k < depth; k++) {
    Vec left, right;
    widen(panel, left, right);
    __builtin_prefetch(reinterpret_cast<const char*>(panel) + kAhead);
    panel += kTileCols;
#pragma GCC unroll 14
    for (int r = 0; r < R; r++) {
      const Vec value = all(x[r * row + k * step]);
      sums[r][0] += value * left;
      sums[r][1] += value * right;
    }
  }
}

// f(std::integral_constant<int, rows>) for 1 to R rows: sums stay in registers only where their
// number is known when it is compiled.
template <int R = kTileRows, class F>
inline void with_rows(int rows, const F& f) {
  if (rows == R) return f(std::integral_constant<int, R>{});
  if constexpr (R > 1) with_rows<R - 1>(rows, f);
}

// As few tiles as hold `rows` rows, and of about one size: f(the tile's first row, its number of
// rows as with_rows tells it) for one after the other.
template <class F>
inline void for_tiles(int64_t rows, const F& f) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t from = rows * t / tiles, stop = rows * (t + 1) / tiles;
    with_rows(static_cast<int>(stop - from), [&](auto count) { f(from, count); });
  }
}

}  // namespace dyvte
