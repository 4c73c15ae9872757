// What Triton's own compiler makes of an answer for a named target, on a machine without that GPU.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "plan/plan.hpp"

namespace tconv::triton {

struct Compiled {
  plan::Schedule schedule;
  int registers = 0;      // per thread
  int shared_memory = 0;  // bytes per block
  int spills = 0;         // bytes stored and loaded, or of stack, whichever is more
  Occupancy occupancy;
  std::string triton_version;
};

struct CompileResult {
  std::vector<Compiled> compiled;  // one per chosen schedule; empty when it could not be tried
  std::string why_not;             // then: what is missing
};

// Needs a Python with triton (util/subprocess.hpp, find_python). Throws Error(defect) when Triton refuses
// the answer: every chosen schedule must compile for its target.
[[nodiscard]] CompileResult compile(const std::string& answer, const plan::Plan& plan);

}  // namespace tconv::triton
