// The harness on a correct module and on modules with one fault each: the first passes, each of the others
// is caught, by the check that is meant to catch it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "util/error.hpp"
#include "verify/verify.hpp"

namespace tconv::verify {
namespace {

std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string correct_source() {
  return slurp(std::filesystem::path(TCONV_SOURCE_DIR) / "tests" / "data" / "conv_transpose1d.py");
}

// The code block of a real request, where the folder with them lies beside the project.
std::string current_source(const std::string& stem) {
  const auto folder = std::filesystem::path(TCONV_SOURCE_DIR) / ".." / "shared" / "requests";
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent)) {
    if (entry.path().filename().string().starts_with(stem)) {
      const std::string text = slurp(entry.path());
      const std::size_t begin = text.find("```python\n") + 10;
      return text.substr(begin, text.find("```", begin) - begin);
    }
  }
  return {};
}

// The constructor of both requests: no output_padding, no groups.
Interface plain_interface(bool uses_dot) {
  request::Code code;
  code.module.class_name = "ModelNew";
  for (const char* name : {"in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "bias"}) {
    code.module.parameters.push_back({name, "int", ""});
  }
  code.kernels.resize(1);
  code.kernels[0].uses_dot = uses_dot;
  return read_interface(code);
}

// What read_code finds in the module of tests/data.
Interface full_interface() {
  request::Code code;
  code.module.class_name = "ModelNew";
  for (const char* name : {"in_channels", "out_channels", "kernel_size"})
    code.module.parameters.push_back({name, "int", ""});
  for (const char* name : {"stride", "padding", "output_padding", "dilation", "groups"}) {
    code.module.parameters.push_back({name, "int", "1"});
  }
  code.module.parameters.push_back({"bias", "bool", "False"});
  code.module.bias_possible = true;
  code.kernels.resize(1);
  code.kernels[0].uses_dot = true;
  return read_interface(code);
}

class Mutants : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    try {
      Harness harness("unused.py", Device::interpreter, std::chrono::seconds(60));
      harness.start();
    } catch (const Error& error) {
      why_not_ = error.what();
    }
  }
  void SetUp() override {
    if (!why_not_.empty()) GTEST_SKIP() << why_not_;
    folder_ = std::filesystem::temp_directory_path() / ("tconv-mutants-" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  // Verifies `source`; the seed is fixed so that a caught mutant stays caught.
  Verification run(const std::string& source, std::int64_t cases,
                   std::chrono::seconds timeout = std::chrono::seconds(60)) {
    Options options;
    options.answer = folder_ / "answer.py";
    std::ofstream(options.answer) << source;
    options.cases = cases;
    options.seed = 20240607;
    options.timeout = timeout;
    options.arithmetics = arithmetics_;
    options.jobs = cases > 40 ? 2 : 1;  // starting a child takes longer than a few cases
    options.max_stride = max_stride_;
    return verify(options, interface_);
  }

  // The correct source with one replacement, and the kind of fault it must show.
  void expect_caught(const std::string& from, const std::string& to, const std::string& kind, std::int64_t cases = 12) {
    std::string source = correct_source();
    const std::size_t at = source.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    source.replace(at, from.size(), to);
    const Verification v = run(source, cases);
    EXPECT_TRUE(std::any_of(v.groups.begin(), v.groups.end(), [&](const auto& g) { return g.kind == kind; }))
        << text(v, {}, "answer.py");
  }

  std::filesystem::path folder_;
  std::vector<Arithmetic> arithmetics_;  // empty: all
  std::int64_t max_stride_ = 9;
  Interface interface_ = full_interface();
  static inline std::string why_not_;
};

TEST_F(Mutants, TheCorrectModulePasses) {
  const Verification v = run(correct_source(), 60);
  EXPECT_EQ(v.failed, 0) << text(v, {}, "answer.py");
  for (const auto& [arithmetic, accuracy] : v.accuracy) {
    EXPECT_GT(accuracy.exact, 0);
    EXPECT_GT(accuracy.worst_ratio, 0) << "no rounding at all: is the comparison blind?";
    EXPECT_LT(accuracy.worst_ratio, 1);
  }
  EXPECT_EQ(v.accuracy.size(), 4u);
}

TEST_F(Mutants, DropsTheLastTap) { expect_caught("range(0, K)", "range(0, K - 1)", "wrong result"); }

TEST_F(Mutants, TestsTapsInFloatingPoint) {
  expect_caught("u % stride == 0", "u * (1.0 / stride) == source", "wrong result", 40);
}

TEST_F(Mutants, IgnoresTheInputLength) { expect_caught(" & (source < L_IN)", "", "wrong result"); }

TEST_F(Mutants, WritesBehindItsOutput) {
  expect_caught("(o < C_OUT)[:, None] & (t < L_OUT)[None, :])\n\n\ndef",
                "(o < C_OUT)[:, None] & (t >= 0)[None, :])\n\n\ndef", "writes outside its output");
}

TEST_F(Mutants, WritesBeforeItsOutput) {
  expect_caught("tl.store(y_ptr + y_offsets,", "tl.store(y_ptr - 1 + y_offsets,", "writes outside its output");
}

TEST_F(Mutants, LeavesElementsUnwritten) {
  expect_caught("& (t < L_OUT)[None, :])\n\n\ndef", "& (t < L_OUT - 1)[None, :])\n\n\ndef",
                "leaves elements unwritten");
}

TEST_F(Mutants, ModifiesItsInput) {
  expect_caught("    y = torch.empty(", "    x.reshape(-1)[:1].add_(1)\n    y = torch.empty(", "modifies its input");
}

TEST_F(Mutants, ModifiesItsWeight) {
  expect_caught("    y = torch.empty(", "    weight.mul_(2)\n    y = torch.empty(", "modifies its input");
}

TEST_F(Mutants, TakesTheWrongGroup) { expect_caught("group * C_IN + i)[:, None]", "i)[:, None]", "wrong result"); }

TEST_F(Mutants, AssumesAContiguousInput) {
  expect_caught("x.stride(0), x.stride(1), x.stride(2)", "C_IN * L_IN, L_IN, 1", "wrong result");
}

TEST_F(Mutants, ForgetsTheBias) { expect_caught("if HAS_BIAS:", "if HAS_BIAS and K > 3:", "wrong result"); }

TEST_F(Mutants, AccumulatesInHalfPrecision) {
  expect_caught("acc = tl.dot(w, x, acc)", "acc = tl.dot(w, x, acc).to(tl.float16).to(tl.float32)", "wrong result");
}

TEST_F(Mutants, ReturnsAnotherDtype) { expect_caught("    return y\n", "    return y.double()\n", "dtype"); }

TEST_F(Mutants, ReturnsAnotherShape) { expect_caught("    return y\n", "    return y[:, :, :-1]\n", "shape"); }

TEST_F(Mutants, ReturnsAViewThatIsNotContiguous) {
  expect_caught("    return y\n", "    return y.transpose(1, 2).contiguous().transpose(1, 2)\n", "not contiguous");
}

TEST_F(Mutants, DependsOnUninitializedMemory) {
  expect_caught("    return y\n",
                "    return y + (torch.empty(1, device=x.device)[0] == torch.empty(1)[0]).to(y.dtype)\n",
                "not repeatable");
}

TEST_F(Mutants, Raises) { expect_caught("    return y\n", "    raise ValueError('no')\n", "raises", 4); }

// Printing must not reach the protocol, and one bad configuration of an autotune list must be found.
TEST_F(Mutants, PrintsOnStandardOutput) {
  std::string source = correct_source();
  source.replace(source.find("    y = torch.empty("), 0, "    print('{}')\n    import os; os.write(1, b'{}\\n')\n");
  EXPECT_EQ(run(source, 6).failed, 0);
}

TEST_F(Mutants, HasOneBadConfiguration) {
  expect_caught("if HAS_BIAS:", "if BLOCK_O == 32:\n        acc *= 2\n    if HAS_BIAS:", "wrong result");
}

// Whole numbers wrap modulo 2^32; a sum in f32 loses their low bits.
TEST_F(Mutants, IntegersAreExactModulo2To32) {
  std::string source = correct_source();
  auto replace = [&](const std::string& from, const std::string& to) {
    const std::size_t at = source.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    source.replace(at, from.size(), to);
  };
  replace("acc = tl.dot(w, x, acc)", "acc += tl.sum(w[:, :, None] * x[None, :, :], axis=1)");
  replace(".to(tl.float32)[:, None]", "[:, None]");
  arithmetics_ = {Arithmetic::i32};
  Verification v = run(source, 8);
  EXPECT_GT(v.failed, 0);
  replace("(BLOCK_O, BLOCK_T), dtype=tl.float32", "(BLOCK_O, BLOCK_T), dtype=tl.int32");
  v = run(source, 16);
  EXPECT_EQ(v.failed, 0) << text(v, {}, "answer.py");
  EXPECT_EQ(v.accuracy[Arithmetic::i32].exact, 16);
}

// Whether floor(n * (1/s)) finds the multiples of s: in f32 it misses some for these strides up to 64 only.
TEST_F(Mutants, TheFirstRequestDropsTapsAtFourStrides) {
  const std::string source = current_source("000_");
  if (source.empty()) GTEST_SKIP() << "the real requests are not beside the project";
  interface_ = plain_interface(false);
  max_stride_ = 64;
  const Verification v = run(source, 192);
  ASSERT_EQ(v.groups.size(), 1u) << text(v, {}, "current.py");
  EXPECT_EQ(v.groups[0].kind, "wrong result");
  for (const auto& [stride, share] : v.groups[0].by_stride) {
    const bool drops = stride == 41 || stride == 47 || stride == 55 || stride == 61;
    EXPECT_EQ(share.failed > 0, drops) << "stride " << stride;
  }
}

TEST_F(Mutants, TheSecondRequestAssumesAContiguousInput) {
  const std::string source = current_source("001_");
  if (source.empty()) GTEST_SKIP() << "the real requests are not beside the project";
  interface_ = plain_interface(true);
  const Verification v = run(source, 60);
  ASSERT_EQ(v.groups.size(), 1u) << text(v, {}, "current.py");
  EXPECT_EQ(v.groups[0].by_layout.at("contiguous").failed, 0);
  EXPECT_GT(v.failed, 0);
}

// A child that dies is a fault of its case, and the next case starts another.
TEST_F(Mutants, CrashesOnSomeCases) {
  std::string source = correct_source();
  source.replace(source.find("    y = torch.empty("), 0, "    if stride > 4:\n        import os; os.abort()\n");
  const Verification v = run(source, 8);
  ASSERT_EQ(v.groups.size(), 1u) << text(v, {}, "answer.py");
  EXPECT_EQ(v.groups[0].kind, "crashes");
  EXPECT_GT(v.failed, 0);
  EXPECT_LT(v.failed, 8);
}

TEST_F(Mutants, Hangs) {
  std::string source = correct_source();
  source.replace(source.find("    y = torch.empty("), 0, "    while True: torch.empty(1)\n");
  const Verification v = run(source, 1, std::chrono::seconds(5));
  ASSERT_EQ(v.groups.size(), 1u);
  EXPECT_EQ(v.groups[0].kind, "does not end");
}

// The reproducer's word and seed make the same case, with the same verdict.
TEST_F(Mutants, AReproducerReproduces) {
  std::string source = correct_source();
  source.replace(source.find("range(0, K)"), 11, "range(0, K - 1)");
  const Verification v = run(source, 10);
  ASSERT_FALSE(v.groups.empty());
  const Failure& failure = v.groups[0].smallest;
  Options options;
  options.answer = folder_ / "answer.py";
  options.only = failure.c.workload;
  options.seed = failure.c.seed;
  options.cases = 1;
  const Verification again = verify(options, full_interface());
  ASSERT_EQ(again.failed, 1);
  EXPECT_EQ(again.groups[0].smallest.fault.detail, failure.fault.detail);
}

}  // namespace
}  // namespace tconv::verify
