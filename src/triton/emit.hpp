// Module interface + plan -> Triton source in the strict layout.
#pragma once

#include <string>

#include "plan/plan.hpp"
#include "request/code.hpp"

namespace tconv::triton {

// The whole answer.py: imports; kernels; wrapper; class ModelNew(nn.Module). Same input, same bytes.
[[nodiscard]] std::string emit(const request::Module& module, const plan::Plan& plan);

}  // namespace tconv::triton
