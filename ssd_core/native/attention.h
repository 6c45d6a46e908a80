// Attention of one query a head over its slots.
//
// As in triton_kernel.py, each (row, kv head) pair has slots of its own, wherever they lie; a row of a table says where,
// and numbers for each kind of slots say what changes from step to step.

#pragma once

#include "numbers.h"
#include "team.h"

namespace {

// What table.py writes: addresses of a pair's keys, values, their scales, scores and queries, 0 where it has none; its
// number, row * kv_heads + head; and its kind.
struct Pair { int64_t keys, values, key_scales, value_scales, scores, queries, number, kind; };

// What fixed.py writes for each kind of slots: where the newest token goes; how many slots are filled then; where its
// query goes; and the unit of scores.
struct Kind { int32_t slot, held, query; float unit; };

struct Sizes { int64_t pairs, heads, kv_heads, dim, widest; };

constexpr float LEAST_SCALE = 0x1p-100f;  // as in storage.py

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

inline const Stored* stored(int64_t address) { return reinterpret_cast<const Stored*>(address); }

// The largest of a query's logits, which are written to `logits`, followed by -inf up to a multiple of WIDE.
template <int DIM> float ask(const Number* query, const Pair& pair, int64_t held, int64_t any, float* logits) {
  const int64_t dim = DIM ? DIM : any;
  const float factor = 1 / std::sqrt(float(dim));
  constexpr bool PAIRS = PAIRED && std::is_same_v<Stored, Number>;
  constexpr int64_t STEP = PAIRS ? 2 * WIDE : WIDE;
  decltype(chunk<PAIRS>(query, dim)) parts[(DIM ? DIM : MOST_DIM) / STEP];
  for (int64_t d = 0; d < dim; d += STEP) parts[d / STEP] = chunk<PAIRS>(query + d, dim - d);
  const Stored *keys = stored(pair.keys), *values = stored(pair.values);
  Floats most = Floats{} - INFINITY;
  for (int64_t start = 0; start < held; start += WIDE) {
    const int64_t count = std::min(WIDE, held - start);
    fetch(values + start * dim, count * dim);
    Floats products[WIDE]{};
    for (int64_t i = 0; i < WIDE; i++) {
      const Stored* key = keys + (start + std::min(i, count - 1)) * dim;
      for (int64_t d = 0; d < dim; d += STEP)
        products[i] = dot(products[i], parts[d / STEP], chunk<PAIRS>(key + d, dim - d));
    }
    Floats logit = sums(products) * factor;
    if constexpr (Stored::LARGEST > 0) logit *= scales_of(pair.key_scales, start, count);
    for (int64_t i = count; i < WIDE; i++) logit[i] = -INFINITY;
    most = most > logit ? most : logit;
    put(logits + start, logit);
  }
  float largest = most[0];
  for (int i = 1; i < WIDE; i++) largest = std::max(largest, most[i]);
  return largest;
}

// The sum of the values, each times its weight, in `answer`. CHAINS: sums at a time, as one would wait for itself. next:
// the keys that are read afterwards.
template <int DIM, int CHAINS>
void answer_with(const float* weights, const Stored* values, int64_t held, int64_t any, const Stored* next,
                 Floats* answer) {
  constexpr bool SPLIT = std::is_same_v<Stored, BFloat16>;  // even numbers and odd ones, which takes fewer instructions
  constexpr int64_t STEP = SPLIT ? 2 : 1, MOST = (DIM ? DIM : MOST_DIM) / WIDE;
  const int64_t dim = DIM ? DIM : any, parts = (dim + STEP * WIDE - 1) / (STEP * WIDE) * STEP;
  Floats sum[CHAINS][MOST];
  for (auto& chain : sum) std::fill_n(chain, parts, Floats{});
  auto add = [&](Floats* to, int64_t slot) {
    for (int64_t part = 0; part < parts; part += STEP) {
      const auto some = chunk<SPLIT>(values + slot * dim + part * WIDE, dim - part * WIDE);
      if constexpr (SPLIT) {
        to[part] += weights[slot] * bits_of<Floats>(some << 16);
        to[part + 1] += weights[slot] * bits_of<Floats>(some & 0xffff0000);
      } else {
        to[part] += weights[slot] * some;
      }
    }
  };
  int64_t s = 0;
  for (; s + CHAINS <= held; s += CHAINS) {
    fetch(next + s * dim, CHAINS * dim);
    for (int64_t chain = 0; chain < CHAINS; chain++) add(sum[chain], s + chain);
  }
  for (; s < held; s++) add(sum[0], s);
  for (int64_t part = 0; part < parts; part++) {
    answer[part] = sum[0][part];
    for (int chain = 1; chain < CHAINS; chain++) answer[part] += sum[chain][part];
  }
  if constexpr (SPLIT) {
    Integers first;
    for (int lane = 0; lane < WIDE; lane++) first[lane] = lane / 2 + lane % 2 * int(WIDE);
    for (int64_t part = 0; part < parts; part += 2) {
      const Floats even = answer[part], odd = answer[part + 1];
      answer[part] = __builtin_shuffle(even, odd, first);
      answer[part + 1] = __builtin_shuffle(even, odd, first + int(WIDE / 2));
    }
  }
}

// Store a pair's newest token, and answer its queries. next: the keys of the pair that follows. weights: room for as
// many as it has slots, and WIDE - 1 more.
// DIM: of heads, so that loops over it have no end to watch for; 0 for any.
template <int DIM>
void attend(const Number* qkv, Number* answers, const Pair& pair, const Kind& kind, const Stored* next,
            const Sizes& sizes, float* weights) {
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

  for (int64_t g = 0; g < group; g++) {
    Floats answer[(DIM ? DIM : MOST_DIM) / WIDE];
    const float most = ask<DIM>(queries + g * dim, pair, held, dim, weights);
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
    answer_with<DIM, DIM == 32 ? 4 : 2>(weights, stored(pair.values), held, dim, next, answer);
    Number* to = answers + (row * sizes.heads + head * group + g) * dim;
    for (int64_t d = 0; d < dim; d++) narrow(answer[d / WIDE][d % WIDE] / total, to[d]);
  }
}

// All pairs of a layer that belong to a team's groups, if each one's stand together in the table. A thread takes the same
// ones at every step: their slots may still be near to it.
template <int DIM>
void attend_all(const Team& team, const Number* qkv, Number* answers, const Pair* table, const Kind* kinds,
                float* weights, const Sizes& sizes) {
  auto one = [&](int64_t index, int64_t following) {
    const Pair& pair = table[index];
    const Stored* next = stored(table[std::min(following, sizes.pairs - 1)].keys);
    attend<DIM>(qkv, answers, pair, kinds[pair.kind], next, sizes, weights + omp_get_thread_num() * sizes.widest);
  };
  const int64_t each = WIDE * sizes.kv_heads, end = std::min(sizes.pairs, team.end * each);
  for (int64_t index = team.first * each + team.member; index < end; index += team.members)
    one(index, index + team.members);
  team.wait();
}

}  // namespace
