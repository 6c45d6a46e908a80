// The rest of a turn, once a token of every row went through the decoder: turn.py in one go.

#pragma once

#include "head.h"
#include "sample.h"

namespace {

// As turn_kernel.py fills it. The tensors are those of `Turn`, see there.
struct Turn {
  const Linear* head;
  float* room;  // logits and the head's inner numbers, in columns, and WIDE more
  int64_t* token;  // of each picture, what came
  Number* x;
  int64_t *positions, *at, *tokens;
  const float* uniform;
  const uint8_t* stays;  // 0 where none does
  const Number* embedded;  // of every token of the codebook; 0 where the next input is made elsewhere
  int64_t head_layers, grid;
  Sampling sampling;
};

// Draw the grid's token `at` of the pictures in a team's groups, note it, or take the one that stays, and make ready for the
// next turn. All rows of a picture are in one group.
inline void draw(const Team& team, const Turn& turn, const Decoder& decoder, int64_t at) {
  const Sampling& how = turn.sampling;
  const int64_t lanes = (decoder.rows + WIDE - 1) / WIDE * WIDE, images = WIDE / (1 + how.guided);  // of a group
  float *logits = turn.room, *inner = logits + how.codebook * lanes;
  head_logits(team, decoder, turn.head, turn.head_layers, logits, inner);
  team.each_group([&](int64_t group) {
    const int64_t first = group * images, end = std::min(how.images, first + images);
    float* own = column(logits, how.codebook, group, 0);
    guide(how, own, end - first);
    sample(how, own, end - first, turn.uniform + at * how.images + first, turn.token + first);
    for (int64_t image = first; image < end; image++) {
      int64_t &token = turn.token[image], &noted = turn.tokens[image * turn.grid + at];
      if (turn.stays && turn.stays[at * how.images + image]) token = noted;
      noted = token;
    }
    if (!turn.embedded) return;
    for (int64_t lane = group * WIDE; lane < std::min(decoder.rows, (group + 1) * WIDE); lane++) {
      const int64_t row = decoder.row[lane], size = decoder.hidden;
      std::memcpy(turn.x + row * size, turn.embedded + turn.token[row % how.images] * size, size * sizeof(Number));
      ++turn.positions[row];
    }
  });
}

}  // namespace
