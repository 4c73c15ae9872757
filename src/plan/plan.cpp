#include "plan/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "plan/model.hpp"
#include "plan/space.hpp"
#include "util/error.hpp"

namespace tconv::plan {
namespace {

constexpr std::int64_t kFmaChannels = 8;  // fewer input channels a group: no matrix product worth the name

// Live phases padded to a power of two, as far as one program may take them.
std::int64_t all_phases(std::int64_t live) { return ceil_power_of_two(std::min(live, kMostPhases)); }

// The phases a program may take: all of them padded to a power of two, or, where that pads, a divisor-like
// smaller power of two that pads less.
std::vector<int> phase_choices(std::int64_t live) {
  const std::int64_t all = all_phases(live);
  std::vector<int> choices{static_cast<int>(all)};
  if (std::has_single_bit(static_cast<std::uint64_t>(live))) return choices;
  for (std::int64_t n = all / 2; n >= 1; n /= 2) choices.push_back(static_cast<int>(n));
  return choices;
}

// The FMA kernel picks its own blocks from the layer (src/triton/kernels.py); the model only needs a time.
Candidate fma_candidate(const Workload& workload, const Target& target, const Limit& limit) {
  const Shape shape = shape_of(workload);
  const Problem& p = workload.problem;
  const auto phases = static_cast<int>(all_phases(shape.live));
  const std::int64_t out = ceil_power_of_two(std::min<std::int64_t>(p.c_out / p.groups, 8));
  const std::int64_t rows = std::max<std::int64_t>(phases, std::min<std::int64_t>(8, phases * out));
  Candidate candidate;
  candidate.schedule = {.block_rows = static_cast<int>(rows),
                        .phases = phases,
                        .block_positions = static_cast<int>(std::max<std::int64_t>(32, 2048 / (rows * shape.gap_pad))),
                        .block_channels = 1,
                        .warps = 4,
                        .stages = 1};
  // One FFMA or IMAD a product, padding of the phases included.
  const double padded = static_cast<double>(phases) / static_cast<double>(std::min<std::int64_t>(shape.live, phases));
  const bool exact = p.arithmetic == Arithmetic::f64 || p.arithmetic == Arithmetic::i32;
  const double rate =
      exact ? achievable_flops(target, p.arithmetic) : target.fp32_flops.value * target.fma_fraction.value;
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

bool takes_exact_body(const Problem& p) {
  return p.c_in / p.groups < kFmaChannels || p.arithmetic == Arithmetic::i32 || p.arithmetic == Arithmetic::f64;
}

Plan plan_triton(const Workload& workload, const Target& target, const request::StageLimits& limits) {
  require_valid(workload.problem, workload.extent);
  const Problem& p = workload.problem;
  Plan plan;
  plan.workload = workload;
  plan.target = &target;
  plan.limit = limit(workload, target);
  const std::int64_t c_in = p.c_in / p.groups;
  plan.exact_body = takes_exact_body(p);
  if (plan.exact_body) {
    plan.rejected.push_back(
        {"matrix-unit body", c_in < kFmaChannels
                                 ? fmt::format("{} input channels a group: a matrix product needs 8", c_in)
                                 : fmt::format("{} sums must be exact", name(p.arithmetic))});
    plan.ranked = {fma_candidate(workload, target, plan.limit)};
    plan.chosen = plan.ranked;
    const Schedule& only = plan.chosen.front().schedule;
    const auto pass_over = [&](const std::string& what) {
      plan.rejected.push_back({what, "the FMA body takes its blocks from the layer, nothing is left to tune"});
    };
    if (limits.min_configs || limits.max_configs) pass_over("autotune list");
    if (!allowed(limits.num_stages, only.stages)) pass_over("num_stages " + list(limits.num_stages));
    if (!allowed(limits.num_warps, only.warps)) pass_over("num_warps " + list(limits.num_warps));
    return plan;
  }
  plan.rejected.push_back({"FMA body", fmt::format("{} input channels a group feed the matrix unit", c_in)});

  const Shape shape = shape_of(workload);
  const std::int64_t most_rows =
      ceil_power_of_two(std::min<std::int64_t>(p.c_out / p.groups, kLargest.rows) * all_phases(shape.live));
  const Blocks largest{
      .rows = static_cast<int>(std::clamp<std::int64_t>(most_rows, 16, kLargest.rows)),
      .positions =
          static_cast<int>(std::clamp<std::int64_t>(ceil_power_of_two(shape.positions), 32, kLargest.positions)),
      .channels = static_cast<int>(std::clamp<std::int64_t>(ceil_power_of_two(c_in), 16, kLargest.channels))};
  const std::vector<Schedule> tiles = schedules(largest, limits, plan.rejected);
  for (const int phases : phase_choices(shape.live)) {
    for (Schedule s : tiles) {
      s.phases = phases;
      if (auto why = inadmissible(workload, target, s)) {
        plan.rejected.push_back({print_schedule(s), *why});
      } else {
        plan.ranked.push_back(predict(workload, target, s));
      }
    }
  }
  if (plan.ranked.empty()) refuse_all(target, plan.rejected);
  std::sort(plan.ranked.begin(), plan.ranked.end(), [](const Candidate& a, const Candidate& b) {
    return a.seconds != b.seconds ? a.seconds < b.seconds : a.schedule < b.schedule;
  });

  plan.chosen = choose(plan.ranked, limits);
  return plan;
}

}  // namespace tconv::plan
