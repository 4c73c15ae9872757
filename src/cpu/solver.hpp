// A solver: one algorithm on the CPU. One file each; the table is in solvers.cpp, tried in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernels/call.h"
#include "problem/layer.hpp"

namespace tconv::cpu {

// A layer as a solver prepared it: all that does not depend on batch and length.
class Kernel {
 public:
  Kernel() = default;
  virtual ~Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  // The packed weights do not depend on the instruction set: they can be saved and loaded. Aligned to kPackedAlign.
  [[nodiscard]] virtual std::int64_t packed_bytes() const = 0;
  virtual void pack(const Pack& call, int threads) const = 0;
  // Every thread's own memory for a call, beside the tensors.
  [[nodiscard]] virtual std::int64_t workspace_bytes(const Extent& extent) const = 0;
  // `workspace`: threads times workspace_bytes, rounded up to kPackedAlign each.
  virtual void run(const Call& call, int threads, std::byte* workspace) const = 0;
  [[nodiscard]] virtual std::string explain(const Extent& extent) const = 0;
};

inline constexpr std::int64_t kPackedAlign = 64;

struct Solver {
  std::string_view name;
  std::optional<std::string> (*refuse)(const Layer&);  // why it cannot serve the layer, if it cannot
  std::unique_ptr<Kernel> (*make)(const Layer&);
};

extern const Solver kDepthwise;  // depthwise.cpp: one channel in and out a group, positions in lanes
extern const Solver kGemm;       // gemm.cpp: anything, output channels and phases in lanes

[[nodiscard]] std::span<const Solver* const> solvers();

}  // namespace tconv::cpu
