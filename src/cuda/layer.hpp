// What the sources of the solvers share: the layer as text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "problem/layer.hpp"
#include "problem/problem.hpp"

namespace tconv::cuda {

// The members of `struct Layer` in kernels/direct.cuh and kernels/depthwise.cuh that follow from the layer; C_IN and
// C_OUT are of one group.
[[nodiscard]] std::string layer_constants(const Layer& layer);
// Those of them that kernels/activation.cuh reads.
[[nodiscard]] std::string activation_constants(const Layer& layer);

// Why the constants do not fit the kernels' int, if they do not.
[[nodiscard]] std::optional<std::string> too_large_for_int(const Problem& problem);

// Of the type that sums run in: double for f64, else four bytes.
[[nodiscard]] int bytes_per_sum(Arithmetic arithmetic);

[[nodiscard]] constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Positions q that a call's outputs touch; 0 where it has none.
[[nodiscard]] std::int64_t positions(const Workload& workload);

}  // namespace tconv::cuda
