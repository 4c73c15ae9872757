#include "plan/range.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "plan/model.hpp"
#include "plan/space.hpp"
#include "problem/catalogue.hpp"
#include "request/grid.hpp"
#include "util/error.hpp"

namespace tconv::plan {
namespace {

constexpr std::size_t kWeightClasses = 4;
constexpr std::size_t kLengthsPerClass = 3;

// TF32, in which PyTorch runs a float32 convolution, is what a request without a word on it means.
std::vector<RangeLayer> expressible(const request::Module& module) {
  for (const bool adapt : {false, true}) {
    std::vector<RangeLayer> layers;
    for (const CatalogueEntry& entry : catalogue()) {
      if (entry.workload.problem.arithmetic != Arithmetic::tf32) continue;
      Workload workload = entry.workload;
      workload.problem.bias = workload.problem.bias && module.bias_possible;
      if (adapt) workload.problem = request::as_fixed(module, workload.problem);
      if (request::inexpressible(module, workload.problem) || refuse(workload.problem, workload.extent)) continue;
      layers.push_back({.name = entry.name, .workload = workload});
    }
    if (!layers.empty()) return layers;
  }
  throw Error(Exit::unsupported, "plan", "the constructor admits no layer of the catalogue",
              "name the layer with --workload WORD");
}

// `count` of them, the first and the last included.
template <class T>
std::vector<T> evenly(const std::vector<T>& all, std::size_t count) {
  if (all.size() <= count) return all;
  std::vector<T> some;
  for (std::size_t i = 0; i < count; ++i) some.push_back(all[i * (all.size() - 1) / (count - 1)]);
  return some;
}

// Layers of every class of weight, short and long ones of each.
std::vector<RangeLayer> spread(std::vector<RangeLayer> all) {
  const auto weight = [](const RangeLayer& layer) { return weight_elements(layer.workload.problem); };
  const auto length = [](const RangeLayer& layer) { return layer.workload.extent.length; };
  std::ranges::stable_sort(all, {}, weight);
  std::vector<RangeLayer> result;
  for (std::size_t i = 0; i < kWeightClasses; ++i) {
    const auto at = [&](std::size_t part) {
      return all.begin() + static_cast<std::ptrdiff_t>(part * all.size() / kWeightClasses);
    };
    std::vector<RangeLayer> part(at(i), at(i + 1));
    std::ranges::stable_sort(part, {}, length);
    for (const RangeLayer& layer : evenly(part, kLengthsPerClass)) result.push_back(layer);
  }
  return result;
}

}  // namespace

Range plan_range(const request::Module& module, const Target& target, const request::StageLimits& limits) {
  std::vector<RangeLayer> layers = expressible(module);
  // The FMA body picks its own blocks: its layers have no say, unless there are no others.
  std::vector<RangeLayer> scheduled;
  for (const RangeLayer& layer : layers) {
    if (!takes_exact_body(layer.workload.problem)) scheduled.push_back(layer);
  }
  Range range;
  range.layers = spread(scheduled.empty() ? layers : scheduled);
  const std::size_t middle = range.layers.size() / 2;
  range.plan = plan_triton(range.layers[middle].workload, target, limits);
  if (range.plan.exact_body) return range;

  std::vector<double> best;
  for (const RangeLayer& layer : range.layers)
    best.push_back(plan_triton(layer.workload, target, limits).ranked.front().seconds);

  // Each layer takes all its phases at once, as far as the rows go.
  const auto on = [&](Schedule s, const RangeLayer& layer) {
    s.phases = static_cast<int>(std::min(
        {ceil_power_of_two(shape_of(layer.workload).live), kMostPhases, static_cast<std::int64_t>(s.block_rows)}));
    return s;
  };
  struct Scored {
    Schedule schedule;
    double score = 0;  // sum of the logarithms of the ratios
  };
  std::vector<Scored> scored;
  Plan& plan = range.plan;
  std::erase_if(plan.rejected, [](const Rejection& r) { return r.what != "FMA body"; });
  for (const Schedule& s : schedules(kLargest, limits, plan.rejected)) {
    Scored candidate{.schedule = s};
    std::optional<Rejection> rejection;
    for (std::size_t i = 0; i < range.layers.size() && !rejection; ++i) {
      const RangeLayer& layer = range.layers[i];
      const Schedule own = on(s, layer);
      if (const auto why = inadmissible(layer.workload, target, own)) {
        rejection = {print_schedule(own), fmt::format("{}, for @{}", *why, layer.name)};
      } else {
        candidate.score += std::log(predict(layer.workload, target, own).seconds / best[i]);
      }
    }
    if (rejection) {
      plan.rejected.push_back(*rejection);
    } else {
      scored.push_back(candidate);
    }
  }
  if (scored.empty()) refuse_all(target, plan.rejected);
  std::ranges::sort(scored, [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score < b.score : a.schedule < b.schedule;
  });

  plan.ranked.clear();
  for (const Scored& candidate : scored)
    plan.ranked.push_back(predict(plan.workload, target, on(candidate.schedule, range.layers[middle])));
  // The fewest rows of an autotune list bound the phases of every layer: none may have fewer than the first.
  std::vector<Candidate> roomy = plan.ranked;
  std::erase_if(roomy, [rows = plan.ranked.front().schedule.block_rows](const Candidate& c) {
    return c.schedule.block_rows < rows;
  });
  plan.chosen = choose(roomy, limits);

  double sum = 0;
  for (std::size_t i = 0; i < range.layers.size(); ++i) {
    RangeLayer& layer = range.layers[i];
    layer.ratio = predict(layer.workload, target, on(scored.front().schedule, layer)).seconds / best[i];
    range.worst_ratio = i == 0 ? layer.ratio : std::max(range.worst_ratio, layer.ratio);
    sum += std::log(layer.ratio);
  }
  range.mean_ratio = std::exp(sum / static_cast<double>(range.layers.size()));
  return range;
}

std::string describe(const Range& range) {
  const auto length = [](const RangeLayer& layer) { return layer.workload.extent.length; };
  const auto [shortest, longest] = std::ranges::minmax(range.layers, {}, length);
  std::vector<std::string> names;
  for (const RangeLayer& layer : range.layers) names.push_back(fmt::format("@{}", layer.name));
  const std::string of = fmt::format("{} layers of the catalogue that the constructor admits, of length {} to {} ({})",
                                     names.size(), length(shortest), length(longest), fmt::join(names, ", "));
  if (range.plan.exact_body) return fmt::format("{}, all of which take the FMA kernel, which picks its own blocks", of);
  const RangeLayer& worst = *std::ranges::max_element(range.layers, {}, &RangeLayer::ratio);
  return fmt::format("{}: predicted {:.2f} times each layer's own best in geometric mean, at worst {:.2f} times (@{})",
                     of, range.mean_ratio, range.worst_ratio, worst.name);
}

}  // namespace tconv::plan
