// The kernels for the processor: what cache/cpp_kernel.py, cache/rank_kernel.py, cache/decoder_cache.py and turn_kernel.py
// call, compiled by build.py.

#include <omp.h>

#include "attention.h"
#include "rank.h"
#include "turn.h"

// Where threads work apart, each one reads all weights; from near memory, if a layer's are no more bytes than that.
constexpr int64_t NEAR = 4 << 20;

// Call what is compiled for heads of `dim` numbers: `of<dim>`, or `of<0>` for any.
#define FOR_DIM(dim, of, ...)                                                         \
  switch (dim) {                                                                      \
    case 32: of<32>(__VA_ARGS__); break;                                              \
    case 64: of<64>(__VA_ARGS__); break;                                              \
    case 128: of<128>(__VA_ARGS__); break;                                            \
    default: of<0>(__VA_ARGS__);                                                      \
  }

// qkv [B, heads + 2 * kv_heads, dim]; answers [B, heads, dim]; weights [threads, widest].
extern "C" void attend_pairs(const Number* qkv, Number* answers, const Pair* table, const Kind* kinds, float* weights,
                             int64_t pairs, int64_t heads, int64_t kv_heads, int64_t dim, int64_t widest,
                             int64_t threads) {
  const Sizes sizes{pairs, heads, kv_heads, dim, widest};
  const int64_t groups = (pairs / kv_heads + WIDE - 1) / WIDE;
#pragma omp parallel num_threads(threads)
  FOR_DIM(dim, attend_all, teams_of(groups, false).all, qkv, answers, table, kinds, weights, sizes)
}

// x and to [rows, hidden]; positions [rows]; rope [positions, 2, dim]; qkv, answers and weights as above, but for the order
// of rows; kinds [turns, kind_count]; room: so many floats as DecoderCache says; row [rows]: which one comes at each place
// of that order. turn: what follows each time instead of an answer in `to`; 0 where nothing does, after the only one.
extern "C" void decode(const Number* x, const int64_t* positions, const Number* rope, Number* to, const Layer* layer,
                       const Number* norm, Number* qkv, Number* answers, const Kind* kinds, float* weights, float* room,
                       const int64_t* row, const Turn* turn, int64_t rows, int64_t hidden, int64_t inner,
                       int64_t layers, int64_t pairs, int64_t heads, int64_t kv_heads, int64_t dim, int64_t widest,
                       int64_t threads, int64_t kind_count, int64_t turns, double eps) {
  const Sizes sizes{pairs, heads, kv_heads, dim, widest};
  const int64_t groups = (rows + WIDE - 1) / WIDE, lanes = groups * WIDE;
  float *cosines = room + hidden * lanes, *sines = cosines + dim / 2 * lanes, *narrow = sines + dim / 2 * lanes;
  float* wide = narrow + inner * lanes;
  const Decoder decoder{rows, hidden, inner, layers, row, float(eps), layer, norm, qkv, answers, room, cosines, sines,
                        {wide, rows, std::max(hidden, heads * dim), 0}, {narrow, rows, inner, inner}, weights};
  const int64_t numbers = hidden * ((2 * heads + 2 * kv_heads) * dim + 3 * inner);  // of a layer
#pragma omp parallel num_threads(threads)
  {
    auto take = [&](const Team& team) {
      for (int64_t i = 0; i < turns; i++) {
        FOR_DIM(dim, decode, team, decoder, sizes, x, positions, rope, kinds + i * kind_count)
        if (turn) draw(team, *turn, decoder, *turn->at + i);
        else answer(team, decoder, to);
      }
    };
    const auto [own, all] = teams_of(groups, numbers * int64_t(sizeof(Number)) <= NEAR);
    // Who works apart takes several turns of one group before the next: its slots may stay near meanwhile.
    const int64_t at_once = turns == 1 ? groups : 1;
    for (int64_t first = own.first; first < own.end; first += at_once)
      take({own.member, own.members, first, std::min(own.end, first + at_once)});
    if (all.first < all.end) take(all);
  }
  if (turn && turn->embedded) *turn->at += turns;
}

// priority and position [pairs, slots]; parts [count], position among them.
extern "C" void rank_pairs(const float* priority, const int32_t* position, const Part* parts, int64_t count,
                           int64_t pairs, int64_t slots, int64_t refresh, int64_t pinned, int64_t threads) {
#pragma omp parallel num_threads(threads)
  rank_all(priority, position, parts, count, pairs, slots, refresh, pinned);
}
