#include "request/evidence.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "problem/phases.hpp"
#include "request/metrics.hpp"

namespace tconv::request {
namespace {

constexpr double kWorthwhile = 1.25;  // gap over the limit from which a different kernel is worth its risk
constexpr double kIssueLanes = 128;   // four schedulers of 32 lanes per SM

// Profilers may add a suffix to a Triton kernel's name (its specialization), never a prefix.
bool same_kernel(std::string_view profiled, std::string_view name) {
  return !name.empty() && (profiled == name || (profiled.starts_with(name) && profiled.size() > name.size() &&
                                                (profiled[name.size()] == '_' || profiled[name.size()] == '(')));
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// The block of the factor that runs over `size`: 1 when the factor is undivided, absent when it is unknown;
// `whole` when the grid has no such factor, so that one program covers all of it.
std::optional<std::int64_t> covered(const Evidence& evidence, GridSize size, std::int64_t whole) {
  if (evidence.launch == nullptr || evidence.launch->grid.empty()) return std::nullopt;
  for (const GridAxis& axis : evidence.launch->grid) {
    for (const GridFactor& factor : axis.factors) {
      if (factor.size == size) return block_of(factor, evidence.config);
      if (factor.size == GridSize::unknown) return std::nullopt;
    }
  }
  return whole;
}

}  // namespace

Evidence gather(const Request& request) {
  Evidence evidence;
  evidence.request = &request;
  const Code& code = request.code;
  for (const KernelMetrics& metrics : request.metrics) {
    const auto launch =
        std::ranges::find_if(code.launches, [&](const Launch& l) { return same_kernel(metrics.kernel, l.kernel); });
    if (launch == code.launches.end()) continue;
    evidence.metrics = &metrics;
    evidence.launch = &*launch;
  }
  if (evidence.launch == nullptr && !code.launches.empty()) evidence.launch = &code.launches.front();
  // Metrics that name no kernel, or one this code does not have, count only where there is nothing to confuse.
  if (evidence.metrics == nullptr && request.metrics.size() == 1) evidence.metrics = &request.metrics.front();
  if (evidence.launch != nullptr) {
    const auto kernel = std::ranges::find(code.kernels, evidence.launch->kernel, &Kernel::name);
    if (kernel != code.kernels.end()) evidence.kernel = &*kernel;
  }
  if (evidence.metrics != nullptr) {
    const KernelMetrics& metrics = *evidence.metrics;
    evidence.sm = metric_value(metrics, "sm__throughput");
    evidence.dram = metric_value(metrics, "dram__throughput");
    if (!evidence.dram) evidence.dram = metric_value(metrics, "gpu__dram_throughput");
    evidence.warps = metric_value(metrics, "sm__warps_active");
    evidence.l2 = metric_value(metrics, "lts__t_sector_hit_rate");
    evidence.long_scoreboard = metric_value(metrics, "smsp__warp_issue_stalled_long_scoreboard_per_warp_active");
    evidence.registers = metric_value(metrics, "launch__registers_per_thread");
  }
  return evidence;
}

std::optional<std::int64_t> channels_per_program(const Evidence& evidence) {
  return covered(evidence, GridSize::c_out, evidence.workload ? evidence.workload->problem.c_out : 0);
}

std::optional<std::int64_t> positions_per_program(const Evidence& evidence) {
  if (!evidence.workload) return covered(evidence, GridSize::out_length, 0);
  return covered(evidence, GridSize::out_length,
                 out_length(evidence.workload->problem, evidence.workload->extent.length));
}

std::optional<double> reread_factor(const Evidence& evidence) {
  const auto channels = channels_per_program(evidence);
  if (!evidence.workload || !channels || *channels < 1) return std::nullopt;
  const Problem& problem = evidence.workload->problem;
  return static_cast<double>(problem.kernel) * static_cast<double>(ceil_div(problem.c_out / problem.groups, *channels));
}

double dead_fraction(const Workload& workload) {
  const Phases phases(workload.problem);
  return static_cast<double>(phases.dead()) / static_cast<double>(phases.count());
}

double scan_ratio(const Evidence& evidence) {
  if (!evidence.workload || evidence.kernel == nullptr || !evidence.kernel->scans_all_taps) return 1;
  const Workload& w = *evidence.workload;
  const auto useful = Phases(w.problem).useful_taps(w.extent.length);
  if (useful <= 0) return 1;
  const double scanned =
      static_cast<double>(out_length(w.problem, w.extent.length)) * static_cast<double>(w.problem.kernel);
  return scanned / static_cast<double>(useful);
}

int index_operations(const Kernel& kernel, bool strides) {
  int operations = 1;                                  // t + p - k*d
  if (kernel.float_index_arithmetic) operations += 4;  // to float, times 1/s, floor, to integer
  if (kernel.division_in_loop) operations += 1;        // by the stride
  if (kernel.scans_all_taps) operations += 3;          // the remainder, its comparison, the mask it joins
  if (kernel.masks_loads) operations += 4;             // two bounds and the masks they join
  return operations + (strides ? 2 : 1);               // the address
}

std::optional<double> index_seconds(const Evidence& evidence) {
  if (!evidence.workload || evidence.machine == nullptr || evidence.kernel == nullptr) return std::nullopt;
  // With a matrix product a tap's index work is shared by the rows of the tile: no floor of this kind holds.
  if (evidence.kernel->uses_dot) return std::nullopt;
  const auto channels = channels_per_program(evidence);
  if (!channels || *channels != 1) return std::nullopt;
  const Workload& w = *evidence.workload;
  const double per_row =
      evidence.kernel->scans_all_taps
          ? static_cast<double>(out_length(w.problem, w.extent.length)) * static_cast<double>(w.problem.kernel)
          : static_cast<double>(Phases(w.problem).useful_taps(w.extent.length));
  const std::int64_t channels_in = w.problem.c_in / w.problem.groups;
  const double taps = static_cast<double>(w.extent.batch) * static_cast<double>(w.problem.c_out) *
                      static_cast<double>(channels_in) * per_row;
  const double rate = evidence.machine->sms.value * evidence.machine->clock_hz.value * kIssueLanes;
  if (rate <= 0) return std::nullopt;
  return taps * index_operations(*evidence.kernel, evidence.request->code.uses_strides) / rate;
}

std::optional<double> masked_fraction(const Evidence& evidence) {
  const auto channels = channels_per_program(evidence);
  const auto positions = positions_per_program(evidence);
  if (!evidence.workload || !channels || !positions || *channels < 1 || *positions < 1) return std::nullopt;
  const Workload& w = *evidence.workload;
  const std::int64_t length = out_length(w.problem, w.extent.length);
  const double kept = static_cast<double>(w.problem.c_out) * static_cast<double>(length);
  const double computed = static_cast<double>(ceil_div(w.problem.c_out, *channels)) * static_cast<double>(*channels) *
                          static_cast<double>(ceil_div(length, *positions)) * static_cast<double>(*positions);
  return 1 - kept / computed;
}

bool wasteful(const Evidence& evidence) {
  if (evidence.gap) return *evidence.gap >= kWorthwhile;
  return evidence.workload && scan_ratio(evidence) >= kWorthwhile;
}

std::string time_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.4g} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.4g} ms", seconds * 1e3);
  return fmt::format("{:.4g} us", seconds * 1e6);
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e12) return fmt::format("{:.4g} TB", bytes / 1e12);
  if (bytes >= 1e9) return fmt::format("{:.4g} GB", bytes / 1e9);
  if (bytes >= 1e6) return fmt::format("{:.4g} MB", bytes / 1e6);
  if (bytes >= 1e3) return fmt::format("{:.4g} kB", bytes / 1e3);
  return fmt::format("{:.0f} bytes", bytes);
}

std::string percent_text(double percent) { return fmt::format("{:.4g} %", percent); }

std::string metrics_text(const Evidence& evidence) {
  std::vector<std::string> parts;
  const auto add = [&](std::string_view what, const std::optional<double>& value) {
    if (value) parts.push_back(fmt::format("{} {}", what, percent_text(*value)));
  };
  add("sm__throughput", evidence.sm);
  add("DRAM", evidence.dram);
  add("warps_active", evidence.warps);
  add("L2 hits", evidence.l2);
  add("long_scoreboard stalls", evidence.long_scoreboard);
  return parts.empty() ? "no metrics" : fmt::format("{}", fmt::join(parts, ", "));
}

std::string gap_text(const Evidence& evidence) {
  if (!evidence.gap) return "";
  return fmt::format("at least {} against a limit of {} ({:.0f} %)", time_text(*evidence.implied_seconds),
                     time_text(evidence.limit->seconds), 100 / *evidence.gap);
}

}  // namespace tconv::request
