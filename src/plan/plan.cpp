#include "plan/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <set>

#include "plan/model.hpp"
#include "util/error.hpp"

namespace tconv::plan {
namespace {

constexpr std::int64_t kFmaChannels = 8;  // fewer input channels a group: no matrix product worth the name

std::int64_t ceil_power_of_two(std::int64_t n) {
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(n, 1))));
}

bool allowed(const std::vector<int>& values, int value) {
  return values.empty() || std::find(values.begin(), values.end(), value) != values.end();
}

std::string list(const std::vector<int>& values) { return fmt::format("{{{}}}", fmt::join(values, ", ")); }

// The phases a program may take: all of them padded to a power of two, or, where that pads, a divisor-like
// smaller power of two that pads less.
std::vector<int> phase_choices(std::int64_t live) {
  const std::int64_t all = std::min<std::int64_t>(ceil_power_of_two(live), 64);
  std::vector<int> choices{static_cast<int>(all)};
  if (ceil_power_of_two(live) == live) return choices;
  for (std::int64_t n = all / 2; n >= 1; n /= 2) choices.push_back(static_cast<int>(n));
  return choices;
}

// The FMA kernel picks its own blocks from the layer (src/triton/kernels.py); the model only needs a time.
Candidate fma_candidate(const Workload& workload, const Target& target, const Limit& limit) {
  const Shape shape = shape_of(workload);
  const Problem& p = workload.problem;
  const auto phases = static_cast<int>(std::min<std::int64_t>(ceil_power_of_two(shape.live), 64));
  const std::int64_t rows =
      std::max<std::int64_t>(phases, std::min<std::int64_t>(8, phases * ceil_power_of_two(p.c_out / p.groups)));
  Candidate candidate;
  candidate.schedule = {.block_rows = static_cast<int>(rows),
                        .phases = phases,
                        .block_positions = static_cast<int>(std::max<std::int64_t>(32, 2048 / (rows * shape.gap_pad))),
                        .block_channels = 1,
                        .warps = 4,
                        .stages = 1};
  // One FFMA or IMAD a product, padding of the phases included.
  const double padded = static_cast<double>(phases) / static_cast<double>(std::min<std::int64_t>(shape.live, phases));
  const double rate = achievable_flops(
      target, p.arithmetic == Arithmetic::f64 || p.arithmetic == Arithmetic::i32 ? p.arithmetic : Arithmetic::f32);
  candidate.memory_seconds = limit.memory_seconds;
  candidate.arithmetic_seconds = 2 * limit.work.useful_flops * padded / rate;
  candidate.issue_seconds = candidate.arithmetic_seconds;
  candidate.seconds = std::max(1.4 * candidate.memory_seconds, candidate.arithmetic_seconds) + limit.launch_seconds;
  return candidate;
}

}  // namespace

std::string print_schedule(const Schedule& s) {
  return fmt::format("rows {} (phases {}), positions {}, channels {}, warps {}, stages {}", s.block_rows, s.phases,
                     s.block_positions, s.block_channels, s.warps, s.stages);
}

Plan plan_triton(const Workload& workload, const Target& target, const request::StageLimits& limits) {
  require_valid(workload.problem, workload.extent);
  const Problem& p = workload.problem;
  Plan plan;
  plan.workload = workload;
  plan.target = &target;
  plan.limit = limit(workload, target);
  const std::int64_t c_in = p.c_in / p.groups;
  plan.exact_body = c_in < kFmaChannels || p.arithmetic == Arithmetic::i32 || p.arithmetic == Arithmetic::f64;
  if (plan.exact_body) {
    plan.rejected.push_back(
        {"matrix-unit body", c_in < kFmaChannels
                                 ? fmt::format("{} input channels a group: a matrix product needs 8", c_in)
                                 : fmt::format("{} sums must be exact", name(p.arithmetic))});
    plan.ranked = {fma_candidate(workload, target, plan.limit)};
    plan.chosen = plan.ranked;
    return plan;
  }
  plan.rejected.push_back({"FMA body", fmt::format("{} input channels a group feed the matrix unit", c_in)});

  const Shape shape = shape_of(workload);
  const auto most_rows =
      ceil_power_of_two(p.c_out / p.groups * std::min<std::int64_t>(ceil_power_of_two(shape.live), 64));
  const int max_rows = static_cast<int>(std::clamp<std::int64_t>(most_rows, 16, 128));
  const int max_positions = static_cast<int>(std::clamp<std::int64_t>(ceil_power_of_two(shape.positions), 32, 256));
  const int max_channels = static_cast<int>(std::clamp<std::int64_t>(ceil_power_of_two(c_in), 16, 64));
  std::set<int> stages_refused;
  std::set<int> warps_refused;
  for (const int phases : phase_choices(shape.live)) {
    for (int rows = 16; rows <= max_rows; rows *= 2) {
      for (int positions = 32; positions <= max_positions; positions *= 2) {
        for (int channels = 16; channels <= max_channels; channels *= 2) {
          for (const int warps : {2, 4, 8}) {
            if (!allowed(limits.num_warps, warps)) {
              warps_refused.insert(warps);
              continue;
            }
            for (const int stages : {1, 2, 3, 4}) {
              if (!allowed(limits.num_stages, stages)) {
                stages_refused.insert(stages);
                continue;
              }
              const Schedule s{.block_rows = rows,
                               .phases = phases,
                               .block_positions = positions,
                               .block_channels = channels,
                               .warps = warps,
                               .stages = stages};
              if (auto why = inadmissible(workload, target, s)) {
                plan.rejected.push_back({print_schedule(s), *why});
              } else {
                plan.ranked.push_back(predict(workload, target, s));
              }
            }
          }
        }
      }
    }
  }
  for (const int n : stages_refused) {
    plan.rejected.push_back({fmt::format("num_stages {}", n), "the stage allows " + list(limits.num_stages)});
  }
  for (const int n : warps_refused) {
    plan.rejected.push_back({fmt::format("num_warps {}", n), "the stage allows " + list(limits.num_warps)});
  }
  if (plan.ranked.empty()) {
    throw Error(Exit::unsupported, "plan", "no schedule fits " + std::string(target.key),
                plan.rejected.empty() ? "nothing to try" : plan.rejected.back().why);
  }
  std::sort(plan.ranked.begin(), plan.ranked.end(), [](const Candidate& a, const Candidate& b) {
    return a.seconds != b.seconds ? a.seconds < b.seconds : a.schedule < b.schedule;
  });

  // An autotune list shares one packing of the weights, so all its entries take the same phases; entries
  // that differ in tile shape tell more apart on the device than neighbours of the best one.
  const std::size_t wanted =
      limits.min_configs || limits.max_configs
          ? static_cast<std::size_t>(std::clamp(3, limits.min_configs.value_or(2), limits.max_configs.value_or(4)))
          : 1;
  for (const bool new_tile_only : {true, false}) {
    for (const Candidate& candidate : plan.ranked) {
      if (plan.chosen.size() >= wanted) break;
      const bool fits = plan.chosen.empty() || candidate.schedule.phases == plan.chosen.front().schedule.phases;
      const bool taken = std::any_of(plan.chosen.begin(), plan.chosen.end(), [&](const Candidate& other) {
        const Schedule& a = candidate.schedule;
        const Schedule& b = other.schedule;
        return a == b || (new_tile_only && a.block_rows == b.block_rows && a.block_positions == b.block_positions &&
                          a.block_channels == b.block_channels);
      });
      if (fits && !taken) plan.chosen.push_back(candidate);
    }
  }
  return plan;
}

}  // namespace tconv::plan
