// What this machine's cores, caches and memory reach, measured once and remembered; and what they leave a layer at
// best.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "problem/problem.hpp"
#include "target/target.hpp"
#include "util/cache.hpp"

namespace tconv::cpu {

// Bytes a second between all threads and arrays that lie in one place, moved by ordinary loads and stores. Counted are
// the bytes that are asked for: a copy's are those read and those written. A line that a cache reads before it is
// written (write-allocate) is not counted; the time it takes is what makes `write` and `copy` lower than `read`.
struct Level {
  int cache = 0;        // 2 or 3: that cache; 0: memory
  double capacity = 0;  // bytes that it holds, those of all threads together
  double read = 0;
  double write = 0;
  double copy = 0;
};

[[nodiscard]] std::string_view name_of(const Level& level);  // "L2 cache", "L3 cache" or "memory"

struct Rates {
  int threads = 1;  // that share the work
  // Multiply-adds from registers on all threads together, each counted as two, a second. f32 is the rate of every
  // arithmetic that sums in f32.
  double f32 = 0;
  double f64 = 0;
  double i32 = 0;
  std::vector<Level> levels = {};  // caches from small to large, then memory
};

// Takes about a second, and four times the last cache of memory.
[[nodiscard]] Rates measure_rates(int threads);

// Those of at most `threads` threads, as more than the machine has cores bring nothing. Found in the cache, under this
// machine's model, cores and instruction set and tconv's version, or measured and stored there.
[[nodiscard]] Rates machine_rates(int threads, const Cache& cache);

// As the cache holds them. What is no complete set of positive rates is none.
[[nodiscard]] std::string print_rates(const Rates& rates);
[[nodiscard]] std::optional<Rates> parse_rates(std::string_view text);

// max(useful flops / rate, bytes / rate of the smallest place that holds them), as `work` counts both; nothing for the
// launch. Between the measured mixes of reads and writes (0, 1/2, 1) the time of a byte is interpolated. `bound_by`:
// "arithmetic" or the level's name. The workload must be valid.
[[nodiscard]] Limit limit(const Workload& workload, const Rates& rates);

// The machine's own name of its processor.
[[nodiscard]] std::string cpu_model();

}  // namespace tconv::cpu
