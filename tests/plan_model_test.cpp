// The cost model: a layer as the kernel sees it against the phases, schedules refused, times predicted.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "plan/model.hpp"
#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "target/target.hpp"

namespace tconv::plan {
namespace {

Workload random_workload(std::mt19937_64& random) {
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (;;) {
    Workload w;
    w.problem = {.c_in = draw(1, 9), .c_out = draw(1, 9), .kernel = draw(1, 17), .stride = draw(1, 12)};
    w.problem.dilation = draw(1, 12);
    w.problem.padding = draw(0, 30);
    w.problem.output_padding = draw(0, 11);
    w.extent = {.batch = draw(1, 3), .length = draw(1, 25)};
    if (!refuse(w.problem, w.extent)) return w;
  }
}

// The kernel walks the offsets -j * jump, j = 0 .. taps-1, for every live phase, and finds the tap at each by
// k = (phase + j * jump * live) / step (src/triton/kernels.py, tap_index). That meets each tap of the
// definition once and no other.
TEST(ShapeOf, WalksTheTapsOfThePhases) {
  const auto seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 5000; ++i) {
    const Workload w = random_workload(random);
    SCOPED_TRACE(print_word(w));
    const Problem& p = w.problem;
    const Phases phases(p);
    const Shape shape = shape_of(w);
    ASSERT_EQ(shape.gap, std::gcd(p.stride, p.dilation));
    ASSERT_EQ(shape.live * shape.gap, p.stride);
    const std::int64_t step = p.dilation / shape.gap;
    const std::int64_t jump = shape.live == 1 ? step : 1;
    std::int64_t furthest = -1;
    for (std::int64_t residue = 0; residue < p.stride; ++residue) {
      std::set<Tap> expected;
      const Phase phase = phases.phase(residue);
      for (std::int64_t j = 0; j < phase.count; ++j) expected.insert(phase.tap(j));
      if (residue % shape.gap != 0) {
        ASSERT_TRUE(expected.empty());
        continue;
      }
      std::set<Tap> walked;
      for (std::int64_t j = 0; j < shape.taps; ++j) {
        const std::int64_t reach = residue / shape.gap + j * jump * shape.live;
        if (reach % step != 0 || reach / step >= p.kernel) continue;
        ASSERT_TRUE(walked.insert({reach / step, -j * jump}).second);
        furthest = std::max(furthest, j);
      }
      ASSERT_EQ(walked, expected) << "residue " << residue;
    }
    ASSERT_EQ(furthest, shape.taps - 1) << "the last step over the taps reads nothing";
  }
}

TEST(ShapeOf, CountsThePositionsOfTheOutputs) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 5000; ++i) {
    const Workload w = random_workload(random);
    std::set<std::int64_t> positions;
    for (std::int64_t t = 0; t < out_length(w.problem, w.extent.length); ++t) {
      positions.insert((t + w.problem.padding) / w.problem.stride);
    }
    ASSERT_EQ(shape_of(w).positions, static_cast<std::int64_t>(positions.size())) << print_word(w);
  }
}

// Up to three dead phases between live ones are interleaved in registers, which takes a power of two.
TEST(ShapeOf, PadsTheGap) {
  const std::map<std::int64_t, std::int64_t> pads{{1, 1}, {2, 2}, {3, 4}, {4, 4}, {5, 1}, {8, 1}};
  for (const auto& [gap, pad] : pads) {
    const Workload w{.problem = {.c_in = 8, .c_out = 8, .kernel = 3, .stride = gap, .dilation = gap},
                     .extent = {.length = 9}};
    EXPECT_EQ(shape_of(w).gap, gap);
    EXPECT_EQ(shape_of(w).gap_pad, pad);
  }
}

std::string refusal(const char* word, const char* target, const Schedule& schedule) {
  return inadmissible(parse_workload(word), *find_target(target), schedule).value_or("");
}

TEST(Inadmissible, NamesWhatDoesNotFit) {
  const Schedule good{.block_rows = 64, .phases = 8, .block_positions = 64, .block_channels = 32, .warps = 4};
  EXPECT_EQ(refusal("@hifigan_v1_up0", "rtx4090", good), "");

  Schedule s = good;
  s.block_rows = 4;
  EXPECT_NE(refusal("@hifigan_v1_up0", "rtx4090", s).find("8 phases do not fit 4 rows"), std::string::npos);
  s = good;
  s.block_rows = 128, s.block_positions = 256;
  EXPECT_NE(refusal("@hifigan_v1_up0", "rtx4090", s).find("256 accumulators"), std::string::npos);
  s = good;
  s.block_rows = 64, s.block_channels = 256, s.warps = 2, s.stages = 1;
  EXPECT_NE(refusal("@hifigan_v1_up0", "h200", s).find("registers"), std::string::npos);
  s = good;
  s.block_rows = 128, s.block_positions = 128, s.block_channels = 64, s.warps = 8, s.stages = 3;
  EXPECT_NE(refusal("@hifigan_v1_up0", "rtx4090", s).find("KB of shared memory"), std::string::npos);
  EXPECT_EQ(refusal("@hifigan_v1_up0", "h200", s), "");
}

// What ptxas was seen to spill (scripts/check_compiled compiles the chosen schedules).
TEST(Inadmissible, RefusesWhatSpills) {
  const Schedule long_tile{.block_rows = 64, .block_positions = 256, .block_channels = 16, .warps = 4, .stages = 2};
  const Schedule square{.block_rows = 128, .block_positions = 128, .block_channels = 32, .warps = 4, .stages = 3};
  Schedule phases = square;
  phases.phases = 8;
  Schedule narrow = phases;
  narrow.block_channels = 16;
  Schedule half = square;
  half.warps = 8;
  Schedule two = half;
  two.phases = 2;
  for (const char* target : {"rtx4090", "a100", "h200"}) {
    for (const Schedule& s : {long_tile, square}) {
      EXPECT_NE(refusal("@kb79", target, s).find("would spill"), std::string::npos);
    }
    EXPECT_EQ(refusal("@kb79", target, half), "");
    EXPECT_NE(refusal("@kb64", target, long_tile).find("128 values a thread to store from a tile of 64 x 256"),
              std::string::npos);
    // Three dead phases for each live one, and several live ones a program: too many to interleave.
    EXPECT_EQ(refusal("b1_i64_o64_l999_k4_s4_d4_tf32", target, half), "");
    EXPECT_NE(refusal("b1_i64_o64_l999_k4_s8_d4_tf32", target, two).find("256 values"), std::string::npos);
    EXPECT_EQ(refusal("@kb64", target, half), "");
    EXPECT_NE(refusal("@kb64_f32", target, square).find("would spill"), std::string::npos);
    EXPECT_EQ(refusal("@hifigan_v1_up0", target, phases), "");
    EXPECT_NE(refusal("@dac44k_up1", target, narrow).find("would spill"), std::string::npos);
    // wgmma and a store without interleaving leave registers that mma.sync does not.
    EXPECT_EQ(refusal("@kb64", target, square).empty(), find_target(target)->sm == 90) << target;
  }
}

// Four warps hold 64 x 256 where every second sample is dead, one stage, on wgmma: ptxas did not spill it.
TEST(Inadmissible, AdmitsALongTileBetweenDeadSamples) {
  const Schedule tile{.block_rows = 64, .block_positions = 256, .block_channels = 32, .warps = 4, .stages = 1};
  Schedule two = tile;
  two.stages = 2;
  Schedule deep = tile;
  deep.block_channels = 64;
  Schedule wide = tile;
  wide.block_rows = 128, wide.block_positions = 128;
  for (const char* word : {"@kb79", "b1_i96_o70_l999_k7_s2_d6_g2_bf16_bias", "b1_i512_o512_l999_k4_s2_d2_tf32_bias"}) {
    SCOPED_TRACE(word);
    EXPECT_EQ(refusal(word, "h200", tile), "");
    for (const Schedule& s : {two, deep, wide})
      EXPECT_NE(refusal(word, "h200", s).find("would spill"), std::string::npos);
    for (const char* target : {"rtx4090", "a100"}) EXPECT_NE(refusal(word, target, tile), "");
  }
  // One product after the other; no dead samples; three of four dead.
  for (const char* word : {"@kb79_f32", "@kb74", "@kb64", "b1_i64_o64_l999_k4_s4_d4_tf32"}) {
    EXPECT_NE(refusal(word, "h200", tile).find("would spill"), std::string::npos) << word;
  }
}

// Two steps over taps and channels, four stages: all loads of the loop are in flight before the first product.
TEST(Inadmissible, RefusesAPipelineDeeperThanTheLoop) {
  const Schedule deep{
      .block_rows = 16, .phases = 4, .block_positions = 64, .block_channels = 64, .warps = 4, .stages = 4};
  EXPECT_EQ(refusal("b1_i64_o8_l882004_k8_s4_tf32", "h200", deep),
            "4 stages over 2 steps, 96 loads a thread at once, would spill");
  EXPECT_EQ(refusal("b1_i128_o8_l882004_k8_s4_tf32", "h200", deep), "");
}

// A schedule's time on every sheet grows with the batch, and is what the candidate's parts allow.
TEST(Predict, GrowsWithTheBatch) {
  const Schedule schedules[] = {
      {.block_rows = 64, .phases = 1, .block_positions = 64, .block_channels = 16, .warps = 4, .stages = 1},
      {.block_rows = 64, .phases = 1, .block_positions = 128, .block_channels = 32, .warps = 8, .stages = 3},
  };
  for (const Target& target : target_sheets()) {
    for (const Schedule& schedule : schedules) {
      Workload w = parse_workload("b1_i64_o64_l4000_k5_d3_tf32");
      double before = 0;
      double first = 0;
      for (; w.extent.batch <= 256; w.extent.batch *= 2) {
        const Candidate candidate = predict(w, target, schedule);
        EXPECT_GE(candidate.seconds, before) << target.key << " batch " << w.extent.batch;
        EXPECT_GT(candidate.seconds, candidate.memory_seconds);
        EXPECT_GE(candidate.tail, 1);
        before = candidate.seconds;
        if (w.extent.batch == 1) first = candidate.seconds;
      }
      EXPECT_GT(before, 4 * first) << target.key;
    }
  }
}

TEST(Predict, FasterMemoryAndMoreProcessorsHelp) {
  const Workload w = parse_workload("@kb74");
  const Schedule s{
      .block_rows = 64, .phases = 1, .block_positions = 128, .block_channels = 32, .warps = 4, .stages = 2};
  const Target& sheet = *find_target("rtx4090");
  const double now = predict(w, sheet, s).seconds;
  for (Fact Target::*fact : {&Target::sms, &Target::dram_bytes_per_s, &Target::l2_bytes_per_s, &Target::clock_hz}) {
    Target better = sheet;
    (better.*fact).value *= 2;
    EXPECT_LE(predict(w, better, s).seconds, now);
  }
  Target twice = sheet;
  for (Fact Target::*fact : {&Target::sms, &Target::dram_bytes_per_s, &Target::l2_bytes_per_s, &Target::tf32_flops}) {
    (twice.*fact).value *= 2;
  }
  EXPECT_NEAR(predict(w, twice, s).seconds, now / 2, 0.05 * now);
}

// --- against measurements --------------------------------------------------------------------------

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] < values[b]; });
  std::vector<double> rank(values.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t end = i;
    while (end < order.size() && values[order[end]] == values[order[i]]) ++end;
    for (std::size_t tied = i; tied < end; ++tied) rank[order[tied]] = static_cast<double>(i + end - 1) / 2;
    i = end;
  }
  return rank;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const double n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return ab / std::sqrt(aa * bb);
}

struct Measured {
  std::vector<double> predicted, measured;
};

TEST(Model, OrdersMeasuredSchedules) {
  const auto path = std::filesystem::path(TCONV_SOURCE_DIR) / "bench" / "results" / "model_h200.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "bench/results/model_h200.json is absent";
  std::ifstream file(path);
  const auto results = nlohmann::json::parse(file);
  const Target& target = *find_target("h200");
  std::map<std::string, Measured> layers;
  for (const auto& row : results.at("rows")) {
    const auto& s = row.at("schedule");
    const Schedule schedule{.block_rows = s.at("block_rows"),
                            .phases = s.at("phases"),
                            .block_positions = s.at("block_positions"),
                            .block_channels = s.at("block_channels"),
                            .warps = s.at("warps"),
                            .stages = s.at("stages")};
    const Workload workload = parse_workload(row.at("layer").get<std::string>());
    if (inadmissible(workload, target, schedule)) continue;  // never a candidate
    Measured& layer = layers[print_word(workload)];
    layer.predicted.push_back(predict(workload, target, schedule).seconds);
    layer.measured.push_back(row.at("ms").get<double>() * 1e-3);
  }
  for (const char* name : {"@kb79", "@kb74", "@kb64"}) {
    const Measured& layer = layers[print_word(parse_workload(name))];
    ASSERT_GE(layer.measured.size(), 12U) << name;
    const double spearman = correlation(ranks(layer.predicted), ranks(layer.measured));
    const auto first = static_cast<std::size_t>(std::min_element(layer.predicted.begin(), layer.predicted.end()) -
                                                layer.predicted.begin());
    const double over = layer.measured[first] / *std::min_element(layer.measured.begin(), layer.measured.end());
    std::printf("%s: %zu schedules, Spearman %.3f, first choice %.3f of the best\n", name, layer.measured.size(),
                spearman, over);
    EXPECT_GE(spearman, 0.8) << name;
    EXPECT_LE(over, 1.1) << name;
  }
}

}  // namespace
}  // namespace tconv::plan
