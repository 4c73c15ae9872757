// With v' the value that came, |v' - v| <= e, and g the computed f:
//
//   |g(v') - f(v)| <= |f(v') - f(v)| + |g(v') - f(v')| <= slope * e + evaluation(v'),
//
// where slope is the largest |f'|. Evaluation, in units of u (an error of one ulp is at most 2u, relative; Highway
// states 4 ulp for expm1 and tanh, 3 for sine up to 39000, 1 for exp):
//
// - leaky_relu: the rounded parameter and one product, 2|f|.
// - elu: likewise, and expm1's 8: 10|f|.
// - tanh: 8|f|.
// - gelu = v/2 * (1 + erf(z)), z = v/sqrt(2), whose two roundings move erf by at most 2 max|z erf'(z)| < 1. Below
//   |z| = 1 erf is a power series, by Horner's rule with fused multiply-adds: term n of it passes 2n + 1 roundings at
//   most (one each for its coefficient, the products and the squares), sum |c_n|(2n + 1) = 2e/sqrt(pi) < 3.1, and
//   without fused multiply-adds twice that; the last product adds 1. Above, the error of erfc is a few of its own
//   units, and erfc is below 0.16 there, so less. Together below 8.2 for erf; the sum 1 + erf adds 2, the two products
//   2 of |f| <= |v|: (8.2 + 2)/2 + 2 < 8 of |v|.
// - snake = v + q, q = sin(t)^2/(alpha + 1e-9), t = alpha*v: t's rounding moves sin^2 by at most |t| (|sin(2t)| <= 1),
//   which is |v| in q at most; sine's 6 count twice in the square, its product, the sum alpha + 1e-9 and the division 1
//   each: 15 q. The last sum adds 1 of |f|.
//
// To this come second-order terms, for which the counts below are one larger; a step of the smallest number; and the
// reference's own library functions, within an ulp of f or v.
#include "verify/activation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace tconv::verify {
namespace {

constexpr double kOffset = 1e-9;  // of snake's divisor

double slope(Activation activation, double parameter, double alpha) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:
    case Activation::tanh:
      return 1;
    case Activation::leaky_relu:
    case Activation::elu:
      return std::max(1.0, std::fabs(parameter));
    case Activation::gelu:
      return 1.13;  // at sqrt(2)
    case Activation::snake:
      return 1 + std::fabs(alpha / (alpha + kOffset));
  }
  return 1;
}

}  // namespace

double activate(Activation activation, double v, double parameter, double alpha) {
  switch (activation) {
    case Activation::none:
      return v;
    case Activation::relu:
      return std::max(v, 0.0);
    case Activation::leaky_relu:
      return v < 0 ? parameter * v : v;
    case Activation::elu:
      return v < 0 ? parameter * std::expm1(v) : v;
    case Activation::gelu:
      return v / 2 * std::erfc(-v / std::numbers::sqrt2);
    case Activation::tanh:
      return std::tanh(v);
    case Activation::snake: {
      const double sine = std::sin(alpha * v);
      return v + sine * sine / (alpha + kOffset);
    }
  }
  return v;
}

double activation_error(Activation activation, double v, double error, double parameter, double alpha, double u) {
  const double moved = slope(activation, parameter, alpha) * error;
  const double f = std::fabs(activate(activation, v, parameter, alpha)) + moved;  // as far as it may have moved
  const double from = std::fabs(v) + error;
  double units = 0;
  switch (activation) {
    case Activation::none:
    case Activation::relu:
      return error;  // exact in itself
    case Activation::leaky_relu:
      units = 3 * f;
      break;
    case Activation::elu:
      units = 11 * f;
      break;
    case Activation::tanh:
      units = 9 * f;
      break;
    case Activation::gelu:
      units = 9 * from;
      break;
    case Activation::snake:
      units = f + from + 16 / std::fabs(alpha + kOffset);
      break;
  }
  const bool wide = u < 0x1p-40;
  const double step =
      wide ? std::numeric_limits<double>::denorm_min() : static_cast<double>(std::numeric_limits<float>::denorm_min());
  return moved + u * units + 0x1p-51 * (f + from) + step;
}

}  // namespace tconv::verify
