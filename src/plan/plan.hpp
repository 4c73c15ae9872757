// Problem + target -> schedules, predicted and in order, every rejected one with its reason.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "problem/problem.hpp"
#include "request/request.hpp"
#include "target/target.hpp"

namespace tconv::plan {

// One Triton schedule of the phase kernel (src/triton/emit.hpp draws it). Rows are output channels
// times live phases; columns are positions. All block sizes are powers of two.
struct Schedule {
  int block_rows = 64;  // rows per program: output channels x phases
  int phases = 1;       // phases per program, padded to a power of two; divides block_rows
  int block_positions = 128;
  int block_channels = 32;  // C_in per step; 1 selects the FMA body (no matrix unit)
  int warps = 4;
  int stages = 3;  // depth of the software pipeline

  auto operator<=>(const Schedule&) const = default;
};
[[nodiscard]] std::string print_schedule(const Schedule& schedule);

struct Candidate {
  Schedule schedule;
  double seconds = 0;  // predicted
  double memory_seconds = 0;
  double arithmetic_seconds = 0;
  double issue_seconds = 0;  // load, store and index instructions
  double tail = 1;           // waves rounded up over waves
};

struct Rejection {
  std::string what;  // a schedule or a solver, printed
  std::string why;
};

struct Plan {
  Workload workload;
  const Target* target = nullptr;
  Limit limit;
  std::vector<Candidate> chosen;  // best first; 2 to 4 where the stage asks for an autotune list, else 1
  std::vector<Candidate> ranked;  // every admissible candidate, best first
  std::vector<Rejection> rejected;
  bool exact_body = false;  // FMA body: depthwise, i32, f64
};

// The FMA body serves the problem: too few input channels a group for the matrix unit, or i32, or f64.
[[nodiscard]] bool takes_exact_body(const Problem& problem);

// Estimate mode: instant, deterministic. Throws Error(unsupported) with the reasons when nothing fits.
[[nodiscard]] Plan plan_triton(const Workload& workload, const Target& target, const request::StageLimits& limits);

}  // namespace tconv::plan
