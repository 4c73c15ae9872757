// The cost model of the Triton phase kernel (src/triton/kernels.py), analytic and instant.
//
// Time is a smooth maximum of four terms: the L1 data pipe and the matrix unit of one SM, the latency of a
// tile with as many blocks as fit an SM to hide it, DRAM, and L2. The constants were fitted once to twelve
// layers timed on an NVIDIA H200 under many schedules (bench/results/model_fit_h200.json, the admissible
// ones); bench/results/model_h200.json is a later run that judges them. Other targets use the same constants
// with their own sheet.
#pragma once

#include <optional>
#include <string>

#include "plan/plan.hpp"

namespace tconv::plan {

// The numbers a schedule is judged by, for one workload: the layer as the kernel sees it.
struct Shape {
  std::int64_t gap = 1;        // gcd(stride, dilation)
  std::int64_t live = 1;       // phases with taps = stride / gap
  std::int64_t taps = 1;       // steps over the taps: the window of offsets that any phase reads
  std::int64_t positions = 0;  // positions q that the outputs touch
  std::int64_t gap_pad = 1;    // columns a position takes in the epilogue, per live phase
};
[[nodiscard]] Shape shape_of(const Workload& workload);

// Why a schedule cannot serve the workload on the target; nothing when it can.
[[nodiscard]] std::optional<std::string> inadmissible(const Workload& workload, const Target& target,
                                                      const Schedule& schedule);

// Predicted time of an admissible schedule.
[[nodiscard]] Candidate predict(const Workload& workload, const Target& target, const Schedule& schedule);

}  // namespace tconv::plan
