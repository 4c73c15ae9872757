#include "cpu/threads.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

namespace tconv::cpu {
namespace {

// How often a thread looks before it sleeps: some 20 microseconds, so that a model's layers find their threads awake.
constexpr int kLooks = 400;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Returns once the value is another than `old`.
void wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int i = 0; i < kLooks; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    for (int j = 0; j < 16; ++j) relax();
  }
  value.wait(old, std::memory_order_acquire);
}

struct Job {
  void (*body)(void*, std::int64_t, int) = nullptr;
  void* context = nullptr;
  std::int64_t tasks = 0;
  int threads = 1;
  std::atomic<std::int64_t> next{0};

  // A thread takes half of its share of what is left: neighbouring tasks write neighbouring memory, which two cores had
  // better not hold at a time, and the last tasks are taken singly, so that all threads end together.
  void work(int thread) {
    for (std::int64_t task = next.load(std::memory_order_relaxed); task < tasks;) {
      const std::int64_t some = std::max<std::int64_t>(1, (tasks - task) / 2 / threads);
      if (!next.compare_exchange_weak(task, task + some, std::memory_order_relaxed)) continue;
      for (const std::int64_t end = task + some; task < end; ++task) body(context, task, thread);
      task = next.load(std::memory_order_relaxed);
    }
  }
};

// Workers join a job while it is open, and the caller waits only for those that did: one that still wakes up, or that
// the system lets wait behind other threads (those of a framework spin for milliseconds after a call), holds nobody up.
class Pool {
 public:
  // False where another call has the threads, be it one that this call is made from. Else until give_back().
  bool try_take() { return !taken_.exchange(true, std::memory_order_acquire); }
  void give_back() { taken_.store(false, std::memory_order_release); }

  // On fewer threads where the system has no more.
  void run(Job& job, int threads) {
    while (workers_.size() + 1 < static_cast<std::size_t>(threads) && start()) {
    }
    const std::size_t helpers = std::min(workers_.size(), static_cast<std::size_t>(threads - 1));
    job_ = &job;
    state_.store(kOpen, std::memory_order_release);
    for (std::size_t i = 0; i < helpers; ++i) {
      workers_[i]->calls.fetch_add(1, std::memory_order_release);
      workers_[i]->calls.notify_one();
    }
    job.work(0);
    std::uint32_t left = state_.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
    for (; left != 0; left = state_.load(std::memory_order_acquire)) wait_for_change(state_, left);
  }

 private:
  static constexpr std::uint32_t kOpen = 1u << 31;  // of the state; the rest counts those that joined
  struct Worker {
    std::atomic<std::uint32_t> calls{0};
  };

  bool start() {
    Worker& worker = *workers_.emplace_back(std::make_unique<Worker>());
    const int number = static_cast<int>(workers_.size());
    try {
      // Detached: the pool lives as long as the process.
      std::thread([this, &worker, number] {
        for (std::uint32_t seen = 0;;) {
          wait_for_change(worker.calls, seen);
          seen = worker.calls.load(std::memory_order_acquire);
          if (!join()) continue;
          // One that comes late may find a later job, which has fewer threads.
          if (number < job_->threads) job_->work(number);
          if (state_.fetch_sub(1, std::memory_order_release) == 1) state_.notify_one();
        }
      }).detach();
    } catch (const std::system_error&) {
      workers_.pop_back();
      return false;
    }
    return true;
  }

  bool join() {
    std::uint32_t state = state_.load(std::memory_order_relaxed);
    while ((state & kOpen) != 0)
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    return false;
  }

  std::atomic<bool> taken_{false};
  std::vector<std::unique_ptr<Worker>> workers_;
  Job* job_ = nullptr;
  std::atomic<std::uint32_t> state_{0};
};

// Never destroyed: its threads may still sleep in it at exit. A forked child has none of them and gets another.
std::atomic<Pool*>& pool() {
  static std::atomic<Pool*> current = [] {
    pthread_atfork(nullptr, nullptr, [] { pool().store(new Pool); });
    return new Pool;
  }();
  return current;
}

}  // namespace

void parallel_for(const Threads& threads, std::int64_t tasks, void (*body)(void*, std::int64_t, int), void* context) {
  const int most = static_cast<int>(std::min<std::int64_t>(threads.count, tasks));
  Job job{.body = body, .context = context, .tasks = tasks, .threads = std::max(most, 1)};
  if (most > 1 && threads.parallel != nullptr) {
    struct Seats {
      Job& job;
      std::atomic<int> taken{0};
    } seats{job};
    // All of them even for fewer tasks: a team that changes its size ends threads and starts others.
    threads.parallel(
        [](void* data) {
          auto& all = *static_cast<Seats*>(data);
          const int seat = all.taken.fetch_add(1, std::memory_order_relaxed);
          if (seat < all.job.threads) all.job.work(seat);
        },
        &seats, static_cast<unsigned>(threads.count), 0);
  } else if (most > 1) {
    Pool& all = *pool().load();
    if (all.try_take()) {
      all.run(job, most);
      all.give_back();
      return;
    }
  }
  job.work(0);  // what is left, which is all of it where there are no other threads
}

}  // namespace tconv::cpu
