// From logits to the next tokens, as sampling.py says it: guidance, filters, and a random number for each picture.
//
// Logits are those of a group's pictures, [codebook, WIDE], a row in each lane: first the conditional ones, and right behind
// them the others. WIDE numbers behind the last may be read.

#pragma once

#include <omp.h>

#include <numeric>

#include "numbers.h"

namespace {

using Doubles = double __attribute__((vector_size(8 * WIDE)));
using Longs = int64_t __attribute__((vector_size(8 * WIDE)));

// How tokens are chosen: the fields of `Sampling`, and the room it takes. order: [threads, codebook], where it filters.
struct Sampling {
  int64_t images, codebook, guided, greedy, top_k;
  double guidance, temperature, top_p;
  int32_t* order;
  bool filters() const { return top_k || top_p < 1; }
};

// The last of a picture's tokens that may be drawn, if they stand by falling logits, and those alike by number.
struct Last { float logit; int32_t token; };

// Make the logits of `count` pictures what their tokens are drawn from, in their conditional rows' places.
inline void guide(const Sampling& how, float* logits, int64_t count) {
  const float weight = float(how.guidance), heat = float(how.temperature);
  for (int64_t n = 0; n < how.codebook; n++) {
    float* at = logits + n * WIDE;
    Floats x = get(at);
    if (how.guided) {
      const Floats without = get(at + count), step = x - without;  // as torch.lerp
      x = weight < 0.5f ? without + weight * step : x - step * (1 - weight);
    }
    put(at, x / heat);
  }
}

// What the filters leave of a picture's tokens. order: room for their numbers.
inline Last last_kept(const Sampling& how, const float* logits, int32_t* order) {
  auto logit = [&](int32_t n) {
    const float x = logits[n * WIDE];
    return x == x ? x : -INFINITY;  // who sorts must be able to compare
  };
  auto before = [&](int32_t a, int32_t b) { return logit(a) > logit(b) || (logit(a) == logit(b) && a < b); };
  auto behind = [&](int32_t a, int32_t b) { return before(b, a); };
  int32_t* end = order + how.codebook;
  std::iota(order, end, 0);
  Last last{-INFINITY, INT32_MAX};
  if (how.top_k && how.top_k < how.codebook) {
    std::nth_element(order, order + how.top_k - 1, end, before);
    last.logit = logit(order[how.top_k - 1]);
    end = std::partition(order, end, [&](int32_t n) { return logit(n) >= last.logit; });
  }
  if (how.top_p == 1) return last;
  std::make_heap(order, end, behind);
  const float most = logit(*order);
  auto weight = [&](int32_t n) { return double(std::exp(logit(n) - most)); };
  double left = 0;
  for (const int32_t* n = order; n < end; n++) left += weight(*n);
  left *= how.top_p;
  for (;; std::pop_heap(order, end--, behind)) {
    left -= weight(*order);
    if (left <= 0 || end == order + 1) return {logit(*order), *order};
  }
}

// Draw from `count` pictures' logits by the inverse of the cumulative distribution, or take the largest one. uniform: of
// each picture, in [0, 1).
inline void sample(const Sampling& how, const float* logits, int64_t count, const float* uniform, int64_t* tokens) {
  Floats most = Floats{} - INFINITY;
  Integers best{};
  for (int32_t n = 0; n < how.codebook; n++) {
    const Floats x = get(logits + n * WIDE);
    best = x > most ? Integers{} + n : best;
    most = x > most ? x : most;
  }
  Longs chosen = __builtin_convertvector(best, Longs);
  if (!how.greedy) {
    Floats least = Floats{} - INFINITY;
    Integers last = Integers{} + INT32_MAX;
    for (int64_t i = 0; how.filters() && i < count; i++) {
      const Last kept = last_kept(how, logits + i, how.order + omp_get_thread_num() * how.codebook);
      least[i] = kept.logit;
      last[i] = kept.token;
    }
    auto weight = [&](int32_t n) {
      const Floats x = get(logits + n * WIDE), below = x - most;
      const auto none = (x < least) | ((x == least) & (Integers{} + n > last)) | (below < -87.0f);
      return __builtin_convertvector(none ? Floats{} : exponential(below), Doubles);
    };
    Doubles total{}, sum{}, target{};
    for (int32_t n = 0; n < how.codebook; n++) total += weight(n);
    for (int64_t i = 0; i < count; i++) target[i] = uniform[i] * total[i];
    chosen = Longs{};  // how many sums do not reach it; of what is no number none, so that some token is drawn
    for (int32_t n = 0; n < how.codebook; n++) {
      sum += weight(n);
      chosen -= sum <= target;
    }
  }
  for (int64_t i = 0; i < count; i++) tokens[i] = chosen[i];
}

}  // namespace
