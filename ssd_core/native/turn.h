// The rest of a turn, once a token of every row went through the decoder: turn.py in one go.

#pragma once

#include "head.h"
#include "sample.h"

namespace {

// As turn_kernel.py fills it. The tensors are those of `Turn`, see there.
struct Turn {
  const Linear* head;
  float* room;  // logits [codebook, lanes], the head's inner numbers in columns, and WIDE more
  int64_t* token;  // of each picture, what came
  Number* x;
  int64_t *positions, *at, *tokens;
  const float* uniform;
  const uint8_t* stays;  // 0 where none does
  const Number* embedded;  // of every token of the codebook; 0 where the next input is made elsewhere
  int64_t head_layers, grid;
  Sampling sampling;
};

// Called by all threads, each in its team. lanes: rows, rounded up to whole vectors.
inline void draw(const Team& team, const Turn& turn, const Decoder& decoder, int64_t lanes) {
  float *logits = turn.room, *inner = logits + turn.sampling.codebook * lanes;
  head_logits(team, decoder, turn.head, turn.head_layers, lanes, logits, inner);
#pragma omp barrier  // a picture's token hangs on two rows
  sample(turn.sampling, logits, lanes, turn.uniform + *turn.at * turn.sampling.images, turn.token);
}

// Note the tokens, or take those that stay, and make ready for the next turn. Called by one thread.
inline void go_on(const Turn& turn, int64_t rows, int64_t hidden) {
  const int64_t images = turn.sampling.images, at = *turn.at;
  for (int64_t image = 0; image < images; image++) {
    int64_t &token = turn.token[image], &noted = turn.tokens[image * turn.grid + at];
    if (turn.stays && turn.stays[at * images + image]) token = noted;
    noted = token;
  }
  if (!turn.embedded) return;
  for (int64_t row = 0; row < rows; row++) {
    std::memcpy(turn.x + row * hidden, turn.embedded + turn.token[row % images] * hidden, hidden * sizeof(Number));
    ++turn.positions[row];
  }
  ++*turn.at;
}

}  // namespace
