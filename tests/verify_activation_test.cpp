#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "problem/grammar.hpp"
#include "verify/activation.hpp"
#include "verify/bound.hpp"
#include "verify/cases.hpp"
#include "verify/number.hpp"
#include "verify/verify.hpp"

namespace tconv::verify {
namespace {

constexpr std::array kAll{Activation::none, Activation::relu, Activation::leaky_relu, Activation::elu,
                          Activation::gelu, Activation::tanh, Activation::snake};

TEST(VerifyActivation, KnownValues) {
  EXPECT_EQ(activate(Activation::none, -2.5, 9, 9), -2.5);
  EXPECT_EQ(activate(Activation::relu, -2.5, 9, 9), 0);
  EXPECT_EQ(activate(Activation::relu, 2.5, 9, 9), 2.5);
  EXPECT_EQ(activate(Activation::leaky_relu, -2, 0.25, 9), -0.5);
  EXPECT_EQ(activate(Activation::leaky_relu, 2, 0.25, 9), 2);
  EXPECT_DOUBLE_EQ(activate(Activation::elu, -1, 1.5, 9), 1.5 * (std::exp(-1) - 1));
  EXPECT_DOUBLE_EQ(activate(Activation::gelu, 1, 9, 9), 0.8413447460685429);  // the normal distribution at 1
  EXPECT_DOUBLE_EQ(activate(Activation::gelu, -1, 9, 9), -0.15865525393145705);
  EXPECT_DOUBLE_EQ(activate(Activation::tanh, 0.5, 9, 9), std::tanh(0.5));
  EXPECT_NEAR(activate(Activation::snake, 1, 9, 2), 1 + std::pow(std::sin(2.0), 2) / 2, 1e-9);
  for (const Activation one : kAll) EXPECT_EQ(activate(one, 0, 0.1, 1.5), 0) << name(one);
}

// What moves v by `error` moves f(v) by no more than is allowed for, and by no less than a tenth of it somewhere:
// neither too small nor idle.
TEST(VerifyActivation, AValueThatIsOffStaysWithinItsError) {
  for (const Activation one : kAll) {
    for (const double parameter : {0.1, 1.5}) {
      double most = 0;
      for (double v = -6; v <= 6; v += 0.0625) {
        for (const double error : {1e-6, 1e-2, 0.5}) {
          const double allowed = activation_error(one, v, error, parameter, 1.25, 0x1p-24);
          for (const double moved : {v - error, v + error}) {
            // The subtraction of two values near 6 is itself rounded.
            const double off = std::fabs(activate(one, moved, parameter, 1.25) - activate(one, v, parameter, 1.25));
            ASSERT_LE(off, allowed + 0x1p-50) << name(one) << " of " << v << " off by " << error;
            most = std::max(most, off / allowed);
          }
        }
      }
      EXPECT_GT(most, 0.5) << name(one);
    }
  }
}

// The C library's float functions err by an ulp or two: within what is allowed to Highway's four.
TEST(VerifyActivation, FloatArithmeticStaysWithinItsError) {
  for (double v = -8; v <= 8; v += 0.015625) {
    const auto f = static_cast<float>(v);
    EXPECT_LE(std::fabs(double{std::tanh(f)} - std::tanh(v)), activation_error(Activation::tanh, v, 0, 0, 0, 0x1p-24));
    if (v < 0) {
      EXPECT_LE(std::fabs(double{0.1f * std::expm1(f)} - 0.1 * std::expm1(v)),
                activation_error(Activation::elu, v, 0, 0.1, 0, 0x1p-24));
    }
    const float gelu = f * 0.5f * (1 + std::erf(f * 0.70710678f));
    EXPECT_LE(std::fabs(double{gelu} - activate(Activation::gelu, v, 0, 0)),
              activation_error(Activation::gelu, v, 0, 0, 0, 0x1p-24));
    const float sine = std::sin(1.3f * f);
    EXPECT_LE(std::fabs(double{f + sine * sine / (1.3f + 1e-9f)} - activate(Activation::snake, v, 0, double{1.3f})),
              activation_error(Activation::snake, v, 0, 0, double{1.3f}, 0x1p-24));
  }
}

TEST(VerifyActivation, SumsOfIntegersWrapBeforeRelu) {
  Case c{.workload = parse_workload("b1_i1_o1_l2_k1_i32"), .data = Data::integers, .after = Activation::relu};
  const Tensors tensors{.x = {65536, 3}, .w = {32768}, .bias = {}};  // 2^31 wraps to the smallest number
  const Expected expected = expect(c, tensors, Engine::ieee);
  EXPECT_TRUE(expected.exact);
  EXPECT_EQ(expected.y, (std::vector<double>{0, 98304}));
}

TEST(VerifyActivation, TheReferenceActivatesBeforeAndAfter) {
  Case c{.workload = parse_workload("b1_i1_o2_l2_k1_bias"),
         .data = Data::normal,
         .before = Activation::leaky_relu,
         .after = Activation::tanh,
         .before_parameter = 0.5};
  const Tensors tensors{.x = {-1, 2}, .w = {0.25, 1}, .bias = {0.5, -1}};
  const Expected expected = expect(c, tensors, Engine::ieee);
  EXPECT_FALSE(expected.exact);
  const std::vector<double> due = {std::tanh(0.375), std::tanh(1.0), std::tanh(-1.5), std::tanh(1.0)};
  ASSERT_EQ(expected.y.size(), due.size());
  for (std::size_t i = 0; i < due.size(); ++i) {
    EXPECT_DOUBLE_EQ(expected.y[i], due[i]);
    EXPECT_GT(expected.bound[i], 0);
    EXPECT_LT(expected.bound[i], 1e-5);
  }
  // Rounded to f32 it is right; off by a hundred roundings it is not.
  std::vector<double> answer = due;
  for (double& y : answer) y = round_to_storage(y, Arithmetic::f32);
  EXPECT_FALSE(judge(c, expected, encode(answer, Arithmetic::f32)).fault);
  answer[2] *= 1 + 100 * 0x1p-24;
  EXPECT_TRUE(judge(c, expected, encode(answer, Arithmetic::f32)).fault);
}

// An activated x is rounded to what a matrix unit multiplies: off by half a unit of f16 it is right there alone.
TEST(VerifyActivation, AMatrixUnitTakesTheActivatedInputInItsOwnType) {
  Case c{.workload = parse_workload("b1_i1_o1_l1_k1_f16"), .data = Data::normal, .before = Activation::tanh};
  const Tensors tensors{.x = {0.75}, .w = {1}, .bias = {}};
  const double exact = std::tanh(0.75);
  const double ieee = expect(c, tensors, Engine::ieee).bound[0];
  const double matrix = expect(c, tensors, Engine::tensor_cores).bound[0];
  EXPECT_GT(ieee, 0x1p-11 * exact);
  EXPECT_LT(ieee, 1.01 * 0x1p-11 * exact);
  EXPECT_GT(matrix, 2 * 0x1p-11 * exact);
  EXPECT_LT(matrix, 2.01 * 0x1p-11 * exact);
  c.before = Activation::relu;  // rounds nothing
  EXPECT_LT(expect(c, tensors, Engine::tensor_cores).bound[0], 1.01 * 0x1p-11 * 0.75);
}

TEST(VerifyActivation, SeedsDrawEveryActivationAndAlphasWithinTheSinesRange) {
  std::vector<int> before(kAll.size()), after(kAll.size());
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Case c = make_case(parse_workload("b2_i3_o2_l9_k4_s2_f32"), seed);
    draw_activations(c);
    ++before[static_cast<std::size_t>(c.before)];
    ++after[static_cast<std::size_t>(c.after)];
    const Tensors t = make_tensors(c);
    EXPECT_EQ(t.x_alpha.size(), c.before == Activation::snake ? 3u : 0u);
    EXPECT_EQ(t.y_alpha.size(), c.after == Activation::snake ? 2u : 0u);
    for (std::size_t i = 0; i < t.x_alpha.size(); ++i) {
      EXPECT_GT(t.x_alpha[i], 0);
      for (const double x : t.x) EXPECT_LT(std::fabs(t.x_alpha[i] * x), 39000);
    }
    Case again = make_case(c.workload, seed);
    draw_activations(again);
    EXPECT_EQ(again.before, c.before);
    EXPECT_EQ(again.after_parameter, c.after_parameter);
    Case integers = make_case(parse_workload("b2_i3_o2_l9_k4_s2_i32"), seed);
    draw_activations(integers);
    EXPECT_TRUE(integers.before == Activation::none || integers.before == Activation::relu);
  }
  for (std::size_t i = 0; i < kAll.size(); ++i) {
    EXPECT_GT(before[i], 0) << name(kAll[i]);
    EXPECT_GT(after[i], 0) << name(kAll[i]);
  }
}

}  // namespace
}  // namespace tconv::verify
