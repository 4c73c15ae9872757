#include "cuda/gemm.hpp"

#include <fmt/format.h>

#include "cuda/layer.hpp"
#include "problem/phases.hpp"

namespace tconv::cuda {

Gemm::Gemm(const Problem& p)
    : c_in(p.c_in / p.groups),
      c_out(p.c_out / p.groups),
      groups(p.groups),
      element_bytes(bytes_per_element(p.arithmetic)) {
  const Phases phases(p);
  gap = phases.gcd();
  live = p.stride / gap;
  taps = live == 1 ? p.kernel : -phases.min_offset() + 1;
  jump = live == 1 ? p.dilation / gap : 1;
  if (p.arithmetic == Arithmetic::f32) planes = 2, terms = 3;
}

std::optional<std::string> refuse_gemm(const Problem& p, std::string_view instruction) {
  if (p.arithmetic == Arithmetic::f64 || p.arithmetic == Arithmetic::i32)
    return fmt::format("{} multiplies tf32, f16 and bf16, not {}", instruction, name(p.arithmetic));
  if (auto why = too_large_for_int(p)) return why;
  const Gemm gemm(p);
  if (gemm.c_in < 8) return fmt::format("{} input channels a group leave most of the matrix unit idle", gemm.c_in);
  if (gemm.rows() < 4) return fmt::format("{} rows (output channels x live phases) leave most of it idle", gemm.rows());
  const Phases phases(p);
  if (gemm.live > 1 && gemm.taps > 2 * phases.max_taps() + 1)
    return fmt::format("its phases read {} offsets but at most {} each", gemm.taps, phases.max_taps());
  return std::nullopt;
}

std::string gemm_layer(const Layer& layer) {
  const Problem& p = layer.problem;
  const Gemm gemm(p);
  const char* storage = p.arithmetic == Arithmetic::f32    ? "AsF32"
                        : p.arithmetic == Arithmetic::tf32 ? "AsTf32"
                        : p.arithmetic == Arithmetic::f16  ? "AsF16"
                                                           : "AsBf16";
  return fmt::format(
      "struct Layer {{\n"
      "  using Storage = tconv::{};\n"
      "  static constexpr int C_IN = {}, C_OUT = {}, GROUPS = {}, K = {}, STRIDE = {}, PADDING = {};\n"
      "  static constexpr int GAP = {}, LIVE = {}, STEP = {}, TAPS = {}, JUMP = {};\n"
      "  static constexpr bool BIAS = {};\n{}"
      "}};\n\n",
      storage, gemm.c_in, gemm.c_out, gemm.groups, p.kernel, p.stride, p.padding, gemm.gap, gemm.live,
      p.dilation / gemm.gap, gemm.taps, gemm.jump, p.bias, activation_constants(layer));
}

}  // namespace tconv::cuda
