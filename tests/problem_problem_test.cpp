// The validator, row by row, against PyTorch's own verdicts; the arithmetic's names.
#include "problem/problem.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "util/error.hpp"

namespace tconv {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

nlohmann::json golden(const char* file) {
  std::ifstream in(std::filesystem::path(__FILE__).parent_path() / "golden" / file);
  return nlohmann::json::parse(in);
}

Workload valid() { return {{.c_in = 4, .c_out = 6, .kernel = 3}, {.batch = 1, .length = 5}}; }

std::string rule_of(const Workload& workload) {
  const auto refusal = refuse(workload.problem, workload.extent);
  return refusal ? refusal->rule : "accepted";
}

// The first words of PyTorch's message for each of our rules. L_out with an empty batch fails late, in a reshape.
struct Rule {
  std::string_view pytorch, ours;
};
constexpr Rule kRules[] = {
    {"non-positive groups", "groups must be at least 1"},
    {"negative padding", "padding must not be negative"},
    {"negative output_padding", "output_padding must not be negative"},
    {"non-positive stride", "stride must be at least 1"},
    {"dilation should be", "dilation must be at least 1"},
    {"Given groups=5, expected weight to be at least", "C_in must be at least groups"},
    {"Given groups=8, expected weight to be at least", "C_in must be at least groups"},
    {"Given groups=1, expected weight to be at least", "C_in must be at least groups"},
    {"Given groups=2, expected weight to be divisible", "C_in must be a multiple of groups"},
    {"Given groups=3, expected weight to be divisible", "C_in must be a multiple of groups"},
    {"out_channels must be divisible", "C_out must be a multiple of groups"},
    {"Given padding=", "sizes and offsets are int64"},
    {"Only zero batch", "only an empty batch may have an empty length"},
    {"kernel size should", "K must be at least 1"},
    {"output padding must", "output_padding must be smaller than stride or dilation"},
    {"non-empty 2D or 4D weight", "C_out must be at least 1"},
    {"Given input size per channel", "L_out must be at least 1"},
    {"cannot reshape tensor of 0 elements", "L_out must be at least 1"},
};

std::string_view our_rule(std::string_view message) {
  for (const Rule& rule : kRules) {
    if (message.starts_with(rule.pytorch)) return rule.ours;
  }
  return "";
}

TEST(Validator, GivesPyTorchsVerdictAndItsFirstReason) {
  const auto table = golden("pytorch_rules.json");
  ASSERT_GT(table.at("calls").size(), 60u);
  int stricter = 0;
  for (const auto& call : table.at("calls")) {
    const auto& a = call.at("arguments");
    const Workload workload{{.c_in = a.at("c_in"),
                             .c_out = a.at("c_out"),
                             .kernel = a.at("kernel"),
                             .stride = a.at("stride"),
                             .padding = a.at("padding"),
                             .output_padding = a.at("output_padding"),
                             .dilation = a.at("dilation"),
                             .groups = a.at("groups")},
                            {.batch = a.at("batch"), .length = a.at("length")}};
    const auto refusal = refuse(workload.problem, workload.extent);
    if (!call.at("accepted").get<bool>()) {
      ASSERT_TRUE(refusal) << call;
      const std::string_view expected = our_rule(call.at("message").get<std::string>());
      ASSERT_FALSE(expected.empty()) << call;
      EXPECT_EQ(refusal->rule, expected) << call;
    } else if (call.at("length_out") == 0) {  // our strictness; PyTorch takes it for an empty batch
      EXPECT_EQ(rule_of(workload), "L_out must be at least 1") << call;
      ++stricter;
    } else {
      ASSERT_FALSE(refusal) << call << refusal->what;
      EXPECT_EQ(out_length(workload.problem, workload.extent.length), call.at("length_out").get<std::int64_t>())
          << call;
    }
  }
  EXPECT_EQ(stricter, 1);
}

TEST(Validator, RefusesDilationZeroEvenForAnEmptyBatch) {
  Workload w = valid();
  w.problem.dilation = 0;
  EXPECT_EQ(rule_of(w), "dilation must be at least 1");
  w.extent.batch = 0;
  EXPECT_EQ(rule_of(w), "dilation must be at least 1");
}

TEST(Validator, RefusesNegativeSizes) {
  Workload w = valid();
  w.extent.batch = -1;
  EXPECT_EQ(rule_of(w), "batch must not be negative");
  w = valid();
  w.extent.length = -1;
  EXPECT_EQ(rule_of(w), "L_in must not be negative");
  w = valid();
  w.problem.c_in = -4;
  EXPECT_EQ(rule_of(w), "C_in must be at least groups");
  w = valid();
  w.problem.c_out = -6;
  EXPECT_EQ(rule_of(w), "C_out must be at least 1");
  w = valid();
  w.problem.kernel = std::numeric_limits<std::int64_t>::min();
  EXPECT_EQ(rule_of(w), "K must be at least 1");
}

TEST(Validator, ChecksEveryProduct) {
  const std::string rule = "sizes and offsets are int64";
  const auto refused = [&](auto change) {
    Workload w = valid();
    change(w);
    return rule_of(w) == rule;
  };
  EXPECT_TRUE(refused([](Workload& w) { w.problem.padding = kMax / 2 + 1; }));
  EXPECT_TRUE(refused([](Workload& w) { w.problem.kernel = kMax; }));                                   // weight
  EXPECT_TRUE(refused([](Workload& w) { w.problem.c_in = w.problem.c_out = std::int64_t{1} << 31; }));  // weight
  EXPECT_TRUE(refused([](Workload& w) { w.problem.dilation = kMax / 2 + 1; }));                         // reach
  EXPECT_TRUE(refused([](Workload& w) { w.problem.stride = kMax; }));                                   // L_out
  EXPECT_TRUE(refused([](Workload& w) { w.extent.length = kMax; }));                                    // L_out
  EXPECT_TRUE(refused([](Workload& w) { w.extent.length = kMax / 16; }));                               // input
  EXPECT_TRUE(refused([](Workload& w) { w.extent.batch = kMax / 16; }));                                // input
  EXPECT_TRUE(refused([](Workload& w) { w.problem.stride = kMax / 16; }));                              // output
  EXPECT_TRUE(refused([](Workload& w) {                                                                 // K * L_in
    w.problem = {.c_in = 1, .c_out = 1, .kernel = std::int64_t{1} << 34};
    w.extent = {.batch = 1, .length = std::int64_t{1} << 34};
  }));
  EXPECT_TRUE(refused([](Workload& w) {  // L_out far below zero
    w.problem.stride = kMax - 3;
    w.problem.padding = kMax / 2;
    w.extent = {.batch = 0, .length = 0};
  }));
}

TEST(Validator, AcceptsSizesBeyondInt32) {
  Workload w = valid();
  w.extent = {.batch = 3, .length = std::int64_t{1} << 40};
  ASSERT_FALSE(refuse(w.problem, w.extent));
  EXPECT_EQ(input_elements(w), std::int64_t{12} << 40);
  EXPECT_EQ(output_elements(w), 18 * ((std::int64_t{1} << 40) + 2));
  EXPECT_EQ(weight_elements(w.problem), 72);
}

TEST(Validator, ThrowsUnsupportedInOneLine) {
  Problem problem = valid().problem;
  EXPECT_NO_THROW(require_valid(problem));
  problem.stride = 0;
  try {
    require_valid(problem);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::unsupported);
    EXPECT_STREQ(error.what(), "problem: stride is 0 (stride must be at least 1)");
  }
  EXPECT_THROW(require_valid(valid().problem, {.batch = 1, .length = 0}), Error);
}

TEST(Arithmetic, NamesRoundTrip) {
  for (const auto& [word, bytes] :
       {std::pair{"f32", 4}, {"tf32", 4}, {"f16", 2}, {"bf16", 2}, {"f64", 8}, {"i32", 4}}) {
    const auto arithmetic = arithmetic_named(word);
    ASSERT_TRUE(arithmetic) << word;
    EXPECT_EQ(name(*arithmetic), word);
    EXPECT_EQ(bytes_per_element(*arithmetic), bytes);
  }
  EXPECT_FALSE(arithmetic_named("F32"));
  EXPECT_FALSE(arithmetic_named(""));
}

}  // namespace
}  // namespace tconv
