// One plan for many layers, for a request that does not tell which layer it is about.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "plan/plan.hpp"

namespace tconv::plan {

struct RangeLayer {
  std::string_view name;  // in the catalogue
  Workload workload;      // with the numbers that the module fixes
  double ratio = 1;       // predicted time with the best of the range's schedules, over that with its own best
};

struct Range {
  // Its figures are of the layer with the median work; its schedules and their order are those of the range.
  Plan plan;
  std::vector<RangeLayer> layers;  // by size of the weight, then by length
  double mean_ratio = 1;           // geometric
  double worst_ratio = 1;
};

// A dozen layers of the catalogue that the module can express, spread over weights and lengths, and the
// schedule that all of them admit with the best predicted time, relative to each layer's own best, in geometric
// mean. In an autotune list, each further entry is the one that lowers that mean most. Where the module fixes a
// number that no layer has, the layers are taken with that number. Deterministic. Throws Error(unsupported)
// when no layer or no schedule fits.
[[nodiscard]] Range plan_range(const request::Module& module, const Target& target, const request::StageLimits& limits);

// The layers and the ratios, in words.
[[nodiscard]] std::string describe(const Range& range);

}  // namespace tconv::plan
