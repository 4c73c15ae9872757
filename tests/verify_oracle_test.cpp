#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>

#include "problem/grammar.hpp"
#include "problem/phases.hpp"
#include "util/subprocess.hpp"
#include "verify/bound.hpp"
#include "verify/cases.hpp"
#include "verify/number.hpp"
#include "verify/oracle.hpp"

namespace tconv::verify {
namespace {

Interface full_interface() {
  Interface i;
  i.c_in = {"in_channels", 0};
  i.c_out = {"out_channels", 0};
  i.kernel = {"kernel_size", 0};
  i.stride = {"stride", 1};
  i.padding = {"padding", 0};
  i.output_padding = {"output_padding", 0};
  i.dilation = {"dilation", 1};
  i.groups = {"groups", 1};
  i.bias = {"bias", 0};
  i.arithmetics = {Arithmetic::f32, Arithmetic::tf32, Arithmetic::f16, Arithmetic::bf16, Arithmetic::i32};
  return i;
}

// y[b,co,t] straight from the definition: every (ci, i, k), no index solved for.
TEST(Oracle, BothFormsAreTheDefinitionByHand) {
  const Workload w = parse_workload("b1_i1_o1_l3_k2_s2_p1_a1_d2_f64_bias");
  const std::vector<double> x{1, 2, 3}, weight{10, 100}, bias{5};
  // L_out = 2*2 - 2 + 2 + 1 + 1 = 6; t = 2i - 1 + 2k: i=0 -> -1, 1; i=1 -> 1, 3; i=2 -> 3, 5.
  const std::vector<double> y{5, 5 + 1 * 100 + 2 * 10, 5, 5 + 2 * 100 + 3 * 10, 5, 5 + 3 * 100};
  EXPECT_EQ(scatter(w, x, weight, bias), y);
  EXPECT_EQ(gather(w, x, weight, bias), y);
}

TEST(Oracle, FormsAgreeExactlyOnIntegers) {
  const Interface interface = full_interface();
  std::set<std::int64_t> strides, kernels;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Case c = make_case(draw_workload(interface, {24, interface.arithmetics}, seed), seed);
    c.data = Data::integers;
    const Tensors t = make_tensors(c);
    ASSERT_EQ(scatter(c.workload, t.x, t.w, t.bias), gather(c.workload, t.x, t.w, t.bias)) << print_word(c.workload);
    strides.insert(c.workload.problem.stride);
    kernels.insert(c.workload.problem.kernel);
  }
  EXPECT_EQ(strides.size(), 24u);
  EXPECT_EQ(kernels.size(), 17u);
}

// torch's own conv_transpose1d in float64, on data whose sums are exact.
TEST(Oracle, AgreesWithTorch) {
  constexpr const char* kScript = R"(
import json, sys
try:
    import torch
except ImportError:
    sys.exit(42)
for line in sys.stdin:
    c = json.loads(line)
    x, w = (torch.tensor(c[n], dtype=torch.float64).reshape(c[n + "_shape"]) for n in "xw")
    b = torch.tensor(c["b"], dtype=torch.float64) if c["b"] else None
    y = torch.nn.functional.conv_transpose1d(x, w, b, c["s"], c["p"], c["a"], c["g"], c["d"])
    print(json.dumps({"shape": list(y.shape), "y": y.flatten().tolist()}))
)";
  const Interface interface = full_interface();
  std::string input;
  std::vector<Workload> workloads;
  std::vector<std::vector<double>> expected;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Case c = make_case(draw_workload(interface, {9, {Arithmetic::f32}}, seed), seed);
    c.data = Data::integers;
    const Tensors t = make_tensors(c);
    const Problem& p = c.workload.problem;
    const Extent& e = c.workload.extent;
    input += nlohmann::json{{"x", t.x},
                            {"w", t.w},
                            {"b", t.bias},
                            {"x_shape", {e.batch, p.c_in, e.length}},
                            {"w_shape", {p.c_in, p.c_out / p.groups, p.kernel}},
                            {"s", p.stride},
                            {"p", p.padding},
                            {"a", p.output_padding},
                            {"g", p.groups},
                            {"d", p.dilation}}
                 .dump() +
             "\n";
    workloads.push_back(c.workload);
    expected.push_back(gather(c.workload, t.x, t.w, t.bias));
  }
  const std::string python = find_python();
  if (python.empty()) GTEST_SKIP() << "no Python";
  const ProcessResult result = run_process({python, "-c", kScript}, input, std::chrono::minutes(5), 1u << 30);
  if (result.exit_code == 42) GTEST_SKIP() << python << " has no torch";
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::istringstream lines(result.out);
  std::string line;
  for (std::size_t i = 0; i < workloads.size(); ++i) {
    ASSERT_TRUE(std::getline(lines, line));
    const auto answer = nlohmann::json::parse(line);
    const Problem& p = workloads[i].problem;
    const std::vector<std::int64_t> shape{workloads[i].extent.batch, p.c_out,
                                          out_length(p, workloads[i].extent.length)};
    ASSERT_EQ(answer["shape"].get<std::vector<std::int64_t>>(), shape) << print_word(workloads[i]);
    ASSERT_EQ(answer["y"].get<std::vector<double>>(), expected[i]) << print_word(workloads[i]);
  }
}

TEST(Number, RoundsToNearestEven) {
  EXPECT_EQ(round_to_storage(2049, Arithmetic::f16), 2048);
  EXPECT_EQ(round_to_storage(2051, Arithmetic::f16), 2052);
  EXPECT_EQ(round_to_storage(65519, Arithmetic::f16), 65504);
  EXPECT_EQ(round_to_storage(65520, Arithmetic::f16), INFINITY);
  EXPECT_EQ(round_to_storage(-65520, Arithmetic::f16), -INFINITY);
  EXPECT_EQ(round_to_storage(0x1p-25, Arithmetic::f16), 0);
  EXPECT_EQ(round_to_storage(0x1.8p-25, Arithmetic::f16), 0x1p-24);
  EXPECT_EQ(round_to_storage(257, Arithmetic::bf16), 256);
  EXPECT_EQ(round_to_storage(259, Arithmetic::bf16), 260);
  EXPECT_EQ(round_to_storage(4294967297.0 * 3, Arithmetic::i32), 3);
  EXPECT_EQ(round_to_storage(2147483648.0, Arithmetic::i32), -2147483648.0);
  EXPECT_TRUE(std::isnan(round_to_storage(NAN, Arithmetic::f16)));
}

TEST(Number, RoundsToF32AsTheMachineDoes) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100000; ++i) {
    const double value =
        std::ldexp(static_cast<double>(static_cast<std::int64_t>(random())), static_cast<int>(random() % 330) - 220);
    ASSERT_EQ(round_to_storage(value, Arithmetic::f32), static_cast<double>(static_cast<float>(value))) << value;
  }
}

// Every 16-bit pattern: decoding gives a number that is its own rounding and encodes to the same bits.
TEST(Number, HalfFormatsRoundTrip) {
  for (const Arithmetic a : {Arithmetic::f16, Arithmetic::bf16}) {
    for (int bits = 0; bits < 0x10000; ++bits) {
      const std::string bytes{static_cast<char>(bits & 0xff), static_cast<char>(bits >> 8)};
      const std::vector<double> value = decode(bytes, a);
      ASSERT_EQ(value.size(), 1u);
      if (std::isnan(value[0])) continue;
      ASSERT_EQ(round_to_storage(value[0], a), value[0]);
      ASSERT_EQ(encode(value, a), bytes) << bits;
    }
  }
  EXPECT_EQ(decode(std::string("\x00\x3c", 2), Arithmetic::f16)[0], 1.0);
  EXPECT_EQ(decode(std::string("\x80\x3f", 2), Arithmetic::bf16)[0], 1.0);
}

// An emulated accelerator: operands cut to 10 mantissa bits by truncation, products summed in f32 by
// truncation. Its error must stay inside the bound for matrix units, and leave the IEEE bound.
double truncate_to(double value, int mantissa_bits) {
  if (value == 0) return 0;
  const double step = std::ldexp(1.0, std::ilogb(value) - mantissa_bits);
  return std::trunc(value / step) * step;
}

TEST(Bound, HoldsForTruncatingMatrixUnits) {
  const Workload workload = parse_workload("b1_i37_o2_l20_k5_s2_p1_tf32");
  double worst = 0, worst_as_ieee = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Case c = make_case(workload, seed);
    c.data = seed % 2 == 0 ? Data::normal : Data::spread;
    const Tensors t = make_tensors(c);
    const std::vector<double> y = gather(workload, t.x, t.w, t.bias);
    const auto bound = error_bound(workload, t.x, t.w, t.bias, y, Engine::tensor_cores);
    Workload exact = workload;  // the same numbers, promised without cut operands
    exact.problem.arithmetic = Arithmetic::f32;
    const auto ieee = error_bound(exact, t.x, t.w, t.bias, y, Engine::ieee);
    const Phases phases(workload.problem);
    for (std::int64_t co = 0; co < 2; ++co) {
      for (std::int64_t out = 0; out < out_length(workload.problem, 20); ++out) {
        double sum = 0;
        const Phase phase = phases.phase((out + 1) % 2);
        for (std::int64_t j = 0; j < phase.count; ++j) {
          const std::int64_t i = (out + 1) / 2 + phase.tap(j).offset;
          for (std::int64_t ci = 0; ci < 37 && i >= 0 && i < 20; ++ci) {
            const double x = truncate_to(t.x[static_cast<std::size_t>(ci * 20 + i)], 10);
            const double w = truncate_to(t.w[static_cast<std::size_t>((ci * 2 + co) * 5 + phase.tap(j).k)], 10);
            sum = truncate_to(sum + x * w, 23);
          }
        }
        const auto at = static_cast<std::size_t>(co * out_length(workload.problem, 20) + out);
        ASSERT_LE(std::fabs(sum - y[at]), bound[at]);
        if (bound[at] > 0x1p-140) {
          worst = std::max(worst, std::fabs(sum - y[at]) / bound[at]);
          worst_as_ieee = std::max(worst_as_ieee, std::fabs(sum - y[at]) / ieee[at]);
        }
      }
    }
  }
  EXPECT_GT(worst, 0.05) << "the bound is too loose to mean anything";
  EXPECT_GT(worst_as_ieee, 1);
}

TEST(Bound, IsZeroForIntegersAndGrowsWithTheFormat) {
  const std::vector<double> x{1, 2, 3}, w{1, 2};
  auto bound = [&](const char* arithmetic) {
    const Workload workload = parse_workload(std::string("i1_o1_l3_k2_") + arithmetic);
    const auto y = gather(workload, x, w, {});
    return error_bound(workload, x, w, {}, y, Engine::ieee)[1];
  };
  EXPECT_EQ(bound("i32"), 0);
  EXPECT_LT(bound("f64"), bound("f32"));
  EXPECT_LT(bound("f32"), bound("f16"));
  EXPECT_LT(bound("f16"), bound("bf16"));
  // 2 products of values up to 3: within a few units of the last place of 2^-24 * (sum of magnitudes).
  EXPECT_GT(bound("f32"), 4 * 0x1p-24);
  EXPECT_LT(bound("f32"), 40 * 0x1p-24);
}

}  // namespace
}  // namespace tconv::verify
