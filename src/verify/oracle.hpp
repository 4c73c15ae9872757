// The float64 reference, twice: as the definition scatters, and as the phases gather. Slow and obvious.
#pragma once

#include <span>
#include <vector>

#include "problem/problem.hpp"

namespace tconv::verify {

// x (B, C_in, L), w (C_in, C_out/groups, K), bias (C_out) or empty; returns y (B, C_out, L_out), all
// row-major. The workload must be valid.
[[nodiscard]] std::vector<double> scatter(const Workload& workload, std::span<const double> x,
                                          std::span<const double> w, std::span<const double> bias);
[[nodiscard]] std::vector<double> gather(const Workload& workload, std::span<const double> x, std::span<const double> w,
                                         std::span<const double> bias);

}  // namespace tconv::verify
