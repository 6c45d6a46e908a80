// Products of a step's rows with a matrix as torch keeps it: [outputs, inputs], one output after the other.
//
// Libraries pack a matrix before each product, or keep it packed a second time. With a row in each lane of a vector there
// is nothing to pack: each number of the matrix is met once, and multiplied with that of WIDE rows. A few rows would
// leave most lanes idle, so there a vector holds inputs.

#pragma once

#include "numbers.h"
#include "team.h"

namespace {

constexpr int64_t FEW = 4;  // rows
constexpr int64_t BLOCK = 4;  // outputs, and as many twins
constexpr int64_t LONG = 4096 / sizeof(Number);  // inputs

// Where a group of WIDE rows has its number k, of `size` that each row has, in columns: [groups, size, WIDE]. What is read
// one after the other lies so, and is in nobody's way in the nearest memory.
inline float* column(float* columns, int64_t size, int64_t group, int64_t k) {
  return columns + (group * size + k) * WIDE;
}

// What is multiplied: of few rows [rows, size] in the model's precision. Of more columns, of neighbours where two are
// multiplied at once, else of floats. room: for so many numbers of each row, size at least.
struct Inputs {
  void* data;
  int64_t rows, room, size;
  bool few() const { return rows <= FEW; }
  float* at(int64_t group, int64_t k) const {
    constexpr int64_t once = PAIRED ? 2 : 1;
    return column(static_cast<float*>(data), room / once, group, k / once);
  }
};

inline float scalar(const Number* from) {
  if constexpr (std::is_same_v<Number, Float>) return from->bits;
  if constexpr (std::is_same_v<Number, BFloat16>) return bits_of<float>(uint32_t(from->bits) << 16);
  return load(from, 1)[0];
}

// The nearest of bfloat16, in the upper half.
inline Words upper(Floats x) {
  const Words bits = bits_of<Words>(x);
  return bits_of<Words>(x != x) ? Words{} + 0x7fff0000 : (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
}

// Two neighbours of bfloat16, the lower one first.
inline Words neighbours(Floats even, Floats odd) { return upper(even) >> 16 | upper(odd); }

// Write two neighbours of each row of a group of WIDE; `stride` lies between the rows.
inline void put_rows(Number* to, int64_t stride, int64_t rows, Floats even, Floats odd) {
  const int64_t count = std::min(WIDE, rows);
  if constexpr (std::is_same_v<Number, BFloat16>) {
    const Words both = neighbours(even, odd);
    for (int64_t row = 0; row < count; row++) {
      const uint32_t word = both[row];
      std::memcpy(to + row * stride, &word, sizeof word);
    }
  } else {
    for (int64_t row = 0; row < count; row++) {
      narrow(even[row], to[row * stride]);
      narrow(odd[row], to[row * stride + 1]);
    }
  }
}

// Make two neighbours of each row of a group the inputs k and k + 1.
inline void put_inputs(const Inputs& to, int64_t k, int64_t group, Floats even, Floats odd) {
  if (to.few()) {
    put_rows(static_cast<Number*>(to.data) + k, to.size, to.rows, even, odd);
  } else if constexpr (PAIRED) {
    put(to.at(group, k), bits_of<Floats>(neighbours(even, odd)));
  } else {
    put(to.at(group, k), even);
    put(to.at(group, k + 1), odd);
  }
}

// Two times so many of a matrix's outputs, of which the first lie at `first` and the others at `second`. Where there are
// less, `count`, the last one stands for what is missing.
template <int HALF> struct Outputs {
  const Number* at[2 * HALF];
  Outputs(const Number* first, const Number* second, int64_t size, int64_t count) {
    for (int64_t i = 0; i < HALF; i++) {
      at[i] = first + std::min(i, count - 1) * size;
      at[HALF + i] = second + std::min(i, count - 1) * size;
    }
  }
};

// Sums for GROUPS groups of rows, from `group` on. Meanwhile the rows of BLOCK outputs that lie from `next` and from
// `twins` on are brought near; nullptr for none.
template <int GROUPS, int HALF>
void multiply_many(const Inputs& inputs, int64_t group, const Outputs<HALF>& outputs, const Number* next,
                   const Number* twins, Floats (&to)[2 * HALF][GROUPS]) {
  constexpr int64_t STEP = PAIRED ? 2 : 1, LINE = 64 / sizeof(Number);
  Floats sum[2 * HALF][GROUPS]{};  // not `to`, which would be written each time
  const int64_t apart = inputs.at(1, 0) - inputs.at(0, 0);
  const float* x = inputs.at(group, 0);
  for (int64_t k = 0; k < inputs.size; k += STEP, x += WIDE) {
    if (next && k * BLOCK % LINE == 0) {  // not all at once, for which would have to be waited
      fetch(next + k * BLOCK, 1);
      fetch(twins + k * BLOCK, 1);
    }
    Floats in[GROUPS];
    for (int g = 0; g < GROUPS; g++) in[g] = get(x + g * apart);
    for (int i = 0; i < 2 * HALF; i++) {
      if constexpr (PAIRED) {
        uint32_t weights;
        std::memcpy(&weights, outputs.at[i] + k, sizeof weights);
        for (int g = 0; g < GROUPS; g++) sum[i][g] = dot(sum[i][g], bits_of<Words>(in[g]), Words{} + weights);
      } else {
        const float weight = scalar(outputs.at[i] + k);
        for (int g = 0; g < GROUPS; g++) sum[i][g] += in[g] * weight;
      }
    }
  }
  for (int i = 0; i < 2 * HALF; i++) std::copy_n(sum[i], GROUPS, to[i]);
}

// The same for as many rows, the last one standing for what is missing, and as many outputs as fill a vector together.
template <int ROWS>
void multiply_few(const Inputs& inputs, const Outputs<WIDE / 2 / ROWS>& outputs,
                  Floats (&sum)[WIDE / ROWS][1]) {
  const Number* rows[ROWS];
  for (int64_t row = 0; row < ROWS; row++)
    rows[row] = static_cast<const Number*>(inputs.data) + std::min(row, inputs.rows - 1) * inputs.size;
  Floats parts[WIDE]{};
  constexpr int64_t step = PAIRED ? 2 * WIDE : WIDE;
  auto add = [&](int64_t k, int64_t count) {
    decltype(chunk<PAIRED>(rows[0], count)) in[ROWS];
    for (int row = 0; row < ROWS; row++) in[row] = chunk<PAIRED>(rows[row] + k, count);
    for (int i = 0; i < WIDE / ROWS; i++) {
      const auto weights = chunk<PAIRED>(outputs.at[i] + k, count);
      for (int row = 0; row < ROWS; row++) parts[i * ROWS + row] = dot(parts[i * ROWS + row], in[row], weights);
    }
  };
  const int64_t whole = inputs.size / step * step;
  for (int64_t k = 0; k < whole; k += step) add(k, step);
  if (const int64_t rest = inputs.size - whole) add(whole, rest);
  const Floats totals = sums(parts);
  for (int i = 0; i < WIDE / ROWS; i++)
    for (int row = 0; row < ROWS; row++) sum[i][0][row] = totals[i * ROWS + row];
}

// The product with a matrix of `parts` parts of 2 * span outputs each. Of each group of rows, `then` gets two
// neighbouring outputs, n and n + 1 of a part, and their twins, those `span` further on.
template <typename Then>
void multiply(const Team& team, const Inputs& inputs, const Number* matrix, int64_t parts, int64_t span,
              const Then& then) {
  const int64_t blocks = (span + BLOCK - 1) / BLOCK;
  team.all(parts * blocks, [&](int64_t block) {
    const int64_t part = block / blocks, start = block % blocks * BLOCK;
    auto at = [&](int64_t part, int64_t n) { return matrix + (part * 2 * span + n) * inputs.size; };
    auto outputs = [&](auto half, int64_t n) {
      return Outputs<half>(at(part, n), at(part, span + n), inputs.size, span - n);
    };
    auto hand = [&](auto& sum, int64_t n, int64_t group, int64_t g) {
      constexpr int half = std::extent_v<std::remove_reference_t<decltype(sum)>> / 2;
      for (int i = 0; i < half && n + i < span; i += 2)
        then(part, n + i, group + g, sum[i][g], sum[i + 1][g], sum[half + i][g], sum[half + i + 1][g]);
    };
    auto many = [&](auto width, int64_t group) {
      constexpr std::integral_constant<int, BLOCK> half{};
      const int64_t next = block + 1;
      // once for all groups; of long rows the processor foresees by itself what comes
      const bool ahead = group == team.first && next < parts * blocks && inputs.size < LONG;
      const Number* soon = ahead ? at(next / blocks, next % blocks * BLOCK) : nullptr;
      const Number* twins = ahead ? soon + span * inputs.size : nullptr;
      Floats sum[2 * half][width];
      multiply_many<width, half>(inputs, group, outputs(half, start), soon, twins, sum);
      for (int g = 0; g < width; g++) hand(sum, start, group, g);
    };
    auto few = [&](auto rows) {
      constexpr std::integral_constant<int, WIDE / 2 / rows> half{};
      for (int64_t n = start; n < std::min(span, start + BLOCK); n += half) {
        Floats sum[2 * half][1];
        multiply_few<rows>(inputs, outputs(half, n), sum);
        hand(sum, n, 0, 0);
      }
    };
    constexpr std::integral_constant<int, 1> one{};
    constexpr std::integral_constant<int, 2> two{};
    constexpr std::integral_constant<int, 4> four{};
    if (inputs.rows <= 2) {
      few(two);
    } else if (inputs.few()) {
      few(four);
    } else {
      int64_t group = team.first;
      for (; group + 2 <= team.end; group += 2) many(two, group);
      if (group < team.end) many(one, group);
    }
  });
}

}  // namespace
