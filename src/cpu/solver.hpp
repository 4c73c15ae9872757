// A solver: one algorithm on the CPU. One file each; the table is in solvers.cpp, tried in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/threads.hpp"
#include "kernels/call.h"
#include "problem/layer.hpp"
#include "problem/phases.hpp"

namespace tconv::cpu {

inline constexpr std::int64_t kPackedAlign = 64;

inline std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Of what sums are held in, as packed weights are.
inline std::int64_t sum_bytes(Arithmetic arithmetic) { return arithmetic == Arithmetic::f64 ? 8 : 4; }

// What a layer's positions read, whatever the solver.
struct Window {
  explicit Window(const Problem& problem)
      : phases(problem),
        first_position(phases.first_position()),
        first_input(first_position + phases.min_offset()),
        span(phases.max_offset() - phases.min_offset()) {}
  [[nodiscard]] std::int64_t positions(std::int64_t length) const {
    return phases.last_position(length) - first_position + 1;
  }
  // Of a phase's taps, each relative to the smallest of all.
  [[nodiscard]] std::vector<std::int64_t> offsets(const Phase& phase) const {
    std::vector<std::int64_t> out;
    for (std::int64_t j = 0; j < phase.count; ++j) out.push_back(phase.tap(j).offset - phases.min_offset());
    return out;
  }

  Phases phases;
  std::int64_t first_position;
  std::int64_t first_input;  // x's sample under the first position's smallest offset
  std::int64_t span;         // largest offset less smallest
};

// A call's memory beside the tensors: `each` bytes a thread, aligned to kPackedAlign.
struct Workspace {
  std::byte* memory;
  std::int64_t each;
  [[nodiscard]] std::byte* of(int thread) const { return memory + thread * each; }
};

// A layer as a solver prepared it: all that does not depend on batch and length.
class Kernel {
 public:
  Kernel() = default;
  virtual ~Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  // The packed weights do not depend on the instruction set: they can be saved and loaded. Aligned to kPackedAlign.
  [[nodiscard]] virtual std::int64_t packed_bytes() const = 0;
  virtual void pack(const Pack& call, const Threads& threads) const = 0;
  // Every thread's own memory for a call, beside the tensors.
  [[nodiscard]] virtual std::int64_t workspace_bytes(const Extent& extent) const = 0;
  virtual void run(const Call& call, const Threads& threads, Workspace workspace) const = 0;
  [[nodiscard]] virtual std::string explain(const Extent& extent) const = 0;
};

struct Solver {
  std::string_view name;
  std::optional<std::string> (*refuse)(const Layer&);  // why it cannot serve the layer, if it cannot
  std::unique_ptr<Kernel> (*make)(const Layer&);
};

extern const Solver kDepthwise;  // depthwise.cpp: one channel in and out a group, positions in lanes
extern const Solver kFewRows;    // few_rows.cpp: few output channels and phases, positions in lanes
extern const Solver kGemm;       // gemm.cpp: anything, output channels and phases in lanes

[[nodiscard]] std::span<const Solver* const> solvers();

}  // namespace tconv::cpu
