// How far an answer may be from the float64 reference.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "problem/problem.hpp"

namespace tconv::verify {

// What computed the sums. Triton's interpreter adds in IEEE arithmetic; a GPU's matrix units truncate
// partial sums. TF32 operands may be cut to 10 mantissa bits on either: an answer may round them itself.
enum class Engine { ieee, tensor_cores };

// The most products that one output element sums.
[[nodiscard]] std::int64_t products_per_output(const Problem& problem);

// Per output element, the largest admissible |answer - y|, with y (B, C_out, L_out) the float64 result
// of the same stored x, w and bias. Derivation in bound.cpp. i32 is exact modulo 2^32: all zero.
[[nodiscard]] std::vector<double> error_bound(const Workload& workload, std::span<const double> x,
                                              std::span<const double> w, std::span<const double> bias,
                                              std::span<const double> y, Engine engine);

// Of the sums before they are stored; `x_error`: how far each element of x may be from what was multiplied, or empty.
[[nodiscard]] std::vector<double> sum_error(const Workload& workload, std::span<const double> x,
                                            std::span<const double> x_error, std::span<const double> w,
                                            std::span<const double> bias, Engine engine);
// Of a value that is stored, when it may be `error` from y before.
[[nodiscard]] double stored_error(Arithmetic arithmetic, double y, double error);
// Of what sums are computed in.
[[nodiscard]] double sum_unit(Arithmetic arithmetic);

}  // namespace tconv::verify
