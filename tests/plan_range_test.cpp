#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "plan/model.hpp"
#include "plan/range.hpp"
#include "plan/space.hpp"
#include "request/grid.hpp"
#include "util/error.hpp"

namespace tconv::plan {
namespace {

const Target& h200() { return *find_target("h200"); }

request::Module free_module() {
  request::Module module;
  module.has_stride = module.has_padding = module.has_output_padding = module.has_dilation = module.has_groups = true;
  module.has_bias = module.bias_possible = true;
  return module;
}

// A module that names `stride` as a number and leaves out the rest.
request::Module fixed_module(const std::string& stride) {
  request::Module module;
  module.stride = stride;
  return module;
}

TEST(Range, SpreadsADozenLayersOverWeightsAndLengths) {
  const Range range = plan_range(free_module(), h200(), {});
  ASSERT_EQ(range.layers.size(), 12u);
  std::vector<std::int64_t> lengths, weights;
  for (const RangeLayer& layer : range.layers) {
    lengths.push_back(layer.workload.extent.length);
    weights.push_back(weight_elements(layer.workload.problem));
    EXPECT_FALSE(takes_exact_body(layer.workload.problem)) << layer.name;
  }
  EXPECT_GT(std::ranges::max(lengths), 100000 * std::ranges::min(lengths));
  EXPECT_GT(std::ranges::max(weights), 1000 * std::ranges::min(weights));
}

TEST(Range, NoSingleScheduleIsBetterInGeometricMean) {
  const Range range = plan_range(free_module(), h200(), {});
  ASSERT_EQ(range.plan.chosen.size(), 1u);
  std::vector<double> best;
  for (const RangeLayer& layer : range.layers)
    best.push_back(plan_triton(layer.workload, h200(), {}).ranked.front().seconds);

  std::vector<Rejection> rejected;
  double least = 1e300;
  for (Schedule s : schedules(kLargest, {}, rejected)) {
    double sum = 0;
    bool admissible = true;
    for (std::size_t i = 0; i < best.size() && admissible; ++i) {
      const Workload& workload = range.layers[i].workload;
      s.phases = 1;
      while (s.phases < shape_of(workload).live && s.phases < std::min(64, s.block_rows)) s.phases *= 2;
      admissible = !inadmissible(workload, h200(), s);
      if (admissible) sum += std::log(predict(workload, h200(), s).seconds / best[i]);
    }
    if (admissible) least = std::min(least, std::exp(sum / static_cast<double>(best.size())));
  }
  EXPECT_NEAR(range.mean_ratio, least, 1e-12 * least);
  double worst = 0;
  for (const RangeLayer& layer : range.layers) worst = std::max(worst, layer.ratio);
  EXPECT_EQ(range.worst_ratio, worst);
  EXPECT_GE(worst, range.mean_ratio);
}

TEST(Range, AnAutotuneListCoversMoreThanOneSchedule) {
  const Range one = plan_range(free_module(), h200(), {});
  request::StageLimits limits;
  limits.min_configs = 2;
  limits.max_configs = 4;
  const Range listed = plan_range(free_module(), h200(), limits);
  EXPECT_EQ(listed.plan.chosen.size(), 3u);
  EXPECT_LT(listed.mean_ratio, one.mean_ratio);
  // One packing of the weights serves the list.
  for (const Candidate& candidate : listed.plan.chosen)
    EXPECT_EQ(candidate.schedule.phases, listed.plan.chosen.front().schedule.phases);
  EXPECT_TRUE(std::ranges::is_sorted(listed.plan.chosen, {}, &Candidate::seconds));
}

TEST(Range, KeepsTheStagesLimits) {
  request::StageLimits limits;
  limits.num_warps = {8};
  limits.num_stages = {2, 3};
  const Range range = plan_range(free_module(), h200(), limits);
  for (const Candidate& candidate : range.plan.ranked) {
    EXPECT_EQ(candidate.schedule.warps, 8);
    EXPECT_TRUE(candidate.schedule.stages == 2 || candidate.schedule.stages == 3);
  }
  const auto refused = [&](const std::string& what) {
    return std::ranges::count(range.plan.rejected, what, &Rejection::what);
  };
  EXPECT_EQ(refused("num_warps 4"), 1);
  EXPECT_EQ(refused("num_stages 1"), 1);
}

TEST(Range, TakesOnlyLayersThatTheModuleCanExpress) {
  const request::Module module = fixed_module("2");
  const Range range = plan_range(module, h200(), {});
  EXPECT_FALSE(range.layers.empty());
  for (const RangeLayer& layer : range.layers) {
    EXPECT_EQ(request::inexpressible(module, layer.workload.problem), std::nullopt) << layer.name;
    EXPECT_EQ(layer.workload.problem.stride, 2);
    EXPECT_EQ(layer.workload.problem.groups, 1);
    EXPECT_FALSE(layer.workload.problem.bias);
  }
}

TEST(Range, GivesLayersANumberThatNoneHas) {
  const Range range = plan_range(fixed_module("7"), h200(), {});
  ASSERT_EQ(range.layers.size(), 12u);
  for (const RangeLayer& layer : range.layers) {
    EXPECT_EQ(layer.workload.problem.stride, 7) << layer.name;
    EXPECT_EQ(refuse(layer.workload.problem, layer.workload.extent), std::nullopt) << layer.name;
  }
}

TEST(Range, RefusesAModuleThatAdmitsNothing) {
  request::Module module = free_module();
  module.has_groups = false;
  module.groups = "1000003";  // divides no layer's channels
  try {
    static_cast<void>(plan_range(module, h200(), {}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::unsupported);
    EXPECT_NE(std::string(error.what()).find("--workload"), std::string::npos);
  }
}

TEST(Range, DepthwiseLayersAloneNeedNoSchedule) {
  request::Module module = free_module();
  module.has_groups = false;
  module.groups = "768";
  const Range range = plan_range(module, h200(), {});
  EXPECT_TRUE(range.plan.exact_body);
  EXPECT_NE(describe(range).find("FMA"), std::string::npos);
}

TEST(Range, IsTheSameEveryTimeAndQuick) {
  const auto from = std::chrono::steady_clock::now();
  const Range a = plan_range(free_module(), h200(), {});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - from;
  const Range b = plan_range(free_module(), h200(), {});
  EXPECT_EQ(describe(a), describe(b));
  EXPECT_EQ(a.plan.chosen.front().schedule, b.plan.chosen.front().schedule);
  EXPECT_LT(took.count(), 5);  // some 0.05 s; sanitizers and a busy machine take longer
}

TEST(Range, SaysWhichLayersAndHowFarFromTheirBest) {
  const Range range = plan_range(free_module(), h200(), {});
  const std::string text = describe(range);
  for (const RangeLayer& layer : range.layers)
    EXPECT_NE(text.find("@" + std::string(layer.name)), std::string::npos) << layer.name;
  char ratio[32];
  std::snprintf(ratio, sizeof ratio, "at worst %.2f times", range.worst_ratio);
  EXPECT_NE(text.find(ratio), std::string::npos) << text;
}

}  // namespace
}  // namespace tconv::plan
