#include "cuda/solver.hpp"

namespace tconv::cuda {

std::span<const Solver* const> solvers() {
  // The most specialised first; the last serves anything.
  static constexpr const Solver* kSolvers[] = {&kDepthwise, &kGemmSm90, &kGemmSm80, &kDirect};
  return kSolvers;
}

}  // namespace tconv::cuda
