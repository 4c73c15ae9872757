#include "request/metrics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv::request {
namespace {

constexpr int kAnySm = 999;

constexpr std::string_view kNotACounter =
    "not a counter: the profiler derives it from the launch and the function's attributes; the compiler's report of "
    "the kernel gives the same number without a profiler";

constexpr MetricFact launch_fact(std::string_view base, std::string_view unit, std::string_view meaning) {
  return {base, MetricKind::launch, 70, kAnySm, unit, meaning, "", "", kNotACounter};
}

constexpr MetricFact counter(std::string_view base, std::string_view unit, std::string_view meaning) {
  return {base, MetricKind::counter, 70, kAnySm, unit, meaning, "", "", ""};
}

constexpr MetricFact stall(std::string_view base, std::string_view meaning) {
  return counter(base, "% of warps per cycle", meaning);
}

constexpr auto kFacts = std::to_array<MetricFact>({
    counter("sm__throughput", "% of peak",
            "the busiest of the SM's issue slots, pipes and load/store unit, each against its own peak; index "
            "arithmetic saturates it as well as useful work does"),
    counter("sm__warps_active", "% of the warps an SM holds",
            "mean resident warps over the cycles in which the SM has work: achieved occupancy"),
    counter("smsp__issue_active", "% of cycles", "cycles in which a scheduler issued an instruction"),
    counter("dram__throughput", "% of peak", "the busiest of the DRAM's read, write and cycle counters"),
    counter("gpu__dram_throughput", "% of peak", "the same as dram__throughput"),
    counter("gpu__compute_memory_throughput", "% of peak",
            "the busiest part of the whole memory pipeline, L1 and L2 included: not DRAM alone"),
    counter("lts__t_sector_hit_rate", "% of sector lookups",
            "L2 lookups that hit, stores included; a store usually hits, so streaming writes raise it"),
    counter("l1tex__t_sector_hit_rate", "% of sector lookups", "L1 lookups that hit"),
    counter("smsp__sass_average_data_bytes_per_sector_mem_global_op_ld", "% of a 32-byte sector",
            "bytes used of each sector that global loads fetch; asynchronous copies are counted elsewhere"),
    counter("smsp__sass_average_data_bytes_per_sector_mem_global_op_st", "% of a 32-byte sector",
            "bytes used of each sector that global stores write"),
    stall("smsp__warp_issue_stalled_long_scoreboard_per_warp_active", "waiting for global, local or texture memory"),
    stall("smsp__warp_issue_stalled_short_scoreboard_per_warp_active", "waiting for shared memory or the MIO unit"),
    stall("smsp__warp_issue_stalled_lg_throttle_per_warp_active", "the queue of the load/store unit is full"),
    stall("smsp__warp_issue_stalled_mio_throttle_per_warp_active", "the queue of the MIO unit is full"),
    stall("smsp__warp_issue_stalled_tex_throttle_per_warp_active", "the queue of the texture unit is full"),
    stall("smsp__warp_issue_stalled_math_pipe_throttle_per_warp_active", "the arithmetic pipe is taken"),
    stall("smsp__warp_issue_stalled_barrier_per_warp_active", "waiting at a block barrier"),
    stall("smsp__warp_issue_stalled_membar_per_warp_active", "waiting at a memory barrier"),
    stall("smsp__warp_issue_stalled_drain_per_warp_active", "waiting for stores to drain before exit"),
    stall("smsp__warp_issue_stalled_imc_miss_per_warp_active", "waiting for the constant cache"),
    stall("smsp__warp_issue_stalled_wait_per_warp_active", "waiting for a fixed-latency dependency"),
    MetricFact{"smsp__warp_issue_stalled_memory_dependency_per_warp_active", MetricKind::absent, 70, kAnySm,
               "% of warps per cycle", "a stall reason of profilers before Volta",
               "smsp__warp_issue_stalled_long_scoreboard_per_warp_active", ".pct",
               "no chip since Volta has this counter, and the profiler leaves it out without a word; long_scoreboard "
               "is the share of warps waiting for global, local or texture memory"},
    MetricFact{"sm__inst_executed_pipe_fp32", MetricKind::absent, 70, kAnySm, "instructions", "FP32 instructions",
               "sm__inst_executed_pipe_fma", ".avg.pct_of_peak_sustained_active",
               "no chip since Volta has this counter; FP32 multiply-adds run on the fma pipe (heavy and light)"},
    MetricFact{"sm__maximum_warps_per_active_cycle_pct", MetricKind::absent, 70, kAnySm, "%", "theoretical occupancy",
               "", "",
               "no chip since Volta has this counter; theoretical occupancy follows from the registers, shared memory "
               "and threads of a block (launch__occupancy_limit_*)"},
    MetricFact{"sm__inst_executed_pipe_tensor", MetricKind::deprecated, 89, 89, "instructions",
               "matrix-unit instructions", "sm__inst_executed_pipe_tensor_v2", ".avg.pct_of_peak_sustained_active",
               "deprecated on this chip, which names the _v2 counter in its place"},
    MetricFact{"sm__pipe_tensor_cycles_active", MetricKind::deprecated, 89, 89, "cycles", "matrix-unit cycles",
               "sm__pipe_tensor_cycles_active_v2", ".avg.pct_of_peak_sustained_active",
               "deprecated on this chip, which names the _v2 counter in its place"},
    counter("sm__inst_executed_pipe_tensor", "instructions", "matrix-unit instructions"),
    counter("sm__pipe_tensor_cycles_active", "cycles", "cycles in which the matrix unit worked"),
    counter("sm__inst_executed_pipe_fma", "instructions", "FP32 multiply-adds, heavy and light pipe"),
    launch_fact("launch__grid_size", "programs", "blocks of the launch: the product of its three axes"),
    launch_fact("launch__block_size", "threads", "threads of a block"),
    launch_fact("launch__registers_per_thread", "registers", "registers allocated to a thread"),
    launch_fact("launch__occupancy_limit_blocks", "blocks per SM", "blocks the SM's block slots allow"),
    launch_fact("launch__occupancy_limit_registers", "blocks per SM", "blocks the register file allows"),
    launch_fact("launch__occupancy_limit_shared_mem", "blocks per SM", "blocks shared memory allows"),
    launch_fact("launch__occupancy_limit_warps", "blocks per SM", "blocks the warp slots allow"),
    launch_fact("launch__waves_per_multiprocessor", "waves", "blocks over the blocks resident at once"),
    launch_fact("launch__shared_mem_per_block_static", "bytes", "shared memory fixed at compile time"),
    launch_fact("launch__shared_mem_per_block_dynamic", "bytes", "shared memory asked for at launch"),
});

std::string_view base_of(std::string_view name) { return name.substr(0, name.find('.')); }
std::string_view rollup_of(std::string_view name) {
  const auto dot = name.find('.');
  return dot == std::string_view::npos ? std::string_view{} : name.substr(dot);
}

bool name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
}

}  // namespace

std::span<const MetricFact> metric_facts() { return kFacts; }

const MetricFact* find_metric(std::string_view name, int sm) {
  const std::string_view base = base_of(name);
  const auto found = std::ranges::find_if(
      kFacts, [&](const MetricFact& fact) { return fact.base == base && sm >= fact.first_sm && sm <= fact.last_sm; });
  return found == kFacts.end() ? nullptr : &*found;
}

std::string_view metric_name(std::string_view text) {
  // A PerfWorks name has a double underscore after the unit; nothing else in stage text has.
  const auto mark = text.find("__");
  if (mark == std::string_view::npos) return {};
  auto begin = mark;
  while (begin > 0 && name_character(text[begin - 1])) --begin;
  auto end = mark;
  while (end < text.size() && name_character(text[end])) ++end;
  while (end > begin && text[end - 1] == '.') --end;
  return text.substr(begin, end - begin);
}

std::optional<MetricTarget> metric_target(std::string_view text) {
  struct Sign {
    std::string_view text;
    bool above;
  };
  constexpr auto kSigns = std::to_array<Sign>({{"\u2265", true}, {"\u2264", false}, {">", true}, {"<", false}});
  for (const Sign& sign : kSigns) {
    const auto at = text.find(sign.text);
    if (at == std::string_view::npos) continue;
    std::string_view rest = text.substr(at + sign.text.size());
    while (!rest.empty() && (rest.front() == ' ' || rest.front() == '=')) rest.remove_prefix(1);
    double threshold = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), threshold);
    if (error == std::errc{} && end != rest.data() && std::isfinite(threshold)) {
      return MetricTarget{sign.above, threshold};
    }
  }
  return std::nullopt;
}

bool is_percentage(std::string_view name) {
  const std::string_view rollup = rollup_of(name);
  return rollup.ends_with(".pct") || rollup.find(".pct_of_peak") != std::string_view::npos;
}

void require_possible(const KernelMetrics& metrics, const std::string& path) {
  for (const auto& [name, value] : metrics.values) {
    if (!is_percentage(name) || !std::isfinite(value) || (value >= 0 && value <= 100)) continue;
    throw Error(Exit::usage, path,
                fmt::format("metric {}{} is {} %", printable(name, 120),
                            metrics.kernel.empty() ? "" : " of kernel " + printable(metrics.kernel), value),
                "a percentage lies between 0 and 100");
  }
}

std::optional<double> metric_value(const KernelMetrics& metrics, std::string_view base) {
  for (auto it = metrics.values.lower_bound(std::string(base)); it != metrics.values.end(); ++it) {
    if (!it->first.starts_with(base)) break;
    if (base_of(it->first) == base && std::isfinite(it->second)) return it->second;
  }
  return std::nullopt;
}

std::vector<MetricNote> metric_notes(const Stage& stage, const KernelMetrics* metrics, int sm) {
  std::vector<MetricNote> notes;
  std::set<std::string, std::less<>> seen;
  const auto add = [&](std::string_view name, bool asked_by_stage) {
    if (name.empty() || !seen.insert(std::string(name)).second) return;
    const MetricFact* fact = find_metric(name, sm);
    const auto value = metrics == nullptr ? std::nullopt : metric_value(*metrics, base_of(name));
    std::string why;
    const auto say = [&](std::string_view sentence) {
      if (!why.empty()) why += "; ";
      why += sentence;
    };
    std::string alias;
    if (fact != nullptr && !fact->replacement.empty()) {
      const std::string_view rollup = rollup_of(name);
      alias = fmt::format("{}{}", fact->replacement, rollup.empty() ? fact->rollup : rollup);
    }
    const bool exists = fact != nullptr && fact->kind != MetricKind::absent;
    if (fact == nullptr) {
      say("not in the table of known metrics: taken as it is, its meaning not checked");
    } else if (fact->kind == MetricKind::absent || fact->kind == MetricKind::deprecated) {
      say(fact->why);
    }
    if (!value) {
      if (metrics == nullptr) {
        say("the request carries no metrics");
      } else if (metrics->values.contains(std::string(name)) ||
                 std::ranges::find(metrics->null_values, name) != metrics->null_values.end()) {
        say("collected without a finite value, so it is not used");
      } else if (asked_by_stage) {
        say("the stage asks for it and the request does not carry it");
      }
      if (exists && fact->kind == MetricKind::launch) say(fact->why);
    }
    if (!why.empty()) notes.push_back({printable(name, 120), std::move(alias), std::move(why)});
  };
  for (const std::string& text : stage.metrics) add(metric_name(text), true);
  if (metrics != nullptr) {
    std::set<std::string_view> carried;
    for (const auto& [name, value] : metrics->values) carried.insert(name);
    carried.insert(metrics->null_values.begin(), metrics->null_values.end());
    for (const std::string_view name : carried) add(name, false);
  }
  return notes;
}

}  // namespace tconv::request
