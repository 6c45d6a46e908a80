// Who works on which rows, and who waits for whom.

#pragma once

#include <omp.h>

#include <cstdint>

namespace {

// Threads that work on the same groups of rows, from `first` to before `end`. Each of its members calls the same functions.
struct Team {
  int64_t member, members, first, end;

  // Do so much work together.
  template <typename Do> void all(int64_t count, const Do& one) const {
    const int64_t stop = count * (member + 1) / members;
    for (int64_t i = count * member / members; i < stop; i++) one(i);
    wait();
  }

  // For the others.
  void wait() const {
    if (members > 1) {
#pragma omp barrier
    }
  }

  // The same for each of its groups.
  template <typename Do> void each_group(const Do& one) const {
    all(end - first, [&](int64_t i) { one(first + i); });
  }
};

// The calling thread's teams: itself, with as many groups as every other thread has, which waits for nobody; and all
// threads, with the groups that are left.
struct Teams { Team own, all; };

// apart: whether threads may have groups of their own.
inline Teams teams_of(int64_t groups, bool apart) {
  const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
  const int64_t each = apart ? groups / threads : 0;
  return {{0, 1, thread * each, (thread + 1) * each}, {thread, threads, threads * each, groups}};
}

}  // namespace
