// Vectors as wide as the processor's registers, written once for all of them.
//
// kLanes floats make a Vec. kTileRows rows times two Vecs of columns are the largest tile of a
// product whose sums stay in registers.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace dyvte {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 14;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTileRows = 6;
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 12;
#endif
constexpr int kTileCols = 2 * kLanes;

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));

// A 16-bit number as it is stored: nothing but its bits.
struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline Vec load(const float* from) {
  Vec out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

inline Vec load(const Bfloat16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return (Vec)(__builtin_convertvector(halves, Bits) << 16);
}

inline void store(float* to, Vec value) { std::memcpy(to, &value, sizeof value); }

// Rounded to the nearest, of two as near to the even one; what is no number stays none.
inline void store(Bfloat16* to, Vec value) {
  const Bits bits = (Bits)value, none = Bits{} + 0x7fc0u;
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Halves halves = __builtin_convertvector(value == value ? rounded : none, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

inline float number(float value) { return value; }

inline float number(Bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

inline void put(float* to, float value) { *to = value; }

inline void put(Bfloat16* to, float value) {
  Bfloat16 rounded[kLanes];
  store(rounded, value - Vec{});
  *to = rounded[0];
}

inline Vec all(float value) { return value - Vec{}; }

// Of a pair with one that is no number: b.
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

using Lanes = std::make_integer_sequence<int, kLanes>;

// Lane i of the result is lane From[i] of a, or of b from kLanes on.
template <int... From>
inline Vec picked(Vec a, Vec b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, From...);
#else
  return __builtin_shuffle(a, b, Ints{From...});
#endif
}

// Each lane and the one `Step` lanes away added, and so on with half of Step: the sum in each.
template <int Step, int... Lane>
inline Vec folded(Vec value, std::integer_sequence<int, Lane...> lanes) {
  if constexpr (Step == 0) return value;
  else return folded<Step / 2>(value + picked<(Lane ^ Step)...>(value, value), lanes);
}

inline float sum(Vec value) { return folded<kLanes / 2>(value, Lanes{})[0]; }

// e^x: 0 below -87, infinite from 88.4 to 89, the largest x that is allowed; what is no number stays
// none. A power of two times a polynomial for what is left of it.
inline Vec exponential(Vec x) {
  const Vec low = all(-87.0f);
  const Vec bounded = larger(low, x);
  const Vec scaled = bounded * 1.44269504f;
  const Vec magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to whole numbers
  const Vec whole = (scaled + magic) - magic;
  const Vec rest = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec p = all(1.98756915e-4f);
  p = p * rest + 1.39819995e-3f;
  p = p * rest + 8.33345205e-3f;
  p = p * rest + 4.16657962e-2f;
  p = p * rest + 1.66666654e-1f;
  p = p * rest + 5.00000000e-1f;
  p = p * rest * rest + rest + 1.0f;
  const Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
  const Vec value = p * (Vec)power;
  return x < low ? Vec{} : value;
}

}  // namespace dyvte
