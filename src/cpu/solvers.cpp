#include "cpu/solver.hpp"

namespace tconv::cpu {

std::span<const Solver* const> solvers() {
  static constexpr const Solver* kTable[] = {&kDepthwise, &kFewRows, &kGemm};
  return kTable;
}

}  // namespace tconv::cpu
