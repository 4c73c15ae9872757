#include "plan/space.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>

#include "util/error.hpp"

namespace tconv::plan {

bool allowed(const std::vector<int>& values, int value) {
  return values.empty() || std::find(values.begin(), values.end(), value) != values.end();
}

std::string list(const std::vector<int>& values) { return fmt::format("{{{}}}", fmt::join(values, ", ")); }

std::int64_t ceil_power_of_two(std::int64_t n) {
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(n, 1))));
}

std::vector<Schedule> schedules(const Blocks& largest, const request::StageLimits& limits,
                                std::vector<Rejection>& rejected) {
  const auto kept = [&](std::string_view what, const std::vector<int>& all, const std::vector<int>& admitted) {
    std::vector<int> values;
    for (const int n : all) {
      if (allowed(admitted, n)) {
        values.push_back(n);
      } else {
        rejected.push_back({fmt::format("{} {}", what, n), "the stage allows " + list(admitted)});
      }
    }
    return values;
  };
  const std::vector<int> all_stages = kept("num_stages", {1, 2, 3, 4}, limits.num_stages);
  const std::vector<int> all_warps = kept("num_warps", {2, 4, 8}, limits.num_warps);
  std::vector<Schedule> result;
  for (int rows = 16; rows <= largest.rows; rows *= 2) {
    for (int positions = 32; positions <= largest.positions; positions *= 2) {
      for (int channels = 16; channels <= largest.channels; channels *= 2) {
        for (const int warps : all_warps) {
          for (const int stages : all_stages) {
            result.push_back({.block_rows = rows,
                              .block_positions = positions,
                              .block_channels = channels,
                              .warps = warps,
                              .stages = stages});
          }
        }
      }
    }
  }
  return result;
}

std::size_t answer_size(const request::StageLimits& limits) {
  if (!limits.min_configs && !limits.max_configs) return 1;
  const int least = limits.min_configs.value_or(2);
  const int most = limits.max_configs.value_or(std::max(4, least));
  return static_cast<std::size_t>(std::max(1, std::min(std::max(3, least), most)));
}

// The entries of an autotune list share one packing of the weights, so all take the same phases; entries that
// differ in tile shape tell more apart on the device than neighbours of the best one.
std::vector<Candidate> choose(const std::vector<Candidate>& ranked, const request::StageLimits& limits) {
  const std::size_t wanted = answer_size(limits);
  std::vector<Candidate> chosen;
  for (const bool new_tile_only : {true, false}) {
    for (const Candidate& candidate : ranked) {
      if (chosen.size() >= wanted) break;
      const bool fits = chosen.empty() || candidate.schedule.phases == chosen.front().schedule.phases;
      const bool taken = std::any_of(chosen.begin(), chosen.end(), [&](const Candidate& other) {
        const Schedule& a = candidate.schedule;
        const Schedule& b = other.schedule;
        return a == b || (new_tile_only && a.block_rows == b.block_rows && a.block_positions == b.block_positions &&
                          a.block_channels == b.block_channels);
      });
      if (fits && !taken) chosen.push_back(candidate);
    }
  }
  return chosen;
}

void refuse_all(const Target& target, const std::vector<Rejection>& rejected) {
  throw Error(Exit::unsupported, "plan", "no schedule fits " + std::string(target.key),
              rejected.empty() ? "nothing to try" : rejected.back().why);
}

}  // namespace tconv::plan
