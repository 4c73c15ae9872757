// A layer planned for the CPU: ready to run at any batch and length, on any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/solver.hpp"
#include "kernels/call.h"
#include "plan/engine.hpp"
#include "problem/layer.hpp"

namespace tconv::cpu {

class Plan {
 public:
  // Chooses the first solver of the table that serves the layer. `solver`: a name of the table, to force it; empty
  // chooses. Throws Error(unsupported | usage).
  explicit Plan(const Layer& layer, std::string_view solver = {});

  [[nodiscard]] const Problem& problem() const { return layer_.problem; }
  [[nodiscard]] const Layer& layer() const { return layer_; }
  [[nodiscard]] const Solver& solver() const { return *solver_; }
  [[nodiscard]] const std::vector<plan::PassedOver>& passed_over() const { return passed_over_; }
  [[nodiscard]] std::int64_t packed_bytes() const { return kernel_->packed_bytes(); }
  // Memory beside the tensors and the packed weights, of each thread.
  [[nodiscard]] std::int64_t workspace_bytes(const Extent& extent) const { return kernel_->workspace_bytes(extent); }
  [[nodiscard]] std::string explain(const Extent& extent) const;

  // `packed`: packed_bytes() bytes, aligned to kPackedAlign. Throws Error(usage).
  void pack(const Pack& call, const Threads& threads) const;
  // Returns when y is written. Bitwise the same for every number of threads (1 to kMaxThreads). Safe from many threads
  // at once. Throws Error(usage | unsupported) for what cannot be run, before anything is written.
  void run(const Call& call, const Threads& threads) const;

 private:
  Layer layer_;
  const Solver* solver_ = nullptr;
  std::vector<plan::PassedOver> passed_over_;
  std::unique_ptr<Kernel> kernel_;
};

// What this machine's kernels are compiled for and can run, best first: "AVX3", "AVX2", ...; after use_instruction_set
// that one alone.
[[nodiscard]] std::vector<std::string> instruction_sets();
// Runs one of them from now on instead of the best, for tests. Not while a plan runs. Throws Error(usage).
void use_instruction_set(std::string_view name);

}  // namespace tconv::cpu
