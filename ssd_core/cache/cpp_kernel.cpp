// Attention of one query a head over its slots, for all pairs of a layer in one call, on the processor.
//
// Compiled by cpp_kernel.py, which says what NUMBER and STORED are: the precision the model computes in, and the one in
// which slots hold keys and values. As in triton_kernel.py, each (row, kv head) pair has slots of its own, wherever
// they lie; a row of a table says where, and numbers for each kind of slots say what changes from step to step.
//
// Everything goes by WIDE numbers at a time, in GCC's vectors, which become whatever registers the processor has.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>

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

// What table.py writes: addresses of a pair's keys, values, their scales, scores and queries, 0 where it has none; its
// number, row * kv_heads + head; and its kind.
struct Pair { int64_t keys, values, key_scales, value_scales, scores, queries, number, kind; };

// What fixed.py writes for each kind of slots: where the newest token goes; how many slots are filled then; where its
// query goes; and the unit of scores.
struct Kind { int32_t slot, held, query; float unit; };

struct Sizes { int64_t pairs, heads, kv_heads, dim, widest, threads; };

constexpr float LEAST_SCALE = 0x1p-100f;  // as in storage.py

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

inline void put(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }
inline Floats get(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
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

// Write a vector into a slot; rounded as `quantize` of storage.py does where slots have scales.
void store(const Number* vector, int64_t dim, int64_t slot, int64_t numbers, int64_t scales) {
  Stored* to = reinterpret_cast<Stored*>(numbers) + slot * dim;
  if constexpr (Stored::LARGEST == 0) {
    std::memcpy(to, vector, dim * sizeof(Stored));
  } else {
    float most = 0;
    for (int64_t d = 0; d < dim; d++) {
      const float size = std::fabs(load(vector + d, 1)[0]);
      if (size > most || size != size) most = size;  // what is no number stays that
    }
    BFloat16 scale;
    narrow(std::max(most, LEAST_SCALE), scale);
    reinterpret_cast<BFloat16*>(scales)[slot] = scale;
    const float factor = 1 / load(&scale, 1)[0] * Stored::LARGEST;  // two roundings, as torch divides a number
    for (int64_t d = 0; d < dim; d++)
      narrow(std::clamp(load(vector + d, 1)[0] * factor, -Stored::LARGEST, Stored::LARGEST), to[d]);
  }
}

// What so many vectors must be multiplied with, where slots have scales.
inline Floats scales_of(int64_t scales, int64_t slot, int64_t count) {
  return load(reinterpret_cast<const BFloat16*>(scales) + slot, count) * (1 / Stored::LARGEST);
}

// The largest of a query's logits, which are written to `logits`, followed by -inf up to a multiple of WIDE.
template <int DIM> float ask(const Floats* query, const Pair& pair, int64_t held, int64_t any, float* logits) {
  const int64_t dim = DIM ? DIM : any;
  const Stored* keys = reinterpret_cast<const Stored*>(pair.keys);
  Floats most = Floats{} - INFINITY;
  for (int64_t start = 0; start < held; start += WIDE) {
    const int64_t count = std::min(WIDE, held - start);
    Floats products[WIDE];
    for (int64_t i = 0; i < WIDE; i++) {
      const Stored* key = keys + (start + std::min(i, count - 1)) * dim;
      products[i] = query[0] * load(key, dim);
      for (int64_t d = WIDE; d < dim; d += WIDE) products[i] += query[d / WIDE] * load(key + d, dim - d);
    }
    Floats logit = sums(products);
    if constexpr (Stored::LARGEST > 0) logit *= scales_of(pair.key_scales, start, count);
    for (int64_t i = count; i < WIDE; i++) logit[i] = -INFINITY;
    most = most > logit ? most : logit;
    put(logits + start, logit);
  }
  float largest = most[0];
  for (int i = 1; i < WIDE; i++) largest = std::max(largest, most[i]);
  return largest;
}

// The sum of the values, each times its weight, in `answer`. CHAINS: sums at a time, as one would wait for itself.
template <int DIM, int CHAINS>
void answer_with(const float* weights, int64_t address, int64_t held, int64_t any, Floats* answer) {
  const int64_t dim = DIM ? DIM : any, parts = (dim + WIDE - 1) / WIDE;
  constexpr int64_t MOST = DIM ? DIM / WIDE : MOST_DIM / WIDE;
  const Stored* values = reinterpret_cast<const Stored*>(address);
  Floats sum[CHAINS][MOST];
  for (auto& chain : sum) std::fill_n(chain, parts, Floats{});
  int64_t s = 0;
  for (; s + CHAINS <= held; s += CHAINS)
    for (int64_t chain = 0; chain < CHAINS; chain++)
      for (int64_t part = 0; part < parts; part++)
        sum[chain][part] += weights[s + chain] * load(values + (s + chain) * dim + part * WIDE, dim - part * WIDE);
  for (; s < held; s++)
    for (int64_t part = 0; part < parts; part++)
      sum[0][part] += weights[s] * load(values + s * dim + part * WIDE, dim - part * WIDE);
  for (int64_t part = 0; part < parts; part++) {
    answer[part] = sum[0][part];
    for (int chain = 1; chain < CHAINS; chain++) answer[part] += sum[chain][part];
  }
}

// Store a pair's newest token, and answer its queries. weights: room for as many as it has slots, and WIDE - 1 more.
// DIM: of heads, so that loops over it have no end to watch for; 0 for any.
template <int DIM>
void attend(const Number* qkv, Number* answers, const Pair& pair, const Kind& kind, const Sizes& sizes,
            float* weights) {
  const int64_t dim = DIM ? DIM : sizes.dim, group = sizes.heads / sizes.kv_heads, held = kind.held;
  const int64_t row = pair.number / sizes.kv_heads, head = pair.number % sizes.kv_heads;
  const Number* brought = qkv + row * (sizes.heads + 2 * sizes.kv_heads) * dim;
  const Number* queries = brought + head * group * dim;
  store(brought + (sizes.heads + head) * dim, dim, kind.slot, pair.keys, pair.key_scales);
  store(brought + (sizes.heads + sizes.kv_heads + head) * dim, dim, kind.slot, pair.values, pair.value_scales);
  if (pair.queries)
    std::memcpy(reinterpret_cast<Number*>(pair.queries) + kind.query * group * dim, queries,
                group * dim * sizeof(Number));
  float* scores = reinterpret_cast<float*>(pair.scores);
  if (scores) scores[kind.slot] = 0;

  const float factor = 1 / std::sqrt(float(dim));
  for (int64_t g = 0; g < group; g++) {
    Floats query[(DIM ? DIM : MOST_DIM) / WIDE], answer[(DIM ? DIM : MOST_DIM) / WIDE];
    for (int64_t d = 0; d < dim; d += WIDE) query[d / WIDE] = load(queries + g * dim + d, dim - d) * factor;
    const float most = ask<DIM>(query, pair, held, dim, weights);
    Floats totals{};
    for (int64_t s = 0; s < held; s += WIDE) {
      const Floats weight = exponential(get(weights + s) - most);
      totals += weight;
      put(weights + s, weight);
    }
    float total = 0;
    for (int i = 0; i < WIDE; i++) total += totals[i];
    if (scores) {
      const float share = kind.unit / total;
      for (int64_t s = 0; s < held; s++) scores[s] += weights[s] * share;
    }
    if constexpr (Stored::LARGEST > 0)
      for (int64_t s = 0; s < held; s += WIDE)
        put(weights + s, get(weights + s) * scales_of(pair.value_scales, s, held - s));
    answer_with<DIM, DIM == 32 ? 4 : 2>(weights, pair.values, held, dim, answer);
    Number* to = answers + (row * sizes.heads + head * group + g) * dim;
    for (int64_t d = 0; d < dim; d++) narrow(answer[d / WIDE][d % WIDE] / total, to[d]);
  }
}

template <int DIM>
void attend_all(const Number* qkv, Number* answers, const Pair* table, const Kind* kinds, float* room,
                const Sizes& sizes) {
  const int64_t at_once = std::max<int64_t>(1, sizes.pairs / (16 * sizes.threads));
#pragma omp parallel for schedule(dynamic, at_once) num_threads(sizes.threads)
  for (int64_t index = 0; index < sizes.pairs; index++) {
    const Pair& pair = table[index];
    attend<DIM>(qkv, answers, pair, kinds[pair.kind], sizes, room + omp_get_thread_num() * sizes.widest);
  }
}

}  // namespace

// qkv [B, heads + 2 * kv_heads, dim]; answers [B, heads, dim]; room [threads, widest].
extern "C" void attend_pairs(const void* qkv, void* answers, const void* table, const void* kinds, void* room,
                             int64_t pairs, int64_t heads, int64_t kv_heads, int64_t dim, int64_t widest,
                             int64_t threads) {
  const Sizes sizes{pairs, heads, kv_heads, dim, widest, threads};
  auto* all = dim == 32 ? attend_all<32> : dim == 64 ? attend_all<64> : dim == 128 ? attend_all<128> : attend_all<0>;
  all(static_cast<const Number*>(qkv), static_cast<Number*>(answers), static_cast<const Pair*>(table),
      static_cast<const Kind*>(kinds), static_cast<float*>(room), sizes);
}
