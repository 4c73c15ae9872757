#include "triton/emit.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "embedded/kernels_py.hpp"
#include "util/error.hpp"

namespace tconv::triton {
namespace {

// kernels.py is real Triton; what a plan decides stands behind these three marks.
void replace_line(std::string& text, std::string_view mark, const std::string& replacement) {
  const std::size_t at = text.find(mark);
  if (at == std::string::npos) {
    throw Error(Exit::defect, "emit", fmt::format("kernels.py has lost its mark {}", mark), "");
  }
  const std::size_t begin = text.rfind('\n', at) + 1;
  const std::size_t end = text.find('\n', at) + 1;
  text.replace(begin, end - begin, replacement);
}

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

std::string module_class(const request::Module& module) {
  std::string text = fmt::format("\n\nclass {}(nn.Module):\n    def __init__(self", module.class_name);
  for (const request::Parameter& parameter : module.parameters) {
    text += ", " + parameter.name;
    if (!parameter.annotation.empty()) text += ": " + parameter.annotation;
    if (!parameter.default_value.empty()) {
      text += (parameter.annotation.empty() ? "=" : " = ") + parameter.default_value;
    }
  }
  text += "):\n";
  for (const std::string& line : module.body) text += "        " + line + "\n";
  text += fmt::format("\n    def forward(self, {}):\n", module.input);
  const auto role = [](const std::string& expression, const char* otherwise) {
    return expression.empty() ? std::string(otherwise) : expression;
  };
  return text + fmt::format("        return conv_transpose1d({}, {}, {}, {}, {}, {}, {}, {})\n", module.input,
                            module.weight, role(module.bias, "None"), role(module.stride, "1"),
                            role(module.padding, "0"), role(module.output_padding, "0"), role(module.dilation, "1"),
                            role(module.groups, "1"));
}

}  // namespace

std::string emit(const request::Module& module, const plan::Plan& plan) {
  std::string text{embedded::kernels_py};
  replace_line(text, "# @autotune", autotune(plan));
  replace_line(text, "# @phase_limit", fmt::format("    phase_limit = {}\n", phase_limit(plan)));
  replace_line(text, "# @blocks", blocks(plan));
  return text + module_class(module);
}

}  // namespace tconv::triton
