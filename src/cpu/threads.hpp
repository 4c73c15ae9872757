// Threads of our own that sleep between calls. The caller is always one of those that work.
#pragma once

#include <cstdint>
#include <type_traits>

namespace tconv::cpu {

inline constexpr int kMaxThreads = 1024;

// Calls `body(task, thread)` once for every task below `tasks`, on at most `threads` threads (1 to kMaxThreads), and
// returns when all are done; `thread` is below `threads` and no two tasks have one at a time. A thread takes
// neighbouring tasks. The body must not throw. Where another call holds the threads, this one does its tasks alone, so
// what a body computes must not depend on the thread.
void parallel_for(int threads, std::int64_t tasks, void (*body)(void* context, std::int64_t task, int thread),
                  void* context);

template <typename Body>
void parallel_for(int threads, std::int64_t tasks, Body&& body) {
  parallel_for(
      threads, tasks,
      [](void* context, std::int64_t task, int thread) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(task, thread);
      },
      &body);
}

}  // namespace tconv::cpu
