#include "problem/phases.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tconv {
namespace {

__extension__ using Wide = __int128;
__extension__ using UnsignedWide = unsigned __int128;

// x with a*x == 1 (mod m), for gcd(a, m) == 1; 0 for m == 1. Extended Euclid; |coefficients| stay below m.
std::int64_t inverse(std::int64_t a, std::int64_t m) {
  std::int64_t r0 = m, r1 = a % m, x0 = 0, x1 = 1;
  while (r1 != 0) {
    const std::int64_t quotient = r0 / r1;
    r0 = std::exchange(r1, r0 - quotient * r1);
    x0 = std::exchange(x1, x0 - quotient * x1);
  }
  return x0 < 0 ? x0 + m : x0 % m;
}

// Sum over j in [0, n) of floor((a*j + b) / m), by the Euclid-like exchange of the lattice triangle's sides.
// Every partial sum is a part of the result, and n*n, a*n < 2^126, so nothing overflows while the result does not.
UnsignedWide floor_sum(UnsignedWide n, UnsignedWide m, UnsignedWide a, UnsignedWide b) {
  UnsignedWide sum = 0;
  while (n > 0) {
    sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
    a %= m;
    b %= m;
    const UnsignedWide top = a * n + b;
    if (top < m) break;
    n = top / m;
    b = top % m;
    std::swap(m, a);
  }
  return sum;
}

// Pairs (k, i) with 0 <= k < taps, 0 <= i < length and i*stride + k*dilation <= bound.
std::int64_t pairs_up_to(Wide bound, Wide taps, Wide length, Wide stride, Wide dilation) {
  if (bound < 0 || length == 0) return 0;
  // k below `whole` admits every i, k from `any` on admits none, and those between admit
  // floor((bound - k*dilation) / stride) + 1 of them.
  const Wide any = std::min(taps, bound / dilation + 1);
  const Wide slack = bound - (length - 1) * stride;
  const Wide whole = slack < 0 ? 0 : std::min(any, slack / dilation + 1);
  const Wide between = any - whole;
  Wide count = whole * length + between;
  if (between > 0) {
    const Wide smallest = bound - (any - 1) * dilation;
    count += static_cast<Wide>(floor_sum(static_cast<UnsignedWide>(between), static_cast<UnsignedWide>(stride),
                                         static_cast<UnsignedWide>(dilation), static_cast<UnsignedWide>(smallest)));
  }
  return static_cast<std::int64_t>(count);
}

}  // namespace

Phases::Phases(const Problem& problem)
    : kernel_(problem.kernel),
      stride_(problem.stride),
      padding_(problem.padding),
      output_padding_(problem.output_padding),
      dilation_(problem.dilation),
      gcd_(std::gcd(problem.stride, problem.dilation)),
      // Taps 0 .. stride/g - 1 reach distinct residues; the pattern repeats from there on.
      live_(std::min(kernel_, stride_ / gcd_)),
      max_taps_((kernel_ - 1) / (stride_ / gcd_) + 1),
      // Tap k reaches residue k*dilation mod stride, so its offset is -floor(k*dilation / stride).
      min_offset_(-((kernel_ - 1) * dilation_ / stride_)),
      max_offset_(0) {}

Phase Phases::phase(std::int64_t residue) const {
  Phase phase{.residue = residue, .k_step = stride_ / gcd_, .offset_step = dilation_ / gcd_};
  if (residue % gcd_ != 0) return phase;
  // The smallest k with k*dilation == residue (mod stride).
  const Wide k = static_cast<Wide>(residue / gcd_) * inverse(dilation_ / gcd_, phase.k_step) % phase.k_step;
  if (k >= kernel_) return phase;
  phase.first_k = static_cast<std::int64_t>(k);
  phase.first_offset = (residue - phase.first_k * dilation_) / stride_;
  phase.count = (kernel_ - 1 - phase.first_k) / phase.k_step + 1;
  return phase;
}

std::int64_t Phases::first_position() const noexcept { return padding_ / stride_; }

std::int64_t Phases::last_position(std::int64_t length) const {
  // u of the last output: L_out - 1 + padding.
  return ((length - 1) * stride_ - padding_ + dilation_ * (kernel_ - 1) + output_padding_) / stride_;
}

std::int64_t Phases::useful_taps(std::int64_t length) const {
  // A pair (k, i) lands on output t = i*stride + k*dilation - padding; count those with 0 <= t < L_out.
  const Wide last = static_cast<Wide>(length - 1) * stride_ - padding_ + static_cast<Wide>(dilation_) * (kernel_ - 1) +
                    output_padding_;
  return pairs_up_to(last, kernel_, length, stride_, dilation_) -
         pairs_up_to(static_cast<Wide>(padding_) - 1, kernel_, length, stride_, dilation_);
}

Work work(const Workload& workload) {
  const Problem& p = workload.problem;
  const auto real = [](std::int64_t value) { return static_cast<double>(value); };
  const double bytes = bytes_per_element(p.arithmetic);
  const double triples = real(workload.extent.batch) * real(p.c_out) * real(p.c_in / p.groups);
  return {
      .useful_flops = 2 * triples * real(Phases(p).useful_taps(workload.extent.length)),
      .bytes_read = bytes * (real(input_elements(workload)) + real(weight_elements(p)) + (p.bias ? real(p.c_out) : 0)),
      .bytes_written = bytes * real(output_elements(workload))};
}

}  // namespace tconv
