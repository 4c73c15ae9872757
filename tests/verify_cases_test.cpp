#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "problem/grammar.hpp"
#include "util/error.hpp"
#include "verify/cases.hpp"
#include "verify/number.hpp"
#include "verify/oracle.hpp"
#include "verify/verify.hpp"

namespace tconv::verify {
namespace {

request::Code module_with(const std::vector<request::Parameter>& parameters) {
  request::Code code;
  code.module.class_name = "ModelNew";
  code.module.parameters = parameters;
  return code;
}

const std::vector<request::Parameter> kChannels{
    {"in_channels", "int", ""}, {"out_channels", "int", ""}, {"kernel_size", "int", ""}};

std::vector<request::Parameter> with(std::vector<request::Parameter> more) {
  more.insert(more.begin(), kChannels.begin(), kChannels.end());
  return more;
}

Interface everything() {
  request::Code code = module_with(with({{"stride", "", "1"},
                                         {"padding", "", "0"},
                                         {"output_padding", "", "0"},
                                         {"dilation", "", "1"},
                                         {"groups", "", "1"},
                                         {"bias", "", "False"}}));
  code.kernels.resize(1);
  code.kernels[0].uses_dot = true;
  code.admits_i32 = true;
  return read_interface(code);
}

TEST(Interface, PassesArgumentsByTheirNames) {
  const Interface i = read_interface(module_with(with({{"s", "", "1"}, {"use_bias", "", "True"}})));
  const auto arguments = i.arguments(parse_word("i3_o5_k7_s2_bias").workload.problem);
  const std::map<std::string, std::int64_t> expected{
      {"in_channels", 3}, {"out_channels", 5}, {"kernel_size", 7}, {"s", 2}, {"use_bias", 1}};
  EXPECT_EQ(arguments, expected);
}

TEST(Interface, RefusesWhatTheConstructorFixes) {
  request::Code code = module_with(with({{"padding", "", "0"}}));
  code.module.stride = "3";
  const Interface i = read_interface(code);
  EXPECT_FALSE(i.refuse(parse_word("i1_o1_k1_s3_p1").workload.problem));
  EXPECT_TRUE(i.refuse(parse_word("i1_o1_k1_s2").workload.problem));
  EXPECT_TRUE(i.refuse(parse_word("i1_o1_k1_s3_d2").workload.problem));
  EXPECT_TRUE(i.refuse(parse_word("i1_o1_k1_s3_bias").workload.problem));
}

TEST(Interface, RefusesUnknownRequiredArguments) {
  EXPECT_NO_THROW((void)read_interface(module_with(with({{"padding_mode", "str", "None"}}))));
  EXPECT_THROW((void)read_interface(module_with(with({{"activation", "", ""}}))), Error);
  EXPECT_THROW((void)read_interface(module_with({{"in_channels", "", ""}})), Error);
}

TEST(Cases, CoverWhatTheyPromise) {
  const Interface interface = everything();
  std::map<std::string, std::set<std::int64_t>> seen;
  std::int64_t widest = 0, longest = 0;
  const std::int64_t cases = 3000;
  for (std::uint64_t seed = 0; seed < cases; ++seed) {
    const Case c = make_case(draw_workload(interface, {9, interface.arithmetics}, seed), seed);
    const Problem& p = c.workload.problem;
    ASSERT_FALSE(refuse(p, c.workload.extent)) << print_word(c.workload);
    ASSERT_FALSE(interface.refuse(p));
    seen["stride"].insert(p.stride);
    seen["kernel"].insert(p.kernel);
    seen["dilation"].insert(p.dilation);
    seen["groups"].insert(std::min<std::int64_t>(p.groups, 5));
    seen["padding"].insert(p.padding > 0);
    seen["output_padding"].insert(p.output_padding > 0);
    seen["bias"].insert(p.bias);
    seen["batch"].insert(c.workload.extent.batch);
    seen["one position"].insert(c.workload.extent.length == 1);
    seen["odd channels"].insert(p.c_in % 2 == 1 && p.c_out % 2 == 1);
    seen["layout"].insert(static_cast<int>(c.layout));
    seen["data"].insert(static_cast<int>(c.data));
    seen["arithmetic"].insert(static_cast<int>(p.arithmetic));
    seen["repeat"].insert(c.repeat);
    seen["config"].insert(c.config % 4);
    widest = std::max({widest, p.c_in, p.c_out});
    longest = std::max(longest, c.workload.extent.length);
  }
  const std::map<std::string, std::size_t> expected{
      {"stride", 9},         {"kernel", 17}, {"dilation", 4},   {"groups", 5},       {"padding", 2},
      {"output_padding", 2}, {"bias", 2},    {"batch", 4},      {"one position", 2}, {"odd channels", 2},
      {"layout", 5},         {"data", 3},    {"arithmetic", 5}, {"repeat", 2},       {"config", 4}};
  for (const auto& [what, count] : expected) EXPECT_EQ(seen[what].size(), count) << what;
  EXPECT_GT(widest, 64);
  EXPECT_GT(longest, 300);
}

// Seeds are in reproducer lines: the word and the seed must give the same tensors.
TEST(Cases, FollowFromWordAndSeed) {
  const Interface interface = everything();
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Case c = make_case(draw_workload(interface, {9, interface.arithmetics}, seed), seed);
    const Case again = make_case(parse_workload(print_word(c.workload)), seed);
    EXPECT_EQ(again.workload, c.workload);
    EXPECT_EQ(again.layout, c.layout);
    EXPECT_EQ(again.data, c.data);
    EXPECT_EQ(make_tensors(again).x, make_tensors(c).x);
    EXPECT_EQ(make_tensors(again).w, make_tensors(c).w);
  }
}

// Exactness is only owed where every partial sum is exact: sum |x||w| + |bias| below 2^24 (2^53 for i32).
TEST(Cases, IntegerDataHasExactSums) {
  const Interface interface = everything();
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    Case c = make_case(draw_workload(interface, {9, interface.arithmetics}, seed), seed);
    c.data = Data::integers;
    Tensors t = make_tensors(c);
    const Arithmetic arithmetic = c.workload.problem.arithmetic;
    for (std::vector<double>* values : {&t.x, &t.w, &t.bias}) {
      for (double& v : *values) {
        ASSERT_EQ(v, round_to_storage(v, arithmetic));
        ASSERT_EQ(v, std::nearbyint(v));
        v = std::fabs(v);
      }
    }
    for (const double sum : gather(c.workload, t.x, t.w, t.bias)) {
      ASSERT_LE(sum, arithmetic == Arithmetic::i32 ? 0x1p53 : 0x1p24) << print_word(c.workload);
    }
  }
}

TEST(Cases, ExpandedBatchesAreTheSame) {
  Case c = make_case(parse_workload("b3_i2_o1_l4_k1_f32"), 1);
  c.layout = Layout::expanded;
  const Tensors t = make_tensors(c);
  for (std::size_t i = 8; i < t.x.size(); ++i) EXPECT_EQ(t.x[i], t.x[i - 8]);
}

class Judge : public testing::Test {
 protected:
  Case c_ = make_case(parse_workload("b2_i3_o2_l5_k3_s2_f16_bias"), 7);
  // The reference, stored, with one element replaced.
  Judgement judge_with(Data data, std::size_t index, double change) {
    c_.data = data;
    const Tensors t = make_tensors(c_);
    std::vector<double> y = gather(c_.workload, t.x, t.w, t.bias);
    y[index] = y[index] * change;
    for (double& v : y) v = round_to_storage(v, Arithmetic::f16);
    return judge(c_, t, encode(y, Arithmetic::f16), Engine::ieee);
  }
};

TEST_F(Judge, AcceptsTheReference) {
  EXPECT_FALSE(judge_with(Data::integers, 0, 1).fault);
  const Judgement normal = judge_with(Data::normal, 0, 1);
  EXPECT_FALSE(normal.fault);
  EXPECT_GT(normal.ratio, 0);
  EXPECT_LE(normal.ratio, 1);
}

TEST_F(Judge, RejectsOneWrongElement) {
  for (const double change : {1.01, -1.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    const Judgement j = judge_with(Data::normal, 13, change);
    ASSERT_TRUE(j.fault) << change;
    EXPECT_EQ(j.fault->kind, "wrong result");
    EXPECT_EQ(j.fault->detail.substr(0, 5), "1 of ") << j.fault->detail;
  }
}

TEST_F(Judge, RejectsAMissingElement) {
  const Tensors t = make_tensors(c_);
  const std::vector<double> y = gather(c_.workload, t.x, t.w, t.bias);
  const auto j = judge(c_, t, encode(std::span(y).first(y.size() - 1), Arithmetic::f16), Engine::ieee);
  ASSERT_TRUE(j.fault);
  EXPECT_EQ(j.fault->kind, "shape");
}

TEST_F(Judge, AcceptsInfinityOnlyWhereStorageOverflows) {
  c_ = make_case(parse_workload("i1_o1_l1_k1_f16"), 3);
  c_.data = Data::normal;
  const std::string infinity = encode(std::vector<double>{INFINITY}, Arithmetic::f16);
  EXPECT_FALSE(judge(c_, {{300}, {300}, {}}, infinity, Engine::ieee).fault);
  EXPECT_TRUE(judge(c_, {{-300}, {300}, {}}, infinity, Engine::ieee).fault);
  EXPECT_TRUE(judge(c_, {{30}, {30}, {}}, infinity, Engine::ieee).fault);
}

TEST(Verifiable, RefusesWhatTheReferenceCannotHold) {
  EXPECT_NO_THROW(require_verifiable(parse_workload("b2_i32_o64_l1000_k5_s2_f32")));
  EXPECT_THROW(require_verifiable(parse_workload("b16_i32_o64_l131072_k3_s2_p1_d2_tf32")), Error);
}

}  // namespace
}  // namespace tconv::verify
