// Threads of our own that sleep between calls. The caller is always one of those that work.
#pragma once

#include <cstdint>
#include <type_traits>

namespace tconv::cpu {

inline constexpr int kMaxThreads = 1024;

// Threads of somebody else: calls `body(data)` once on each of up to `threads` threads, the caller's among them, and
// returns when all calls have. `flags` are 0. GNU OpenMP's GOMP_parallel is one.
using Parallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// On how many threads (1 to kMaxThreads), and whose: ours where `parallel` is null.
struct Threads {
  int count = 1;
  Parallel parallel = nullptr;
  Threads(int n) : count(n) {}  // NOLINT(google-explicit-constructor): a number of ours is what most callers have
  Threads(int n, Parallel p) : count(n), parallel(p) {}
};

// Calls `body(task, thread)` once for every task below `tasks`, on at most so many threads, and returns when all are
// done; `thread` is below their number and no two tasks have one at a time. A thread takes neighbouring tasks. The body
// must not throw. Where another call holds our threads, this one does its tasks alone, so what a body computes must not
// depend on the thread.
void parallel_for(const Threads& threads, std::int64_t tasks,
                  void (*body)(void* context, std::int64_t task, int thread), void* context);

template <typename Body>
void parallel_for(const Threads& threads, std::int64_t tasks, Body&& body) {
  parallel_for(
      threads, tasks,
      [](void* context, std::int64_t task, int thread) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(task, thread);
      },
      &body);
}

}  // namespace tconv::cpu
