// The planner: deterministic, within the stage's limits, every schedule ranked or refused with a reason.
#include "plan/plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "plan/model.hpp"
#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "util/error.hpp"

namespace tconv::plan {
namespace {

using request::StageLimits;

Plan plan_for(const std::string& word, const char* target, const StageLimits& limits = {}) {
  return plan_triton(parse_workload(word), *find_target(target), limits);
}

StageLimits configs(std::optional<int> least, std::optional<int> most) {
  StageLimits limits;
  limits.min_configs = least;
  limits.max_configs = most;
  return limits;
}
StageLimits sets(std::vector<int> num_stages, std::vector<int> num_warps) {
  StageLimits limits;
  limits.num_stages = std::move(num_stages);
  limits.num_warps = std::move(num_warps);
  return limits;
}

bool power_of_two(int n) { return n > 0 && std::has_single_bit(static_cast<unsigned>(n)); }

// What every plan must be, whatever was asked.
void expect_sound(const Plan& plan) {
  const Shape shape = shape_of(plan.workload);
  ASSERT_FALSE(plan.chosen.empty());
  ASSERT_FALSE(plan.ranked.empty());
  ASSERT_FALSE(plan.rejected.empty());
  EXPECT_EQ(plan.chosen.front().schedule, plan.ranked.front().schedule);
  for (const Rejection& rejection : plan.rejected) {
    EXPECT_FALSE(rejection.what.empty());
    EXPECT_FALSE(rejection.why.empty()) << rejection.what;
  }
  for (const Candidate& candidate : plan.ranked) {
    const Schedule& s = candidate.schedule;
    SCOPED_TRACE(print_schedule(s));
    EXPECT_TRUE(std::isfinite(candidate.seconds) && candidate.seconds > 0);
    for (const int size : {s.block_rows, s.phases, s.block_positions, s.block_channels, s.warps}) {
      EXPECT_TRUE(power_of_two(size)) << size;
    }
    EXPECT_EQ(s.block_rows % s.phases, 0);
    EXPECT_GE(s.stages, 1);
    EXPECT_LE(s.phases, 64);
    // No program computes only phases that do not exist.
    EXPECT_LT(s.phases / 2, shape.live);
    // At most 2^20 elements in a Triton tensor, the gaps of the epilogue included.
    EXPECT_LE(s.block_rows * s.block_positions * shape.gap_pad, 1 << 20);
    if (plan.exact_body) continue;
    // tl.dot takes no side below 16.
    for (const int side : {s.block_rows, s.block_positions, s.block_channels}) EXPECT_GE(side, 16);
    EXPECT_EQ(inadmissible(plan.workload, *plan.target, s), std::nullopt);
  }
  EXPECT_TRUE(std::is_sorted(plan.ranked.begin(), plan.ranked.end(),
                             [](const Candidate& a, const Candidate& b) { return a.seconds < b.seconds; }));
  std::set<Schedule> chosen;
  for (const Candidate& candidate : plan.chosen) {
    EXPECT_TRUE(chosen.insert(candidate.schedule).second) << "chosen twice: " << print_schedule(candidate.schedule);
    // The weights are packed once for all entries of an autotune list.
    EXPECT_EQ(candidate.schedule.phases, plan.chosen.front().schedule.phases);
  }
}

// 130 layers of published models on every sheet. No prediction beats the limit.
TEST(Plan, EveryLayerOnEveryTarget) {
  for (const Target& target : target_sheets()) {
    for (const CatalogueEntry& entry : catalogue()) {
      SCOPED_TRACE(std::string(entry.name) + " on " + std::string(target.key));
      const Plan plan = plan_triton(entry.workload, target, {});
      expect_sound(plan);
      EXPECT_EQ(plan.target, &target);
      EXPECT_EQ(plan.chosen.size(), 1U);
      EXPECT_GE(plan.chosen.front().seconds, plan.limit.seconds);
    }
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Plan, OtherArithmetics) {
  using enum Arithmetic;
  for (const Arithmetic arithmetic : {f32, tf32, f16, bf16, f64, i32}) {
    for (const char* layer : {"@kb79", "@hifigan_v1_up0", "@encodec24_up1", "@bigvgan_aa_up_C24", "@istft_1024_256"}) {
      Workload w = parse_workload(layer);
      w.problem.arithmetic = arithmetic;
      SCOPED_TRACE(print_word(w));
      for (const char* target : {"rtx4090", "a100", "h200", "b200"}) {
        expect_sound(plan_triton(w, *find_target(target), {}));
      }
    }
  }
}

TEST(Plan, IsDeterministic) {
  for (const char* layer : {"@kb79", "@encodec24_up1", "@istft_4096_1024_trtrtx", "@bigvgan_aa_up_C768"}) {
    const StageLimits limits = configs(2, 4);
    const Plan one = plan_for(layer, "rtx4090", limits);
    const Plan two = plan_for(layer, "rtx4090", limits);
    ASSERT_EQ(one.ranked.size(), two.ranked.size());
    for (std::size_t i = 0; i < one.ranked.size(); ++i) {
      EXPECT_EQ(one.ranked[i].schedule, two.ranked[i].schedule);
      EXPECT_EQ(one.ranked[i].seconds, two.ranked[i].seconds);
    }
    ASSERT_EQ(one.chosen.size(), two.chosen.size());
    for (std::size_t i = 0; i < one.chosen.size(); ++i) EXPECT_EQ(one.chosen[i].schedule, two.chosen[i].schedule);
    ASSERT_EQ(one.rejected.size(), two.rejected.size());
    for (std::size_t i = 0; i < one.rejected.size(); ++i) {
      EXPECT_EQ(one.rejected[i].what, two.rejected[i].what);
      EXPECT_EQ(one.rejected[i].why, two.rejected[i].why);
    }
  }
}

// The stage's sets leave exactly the schedules whose stages and warps lie in them, and say what they refuse.
TEST(Plan, KeepsToTheStagesSets) {
  const Plan free = plan_for("@encodec24_up1", "h200");
  const StageLimits cases[] = {sets({2, 3, 4}, {4, 8}), sets({1}, {}), sets({3}, {}), sets({}, {2})};
  for (const StageLimits& limits : cases) {
    const auto in = [](const std::vector<int>& set, int n) { return set.empty() || std::ranges::count(set, n) > 0; };
    std::vector<Schedule> expected;
    for (const Candidate& candidate : free.ranked) {
      if (in(limits.num_stages, candidate.schedule.stages) && in(limits.num_warps, candidate.schedule.warps)) {
        expected.push_back(candidate.schedule);
      }
    }
    ASSERT_LT(expected.size(), free.ranked.size());
    const Plan plan = plan_for("@encodec24_up1", "h200", limits);
    expect_sound(plan);
    std::vector<Schedule> ranked;
    for (const Candidate& candidate : plan.ranked) ranked.push_back(candidate.schedule);
    EXPECT_EQ(ranked, expected);
    const auto refused = [&](const std::string& what) {
      return std::ranges::any_of(
          plan.rejected, [&](const Rejection& r) { return r.what == what && r.why.starts_with("the stage allows {"); });
    };
    for (const int n : {1, 2, 3, 4}) {
      EXPECT_EQ(refused("num_stages " + std::to_string(n)), !in(limits.num_stages, n)) << n;
    }
    for (const int n : {2, 4, 8}) {
      EXPECT_EQ(refused("num_warps " + std::to_string(n)), !in(limits.num_warps, n)) << n;
    }
  }
}

// Ranked and refused together are the whole space, once each.
TEST(Plan, LosesNoSchedule) {
  for (const char* layer : {"@kb79", "@hifigan_v1_up3", "@encodec24_up1", "@diffusion_policy_up0"}) {
    const Plan plan = plan_for(layer, "rtx4090");
    const Shape shape = shape_of(plan.workload);
    const Problem& p = plan.workload.problem;
    std::set<std::string> met;
    for (const Candidate& candidate : plan.ranked) met.insert(print_schedule(candidate.schedule));
    std::size_t listed = plan.ranked.size();
    for (const Rejection& rejection : plan.rejected) {
      if (!rejection.what.starts_with("rows ")) continue;
      met.insert(rejection.what);
      ++listed;
    }
    EXPECT_EQ(met.size(), listed) << layer << ": a schedule stands twice";
    // Blocks of powers of two from the least that tl.dot takes up to the layer's own size, or the largest that
    // pays; all phases at once, or fewer where their number is padded.
    const auto sizes = [](std::int64_t least, std::int64_t most, std::int64_t layer_size) {
      std::size_t n = 1;
      for (; least < most && least < layer_size; least *= 2) ++n;
      return n;
    };
    std::size_t phases = 1;
    std::int64_t all = 1;
    for (; all < shape.live; all *= 2) ++phases;
    if (all == shape.live) phases = 1;
    const std::size_t space =
        phases * sizes(16, 128, p.c_out * all) * sizes(32, 256, shape.positions) * sizes(16, 64, p.c_in) * 3 * 4;
    EXPECT_EQ(met.size(), space) << layer;
  }
}

TEST(Plan, ChoosesAsManyConfigsAsTheStageAsksFor) {
  struct {
    std::optional<int> min, max;
    std::size_t least, most;
  } const cases[] = {{{}, {}, 1, 1}, {2, 4, 2, 4},  {2, 3, 2, 3},  {2, 2, 2, 2}, {4, 4, 4, 4},  {3, 4, 3, 4},
                     {{}, 3, 1, 3},  {{}, 2, 1, 2}, {{}, 1, 1, 1}, {5, 9, 5, 9}, {5, {}, 5, 5}, {1, 1, 1, 1}};
  for (const auto& c : cases) {
    for (const char* layer : {"@kb74", "@kb79", "@encodec24_up1", "@dac44k_up1"}) {
      const Plan plan = plan_for(layer, "rtx4090", configs(c.min, c.max));
      SCOPED_TRACE(testing::Message() << layer << " " << c.min.value_or(0) << " " << c.max.value_or(0));
      expect_sound(plan);
      EXPECT_GE(plan.chosen.size(), c.least);
      EXPECT_LE(plan.chosen.size(), c.most);
    }
  }
}

// The first entries of a list differ in their tile: neighbours of the best tell little apart on the device.
TEST(Plan, AutotuneEntriesDifferInTheirTile) {
  const Plan plan = plan_for("@kb74", "h200", configs(2, 4));
  std::set<std::vector<int>> tiles;
  for (const Candidate& candidate : plan.chosen) {
    const Schedule& s = candidate.schedule;
    tiles.insert({s.block_rows, s.block_positions, s.block_channels});
  }
  EXPECT_EQ(tiles.size(), plan.chosen.size());
}

TEST(Plan, TakesTheExactBodyWhereTheMatrixUnitCannotServe) {
  struct {
    const char* word;
    bool exact;
  } const cases[] = {
      {"b1_i64_o64_l100_k4_s2_g64_tf32", true},  // depthwise
      {"b1_i7_o64_l100_k4_s2_tf32", true},      {"b1_i8_o64_l100_k4_s2_tf32", false},
      {"b1_i64_o64_l100_k4_s2_g8_f16", false},  {"b1_i64_o64_l100_k4_s2_g16_f16", true},
      {"b1_i64_o64_l100_k4_s2_f32", false},     {"b1_i64_o64_l100_k4_s2_bf16", false},
      {"b1_i64_o64_l100_k4_s2_f64", true},      {"b1_i64_o64_l100_k4_s2_i32", true},
  };
  for (const auto& c : cases) {
    for (const char* target : {"rtx4090", "h200"}) {
      const Plan plan = plan_for(c.word, target);
      expect_sound(plan);
      EXPECT_EQ(plan.exact_body, c.exact) << c.word;
      EXPECT_EQ(plan.rejected.front().what, c.exact ? "matrix-unit body" : "FMA body") << c.word;
    }
  }
}

// Where the FMA body serves, nothing is tuned: a list or a set that the stage asks for is passed over with a reason.
TEST(Plan, SaysWhyTheExactBodyHasNoList) {
  StageLimits limits = sets({2, 3}, {8});
  limits.max_configs = 4;
  const Plan plan = plan_for("@bigvgan_aa_up_C768", "l4", limits);
  EXPECT_EQ(plan.chosen.size(), 1U);
  for (const char* what : {"autotune list", "num_stages {2, 3}", "num_warps {8}"}) {
    EXPECT_TRUE(std::ranges::any_of(plan.rejected, [&](const Rejection& r) { return r.what == what; })) << what;
  }
}

TEST(Plan, RefusesWithTheReasonWhenNothingFits) {
  try {
    (void)plan_for("@kb74", "h200", sets({}, {16}));
    FAIL() << "planned";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::unsupported);
    EXPECT_NE(std::string(error.what()).find("the stage allows {16}"), std::string::npos) << error.what();
  }
  EXPECT_THROW(
      (void)plan_triton({.problem = {.c_in = 3, .c_out = 4, .kernel = 3, .groups = 2}, .extent = {.length = 4}},
                        *find_target("h200"), {}),
      Error);
}

TEST(Plan, GrowsWithTheBatch) {
  for (const CatalogueEntry& entry : catalogue()) {
    Workload w = entry.workload;
    const double one = plan_triton(w, *find_target("h200"), {}).chosen.front().seconds;
    w.extent.batch *= 4;
    const double four = plan_triton(w, *find_target("h200"), {}).chosen.front().seconds;
    EXPECT_GE(four, one) << entry.name;
    EXPECT_LE(four, 4.001 * one) << entry.name;
  }
}

// Any workload that the validator accepts: no overflow on the way (the sanitized build watches), finite times.
TEST(Plan, ExtremeWorkloads) {
  for (const char* word : {
           "b1_i1_o1_l1_k1_tf32",
           "b0_i64_o64_l0_k4_s2_tf32",
           "b0_i64_o64_l100_k4_s2_tf32",
           "b1_i8_o1_l1_k1_s1000000000000_a999999999999_tf32",
           "b1_i8_o1000000000000000_l1_k1_tf32",
           "b1_i8_o100000000000000_l1_k1_s1000000000000000_tf32",
           "b1_i8_o8_l1_k2_s2_d1000000000000001_p500000000000000_tf32",
           "b1_i1000000000_o1_l1_k2_s2_d10000000000001_p5000000000000_tf32",
           "b1_i8_o1_l1_k1_s9000000000000000000_tf32",
           "b1_i8_o8_l100000000000000_k3_s3_d3_tf32",
           "b100000000000000_i8_o8_l1_k1_tf32",
           "b1_i8_o8_l4_k1000000000_tf32",
           "b1_i1000000000_o1000000000_l2_k3_g1000000000_f16",
       }) {
    SCOPED_TRACE(word);
    for (const char* target : {"rtx4090", "h200"}) expect_sound(plan_for(word, target));
  }
}

TEST(Plan, RandomWorkloads) {
  const auto seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937_64 random(seed);
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  const auto sheets = target_sheets();
  for (int i = 0; i < 300 && !HasFailure();) {
    Workload w;
    w.problem.groups = draw(0, 2) == 0 ? draw(1, 8) : 1;
    w.problem.c_in = w.problem.groups * draw(1, 300);
    w.problem.c_out = w.problem.groups * draw(1, 300);
    w.problem.kernel = draw(1, 40);
    w.problem.stride = draw(0, 3) == 0 ? draw(1, 300) : draw(1, 9);
    w.problem.dilation = draw(1, 12);
    w.problem.padding = draw(0, 20);
    w.problem.arithmetic = static_cast<Arithmetic>(draw(0, 5));
    w.extent = {.batch = draw(0, 64), .length = draw(1, 100000)};
    if (refuse(w.problem, w.extent)) continue;
    const Target& target = sheets[static_cast<std::size_t>(draw(0, static_cast<std::int64_t>(sheets.size()) - 1))];
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", " << print_word(w) << " on " << target.key);
    expect_sound(plan_triton(w, target, configs(2, 4)));
    ++i;
  }
}

}  // namespace
}  // namespace tconv::plan
