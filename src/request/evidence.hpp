// The numbers a diagnosis rests on, gathered once: metrics, launch, workload, limit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "request/diagnose.hpp"
#include "request/grid.hpp"

namespace tconv::request {

struct Evidence {
  const Request* request = nullptr;
  const KernelMetrics* metrics = nullptr;  // of the kernel below; null: none
  const Launch* launch = nullptr;
  const Kernel* kernel = nullptr;
  const Target* machine = nullptr;  // where the metrics were taken; null: unknown

  // Percentages and counts as the request gives them; absent where it does not.
  std::optional<double> sm, dram, warps, l2, long_scoreboard, registers;

  std::optional<Workload> workload;
  Meta config;                            // of the launch, as far as the grid fixes it
  std::optional<Limit> limit;             // on `machine`
  std::optional<double> implied_seconds;  // floor of the kernel's time; see diagnose.hpp
  std::optional<double> gap;              // implied / limit
};

// The metrics, launch and kernel that belong together, and the percentages. Of several entries for one kernel
// the last counts: an autotuner's trial launches come before the launch it settles on.
[[nodiscard]] Evidence gather(const Request& request);

// --- what the code and the workload imply ----------------------------------------------------------------------
// Output channels and outputs along L that one program computes. Absent where grid and config do not tell.
[[nodiscard]] std::optional<std::int64_t> channels_per_program(const Evidence& evidence);
[[nodiscard]] std::optional<std::int64_t> positions_per_program(const Evidence& evidence);
// How often an element of x is requested from the caches: K for each program row that covers its channels.
[[nodiscard]] std::optional<double> reread_factor(const Evidence& evidence);
// Fraction of the outputs in dead phases: bias only. Needs a workload.
[[nodiscard]] double dead_fraction(const Workload& workload);
// Scanned multiply-adds over those whose tap lands inside the input; 1 where the kernel does not scan.
[[nodiscard]] double scan_ratio(const Evidence& evidence);
// Integer and conversion operations per scanned tap, counted at source level from what the kernel is known to do,
// so a floor: a division by a run-time stride counts as one and is a sequence of instructions.
[[nodiscard]] int index_operations(const Kernel& kernel, bool strides);
// Seconds the machine needs to issue only those operations, at one instruction per scheduler and cycle (four
// schedulers of 32 lanes per SM, every chip since Volta). Absent without a workload, machine, or kernel facts.
[[nodiscard]] std::optional<double> index_seconds(const Evidence& evidence);
// Fraction of the launch's outputs that masks throw away. Absent where the blocks are unknown.
[[nodiscard]] std::optional<double> masked_fraction(const Evidence& evidence);

// The kernel does work that the phases make unnecessary, or leaves most of the machine's limit unused.
[[nodiscard]] bool wasteful(const Evidence& evidence);

// --- sentences -------------------------------------------------------------------------------------------------
[[nodiscard]] std::string time_text(double seconds);     // "11.74 ms"
[[nodiscard]] std::string bytes_text(double bytes);      // "1.342 GB"
[[nodiscard]] std::string percent_text(double percent);  // "96.68 %"
// "sm__throughput 96.68 %, DRAM 11.34 %, ..." of what the request carries; "no metrics" without any.
[[nodiscard]] std::string metrics_text(const Evidence& evidence);
// "at least 11.74 ms against a limit of 1.45 ms (12 %)". Empty where either is unknown.
[[nodiscard]] std::string gap_text(const Evidence& evidence);

}  // namespace tconv::request
