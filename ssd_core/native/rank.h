// Whose slots the next tokens take: what ranked.py does once a policy has said how much each token is worth.

#pragma once

#include <vector>

#include "numbers.h"

namespace {

// What rank_kernel.py writes: something that slots hold, [halves, pairs, slots] rows of so many bytes.
struct Part { int64_t address, bytes, halves; };

// Who leaves first: the least priority, and of those alike the least position.
struct Rank {
  int32_t priority, position, slot;
  bool operator<(const Rank& other) const {
    return priority < other.priority || (priority == other.priority && position < other.position);
  }
};

// A float as a whole number that stands in the same order, and so does what is no number.
inline int32_t in_order(float x) {
  const int32_t bits = bits_of<int32_t>(x);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

// Which row of a pair goes where: the rows of those who leave, which go last, in this order; and, of the last slots, the
// rows of those who stay, which go into the slots that become free.
struct Moves {
  std::vector<int64_t> leaving, staying, free;
  std::vector<char> room;

  // ranks: of all slots, lowest first as far as `refresh`.
  void choose(const std::vector<Rank>& ranks, int64_t refresh) {
    const int64_t last = int64_t(ranks.size()) - refresh;
    leaving.clear(), staying.clear(), free.clear();
    for (int64_t i = 0; i < refresh; i++) {
      leaving.push_back(ranks[i].slot);
      if (ranks[i].slot < last) free.push_back(ranks[i].slot);
    }
    for (int64_t slot = last; slot < last + refresh; slot++)
      if (std::find(leaving.begin(), leaving.end(), slot) == leaving.end()) staying.push_back(slot);
  }

  void move(char* rows, int64_t slots, int64_t bytes) {
    room.resize(leaving.size() * bytes);
    char* to = room.data();
    for (const int64_t slot : leaving) std::memcpy(to, rows + slot * bytes, bytes), to += bytes;
    for (size_t i = 0; i < free.size(); i++) std::memcpy(rows + free[i] * bytes, rows + staying[i] * bytes, bytes);
    std::memcpy(rows + slots * bytes - room.size(), room.data(), room.size());
  }
};

// Called by all threads.
inline void rank_all(const float* priority, const int32_t* position, const Part* parts, int64_t count, int64_t pairs,
                     int64_t slots, int64_t refresh, int64_t pinned) {
  std::vector<Rank> ranks(slots);
  Moves moves;
#pragma omp for schedule(static)
  for (int64_t pair = 0; pair < pairs; pair++) {
    for (int64_t slot = 0; slot < slots; slot++) {
      const int64_t at = pair * slots + slot;
      ranks[slot] = {in_order(position[at] < pinned ? INFINITY : priority[at]), position[at], int32_t(slot)};
    }
    std::partial_sort(ranks.begin(), ranks.begin() + refresh, ranks.end());
    moves.choose(ranks, refresh);
    for (const Part* part = parts; part < parts + count; part++)
      for (int64_t half = 0; half < part->halves; half++) {
        char* rows = reinterpret_cast<char*>(part->address) + (half * pairs + pair) * slots * part->bytes;
        moves.move(rows, slots, part->bytes);
      }
  }
}

}  // namespace
