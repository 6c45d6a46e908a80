// A token of every row through all layers of a Llama decoder, as models/decoder.py says it, in one go.
//
// Between the products rows lie in columns, see product.h, in the order that decoder_cache.py gives them. What is added
// up over the layers stays in float32; what is multiplied is rounded to the model's precision.

#pragma once

#include "attention.h"
#include "product.h"

namespace {

// Addresses of a layer's weights, and of its table of pairs.
struct Layer { int64_t attention_norm, qkv, out, mlp_norm, gate_up, down, pairs; };

struct Decoder {
  int64_t rows, hidden, inner, layers;
  const int64_t* row;  // which one is in each lane
  float eps;
  const Layer* layer;
  const Number* norm;
  Number *qkv, *answers;
  float *sum, *cosines, *sines;  // columns of `hidden` numbers, and of dim / 2 for each row's position
  Inputs wide, narrow;  // what is multiplied: as much as is hidden or answered, and the MLP's inner numbers
  float* weights;
};

inline const Number* matrix(int64_t address) { return reinterpret_cast<const Number*>(address); }

// Give each row's numbers, divided by their root mean square, to `then`, two neighbours at a time.
template <typename Then>
void normalize(const Team& team, const Decoder& decoder, const Number* weight, const Then& then) {
  team.each_group([&](int64_t group) {
    auto x = [&](int64_t k) { return get(column(decoder.sum, decoder.hidden, group, k)); };
    Floats squares[4]{};
    for (int64_t k = 0; k < decoder.hidden; k++) squares[k % 4] += x(k) * x(k);
    Floats scale = (squares[0] + squares[1] + squares[2] + squares[3]) / float(decoder.hidden) + decoder.eps;
    for (int i = 0; i < WIDE; i++) scale[i] = 1 / std::sqrt(scale[i]);
    for (int64_t k = 0; k < decoder.hidden; k += 2)
      then(k, group, x(k) * scale * scalar(weight + k), x(k + 1) * scale * scalar(weight + k + 1));
  });
}

// x / (1 + exp(-x))
inline Floats silu(Floats x) {
  const Floats small = exponential(x < 0 ? x : -x);
  return x * (x < 0 ? small : Floats{} + 1) / (1 + small);
}

// What comes in, and the rotation of its positions, in columns.
inline void spread(const Team& team, const Decoder& decoder, const Number* x, const int64_t* positions,
                   const Number* rope, int64_t dim) {
  team.each_group([&](int64_t group) {
    for (int64_t lane = 0; lane < WIDE; lane++) {
      // the last one stands for what is missing
      const int64_t row = decoder.row[std::min(group * WIDE + lane, decoder.rows - 1)];
      for (int64_t k = 0; k < decoder.hidden; k++)
        column(decoder.sum, decoder.hidden, group, k)[lane] = scalar(x + row * decoder.hidden + k);
      const Number* cosines = rope + positions[row] * 2 * dim;
      for (int64_t d = 0; d < dim / 2; d++) {
        column(decoder.cosines, dim / 2, group, d)[lane] = scalar(cosines + d);
        column(decoder.sines, dim / 2, group, d)[lane] = scalar(cosines + dim + dim / 2 + d);
      }
    }
  });
}

// The answers as inputs.
inline void gather(const Team& team, const Decoder& decoder, const Inputs& to) {
  team.all(to.size / 2, [&](int64_t half) {
    const int64_t k = 2 * half;
    for (int64_t group = team.first; group < team.end; group++) {
      Floats even{}, odd{};
      for (int64_t row = group * WIDE; row < std::min(to.rows, (group + 1) * WIDE); row++) {
        even[row % WIDE] = scalar(decoder.answers + row * to.size + k);
        odd[row % WIDE] = scalar(decoder.answers + row * to.size + k + 1);
      }
      put_inputs(to, k, group, even, odd);
    }
  });
}

// Through all layers, to their sums. The sizes are those of attention.h.
template <int DIM>
void decode(const Team& team, const Decoder& decoder, const Sizes& sizes, const Number* x, const int64_t* positions,
            const Number* rope, const Kind* kinds) {
  const int64_t rows = decoder.rows, dim = sizes.dim;
  const int64_t rotated = sizes.heads + sizes.kv_heads, brought = (rotated + sizes.kv_heads) * dim;
  Inputs hidden = decoder.wide, answered = decoder.wide;
  hidden.size = decoder.hidden;
  answered.size = sizes.heads * dim;
  if (answered.few()) answered.data = decoder.answers;

  auto normalized = [&](int64_t k, int64_t group, Floats even, Floats odd) {
    put_inputs(hidden, k, group, even, odd);
  };
  auto rotate = [&](int64_t head, int64_t d, int64_t group, Floats a0, Floats a1, Floats b0, Floats b1) {
    Number* row = decoder.qkv + group * WIDE * brought + head * dim + d;
    if (head < rotated) {
      const float* cosine = column(decoder.cosines, dim / 2, group, d);
      const float* sine = column(decoder.sines, dim / 2, group, d);
      const Floats c0 = get(cosine), c1 = get(cosine + WIDE), s0 = get(sine), s1 = get(sine + WIDE);
      put_rows(row, brought, rows - group * WIDE, a0 * c0 - b0 * s0, a1 * c1 - b1 * s1);
      put_rows(row + dim / 2, brought, rows - group * WIDE, b0 * c0 + a0 * s0, b1 * c1 + a1 * s1);
    } else {
      put_rows(row, brought, rows - group * WIDE, a0, a1);
      put_rows(row + dim / 2, brought, rows - group * WIDE, b0, b1);
    }
  };
  auto add = [&](int64_t, int64_t n, int64_t group, Floats a0, Floats a1, Floats b0, Floats b1) {
    float* first = column(decoder.sum, decoder.hidden, group, n);
    float* second = column(decoder.sum, decoder.hidden, group, n + decoder.hidden / 2);
    put(first, get(first) + a0);
    put(first + WIDE, get(first + WIDE) + a1);
    put(second, get(second) + b0);
    put(second + WIDE, get(second + WIDE) + b1);
  };
  auto gate = [&](int64_t, int64_t n, int64_t group, Floats a0, Floats a1, Floats b0, Floats b1) {
    put_inputs(decoder.narrow, n, group, silu(a0) * b0, silu(a1) * b1);
  };

  spread(team, decoder, x, positions, rope, dim);
  for (int64_t index = 0; index < decoder.layers; index++) {
    const Layer& layer = decoder.layer[index];
    normalize(team, decoder, matrix(layer.attention_norm), normalized);
    multiply(team, hidden, matrix(layer.qkv), rotated + sizes.kv_heads, dim / 2, rotate);
    attend_all<DIM>(team, decoder.qkv, decoder.answers, reinterpret_cast<const Pair*>(layer.pairs), kinds,
                    decoder.weights, sizes);
    if (!answered.few()) gather(team, decoder, answered);
    multiply(team, answered, matrix(layer.out), 1, decoder.hidden / 2, add);
    normalize(team, decoder, matrix(layer.mlp_norm), normalized);
    multiply(team, hidden, matrix(layer.gate_up), 1, decoder.inner, gate);
    multiply(team, decoder.narrow, matrix(layer.down), 1, decoder.hidden / 2, add);
  }
}

// The decoder's answer, [rows, hidden].
inline void answer(const Team& team, const Decoder& decoder, Number* to) {
  normalize(team, decoder, decoder.norm, [&](int64_t k, int64_t group, Floats even, Floats odd) {
    for (int64_t lane = 0; lane < std::min(WIDE, decoder.rows - group * WIDE); lane++) {
      Number* at = to + decoder.row[group * WIDE + lane] * decoder.hidden + k;
      narrow(even[lane], at[0]);
      narrow(odd[lane], at[1]);
    }
  });
}

}  // namespace
