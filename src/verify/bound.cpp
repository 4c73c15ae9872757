// The bound, with u the accumulator's unit roundoff, gamma(n) = n*u / (1 - n*u), S = |bias| + sum |x||w|.
//
// x, w and bias are given in storage type, so they carry no error. One output sums n = C_in/groups *
// taps products and the bias.
//
// - Sum in IEEE arithmetic, any order: a product passes through its own rounding and at most n additions,
//   so the error is at most gamma(n + 1) * S (Higham, Accuracy and Stability, section 3.1). u is 2^-24 for
//   f32 sums (products of f16, bf16 and cut tf32 operands are exact there, which this does not use), 2^-53
//   for f64.
// - Matrix units align the addends of a block to the largest and truncate: each addition then errs by at
//   most one ulp, 2u, of a partial sum, and each aligned addend by one ulp of the largest addend. Both
//   are covered by twice the count and twice the unit: gamma'(2(n + 1)) with u' = 2u.
// - tf32 cuts each operand to 10 mantissa bits, by truncation at worst: relative error c <= 2^-10 an
//   operand, (1 + c)^2 - 1 = 2c + c^2 a product.
// - Where x itself is only known to within E (it is an activation's result), the products err by sum E|w| more, and
// that
//   passes through the same roundings: (1 + relative) * sum E|w|.
// - Storing rounds the computed value, which is at most |y| + e from zero, to nearest: u_out * (|y| + e),
//   plus half a subnormal step.
//
// bf16 under the interpreter: the harness replaces its conversions, which truncate, by rounding to nearest.
#include "verify/bound.hpp"

#include <cmath>

#include "problem/phases.hpp"
#include "verify/number.hpp"
#include "verify/oracle.hpp"

namespace tconv::verify {
namespace {

std::vector<double> magnitudes(std::span<const double> values) {
  std::vector<double> result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) result[i] = std::fabs(values[i]);
  return result;
}

double gamma(double n, double u) { return n * u / (1 - n * u); }

}  // namespace

std::int64_t products_per_output(const Problem& problem) {
  return problem.c_in / problem.groups * Phases(problem).max_taps();
}

double sum_unit(Arithmetic arithmetic) { return std::ldexp(1.0, arithmetic == Arithmetic::f64 ? -53 : -24); }

double stored_error(Arithmetic arithmetic, double y, double error) {
  const Format stored = storage_format(arithmetic);
  return error + stored.unit() * (std::fabs(y) + error) + stored.smallest() / 2;
}

std::vector<double> sum_error(const Workload& workload, std::span<const double> x, std::span<const double> x_error,
                              std::span<const double> w, std::span<const double> bias, Engine engine) {
  const Problem& p = workload.problem;
  const double n = static_cast<double>(products_per_output(p));
  const double u = sum_unit(p.arithmetic);
  const bool truncating = engine == Engine::tensor_cores && p.arithmetic != Arithmetic::f64;
  double relative = truncating ? gamma(2 * (n + 1), 2 * u) : gamma(n + 1, u);
  if (p.arithmetic == Arithmetic::tf32) {  // on any engine: the answer may round its operands itself
    const double cut = std::ldexp(1.0, -10);
    relative += (2 * cut + cut * cut) * (1 + relative);
  }
  std::vector<double> error = gather(workload, magnitudes(x), magnitudes(w), magnitudes(bias));  // S
  for (double& one : error) one *= relative;
  if (!x_error.empty()) {
    const std::vector<double> brought = gather(workload, x_error, magnitudes(w), {});
    for (std::size_t i = 0; i < error.size(); ++i) error[i] += (1 + relative) * brought[i];
  }
  return error;
}

std::vector<double> error_bound(const Workload& workload, std::span<const double> x, std::span<const double> w,
                                std::span<const double> bias, std::span<const double> y, Engine engine) {
  const Arithmetic arithmetic = workload.problem.arithmetic;
  if (arithmetic == Arithmetic::i32) return std::vector<double>(y.size(), 0.0);
  std::vector<double> bound = sum_error(workload, x, {}, w, bias, engine);
  for (std::size_t i = 0; i < bound.size(); ++i) bound[i] = stored_error(arithmetic, y[i], bound[i]);
  return bound;
}

}  // namespace tconv::verify
