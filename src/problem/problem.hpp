// What to compute: one transposed 1-D convolution, without and with its batch and length.
//
//   y[b,co,t] = bias[co] + sum over (ci,k,i) with i*stride - padding + k*dilation == t
//               of x[b,ci,i] * w[ci,co,k]
//
// x is (B, C_in, L_in), w is (C_in, C_out/groups, K), y is (B, C_out, L_out), all row-major, with
//   L_out = (L_in-1)*stride - 2*padding + dilation*(K-1) + output_padding + 1.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tconv {

// The arithmetic a result is computed in. Storage follows: tf32 stores f32; f16 and bf16 sum in f32.
enum class Arithmetic { f32, tf32, f16, bf16, f64, i32 };

[[nodiscard]] std::string_view name(Arithmetic arithmetic) noexcept;
[[nodiscard]] std::optional<Arithmetic> arithmetic_named(std::string_view name) noexcept;
[[nodiscard]] int bytes_per_element(Arithmetic arithmetic) noexcept;  // of x, w and y in memory

struct Problem {
  std::int64_t c_in = 0;
  std::int64_t c_out = 0;
  std::int64_t kernel = 0;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t output_padding = 0;
  std::int64_t dilation = 1;
  std::int64_t groups = 1;
  Arithmetic arithmetic = Arithmetic::f32;
  bool bias = false;

  auto operator<=>(const Problem&) const = default;
};

struct Extent {
  std::int64_t batch = 1;
  std::int64_t length = 0;  // L_in

  auto operator<=>(const Extent&) const = default;
};

struct Workload {
  Problem problem;
  Extent extent;

  auto operator<=>(const Workload&) const = default;
};

// Why a problem is refused: one line for the user, and the rule behind it.
struct Refusal {
  std::string what;
  std::string rule;
};

// The one validator. PyTorch's rules for conv_transpose1d in PyTorch's order, with two deliberate
// strictnesses on every device: dilation 0 and L_out < 1 are refused. An empty batch excuses only an
// empty length (PyTorch also lets it skip the late checks, such as output_padding's). Element and byte
// counts, L_out, offsets and K * L_in are checked against int64 overflow, so nothing below overflows.
// Returns nothing when the problem is accepted.
[[nodiscard]] std::optional<Refusal> refuse(const Problem& problem);
[[nodiscard]] std::optional<Refusal> refuse(const Problem& problem, const Extent& extent);
void require_valid(const Problem& problem);                        // throws Error(unsupported)
void require_valid(const Problem& problem, const Extent& extent);  // throws Error(unsupported)

// L_out of a problem that the validator accepted.
[[nodiscard]] std::int64_t out_length(const Problem& problem, std::int64_t length);

// Elements of the tensors of an accepted workload.
[[nodiscard]] std::int64_t input_elements(const Workload& workload);
[[nodiscard]] std::int64_t weight_elements(const Problem& problem);
[[nodiscard]] std::int64_t output_elements(const Workload& workload);

}  // namespace tconv
