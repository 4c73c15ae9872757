// Rates are the best of many short rounds: one that shares the machine with something else says less than it can do,
// and a short one may find itself alone.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/machine.cpp"
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "cpu/machine.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "cpu/plan.hpp"
#include "cpu/threads.hpp"

HWY_BEFORE_NAMESPACE();
namespace tconv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Twelve chains hide the latency of a multiply-add on every core there is, and fit in 16 registers with the two
// factors. They start apart, or a compiler would compute one for all.
#define TCONV_EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

// Does `steps` multiply-adds in each lane of each chain. Returns how many operations that are.
template <typename T>
double MultiplyAdds(std::int64_t steps) {
  const hn::ScalableTag<T> d;
  const auto factor = hn::Set(d, hwy::IsFloat<T>() ? static_cast<T>(0.5) : static_cast<T>(3));
  const auto addend = hn::Set(d, hwy::IsFloat<T>() ? static_cast<T>(0.5) : static_cast<T>(1));
#define TCONV_START(c) auto a##c = hn::Set(d, static_cast<T>(c));
  TCONV_EACH(TCONV_START)
#undef TCONV_START
  for (std::int64_t step = 0; step < steps; ++step) {
#define TCONV_STEP(c)                              \
  if constexpr (hwy::IsFloat<T>()) {               \
    a##c = hn::MulAdd(a##c, factor, addend);       \
  } else {                                         \
    a##c = hn::Add(hn::Mul(a##c, factor), addend); \
  }
    TCONV_EACH(TCONV_STEP)
#undef TCONV_STEP
  }
  auto sum = hn::Zero(d);
#define TCONV_SUM(c) sum = hn::Add(sum, a##c);
  TCONV_EACH(TCONV_SUM)
#undef TCONV_SUM
  [[maybe_unused]] volatile T seen = hn::GetLane(sum);
  return 2.0 * 12 * static_cast<double>(hn::Lanes(d)) * static_cast<double>(steps);
}

double MultiplyAddsF32(std::int64_t steps) { return MultiplyAdds<float>(steps); }
double MultiplyAddsF64(std::int64_t steps) { return MultiplyAdds<double>(steps); }
double MultiplyAddsI32(std::int64_t steps) { return MultiplyAdds<std::int32_t>(steps); }

// `n` floats, a multiple of four vectors.
void ReadFloats(const float* from, std::size_t n) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (std::size_t i = 0; i < n; i += 4 * lanes) {
    a = hn::Or(a, hn::Load(d, from + i));
    b = hn::Or(b, hn::Load(d, from + i + lanes));
    c = hn::Or(c, hn::Load(d, from + i + 2 * lanes));
    e = hn::Or(e, hn::Load(d, from + i + 3 * lanes));
  }
  [[maybe_unused]] volatile float seen = hn::GetLane(hn::Or(hn::Or(a, b), hn::Or(c, e)));
}

void WriteFloats(float* to, std::size_t n) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  const auto one = hn::Set(d, 1.0f);
  for (std::size_t i = 0; i < n; i += lanes) hn::Store(one, d, to + i);
}

void CopyFloats(const float* from, float* to, std::size_t n) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t i = 0; i < n; i += 2 * lanes) {
    const auto a = hn::Load(d, from + i);
    const auto b = hn::Load(d, from + i + lanes);
    hn::Store(a, d, to + i);
    hn::Store(b, d, to + i + lanes);
  }
}

}  // namespace tconv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tconv::cpu {
namespace {

HWY_EXPORT(MultiplyAddsF32);
HWY_EXPORT(MultiplyAddsF64);
HWY_EXPORT(MultiplyAddsI32);
HWY_EXPORT(ReadFloats);
HWY_EXPORT(WriteFloats);
HWY_EXPORT(CopyFloats);

constexpr int kRounds = 20;
constexpr int kLeastRounds = 5;
constexpr double kPatience = 1.2;                     // seconds, after which the least will do
constexpr double kSeconds = 0.0015;                   // that one timing takes at least
constexpr std::int64_t kSteps = 4096;                 // of a task of multiply-adds: tens of microseconds
constexpr std::size_t kChunk = std::size_t{1} << 14;  // floats, that a task moves
constexpr int kBurst = 8;                             // times
constexpr std::size_t kAlign = 4096;
constexpr double kLeastMemory = 0x1p27, kMostMemory = 0x1p31;  // bytes of the arrays in memory

std::string line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The second and third caches as the kernel lists those of the first core; no capacity is known where it lists none.
std::vector<Level> caches(int threads) {
  std::vector<Level> levels;
  for (int i = 0; i < 8; ++i) {
    const std::string folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", i);
    const int level = std::atoi(line_of(folder + "level").c_str());
    const double kib = std::atof(line_of(folder + "size").c_str());
    if ((level != 2 && level != 3) || !(kib > 0) || line_of(folder + "type") == "Instruction") continue;
    int sharers = 0;
    for (const char digit : line_of(folder + "shared_cpu_map")) {
      const int value = digit >= 'a' ? digit - 'a' + 10 : digit - '0';
      if (value > 0 && value < 16) sharers += std::popcount(static_cast<unsigned>(value));
    }
    const int instances = (threads + std::max(sharers, 1) - 1) / std::max(sharers, 1);
    levels.push_back({.cache = level, .capacity = 1024 * kib * instances});
  }
  std::ranges::sort(levels, {}, &Level::cache);
  return levels;
}

struct Release {
  void operator()(float* memory) const { ::operator delete (memory, std::align_val_t{kAlign}); }
};

// The part of the arrays that one thread walks through, over and over.
struct alignas(64) Walk {
  float* first = nullptr;
  std::size_t chunks = 0;  // a multiple of two: a copy goes from the first half to the second
  std::size_t next = 0;
  [[nodiscard]] float* advance(std::size_t wrap) {
    next = next + 1 < wrap ? next + 1 : 0;
    return first + next * kChunk;
  }
};

// One rate: `task` returns how many operations or bytes it did, on any of the threads.
struct Probe {
  double* rate;
  std::function<double(int thread)> task;
  std::int64_t tasks = 1;

  void time(int threads) {
    (void)run(threads);  // brings the arrays into the cache that holds them
    for (;;) {
      const auto from = std::chrono::steady_clock::now();
      const double amount = run(threads);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
      if (seconds >= kSeconds) {
        *rate = std::max(*rate, amount / seconds);
        return;
      }
      tasks *= 2;
    }
  }

 private:
  // Returns the whole amount.
  double run(int threads) {
    const double first = task(0);
    parallel_for(threads, tasks, [&](std::int64_t, int thread) { (void)task(thread); });
    return first * static_cast<double>(tasks + 1);
  }
};

}  // namespace

Rates measure_rates(int threads) {
  Rates rates{.threads = threads, .levels = caches(threads)};
  const double physical = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  const double last = rates.levels.empty() ? 0 : rates.levels.back().capacity;
  rates.levels.push_back({.cache = 0, .capacity = physical});

  // A cache is measured on arrays of half its size, memory on those of four times the last cache.
  const auto chunks_of = [&](const Level& level) {
    const double bytes =
        level.cache != 0 ? level.capacity / 2 : std::min(std::clamp(4 * last, kLeastMemory, kMostMemory), physical / 4);
    return std::max<std::size_t>(2, static_cast<std::size_t>(bytes / threads / (2 * kChunk * sizeof(float))) * 2);
  };
  const std::size_t most = chunks_of(rates.levels.back()) * kChunk;
  const auto count = static_cast<std::size_t>(threads);
  const std::unique_ptr<float, Release> memory(
      static_cast<float*>(::operator new (count* most * sizeof(float), std::align_val_t{kAlign})));
  // Touched by the threads, so that each finds its own part near where the system keeps memory in several places.
  parallel_for(threads, threads, [&](std::int64_t task, int) {
    std::fill_n(memory.get() + static_cast<std::size_t>(task) * most, most, 1.0f);
  });

  std::vector<std::vector<Walk>> walks;
  for (const Level& level : rates.levels) {
    std::vector<Walk>& each = walks.emplace_back(count);
    for (std::size_t t = 0; t < count; ++t) each[t] = {.first = memory.get() + t * most, .chunks = chunks_of(level)};
  }
  std::vector<Probe> probes = {
      {&rates.f32, [](int) { return HWY_DYNAMIC_DISPATCH(MultiplyAddsF32)(kSteps); }},
      {&rates.f64, [](int) { return HWY_DYNAMIC_DISPATCH(MultiplyAddsF64)(kSteps); }},
      {&rates.i32, [](int) { return HWY_DYNAMIC_DISPATCH(MultiplyAddsI32)(kSteps); }},
  };
  constexpr double kBytes = kBurst * kChunk * sizeof(float);
  for (std::size_t i = 0; i < rates.levels.size(); ++i) {
    Walk* const own = walks[i].data();
    probes.push_back({&rates.levels[i].read, [own](int thread) {
                        Walk& walk = own[thread];
                        for (int n = 0; n < kBurst; ++n)
                          HWY_DYNAMIC_DISPATCH(ReadFloats)(walk.advance(walk.chunks), kChunk);
                        return kBytes;
                      }});
    probes.push_back({&rates.levels[i].write, [own](int thread) {
                        Walk& walk = own[thread];
                        for (int n = 0; n < kBurst; ++n)
                          HWY_DYNAMIC_DISPATCH(WriteFloats)(walk.advance(walk.chunks), kChunk);
                        return kBytes;
                      }});
    probes.push_back({&rates.levels[i].copy, [own](int thread) {
                        Walk& walk = own[thread];
                        for (int n = 0; n < kBurst; ++n) {
                          float* const from = walk.advance(walk.chunks / 2);
                          HWY_DYNAMIC_DISPATCH(CopyFloats)(from, from + walk.chunks / 2 * kChunk, kChunk);
                        }
                        return 2 * kBytes;
                      }});
  }
  const auto from = std::chrono::steady_clock::now();
  for (int round = 0; round < kRounds; ++round) {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - from;
    if (round >= kLeastRounds && spent.count() > kPatience) break;
    for (Probe& probe : probes) probe.time(threads);
  }
  return rates;
}

std::string_view name_of(const Level& level) {
  return level.cache == 2 ? "L2 cache" : level.cache == 3 ? "L3 cache" : "memory";
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  struct utsname system {};
  return uname(&system) == 0 ? system.machine : "unknown";  // Arm's kernel lists no name
}

std::string print_rates(const Rates& rates) {
  nlohmann::ordered_json levels = nlohmann::ordered_json::array();
  for (const Level& level : rates.levels)
    levels.push_back({{"cache", level.cache},
                      {"capacity", level.capacity},
                      {"read", level.read},
                      {"write", level.write},
                      {"copy", level.copy}});
  const nlohmann::ordered_json all = {{"threads", rates.threads},
                                      {"f32", rates.f32},
                                      {"f64", rates.f64},
                                      {"i32", rates.i32},
                                      {"levels", std::move(levels)}};
  return all.dump();
}

std::optional<Rates> parse_rates(std::string_view text) {
  const nlohmann::json all = nlohmann::json::parse(text, nullptr, false);
  bool good = true;
  const auto number = [&](const nlohmann::json& in, const char* name, double least) {
    const auto at = in.is_object() ? in.find(name) : in.end();
    const double value = at != in.end() && at->is_number() ? at->get<double>() : -1.0;
    good = good && value >= least && value <= 1e18;  // false for what is no number
    return value;
  };
  constexpr double kLeast = 1;  // a second
  Rates rates{.threads = static_cast<int>(std::clamp(number(all, "threads", 1), 1.0, double{kMaxThreads})),
              .f32 = number(all, "f32", kLeast),
              .f64 = number(all, "f64", kLeast),
              .i32 = number(all, "i32", kLeast)};
  if (!good || !all.contains("levels") || !all["levels"].is_array() || all["levels"].empty()) return std::nullopt;
  for (const nlohmann::json& level : all["levels"]) {
    rates.levels.push_back({.cache = static_cast<int>(std::clamp(number(level, "cache", 0), 0.0, 3.0)),
                            .capacity = number(level, "capacity", kLeast),
                            .read = number(level, "read", kLeast),
                            .write = number(level, "write", kLeast),
                            .copy = number(level, "copy", kLeast)});
  }
  return good ? std::optional(rates) : std::nullopt;
}

Rates machine_rates(int threads, const Cache& cache) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  threads = std::clamp(threads, 1, std::min(cores, kMaxThreads));
  const std::string key = cache_key({"rates of a CPU", TCONV_VERSION, cpu_model(), std::to_string(cores),
                                     instruction_sets().front(), std::to_string(threads)});
  if (const std::optional<std::string> kept = cache.find(key)) {
    if (std::optional<Rates> rates = parse_rates(*kept); rates && rates->threads == threads) return *rates;
  }
  Rates rates = measure_rates(threads);
  cache.store(key, print_rates(rates));
  return rates;
}

Limit limit(const Workload& workload, const Rates& rates) {
  const Arithmetic arithmetic = workload.problem.arithmetic;
  const double rate = arithmetic == Arithmetic::f64 ? rates.f64 : arithmetic == Arithmetic::i32 ? rates.i32 : rates.f32;
  Limit limit;
  limit.work = work(workload);
  limit.arithmetic_seconds = limit.work.useful_flops / rate;

  const double bytes = limit.work.bytes();
  const auto fits = std::ranges::find_if(rates.levels, [&](const Level& level) { return bytes <= level.capacity; });
  const Level& level = fits != rates.levels.end() ? *fits : rates.levels.back();
  const double written = bytes > 0 ? limit.work.bytes_written / bytes : 0;
  const double from = written < 0.5 ? 1 / level.read : 1 / level.copy;
  const double to = written < 0.5 ? 1 / level.copy : 1 / level.write;
  limit.memory_seconds = bytes * std::lerp(from, to, written < 0.5 ? 2 * written : 2 * written - 1);

  limit.seconds = std::max(limit.arithmetic_seconds, limit.memory_seconds);
  limit.bound_by = limit.arithmetic_seconds >= limit.memory_seconds ? "arithmetic" : name_of(level);
  return limit;
}

}  // namespace tconv::cpu
#endif
