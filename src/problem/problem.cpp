#include "problem/problem.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <limits>

#include "util/error.hpp"

namespace tconv {
namespace {

struct Named {
  std::string_view name;
  Arithmetic arithmetic;
  int bytes;
};
constexpr Named kArithmetics[] = {{"f32", Arithmetic::f32, 4}, {"tf32", Arithmetic::tf32, 4},
                                  {"f16", Arithmetic::f16, 2}, {"bf16", Arithmetic::bf16, 2},
                                  {"f64", Arithmetic::f64, 8}, {"i32", Arithmetic::i32, 4}};

const Named& entry(Arithmetic arithmetic) noexcept { return kArithmetics[static_cast<std::size_t>(arithmetic)]; }

// Arithmetic in int64 that remembers whether any step overflowed.
class Checked {
 public:
  constexpr explicit Checked(std::int64_t value) : value_(value) {}

  Checked operator+(Checked other) const {
    return combine(other, [](auto a, auto b, auto* r) { return __builtin_add_overflow(a, b, r); });
  }
  Checked operator-(Checked other) const {
    return combine(other, [](auto a, auto b, auto* r) { return __builtin_sub_overflow(a, b, r); });
  }
  Checked operator*(Checked other) const {
    return combine(other, [](auto a, auto b, auto* r) { return __builtin_mul_overflow(a, b, r); });
  }

  [[nodiscard]] bool fits() const { return fits_; }
  [[nodiscard]] std::int64_t value() const { return value_; }

 private:
  template <typename Operation>
  Checked combine(Checked other, Operation operation) const {
    Checked result(0);
    const bool overflow = operation(value_, other.value_, &result.value_);
    result.fits_ = fits_ && other.fits_ && !overflow;
    return result;
  }

  std::int64_t value_;
  bool fits_ = true;
};

Checked product(std::initializer_list<std::int64_t> factors) {
  Checked result(1);
  for (const std::int64_t factor : factors) result = result * Checked(factor);
  return result;
}

// The furthest output a tap can reach before padding is cropped: (L-1)*s + d*(K-1) + a.
Checked last_uncropped(const Problem& p, std::int64_t length) {
  return (Checked(length) - Checked(1)) * Checked(p.stride) + Checked(p.dilation) * (Checked(p.kernel) - Checked(1)) +
         Checked(p.output_padding);
}

Checked checked_out_length(const Problem& p, std::int64_t length) {
  return last_uncropped(p, length) - Checked(2) * Checked(p.padding) + Checked(1);
}

Refusal too_large(std::string_view what) {
  return {fmt::format("{} does not fit in 63 bits", what), "sizes and offsets are int64"};
}

// PyTorch's order, version 2.13 (tests/golden/pytorch_rules.json holds its verdicts): first the shape checks that every
// backend shares, then the empty input, then the checks of the native kernel. There dilation == 0 is one of the last;
// here it fails with dilation < 0, before anything divides by it.
std::optional<Refusal> refuse_shape(const Problem& p) {
  if (p.groups < 1) return Refusal{fmt::format("groups is {}", p.groups), "groups must be at least 1"};
  if (p.padding < 0) return Refusal{fmt::format("padding is {}", p.padding), "padding must not be negative"};
  if (p.output_padding < 0) {
    return Refusal{fmt::format("output_padding is {}", p.output_padding), "output_padding must not be negative"};
  }
  if (p.stride < 1) return Refusal{fmt::format("stride is {}", p.stride), "stride must be at least 1"};
  if (p.dilation < 1) return Refusal{fmt::format("dilation is {}", p.dilation), "dilation must be at least 1"};
  if (p.c_in < p.groups) {
    return Refusal{fmt::format("C_in is {} with {} groups", p.c_in, p.groups), "C_in must be at least groups"};
  }
  if (p.c_in % p.groups != 0) {
    return Refusal{fmt::format("C_in is {} with {} groups", p.c_in, p.groups), "C_in must be a multiple of groups"};
  }
  if (p.c_out % p.groups != 0) {
    return Refusal{fmt::format("C_out is {} with {} groups", p.c_out, p.groups), "C_out must be a multiple of groups"};
  }
  if (p.padding > std::numeric_limits<std::int64_t>::max() / 2) return too_large("2 * padding");
  return std::nullopt;
}

std::optional<Refusal> refuse_extent(const Extent& extent) {
  if (extent.batch < 0) return Refusal{fmt::format("the batch is {}", extent.batch), "batch must not be negative"};
  if (extent.length < 0) return Refusal{fmt::format("L_in is {}", extent.length), "L_in must not be negative"};
  if (extent.length == 0 && extent.batch != 0) {
    return Refusal{"L_in is 0", "only an empty batch may have an empty length"};
  }
  return std::nullopt;
}

std::optional<Refusal> refuse_kernel(const Problem& p) {
  if (p.kernel < 1) return Refusal{fmt::format("the kernel has {} taps", p.kernel), "K must be at least 1"};
  if (p.output_padding >= std::max(p.stride, p.dilation)) {
    return Refusal{
        fmt::format("output_padding is {} with stride {} and dilation {}", p.output_padding, p.stride, p.dilation),
        "output_padding must be smaller than stride or dilation"};
  }
  if (p.c_out < 1) return Refusal{fmt::format("C_out is {}", p.c_out), "C_out must be at least 1"};
  if (!product({p.c_in, p.c_out / p.groups, p.kernel, bytes_per_element(p.arithmetic)}).fits()) {
    return too_large("the size of the weight");
  }
  // Phases adds a residue, which is below stride, to the offset of a tap.
  if (!last_uncropped(p, 2).fits()) return too_large("stride + dilation * (K-1) + output_padding");
  return std::nullopt;
}

std::optional<Refusal> refuse_output(const Problem& p, const Extent& extent) {
  // Position arithmetic goes up to the output before it is cropped, L_out itself to one more, less the padding.
  if (!(last_uncropped(p, extent.length) + Checked(1)).fits()) return too_large("L_out before padding is cropped");
  const Checked checked_out = checked_out_length(p, extent.length);
  if (!checked_out.fits()) return too_large("L_out");
  const std::int64_t out = checked_out.value();
  if (out < 1) return Refusal{fmt::format("L_out is {} for L_in {}", out, extent.length), "L_out must be at least 1"};
  const std::int64_t bytes = bytes_per_element(p.arithmetic);
  if (!product({extent.batch, p.c_in, extent.length, bytes}).fits()) return too_large("the size of the input");
  if (!product({extent.batch, p.c_out, out, bytes}).fits()) return too_large("the size of the output");
  if (!product({p.kernel, extent.length}).fits()) return too_large("K * L_in");
  return std::nullopt;
}

}  // namespace

std::string_view name(Arithmetic arithmetic) noexcept { return entry(arithmetic).name; }

std::optional<Arithmetic> arithmetic_named(std::string_view name) noexcept {
  const auto found = std::ranges::find(kArithmetics, name, &Named::name);
  if (found == std::end(kArithmetics)) return std::nullopt;
  return found->arithmetic;
}

int bytes_per_element(Arithmetic arithmetic) noexcept { return entry(arithmetic).bytes; }

std::optional<Refusal> refuse(const Problem& problem) {
  if (auto refusal = refuse_shape(problem)) return refusal;
  return refuse_kernel(problem);
}

std::optional<Refusal> refuse(const Problem& problem, const Extent& extent) {
  if (auto refusal = refuse_shape(problem)) return refusal;
  if (auto refusal = refuse_extent(extent)) return refusal;
  if (auto refusal = refuse_kernel(problem)) return refusal;
  return refuse_output(problem, extent);
}

void require_valid(const Problem& problem) {
  if (const auto refusal = refuse(problem)) throw Error(Exit::unsupported, "problem", refusal->what, refusal->rule);
}

void require_valid(const Problem& problem, const Extent& extent) {
  if (const auto refusal = refuse(problem, extent)) {
    throw Error(Exit::unsupported, "problem", refusal->what, refusal->rule);
  }
}

std::int64_t out_length(const Problem& problem, std::int64_t length) {
  return checked_out_length(problem, length).value();
}

std::int64_t input_elements(const Workload& workload) {
  return workload.extent.batch * workload.problem.c_in * workload.extent.length;
}

std::int64_t weight_elements(const Problem& problem) {
  return problem.c_in * (problem.c_out / problem.groups) * problem.kernel;
}

std::int64_t output_elements(const Workload& workload) {
  return workload.extent.batch * workload.problem.c_out * out_length(workload.problem, workload.extent.length);
}

}  // namespace tconv
