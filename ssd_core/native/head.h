// The image head, over what a decoder makes of a token of every row: linear layers with gelu between them.

#pragma once

#include "decoder.h"

namespace {

// A layer: addresses of its weights and of its bias, 0 where it has none; and its sizes.
struct Linear { int64_t weight, bias, outputs, inputs; };

// x times the share of a normal distribution below x; right to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
inline Floats gelu(Floats x) {
  const Floats t = 1 / (1 + 0.23164190f * (x < 0 ? -x : x));
  const Floats series =
      t * (0.127414796f + t * (-0.142248368f + t * (0.710706870f + t * (-0.726576014f + t * 0.530702715f))));
  const Floats beyond = series * exponential(-0.5f * x * x);
  return x * (x < 0 ? beyond : 1 - beyond);
}

// The logits of a head of one layer or two, in columns. inner: room for what the second one multiplies, in columns, too.
inline void head_logits(const Team& team, const Decoder& decoder, const Linear* layers, int64_t count, float* logits,
                        float* inner) {
  Inputs inputs = decoder.wide;
  inputs.size = decoder.hidden;
  normalize(team, decoder, decoder.norm, [&](int64_t k, int64_t group, Floats even, Floats odd) {
    put_inputs(inputs, k, group, even, odd);
  });
  for (int64_t index = 0; index < count; index++) {
    const Linear& layer = layers[index];
    const Number* bias = matrix(layer.bias);
    const Inputs next{inner, decoder.rows, layer.outputs, layer.outputs};
    auto biased = [&](int64_t n, Floats x) { return bias ? x + scalar(bias + n) : x; };
    auto hand = [&](int64_t n, int64_t group, Floats even, Floats odd) {
      if (index + 1 < count) {
        put_inputs(next, n, group, gelu(biased(n, even)), gelu(biased(n + 1, odd)));
      } else {
        float* to = column(logits, layer.outputs, group, n);
        put(to, biased(n, even));
        put(to + WIDE, biased(n + 1, odd));
      }
    };
    const int64_t half = layer.outputs / 2;
    multiply(team, inputs, matrix(layer.weight), 1, half,
             [&](int64_t, int64_t n, int64_t group, Floats a0, Floats a1, Floats b0, Floats b1) {
               hand(n, group, a0, a1);
               hand(n + half, group, b0, b1);
             });
    inputs = next;
  }
}

}  // namespace
