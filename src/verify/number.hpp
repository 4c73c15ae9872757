// Numbers as tensors store them: rounding, and the bytes in a tensor.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "problem/problem.hpp"

namespace tconv::verify {

// What one arithmetic stores. tf32 stores f32.
struct Format {
  int mantissa_bits;  // explicit ones
  int min_exponent;   // of the smallest normal number
  int max_exponent;   // of the largest finite number
  // Relative rounding error to nearest: 2^-(mantissa_bits+1).
  [[nodiscard]] double unit() const;
  // Distance of two neighbouring subnormal numbers.
  [[nodiscard]] double smallest() const;
  [[nodiscard]] double largest() const;
};
[[nodiscard]] Format storage_format(Arithmetic arithmetic);  // i32 has none: Error(defect)

// To the nearest number that is stored, ties to even; beyond the largest to infinity. i32: the whole
// number modulo 2^32, into [-2^31, 2^31); |value| must be below 2^53.
[[nodiscard]] double round_to_storage(double value, Arithmetic arithmetic);

// Values that are stored exactly, as the bytes of a dense little-endian tensor, and back. decode takes
// whole elements only: Error(defect) otherwise.
[[nodiscard]] std::string encode(std::span<const double> values, Arithmetic arithmetic);
[[nodiscard]] std::vector<double> decode(std::string_view bytes, Arithmetic arithmetic);

}  // namespace tconv::verify
