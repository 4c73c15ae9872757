// A solver: one algorithm on the GPU. One file each; the table is in solvers.cpp, tried in order.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "problem/layer.hpp"
#include "problem/problem.hpp"
#include "target/target.hpp"

namespace tconv::cuda {

// The free choices of a solver; what a field means is the solver's own, and 0 where it has no such choice.
struct Schedule {
  int positions = 0;      // of a block's tile
  int rows = 0;           // output channels times live phases of a block's tile
  int stages = 0;         // depth of the pipeline of x
  int weight_stages = 0;  // likewise of w
  int warpgroups = 0;     // that multiply
  int splits = 1;         // blocks that share one tile's sum over channels
  bool by_rows = false;   // which of a tile's sides a warp has a part of
  int at_once = 1;        // tiles of `rows` that lie side by side in a block's

  auto operator<=>(const Schedule&) const = default;
};

struct Launch {
  std::int64_t blocks = 0;  // gridDim.x; the other dimensions are 1
  int threads = 0;
  int shared_bytes = 0;  // dynamic
  int cluster = 1;
};

struct Solver {
  std::string_view name;
  // All serve any activation: neither a schedule nor the packed weights depend on one.
  // Why it cannot serve the problem on the target, if it cannot.
  std::optional<std::string> (*refuse)(const Problem&, const Target&);
  // Every schedule worth trying, the one for the most work first. One is chosen per call, by `seconds`.
  std::vector<Schedule> (*schedules)(const Problem&, const Target&);
  // The translation unit: constants and the entries `run(const __grid_constant__ Call)` and `pack(const
  // __grid_constant__ Pack)`. Both may be launched beside the end of the kernel before them, and wait for it themselves
  // (kernels/ptx.cuh, "kernels in a row"). Only integers and names of our own tables enter the text.
  std::string (*source)(const Layer&, const Target&, const Schedule&);
  // Schedules with the same rows and packed bytes read one image of the weights; see also one_image.
  std::int64_t (*packed_bytes)(const Problem&, const Schedule&);
  Launch (*pack_launch)(const Problem&, const Schedule&);
  Launch (*launch)(const Workload&, const Target&, const Schedule&);
  // Predicted time of one call.
  double (*seconds)(const Workload&, const Target&, const Schedule&);
  bool one_image = false;  // all schedules of a problem read the same packed weights
};

extern const Solver kGemmSm90;   // gemm_sm90.cpp: wgmma, every position tile staged once
extern const Solver kGemmSm80;   // gemm_sm80.cpp: mma.sync, likewise, in 99 KB of shared memory
extern const Solver kDepthwise;  // depthwise.cpp: one input channel a group
extern const Solver kDirect;     // direct.cpp: anything, in IEEE arithmetic of the data's own type

[[nodiscard]] std::span<const Solver* const> solvers();

}  // namespace tconv::cuda
