// The schedules there are, and the few of them that an answer carries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "plan/plan.hpp"

namespace tconv::plan {

constexpr std::int64_t kMostPhases = 64;  // of one program

struct Blocks {
  int rows, positions, channels;
};
constexpr Blocks kLargest{.rows = 128, .positions = 256, .channels = 64};

[[nodiscard]] std::int64_t ceil_power_of_two(std::int64_t n);  // 1 for n < 1

// What a stage says of num_warps or num_stages: no values allow every one.
[[nodiscard]] bool allowed(const std::vector<int>& values, int value);
[[nodiscard]] std::string list(const std::vector<int>& values);  // "{2, 4}"

// Every schedule up to these blocks that the stage allows, with one phase a program; what the stage refuses is
// added to `rejected`.
[[nodiscard]] std::vector<Schedule> schedules(const Blocks& largest, const request::StageLimits& limits,
                                              std::vector<Rejection>& rejected);

// How many schedules an answer carries: one, or as many as the stage asks for in an autotune list.
[[nodiscard]] std::size_t answer_size(const request::StageLimits& limits);

// Of candidates, best first, those for the answer: the best, or where the stage asks for one an autotune list.
[[nodiscard]] std::vector<Candidate> choose(const std::vector<Candidate>& ranked, const request::StageLimits& limits);

// Throws Error(unsupported) with the last reason.
[[noreturn]] void refuse_all(const Target& target, const std::vector<Rejection>& rejected);

}  // namespace tconv::plan
