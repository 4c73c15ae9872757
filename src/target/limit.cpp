#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

#include "target/target.hpp"

namespace tconv {
namespace {

// The part of its peak that the best known matrix product reaches in an arithmetic.
Fact best_fraction(const Target& target, Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::tf32:
      return target.tensor_fraction;
    case Arithmetic::f16:
    case Arithmetic::bf16:
      return target.half_fraction;
    case Arithmetic::f64: {
      // The data-center chips since GA100 have the better f64 rate in their tensor cores.
      const bool on_tensor_cores = target.sm == 80 || target.sm == 90 || target.sm == 100;
      return on_tensor_cores ? target.tensor_fraction : target.fma_fraction;
    }
    case Arithmetic::f32:
    case Arithmetic::i32:
      return target.fma_fraction;
  }
  __builtin_unreachable();
}

}  // namespace

Fact peak_flops(const Target& target, Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f32:
      return target.fp32_flops;
    case Arithmetic::tf32:
      return target.tf32_flops;
    case Arithmetic::f16:
      return target.f16_flops;
    case Arithmetic::bf16:
      return target.bf16_flops;
    case Arithmetic::f64:
      return target.f64_flops;
    case Arithmetic::i32:
      return target.i32_ops;
  }
  __builtin_unreachable();
}

double achievable_flops(const Target& target, Arithmetic arithmetic) {
  const double own = peak_flops(target, arithmetic).value * best_fraction(target, arithmetic).value;
  return arithmetic == Arithmetic::f32 ? std::max(own, achievable_flops(target, Arithmetic::tf32) / 3) : own;
}

double achievable_dram(const Target& target, double bytes_read, double bytes_written) {
  // Measured mixes by the share of bytes written.
  const std::pair<double, double> mixes[] = {{1.0 / 2, target.dram_read_write_fraction.value},
                                             {2.0 / 3, target.dram_write_double_fraction.value},
                                             {4.0 / 5, target.dram_write_heavy_fraction.value},
                                             {1.0, target.dram_write_only_fraction.value}};
  const double bytes = bytes_read + bytes_written;
  const double share = bytes > 0 ? std::clamp(bytes_written / bytes, 0.5, 1.0) : 0.5;
  const auto* right = std::ranges::find_if(mixes, [&](const auto& mix) { return share <= mix.first; });
  if (right == std::begin(mixes)) return target.dram_bytes_per_s.value * right->second;
  const auto* left = std::prev(right);
  const double weight = (share - left->first) / (right->first - left->first);
  return target.dram_bytes_per_s.value * (left->second + weight * (right->second - left->second));
}

Limit limit(const Workload& workload, const Target& target) {
  Limit limit;
  limit.work = work(workload);
  limit.launch_seconds = target.launch_s.value;
  if (output_elements(workload) > 0) {
    limit.memory_seconds =
        limit.work.bytes() / achievable_dram(target, limit.work.bytes_read, limit.work.bytes_written);
    limit.arithmetic_seconds = limit.work.useful_flops / achievable_flops(target, workload.problem.arithmetic);
  }
  const std::pair<double, std::string_view> bounds[] = {
      {limit.memory_seconds, "memory"}, {limit.arithmetic_seconds, "arithmetic"}, {limit.launch_seconds, "launch"}};
  std::tie(limit.seconds, limit.bound_by) = *std::ranges::max_element(bounds, {}, [](auto b) { return b.first; });
  return limit;
}

}  // namespace tconv
