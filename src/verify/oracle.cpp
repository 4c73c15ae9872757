#include "verify/oracle.hpp"

#include "problem/phases.hpp"

namespace tconv::verify {
namespace {

// Row-major offsets of the tensors of one workload, and where its groups lie.
struct Shape {
  explicit Shape(const Workload& workload)
      : p(workload.problem),
        batch(workload.extent.batch),
        length(workload.extent.length),
        out(out_length(p, length)),
        in_group(p.c_in / p.groups),
        out_group(p.c_out / p.groups) {}

  [[nodiscard]] std::size_t x(std::int64_t b, std::int64_t ci, std::int64_t i) const {
    return static_cast<std::size_t>((b * p.c_in + ci) * length + i);
  }
  [[nodiscard]] std::size_t w(std::int64_t ci, std::int64_t co, std::int64_t k) const {
    return static_cast<std::size_t>((ci * out_group + co % out_group) * p.kernel + k);
  }
  [[nodiscard]] std::size_t y(std::int64_t b, std::int64_t co, std::int64_t t) const {
    return static_cast<std::size_t>((b * p.c_out + co) * out + t);
  }
  [[nodiscard]] std::size_t outputs() const { return static_cast<std::size_t>(batch * p.c_out * out); }

  const Problem& p;
  std::int64_t batch, length, out, in_group, out_group;
};

}  // namespace

std::vector<double> scatter(const Workload& workload, std::span<const double> x, std::span<const double> w,
                            std::span<const double> bias) {
  const Shape at(workload);
  const Problem& p = at.p;
  std::vector<double> y(at.outputs(), 0.0);
  for (std::int64_t b = 0; b < at.batch; ++b) {
    for (std::int64_t co = 0; co < p.c_out; ++co) {
      const std::int64_t first = co / at.out_group * at.in_group;
      for (std::int64_t ci = first; ci < first + at.in_group; ++ci) {
        for (std::int64_t k = 0; k < p.kernel; ++k) {
          for (std::int64_t i = 0; i < at.length; ++i) {
            const std::int64_t t = i * p.stride - p.padding + k * p.dilation;
            if (t >= 0 && t < at.out) y[at.y(b, co, t)] += x[at.x(b, ci, i)] * w[at.w(ci, co, k)];
          }
        }
      }
      for (std::int64_t t = 0; t < at.out && !bias.empty(); ++t) {
        y[at.y(b, co, t)] += bias[static_cast<std::size_t>(co)];
      }
    }
  }
  return y;
}

std::vector<double> gather(const Workload& workload, std::span<const double> x, std::span<const double> w,
                           std::span<const double> bias) {
  const Shape at(workload);
  const Problem& p = at.p;
  const Phases phases(p);
  std::vector<double> y(at.outputs(), 0.0);
  for (std::int64_t r = 0; r < phases.count(); ++r) {
    const Phase phase = phases.phase(r);
    for (std::int64_t b = 0; b < at.batch; ++b) {
      for (std::int64_t co = 0; co < p.c_out; ++co) {
        const std::int64_t first = co / at.out_group * at.in_group;
        const std::int64_t start = (r - p.padding % p.stride + p.stride) % p.stride;  // t with (t+padding) mod s == r
        for (std::int64_t t = start; t < at.out; t += p.stride) {
          const std::int64_t q = (t + p.padding) / p.stride;
          double sum = bias.empty() ? 0.0 : bias[static_cast<std::size_t>(co)];
          for (std::int64_t j = 0; j < phase.count; ++j) {
            const Tap tap = phase.tap(j);
            const std::int64_t i = q + tap.offset;
            if (i < 0 || i >= at.length) continue;
            for (std::int64_t ci = first; ci < first + at.in_group; ++ci) {
              sum += x[at.x(b, ci, i)] * w[at.w(ci, co, tap.k)];
            }
          }
          y[at.y(b, co, t)] = sum;
        }
      }
    }
  }
  return y;
}

}  // namespace tconv::verify
