#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>
#include <vector>

#include "cpu/threads.hpp"

namespace tconv::cpu {
namespace {

// Counts what a call does wrong: tasks that did not run once, threads out of range, two tasks of one thread at a time,
// a thread's tasks out of order.
int faults_of_call(const Threads& threads, std::int64_t tasks) {
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
  std::array<std::atomic<int>, kMaxThreads> busy{};
  std::array<std::int64_t, kMaxThreads> last{};
  last.fill(-1);
  std::atomic<int> faults = 0;
  parallel_for(threads, tasks, [&](std::int64_t task, int thread) {
    if (thread < 0 || thread >= threads.count || task < 0 || task >= tasks) {
      ++faults;
      return;
    }
    const auto t = static_cast<std::size_t>(thread);
    if (busy[t].exchange(1) != 0) ++faults;
    ++runs[static_cast<std::size_t>(task)];
    if (last[t] >= task) ++faults;
    last[t] = task;
    busy[t] = 0;
  });
  for (const auto& n : runs) faults += n == 1 ? 0 : 1;
  return faults;
}

// Whether two tasks run at the same time: each waits for the other, for at most ten seconds.
bool two_at_once() {
  std::atomic<int> here = 0;
  std::atomic<bool> met = false;
  parallel_for(2, 2, [&](std::int64_t, int) {
    ++here;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (here != 2 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    if (here == 2) met = true;
  });
  return met;
}

// Threads of somebody else's, as GOMP_parallel has them: so many, or fewer.
template <int MOST>
void others(void (*body)(void*), void* data, unsigned threads, unsigned flags) {
  EXPECT_EQ(flags, 0u);
  std::vector<std::thread> team;
  for (unsigned i = 0; i < std::min<unsigned>(threads, MOST); ++i) team.emplace_back(body, data);
  for (std::thread& thread : team) thread.join();
}

TEST(ParallelFor, EveryTaskRunsOnceOnThreadsOfOthers) {
  for (const Parallel parallel : {others<64>, others<2>, others<0>}) {
    for (const int threads : {1, 2, 3, 16}) {
      for (const std::int64_t tasks : {0, 1, 2, 63, 1000})
        ASSERT_EQ(faults_of_call({threads, parallel}, tasks), 0) << threads << " threads, " << tasks << " tasks";
    }
  }
}

TEST(ParallelFor, EveryTaskRunsOnce) {
  for (int threads = 1; threads <= 64; ++threads) {
    for (const std::int64_t tasks : {0, 1, 2, 63, 64, 65, 1000})
      ASSERT_EQ(faults_of_call(threads, tasks), 0) << threads << " threads, " << tasks << " tasks";
  }
}

TEST(ParallelFor, OneThreadIsTheCallersAndKeepsTheOrder) {
  std::vector<std::int64_t> order;
  const auto self = std::this_thread::get_id();
  bool elsewhere = false;
  parallel_for(1, 100, [&](std::int64_t task, int) {
    elsewhere = elsewhere || std::this_thread::get_id() != self;
    order.push_back(task);
  });
  EXPECT_FALSE(elsewhere);
  ASSERT_EQ(order.size(), 100u);
  for (std::int64_t i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST(ParallelFor, TasksRunAtOnce) { EXPECT_TRUE(two_at_once()); }

// What the tasks wrote is there when the call returns, without an atomic.
TEST(ParallelFor, WhatTasksWriteIsSeenOnReturn) {
  std::vector<int> written(997);
  for (int round = 1; round <= 300; ++round) {
    parallel_for(5, 997, [&](std::int64_t task, int) { written[static_cast<std::size_t>(task)] = round; });
    for (const int value : written) ASSERT_EQ(value, round);
  }
}

TEST(ParallelFor, ManyCallersAtOnce) {
  std::atomic<int> faults = 0;
  std::vector<std::jthread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&faults, caller] {
      for (int call = 0; call < 100; ++call) faults += faults_of_call(1 + (caller + call) % 7, 1 + call % 23);
    });
  }
  callers.clear();
  EXPECT_EQ(faults, 0);
}

TEST(ParallelFor, ACallFromATaskWorks) {
  std::atomic<int> faults = 0, inner = 0;
  parallel_for(4, 20, [&](std::int64_t, int) {
    faults += faults_of_call(4, 9);
    parallel_for(3, 10, [&](std::int64_t, int) { ++inner; });
  });
  EXPECT_EQ(faults, 0);
  EXPECT_EQ(inner, 200);
}

// The status a forked child exits with when it ran `body`, which a child of a deadlock never does.
template <typename Body>
int status_of_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(body() ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

bool child_works() { return faults_of_call(4, 100) == 0 && two_at_once(); }

TEST(ParallelFor, AForkedChildHasThreadsOfItsOwn) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer ends a forked child that starts a thread";
#endif
  ASSERT_EQ(faults_of_call(4, 100), 0);
  EXPECT_EQ(status_of_child(child_works), 0);
  // While a call has the threads, and so holds what the child would wait for.
  std::atomic<bool> started = false, stop = false;
  std::jthread caller([&] {
    parallel_for(3, 3, [&](std::int64_t, int) {
      started = true;
      while (!stop) std::this_thread::yield();
    });
  });
  while (!started) std::this_thread::yield();
  EXPECT_EQ(status_of_child(child_works), 0);
  stop = true;
  caller.join();
  EXPECT_EQ(faults_of_call(4, 100), 0);
  // A child of a task's.
  std::atomic<int> bad = 0;
  parallel_for(2, 2, [&](std::int64_t, int) { bad += status_of_child(child_works) == 0 ? 0 : 1; });
  EXPECT_EQ(bad, 0);
}

TEST(ParallelFor, TakesFewerThreadsWhereThereAreNoMore) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers need the addresses that this limits";
#endif
  const auto in_little_memory = [] {
    std::int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    // Stacks for a few threads.
    const auto bytes = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + (std::int64_t{64} << 20));
    const rlimit limit{bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limit) != 0) return false;
    return faults_of_call(kMaxThreads, 3000) == 0 && faults_of_call(kMaxThreads, 3000) == 0;
  };
  EXPECT_EQ(status_of_child(in_little_memory), 0);
}

}  // namespace
}  // namespace tconv::cpu
