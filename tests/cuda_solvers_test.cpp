// What NVRTC makes of every solver's kernels, for every architecture that has a sheet, on a machine without a GPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/compile.hpp"
#include "cuda/layer.hpp"
#include "cuda/plan.hpp"
#include "cuda/solver.hpp"
#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "util/error.hpp"

namespace tconv::cuda {
namespace {

// One layer of each kind: dead phases, many rows, depthwise, sums in another type than f32, nothing even, a long sum of
// one channel; depthwise with pairs of samples in a word, and as much in registers as there may be; as many phases as
// rows; sums of three terms that ptxas would have every product waited for, were they not settled; groups of rows that
// bring their own weights, of which the last tile may lack some; 112 and 120 rows; two row tiles at once whose outputs
// leave in four parts; windows that in 512 positions would spill.
constexpr const char* kLayers[] = {
    "i32_o64_l100_k3_s2_p1_d2_tf32",       "i512_o256_l100_k16_s8_p4_f16_bias",
    "i24_o24_l100_k12_s2_g24_f32",         "i11_o1_l100_k20_s5_tf32",
    "i6_o9_l100_k7_s3_p2_d4_g3_f64",       "i5_o7_l100_k5_s2_i32_bias",
    "i37_o23_l100_k10_s5_p3_a2_bf16_bias", "i32_o64_l100_k3_s2_p1_d2_f32",
    "i1026_o1_l100_k1024_s256_f16",        "i1026_o1_l100_k1024_s256_f32",
    "i24_o24_l100_k12_s2_g24_f16",         "i6_o12_l100_k32_s3_p1_g6_bf16_bias",
    "i6_o6_l100_k16_s3_d2_g6_f64",         "i6_o12_l100_k32_s1_g6_f64",
    "i514_o1_l100_k512_s128_f16",          "i258_o1_l100_k256_s64_tf32",
    "i48_o8_l100_k8_s4_f32_bias",          "i128_o128_l100_k3_tf32",
    "i128_o250_l100_k3_tf32_bias",         "i768_o384_l100_k10_s5_f16_bias",
    "i256_o128_l100_k14_s7_tf32",          "i512_o512_l100_k4_s2_p1_f16_bias",
    "i64_o32_l100_k4_s2_p1_f16_bias",
};

class Solvers : public testing::TestWithParam<const char*> {
 protected:
  // A schedule of the layer's first solver. Skips the test without NVRTC.
  void expect_no_spills(const Layer& layer, const Solver& solver, const Schedule& schedule) const {
    const Target& target = *find_target(GetParam());
    const Problem& problem = layer.problem;
    Cubin cubin;
    try {
      cubin = compile(solver.source(layer, target, schedule), architecture_of(target.sm));
    } catch (const Error& error) {
      if (error.exit() == Exit::no_device) GTEST_SKIP() << error.what();
      throw;
    }
    const std::string what = fmt::format("{}, {}, {} before, {} after", print_word(problem), print(schedule),
                                         name(layer.before), name(layer.after));
    EXPECT_GT(cubin.registers, 0) << what;
    // Its warpgroups move registers, and one that asks for more than the launch gave all of them waits forever.
    if (&solver == &kGemmSm90 && schedule.warpgroups == 2) {
      const int threads =
          solver.launch({.problem = problem, .extent = {.batch = 1, .length = 100}}, target, schedule).threads;
      EXPECT_EQ(cubin.registers, 65536 / threads / 8 * 8) << what;
    }
    EXPECT_EQ(cubin.spill_bytes, 0) << what;
    EXPECT_EQ(cubin.stack_bytes, 0) << what;
    EXPECT_EQ(cubin.serialized, 0) << what;
  }
};

TEST_P(Solvers, CompileWithoutSpills) {
  const Target& target = *find_target(GetParam());
  for (const char* word : kLayers) {
    const Problem problem = parse_workload(word).problem;
    std::vector<const Solver*> serving;
    for (const Solver* solver : solvers())
      if (!solver->refuse(problem, target)) serving.push_back(solver);
    ASSERT_FALSE(serving.empty()) << word;
    // The one that is chosen, and on compute capability 9.0 what stands in for the others.
    serving.resize(serving.front() == &kGemmSm90 ? 2 : 1);
    for (const Solver* solver : serving) {
      const auto schedules = solver->schedules(problem, target);
      ASSERT_FALSE(schedules.empty()) << word;
      for (const Schedule& schedule : schedules) {
        expect_no_spills({.problem = problem}, *solver, schedule);
        if (IsSkipped()) return;
      }
    }
  }
}

// Of each kernel the tile with the most work a thread, and one with both activations of a kind.
TEST_P(Solvers, ActivationsDoNotSpill) {
  struct Around {
    Activation before, after;
  };
  constexpr Around kAround[] = {{Activation::leaky_relu, Activation::none},
                                {Activation::snake, Activation::none},
                                {Activation::none, Activation::tanh},
                                {Activation::elu, Activation::gelu}};
  for (const char* word : {"i512_o256_l100_k16_s8_p4_f16_bias", "i32_o64_l100_k3_s2_p1_d2_tf32",
                           "i24_o24_l100_k12_s2_g24_f32", "i6_o9_l100_k7_s3_p2_d4_g3_f64"}) {
    const Problem problem = parse_workload(word).problem;
    const Choice choice = choose_solver(problem, *find_target(GetParam()));
    const Schedule& widest = choice.schedules.front();
    const Schedule& schedule = choice.schedules[widest.positions > 128 && choice.solver == &kGemmSm90 ? 1 : 0];
    for (const auto [before, after] : kAround) {
      expect_no_spills(
          {.problem = problem, .before = before, .after = after, .before_parameter = 0.1, .after_parameter = -0x1.8p-3},
          *choice.solver, schedule);
      if (IsSkipped()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, Solvers, testing::Values("a100", "rtx3090", "rtx4090", "h100", "b200", "rtx5090"),
                         [](const auto& target) { return std::string(target.param); });

// Every kernel that an RTX 4090 can get from gemm_sm80 for a layer of the catalogue: most architectures share that
// path.
class Catalogue : public testing::TestWithParam<Arithmetic> {};

TEST_P(Catalogue, CompilesOnMmaSyncWithoutSpills) {
  const Target& target = *find_target("rtx4090");
  std::set<std::string> sources;
  for (const CatalogueEntry& entry : catalogue()) {
    Problem problem = entry.workload.problem;
    problem.arithmetic = GetParam();
    if (kGemmSm80.refuse(problem, target)) continue;
    for (const Schedule& schedule : kGemmSm80.schedules(problem, target)) {
      const std::string source = kGemmSm80.source({.problem = problem}, target, schedule);
      if (!sources.insert(source).second) continue;
      Cubin cubin;
      try {
        cubin = compile(source, architecture_of(target.sm));
      } catch (const Error& error) {
        if (error.exit() == Exit::no_device) GTEST_SKIP() << error.what();
        throw;
      }
      EXPECT_EQ(cubin.spill_bytes, 0) << entry.name << ", " << schedule.rows << " x " << schedule.positions;
      EXPECT_EQ(cubin.stack_bytes, 0) << entry.name << ", " << schedule.rows << " x " << schedule.positions;
    }
  }
  EXPECT_GE(sources.size(), 10u);
}

INSTANTIATE_TEST_SUITE_P(Arithmetics, Catalogue, testing::Values(Arithmetic::tf32, Arithmetic::f16, Arithmetic::f32),
                         [](const auto& arithmetic) { return std::string(name(arithmetic.param)); });

TEST(GemmSm80, RefusesWithItsReason) {
  const auto why = [](const char* word, const char* target) {
    return kGemmSm80.refuse(parse_workload(word).problem, *find_target(target)).value_or("");
  };
  for (const char* target : {"a100", "rtx3090", "rtx4090", "h100", "b200", "rtx5090"}) {
    EXPECT_EQ(why("i32_o64_l100_k3_s2_p1_d2_tf32", target), "") << target;
    EXPECT_EQ(why("i32_o64_l100_k3_f32", target), "") << target;  // 96 products
    EXPECT_NE(why("i33_o64_l100_k3_f32", target), "") << target;
    EXPECT_NE(why("i32_o64_l100_k3_f64", target), "") << target;
    EXPECT_NE(why("i4_o64_l100_k3_tf32", target), "") << target;
  }
  // A window of 4000 samples, or an output of 4000 for each position, is more than a block's shared memory.
  EXPECT_NE(why("i32_o64_l9000_k4000_tf32", "rtx4090"), "");
  EXPECT_NE(why("i32_o64_l100_k2_s4000_d4000_tf32", "rtx4090"), "");
}

// Tiles of different heights read the same packed weights, and blocks fit side by side as the kernel's bounds ask.
TEST(GemmSm80, SchedulesShareTheirImageAndFit) {
  for (const char* target_name : {"a100", "rtx4090", "h100"}) {
    const Target& target = *find_target(target_name);
    for (const char* word : {"i512_o256_l4096_k16_s8_p4_f16", "i32_o64_l4096_k3_s2_p1_d2_tf32",
                             "i40_o24_l4096_k10_s5_tf32", "i1026_o1_l4096_k1024_s256_f16", "i16_o8_l4096_k4_s2_f32"}) {
      const Workload workload = parse_workload(word);
      const auto schedules = kGemmSm80.schedules(workload.problem, target);
      EXPECT_GE(schedules.size(), 2u) << word;
      for (const Schedule& schedule : schedules) {
        EXPECT_EQ(kGemmSm80.packed_bytes(workload.problem, schedule),
                  kGemmSm80.packed_bytes(workload.problem, schedules.front()))
            << word;
        const Launch launch = kGemmSm80.launch(workload, target, schedule);
        EXPECT_LE(launch.shared_bytes, target.smem_per_block.value) << word;
        EXPECT_GE(occupancy(target, 128, launch.shared_bytes, launch.threads).blocks_per_sm, 2) << word;
      }
    }
  }
}

TEST(GemmSm90, RefusesWithItsReason) {
  const Target& h100 = *find_target("h100");
  const auto why = [&](const char* word, const Target& target) {
    return kGemmSm90.refuse(parse_workload(word).problem, target).value_or("");
  };
  EXPECT_EQ(why("i32_o64_l100_k3_s2_p1_d2_tf32", h100), "");
  EXPECT_NE(why("i32_o64_l100_k3_s2_p1_d2_tf32", *find_target("rtx4090")), "");
  EXPECT_NE(why("i32_o64_l100_k3_f64", h100), "");
  EXPECT_NE(why("i4_o64_l100_k3_tf32", h100), "");
  EXPECT_EQ(why("i1024_o64_l100_k3_f32", h100), "");
}

// The splits of the schedule that a call takes: the fastest by the solver's own prediction.
int splits_of(const char* word, std::string_view target_name) {
  const Workload workload = parse_workload(word);
  const Target& target = *find_target(target_name);
  const Choice choice = choose_solver(workload.problem, target);
  const Schedule& best = *std::ranges::min_element(choice.schedules, {}, [&](const Schedule& schedule) {
    const Launch launch = choice.solver->launch(workload, target, schedule);
    EXPECT_EQ(launch.cluster, schedule.splits) << word;
    EXPECT_EQ(launch.blocks % launch.cluster, 0) << word;  // else the driver refuses it
    return choice.solver->seconds(workload, target, schedule);
  });
  return best.splits;
}

TEST(Splits, ShareALongSumOfFewTiles) {
  for (const char* word : {"i1026_o1_l863_k1024_s256_f16", "i1026_o1_l863_k1024_s256_tf32",
                           "i1026_o1_l863_k1024_s256_f32", "b16_i1024_o512_l2_k16_s8_p4_f16"})
    EXPECT_GT(splits_of(word, "h200"), 1) << word;
  for (const char* word : {"b16_i1026_o1_l4000_k1024_s256_f16", "b16_i1026_o1_l4000_k1024_s256_f32",
                           "b16_i512_o256_l4000_k16_s8_p4_tf32", "i32_o64_l100_k3_s2_f16"})
    EXPECT_EQ(splits_of(word, "h200"), 1) << word;
}

TEST(Splits, NeedClusters) {
  EXPECT_EQ(splits_of("i1026_o1_l863_k1024_s256_f32", "rtx4090"), 1);
  EXPECT_GT(splits_of("i1026_o1_l863_k1024_s256_f32", "b200"), 1);
}

// Rows of few positions share a block, and none is empty but the last; a long row has blocks of its own.
TEST(Depthwise, RowsOfFewPositionsShareABlock) {
  const Target& target = *find_target("h200");
  const auto rows = [&](const char* word) {
    const Workload workload = parse_workload(word);
    const std::vector<Schedule> schedules = kDepthwise.schedules(workload.problem, target);
    const Schedule& best = schedules[fastest(kDepthwise, schedules, workload, target)];
    const std::int64_t tiles = ceil_div(positions(workload), best.positions);
    EXPECT_EQ(kDepthwise.launch(workload, target, best).blocks,
              workload.extent.batch * ceil_div(workload.problem.c_out, best.rows) * tiles)
        << word;
    return best.rows;
  };
  EXPECT_EQ(rows("b16_i512_o512_l1_k4_s2_g512_f16"), 32);
  EXPECT_EQ(rows("b16_i500_o500_l1_k4_s2_g500_tf32"), 32);
  EXPECT_EQ(rows("b16_i512_o512_l125_k4_s2_g512_f16"), 16);
  EXPECT_EQ(rows("b16_i1090_o1090_l400_k3_s2_p1_a1_g1090_f16_bias"), 8);
  EXPECT_EQ(rows("b16_i24_o24_l240138_k12_s2_g24_f16"), 1);
  EXPECT_EQ(rows("i24_o24_l2000_k12_s2_g24_tf32"), 1);  // fewer blocks than multiprocessors
}

// One image serves every schedule but those of more rows, which calls of many tiles may take.
TEST(GemmSm90, SchedulesOfTheSameRowsShareTheirImage) {
  const Target& h100 = *find_target("h100");
  for (const auto& [word, more] : std::vector<std::pair<const char*, int>>{{"i512_o256_l100_k16_s8_p4_f16", 0},
                                                                           {"i32_o64_l100_k3_s2_p1_d2_tf32", 0},
                                                                           {"i40_o24_l100_k10_s5_tf32", 0},
                                                                           {"i1026_o1_l100_k1024_s256_f16", 0},
                                                                           {"i128_o128_l100_k3_s1_f16", 0},
                                                                           {"i768_o384_l100_k10_s5_f16", 120},
                                                                           {"i256_o128_l100_k14_s7_tf32", 112},
                                                                           {"i768_o384_l100_k10_s5_f32", 0}}) {
    const Problem problem = parse_workload(word).problem;
    const auto schedules = kGemmSm90.schedules(problem, h100);
    const Schedule& last = schedules.back();
    int of_more[2] = {};  // by whether two are multiplied at once
    for (const Schedule& schedule : schedules) {
      if (schedule.rows != last.rows) {
        ++of_more[schedule.at_once - 1];
        EXPECT_EQ(schedule.rows, more) << word;
        EXPECT_GT(schedule.rows, last.rows) << word;
        EXPECT_EQ(schedule.positions * schedule.at_once, 256) << word;
      } else {
        EXPECT_EQ(kGemmSm90.packed_bytes(problem, schedule), kGemmSm90.packed_bytes(problem, last)) << word;
      }
    }
    EXPECT_EQ(of_more[0], more > 0 ? 1 : 0) << word;
    EXPECT_LE(of_more[1], of_more[0]) << word;
  }
}
// Two tiles of rows side by side: of whole channels, and where sums are long or all weights stay.
TEST(GemmSm90, MultipliesTwoRowTilesAtOnce) {
  const Target& h200 = *find_target("h200");
  for (const auto& [word, rows] :
       std::vector<std::pair<const char*, int>>{{"i512_o256_l100_k16_s8_p4_f16", 128},
                                                {"i512_o256_l100_k16_s8_p4_tf32", 128},
                                                {"i768_o384_l100_k10_s5_f16", 120},
                                                {"i512_o256_l100_k10_s5_f16", 80},
                                                {"i128_o64_l100_k8_s4_f16", 128},     // weights stay
                                                {"i128_o64_l100_k8_s4_tf32", 0},      // they do not, and sums are short
                                                {"i512_o256_l100_k16_s8_p4_f32", 0},  // three terms
                                                {"i64_o32_l100_k4_s2_p1_f16", 0},     // one row tile
                                                {"i512_o512_l100_k3_s1_p1_f16", 0},   // by rows
                                                {"i80_o80_l100_k1024_s256_f16", 0}})  // some of a channel's phases
  {
    const Workload workload = parse_workload(word);
    int found = 0;
    for (const Schedule& schedule : kGemmSm90.schedules(workload.problem, h200)) {
      if (schedule.at_once == 1) continue;
      found = schedule.rows;
      EXPECT_EQ(schedule.positions, 128) << word;
      const Launch launch = kGemmSm90.launch(workload, h200, schedule);
      EXPECT_EQ(launch.threads, 384) << word;
      EXPECT_LE(launch.shared_bytes, 195 << 10) << word;
    }
    EXPECT_EQ(found, rows) << word;
  }
}
// Many phases take shared memory on their way out: fewer positions, not one stage of x.
TEST(GemmSm90, LoadsXWhileItMultiplies) {
  for (const char* word :
       {"i80_o80_l862_k1024_s256_tf32", "i1026_o1_l863_k1024_s256_tf32", "i80_o80_l862_k1024_s256_f16"}) {
    const auto schedules = kGemmSm90.schedules(parse_workload(word).problem, *find_target("h200"));
    EXPECT_FALSE(schedules.empty());
    for (const Schedule& schedule : schedules) EXPECT_GE(schedule.stages, 2) << word;
  }
}
// Slots for more weights on their way leave L1 the room of x's.
TEST(GemmSm90, LeavesL1Room) {
  const Target& h100 = *find_target("h100");
  for (const char* word :
       {"i768_o384_l9000_k16_s8_p4_f16", "i128_o128_l9000_k3_s1_tf32", "i256_o128_l9000_k4_s2_p1_tf32"}) {
    const Workload workload = parse_workload(word);
    for (const Schedule& schedule : kGemmSm90.schedules(workload.problem, h100)) {
      EXPECT_LE(kGemmSm90.launch(workload, h100, schedule).shared_bytes, 195 << 10) << word;
      EXPECT_GE(schedule.weight_stages, 3) << word;
      // Small tiles wait for loads, not for products.
      if (schedule.positions == 64) {
        EXPECT_EQ(schedule.stages, 4) << word;
      }
    }
  }
}

// A warp has whole rows only where their samples are neighbours and 64 rows are an instruction's.
TEST(GemmSm90, HasRowsOfAWarpAtStrideOne) {
  const Target& h200 = *find_target("h200");
  const auto positions = [&](const char* word) {
    std::vector<int> all;
    for (const Schedule& schedule : kGemmSm90.schedules(parse_workload(word).problem, h200)) {
      if (schedule.by_rows) all.push_back(schedule.positions);
    }
    return all;
  };
  EXPECT_EQ(positions("i128_o128_l100_k3_s1_tf32"), (std::vector<int>{256, 128}));
  EXPECT_EQ(positions("i128_o128_l100_k3_s1_f16"), (std::vector<int>{184, 128}));   // all weights stay
  EXPECT_EQ(positions("i256_o128_l100_k3_s1_bf16"), (std::vector<int>{256, 128}));  // they do not
  EXPECT_EQ(positions("i32_o64_l100_k5_s1_d3_f16"), (std::vector<int>{512, 256}));
  for (const char* word : {"i128_o128_l100_k3_s1_f32", "i32_o64_l100_k3_s2_p1_d2_tf32", "i32_o40_l100_k3_s1_tf32"})
    EXPECT_EQ(positions(word), std::vector<int>{}) << word;
}

}  // namespace
}  // namespace tconv::cuda
