// What the solvers on the matrix units share: the layer as a product of (C_out x live phases) rows and positions,
// summed over (taps x C_in).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "problem/layer.hpp"
#include "problem/problem.hpp"

namespace tconv::cuda {

struct Gemm {
  std::int64_t c_in = 0, c_out = 0, groups = 0;  // channels of one group
  std::int64_t live = 0, gap = 0;                // residues that are multiples of gcd(stride, dilation), and that
  // Tap t of every phase reads x[position - t*jump]. One phase: its own taps. Several: every offset of the window,
  // which is what they need where the dilation is 1; the weights of a phase that lacks one are zero.
  std::int64_t taps = 0, jump = 0;
  int element_bytes = 0;
  int planes = 1, terms = 1;  // f32: weights as two TF32 values each, and three products

  explicit Gemm(const Problem& problem);
  [[nodiscard]] std::int64_t rows() const { return c_out * live; }
  [[nodiscard]] std::int64_t span() const { return (taps - 1) * jump; }  // positions before one that its taps read
};

// Why no kernel on the matrix units should serve the problem, if so; `instruction`: its name, for the text.
[[nodiscard]] std::optional<std::string> refuse_gemm(const Problem& problem, std::string_view instruction);

// `struct Layer` of the kernels.
[[nodiscard]] std::string gemm_layer(const Layer& layer);

}  // namespace tconv::cuda
