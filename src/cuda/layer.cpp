#include "cuda/layer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "problem/phases.hpp"

namespace tconv::cuda {
namespace {

const char* storage(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return "float";
    case Arithmetic::f16:
      return "tconv::F16";
    case Arithmetic::bf16:
      return "tconv::Bf16";
    case Arithmetic::f64:
      return "double";
    case Arithmetic::i32:
      return "int";
  }
  __builtin_unreachable();
}

}  // namespace

std::string activation_constants(const Layer& layer) {
  // Hexadecimal: the parameters to their last bit.
  return fmt::format(
      "  static constexpr tconv::Activation BEFORE = tconv::Activation::{}, AFTER = tconv::Activation::{};\n"
      "  static constexpr double BEFORE_PARAMETER = {:a}, AFTER_PARAMETER = {:a};\n",
      name(layer.before), name(layer.after), layer.before_parameter, layer.after_parameter);
}

std::string layer_constants(const Layer& layer) {
  const Problem& p = layer.problem;
  return fmt::format(
      "  using Storage = {};\n"
      "  static constexpr int C_IN = {}, C_OUT = {}, GROUPS = {};\n"
      "  static constexpr int K = {}, STRIDE = {}, PADDING = {}, DILATION = {}, GAP = {};\n{}",
      storage(p.arithmetic), p.c_in / p.groups, p.c_out / p.groups, p.groups, p.kernel, p.stride, p.padding, p.dilation,
      Phases(p).gcd(), activation_constants(layer));
}

std::optional<std::string> too_large_for_int(const Problem& p) {
  constexpr std::int64_t kLimit = 1 << 29;
  if (std::max({p.c_in, p.c_out, p.stride, p.padding, p.kernel, p.dilation}) > kLimit ||
      p.kernel * p.dilation > kLimit) {
    return "the channels, stride, padding or kernel times dilation are above 2^29, and its offsets are 32-bit";
  }
  return std::nullopt;
}

int bytes_per_sum(Arithmetic arithmetic) { return arithmetic == Arithmetic::f64 ? 8 : 4; }

std::int64_t positions(const Workload& workload) {
  if (output_elements(workload) == 0) return 0;
  const Phases phases(workload.problem);
  return phases.last_position(workload.extent.length) - phases.first_position() + 1;
}

}  // namespace tconv::cuda
