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
  double ratio = 1;       // predicted time with the range's first schedule, over that with the layer's own best
};

struct Range {
  // For the middle layer of `layers`. Its schedules are those that are best over all of them; `ranked` is in
  // that order too, and names times of the middle layer.
  Plan plan;
  std::vector<RangeLayer> layers;  // by size of the weight, then by length
  double mean_ratio = 1;           // geometric
  double worst_ratio = 1;
};

// A dozen layers of the catalogue that the module can express, spread over weights and lengths, and the
// schedules that all of them admit with the least predicted time, each layer's relative to its own best, in
// geometric mean. Where the module fixes a number that no layer has, the layers are taken with that number.
// Deterministic. Throws Error(unsupported) when no layer or no schedule fits.
[[nodiscard]] Range plan_range(const request::Module& module, const Target& target, const request::StageLimits& limits);

// The layers and the ratios, in words.
[[nodiscard]] std::string describe(const Range& range);

}  // namespace tconv::plan
