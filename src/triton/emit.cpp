#include "triton/emit.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "embedded/kernels_py.hpp"
#include "request/drop_in.hpp"
#include "util/text.hpp"

namespace tconv::triton {
namespace {

std::string autotune(const plan::Plan& plan) {
  if (plan.chosen.size() < 2) return "";
  std::string text = "@triton.autotune(\n    configs=[\n";
  for (const plan::Candidate& candidate : plan.chosen) {
    const plan::Schedule& s = candidate.schedule;
    text += fmt::format(
        "        triton.Config({{\"BLOCK_ROWS\": {}, \"BLOCK_POSITIONS\": {}, \"BLOCK_CHANNELS\": {}}}, num_warps={}, "
        "num_stages={}),\n",
        s.block_rows, s.block_positions, s.block_channels, s.warps, s.stages);
  }
  // Batch and length are no part of the key: a new length tunes nothing.
  return text + "    ],\n    key=[\"C_IN\", \"C_OUT\", \"TAPS\", \"PHASES\", \"GAP\"],\n)\n";
}

std::string blocks(const plan::Plan& plan) {
  if (plan.chosen.size() > 1) return "    )\n";
  plan::Schedule s = plan.chosen.front().schedule;
  if (plan.exact_body) {
    // The layer planned for never reaches the matrix unit; others that the constructor admits may.
    s = {.block_rows = std::max(64, s.phases),
         .phases = s.phases,
         .block_positions = 64,
         .block_channels = 32,
         .warps = 4,
         .stages = 2};
  }
  return fmt::format("        BLOCK_ROWS={}, BLOCK_POSITIONS={}, BLOCK_CHANNELS={}, num_warps={}, num_stages={})\n",
                     s.block_rows, s.block_positions, s.block_channels, s.warps, s.stages);
}

int phase_limit(const plan::Plan& plan) {
  // Where the plan takes all phases at once, other strides may too, as far as the rows of every schedule go.
  const plan::Schedule& first = plan.chosen.front().schedule;
  const Problem& p = plan.workload.problem;
  const std::int64_t live = p.stride / Phases(p).gcd();
  if (first.phases < live) return first.phases;
  int rows = 64;
  if (!plan.exact_body) {
    for (const plan::Candidate& candidate : plan.chosen) rows = std::min(rows, candidate.schedule.block_rows);
  }
  return rows;
}

}  // namespace

std::string emit(const request::Module& module, const plan::Plan& plan) {
  // kernels.py is real Triton; what a plan decides stands behind these three marks.
  std::string text{embedded::kernels_py};
  replace_line(text, "# @autotune", autotune(plan));
  replace_line(text, "# @phase_limit", fmt::format("    phase_limit = {}\n", phase_limit(plan)));
  replace_line(text, "# @blocks", blocks(plan));
  return text + request::module_class(module);
}

}  // namespace tconv::triton
