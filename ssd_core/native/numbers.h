// Numbers of every precision, WIDE at a time, in GCC's vectors, which become whatever registers the processor has.
//
// build.py says what NUMBER and STORED are: the precision the model computes in, and the one in which slots hold keys
// and values.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t WIDE = 16;
using Floats = float __attribute__((vector_size(4 * WIDE)));
using Words = uint32_t __attribute__((vector_size(4 * WIDE)));
using Integers = int32_t __attribute__((vector_size(4 * WIDE)));
using Halves = uint16_t __attribute__((vector_size(2 * WIDE)));
using SignedHalves = int16_t __attribute__((vector_size(2 * WIDE)));
using Bytes = uint8_t __attribute__((vector_size(WIDE)));
using SignedBytes = int8_t __attribute__((vector_size(WIDE)));

// What this precision is: a vector of it in memory, and the largest number that a scale stands for, 0 without scales.
struct Float { using Vector = Floats; float bits; static constexpr float LARGEST = 0; };
struct BFloat16 { using Vector = Halves; uint16_t bits; static constexpr float LARGEST = 0; };
struct Float16 { using Vector = Halves; uint16_t bits; static constexpr float LARGEST = 0; };
struct Int8 { using Vector = SignedBytes; int8_t bits; static constexpr float LARGEST = 127; };
struct Fp8 { using Vector = Bytes; uint8_t bits; static constexpr float LARGEST = 448; };  // e4m3, without infinities

using Number = NUMBER;
using Stored = STORED;

// Whether the processor multiplies two neighbours at once.
#if defined(__AVX512BF16__)
constexpr bool PAIRED = std::is_same_v<Number, BFloat16>;
#else
constexpr bool PAIRED = false;
#endif

template <typename To, typename From> To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Numbers of a sign, and so many bits before and behind the point, of which exponents count from BIAS: as floats, whose
// exponents count from 127. From INFINITE on they are infinity and what is no number, and stay that.
template <int SIGN, int MANTISSA, int BIAS, uint32_t INFINITE> Floats widened(Words bits) {
  const Words sign = (bits >> SIGN) << 31, all = bits & ((1u << SIGN) - 1);
  Words rest = all << (23 - MANTISSA);
  if constexpr (INFINITE < 1u << SIGN) rest |= bits_of<Words>(all >= INFINITE) & 0x7f800000;
  return bits_of<Floats>(sign | rest) * bits_of<float>(uint32_t(254 - BIAS) << 23);
}

// The same backwards, to the nearest number, of two the even one, but not beyond MOST.
template <int SIGN, int MANTISSA, int BIAS, uint32_t MOST> uint32_t narrowed(float x) {
  if (x != x) return (1u << SIGN) - 1;
  const uint32_t bits = bits_of<uint32_t>(std::fabs(x)), sign = bits_of<uint32_t>(x) >> 31 << SIGN;
  constexpr int lost = 23 - MANTISSA;
  if (std::fabs(x) < bits_of<float>(uint32_t(128 - BIAS) << 23))  // the smallest are all as far apart
    return sign | uint32_t(std::nearbyint(std::fabs(x) * bits_of<float>(uint32_t(126 + BIAS + MANTISSA) << 23)));
  const uint32_t rounded = (bits + (1u << (lost - 1)) - 1 + (bits >> lost & 1)) >> lost;
  return sign | std::min(rounded - (uint32_t(127 - BIAS) << MANTISSA), MOST);
}

// Bytes become words in two steps, for which there are instructions; GCC 12 takes one step number by number.
inline Floats wide(Floats x, Float) { return x; }
inline Floats wide(SignedBytes x, Int8) {
  const auto words = __builtin_convertvector(__builtin_convertvector(x, SignedHalves), Integers);
  return __builtin_convertvector(words, Floats);
}
inline Floats wide(Halves x, BFloat16) { return bits_of<Floats>(__builtin_convertvector(x, Words) << 16); }
inline Floats wide(Halves x, Float16) { return widened<15, 10, 15, 0x7c00>(__builtin_convertvector(x, Words)); }
inline Floats wide(Bytes x, Fp8) {
  return widened<7, 3, 7, 0x80>(__builtin_convertvector(__builtin_convertvector(x, Halves), Words));
}

inline void narrow(float x, Float& to) { to.bits = x; }
inline void narrow(float x, Int8& to) { to.bits = int8_t(std::nearbyint(x)); }
inline void narrow(float x, Float16& to) { to.bits = uint16_t(narrowed<15, 10, 15, 0x7c00>(x)); }
inline void narrow(float x, Fp8& to) { to.bits = uint8_t(narrowed<7, 3, 7, 0x7e>(x)); }
inline void narrow(float x, BFloat16& to) {
  const uint32_t bits = bits_of<uint32_t>(x);
  to.bits = x != x ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// So many numbers, WIDE at most, and zeros behind them.
template <typename T> Floats load(const T* from, int64_t count = WIDE) {
  typename T::Vector vector{};
  std::memcpy(&vector, from, (count < WIDE ? count : WIDE) * sizeof(T));
  return wide(vector, T{});
}

// What is multiplied at once: neighbours as they are, twice as many, where they are PAIRS.
template <bool PAIRS, typename T> auto chunk(const T* from, int64_t count) {
  if constexpr (PAIRS) {
    Words words{};
    std::memcpy(&words, from, std::min(count, 2 * WIDE) * sizeof(T));
    return words;
  } else {
    return load(from, count);
  }
}

// sum + the products
inline Floats dot(Floats sum, Floats x, Floats y) { return sum + x * y; }
inline Floats dot(Floats sum, Words x, Words y) {
#if defined(__AVX512BF16__)
  return bits_of<Floats>(_mm512_dpbf16_ps(bits_of<__m512>(sum), bits_of<__m512bh>(x), bits_of<__m512bh>(y)));
#else
  return sum;
#endif
}

inline void put(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }
inline Floats get(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

// Bring numbers near, while others are worked on.
template <typename T> void fetch(const T* from, int64_t count) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t at = 0; at < count; at += line) __builtin_prefetch(from + at, 0, 2);
}

// exp(x) for x <= 0, or for what is no number: a power of 2 times a Taylor series over half of ln 2 to either side,
// right to a float's last bits.
inline Floats exponential(Floats x) {
  x = x < -87.0f ? Floats{} - 87.0f : x;
  constexpr float whole = 0x1.8p23f;  // floats of this size are whole
  const Floats power = (x * 1.44269504f + whole) - whole;
  const Floats r = x - power * 0.693145752f - power * 1.42860677e-6f;  // ln 2 in two parts, the first of which is exact
  Floats series = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r * (1 / 720.f))))));
  return series * bits_of<Floats>((__builtin_convertvector(power, Integers) + 127) << 23);
}

// Of each 2 * STRIDE lanes, the sum of both halves: a's in the first half of them, b's in the second.
template <int STRIDE> Floats folded(Floats a, Floats b) {
  Integers first;
  for (int lane = 0; lane < WIDE; lane++)
    first[lane] = (lane & STRIDE ? int(WIDE) : 0) + (lane & ~(2 * STRIDE - 1)) + (lane & (STRIDE - 1));
  return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, first + STRIDE);
}

// The sum over each of WIDE vectors, in a lane each.
inline Floats sums(Floats (&x)[WIDE]) {
  for (int i = 0; i < 8; i++) x[i] = folded<8>(x[i], x[i + 8]);
  for (int i = 0; i < 4; i++) x[i] = folded<4>(x[i], x[i + 4]);
  for (int i = 0; i < 2; i++) x[i] = folded<2>(x[i], x[i + 2]);
  return folded<1>(x[0], x[1]);
}

}  // namespace
