#include "plan/range.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "plan/model.hpp"
#include "plan/space.hpp"
#include "problem/catalogue.hpp"
#include "request/grid.hpp"
#include "util/error.hpp"

namespace tconv::plan {
namespace {

constexpr std::size_t kWeightClasses = 4;
constexpr std::size_t kLengthsPerClass = 3;
constexpr std::size_t kSearched = 4;  // entries of an autotune list that are searched for, each over all schedules

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

// Index of the layer with the median number of useful flops.
std::size_t median_work(const std::vector<RangeLayer>& layers) {
  std::vector<std::pair<double, std::size_t>> order;
  for (std::size_t i = 0; i < layers.size(); ++i) order.emplace_back(work(layers[i].workload).useful_flops, i);
  std::ranges::sort(order);
  return order[order.size() / 2].second;
}

// The emitted wrapper gives a program all live phases of a layer, up to the fewest rows of the answer's schedules.
Schedule fitted(Schedule s, const Workload& workload, int rows) {
  s.phases = static_cast<int>(
      std::min({ceil_power_of_two(shape_of(workload).live), kMostPhases, static_cast<std::int64_t>(rows)}));
  return s;
}

double geometric_mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += std::log(value);
  return std::exp(sum / static_cast<double>(values.size()));
}

int fewest_rows(const std::vector<Schedule>& list) {
  return std::ranges::min(list, {}, &Schedule::block_rows).block_rows;
}

class Search {
 public:
  Search(const std::vector<RangeLayer>& layers, const Target& target, const request::StageLimits& limits)
      : layers_(layers), target_(target), limits_(limits) {
    for (const RangeLayer& layer : layers)
      best_.push_back(plan_triton(layer.workload, target, limits).ranked.front().seconds);
  }

  // Every schedule that all layers admit, best first.
  [[nodiscard]] std::vector<Schedule> rank(std::vector<Rejection>& rejected) const {
    std::vector<std::pair<double, Schedule>> ranked;
    for (const Schedule& s : schedules(kLargest, limits_, rejected)) {
      if (const auto why = refused(s)) {
        rejected.push_back(*why);
      } else {
        ranked.emplace_back(geometric_mean(ratios({s})), s);
      }
    }
    if (ranked.empty()) refuse_all(target_, rejected);
    std::ranges::sort(ranked);
    std::vector<Schedule> result;
    for (const auto& [mean, s] : ranked) result.push_back(s);
    return result;
  }

  // The first, and for an autotune list those that help most where the ones before them do badly; after a few
  // of these, in order.
  [[nodiscard]] std::vector<Schedule> keep(const std::vector<Schedule>& ranked) const {
    std::vector<Schedule> kept{ranked.front()};
    const std::size_t wanted = std::min(answer_size(limits_), ranked.size());
    while (kept.size() < std::min(wanted, kSearched)) {
      double best = std::numeric_limits<double>::infinity();
      std::vector<Schedule> longer;
      for (const Schedule& s : ranked) {
        if (std::ranges::find(kept, s) != kept.end()) continue;
        std::vector<Schedule> with = kept;
        with.push_back(s);
        const double mean = geometric_mean(ratios(with));
        if (mean >= best) continue;
        best = mean;
        longer = std::move(with);
      }
      kept = std::move(longer);
    }
    for (std::size_t i = 0; kept.size() < wanted; ++i) {
      if (std::ranges::find(kept, ranked[i]) == kept.end()) kept.push_back(ranked[i]);
    }
    return kept;
  }

  // Of each layer: predicted time with the best of the list, over that with its own best.
  [[nodiscard]] std::vector<double> ratios(const std::vector<Schedule>& list) const {
    const int rows = fewest_rows(list);
    std::vector<double> result;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Workload& workload = layers_[i].workload;
      double seconds = std::numeric_limits<double>::infinity();
      for (const Schedule& s : list)
        seconds = std::min(seconds, predict(workload, target_, fitted(s, workload, rows)).seconds);
      result.push_back(seconds / best_[i]);
    }
    return result;
  }

 private:
  [[nodiscard]] std::optional<Rejection> refused(const Schedule& s) const {
    for (const RangeLayer& layer : layers_) {
      const Schedule own = fitted(s, layer.workload, s.block_rows);
      if (const auto why = inadmissible(layer.workload, target_, own))
        return Rejection{print_schedule(own), fmt::format("{}, for @{}", *why, layer.name)};
    }
    return std::nullopt;
  }

  const std::vector<RangeLayer>& layers_;
  const Target& target_;
  const request::StageLimits& limits_;
  std::vector<double> best_;  // seconds of each layer with its own best schedule
};

}  // namespace

Range plan_range(const request::Module& module, const Target& target, const request::StageLimits& limits) {
  std::vector<RangeLayer> layers = expressible(module);
  // The FMA body picks its own blocks: its layers have no say, unless there are no others.
  const auto fma = [](const RangeLayer& layer) { return takes_exact_body(layer.workload.problem); };
  if (!std::ranges::all_of(layers, fma)) std::erase_if(layers, fma);
  Range range;
  range.layers = spread(std::move(layers));
  const Workload& median = range.layers[median_work(range.layers)].workload;
  Plan& plan = range.plan;
  plan = plan_triton(median, target, limits);
  if (plan.exact_body) return range;

  const Search search(range.layers, target, limits);
  plan.rejected.clear();
  const std::vector<Schedule> ranked = search.rank(plan.rejected);
  const std::vector<Schedule> kept = search.keep(ranked);
  plan.ranked.clear();
  for (const Schedule& s : ranked) plan.ranked.push_back(predict(median, target, fitted(s, median, s.block_rows)));
  plan.chosen.clear();
  for (const Schedule& s : kept) plan.chosen.push_back(predict(median, target, fitted(s, median, fewest_rows(kept))));
  std::ranges::stable_sort(plan.chosen, {}, &Candidate::seconds);

  const std::vector<double> ratios = search.ratios(kept);
  for (std::size_t i = 0; i < ratios.size(); ++i) range.layers[i].ratio = ratios[i];
  range.mean_ratio = geometric_mean(ratios);
  range.worst_ratio = std::ranges::max(ratios);
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
  return fmt::format(
      "{}: with {}, they are predicted to take {:.2f} times what each takes with its own best, in geometric mean, and "
      "at worst {:.2f} times (@{})",
      of, range.plan.chosen.size() > 1 ? "the best entry of the autotune list" : "this schedule", range.mean_ratio,
      range.worst_ratio, worst.name);
}

}  // namespace tconv::plan
