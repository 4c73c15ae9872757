// What the metric names of requests mean, which chips have them, and what to collect where one does not exist.
//
// Validity was established with the CUPTI host API (cuptiProfilerHostGetMetricProperties, CUDA 13.0), which
// answers for a named chip without one being present: GV100, TU102, GA100, GA102, AD102, GH100, GB100, GB202.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "request/request.hpp"

namespace tconv::request {

enum class MetricKind {
  counter,     // the chips in the row's range have it
  deprecated,  // they have it and name another in its place
  launch,      // no counter: the profiler derives it from the launch and the function's attributes
  absent,      // no chip from Volta on has it
};

struct MetricFact {
  std::string_view base;  // the name up to its first '.', without the roll-up
  MetricKind kind = MetricKind::counter;
  int first_sm = 70;  // chips the row speaks of, by compute capability (89), both ends included
  int last_sm = 999;
  std::string_view unit;
  std::string_view meaning;
  std::string_view replacement;  // base to collect instead; "" when there is no need or no counter
  std::string_view rollup;       // for a replacement where the asked name has none
  std::string_view why;          // of the replacement
};

[[nodiscard]] std::span<const MetricFact> metric_facts();
// `name` with or without a roll-up (".avg.pct_of_peak_sustained_elapsed"). Null when the table has no row.
[[nodiscard]] const MetricFact* find_metric(std::string_view name, int sm);

// The metric named in a line of stage text: "`lts__t_sector_hit_rate.pct` (target: >50%)" -> the name alone.
[[nodiscard]] std::string_view metric_name(std::string_view text);
// The target in such a line, in the metric's unit. Absent when the line has none.
struct MetricTarget {
  bool above = false;  // true: the value must be over `threshold`, false: under
  double threshold = 0;
};
[[nodiscard]] std::optional<MetricTarget> metric_target(std::string_view text);

// True for the roll-ups .pct and .pct_of_peak_*: values within 0..100.
[[nodiscard]] bool is_percentage(std::string_view name);
// Throws Error(usage) for a percentage outside 0..100. Null and infinite values pass: they say nothing.
void require_possible(const KernelMetrics& metrics, const std::string& path);
// A finite value of the metric with this base name (the first in name order). Absent when there is none.
[[nodiscard]] std::optional<double> metric_value(const KernelMetrics& metrics, std::string_view base);

struct MetricNote {
  std::string asked;  // as the request names it
  std::string alias;  // what to collect instead on this chip; "" when the name stands
  std::string why;
};
// Names the chip does not have, names without a value, and names a stage asks for that the request does not
// carry: the stage's first, in its order, then the others by name. `metrics` may be null (the request has none).
[[nodiscard]] std::vector<MetricNote> metric_notes(const Stage& stage, const KernelMetrics* metrics, int sm);

}  // namespace tconv::request
