#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "cpu/machine.hpp"
#include "problem/grammar.hpp"

namespace tconv::cpu {
namespace {
namespace fs = std::filesystem;

Rates made_up() {
  return {.threads = 2,
          .f32 = 1e11,
          .f64 = 5e10,
          .i32 = 2e10,
          .levels = {{.cache = 2, .capacity = 1e6, .read = 8e10, .write = 4e10, .copy = 6e10},
                     {.cache = 0, .capacity = 1e12, .read = 2e10, .write = 5e9, .copy = 1e10}}};
}

TEST(CpuMachine, RatesSurviveBeingPrinted) {
  const Rates rates = made_up();
  const std::optional<Rates> read = parse_rates(print_rates(rates));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(print_rates(*read), print_rates(rates));
  EXPECT_EQ(read->levels.size(), 2u);
  EXPECT_EQ(read->levels[1].copy, 1e10);
}

TEST(CpuMachine, WhatIsNoSetOfRatesIsNone) {
  const std::string good = print_rates(made_up());
  for (std::size_t cut = 0; cut < good.size(); ++cut) EXPECT_FALSE(parse_rates(good.substr(0, cut))) << cut;
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  for (const char* to : {"0.0", "-1.0", "\"fast\"", "null", "1e300", "[]"})
    EXPECT_FALSE(parse_rates(with("100000000000.0", to))) << to;
  EXPECT_FALSE(parse_rates(with("\"copy\"", "\"cope\"")));
  EXPECT_FALSE(parse_rates(R"({"threads":1,"f32":1e9,"f64":1e9,"i32":1e9,"levels":[]})"));
  EXPECT_FALSE(parse_rates(R"({"threads":1,"f32":1e9,"f64":1e9,"i32":1e9,"levels":[1]})"));
  EXPECT_FALSE(parse_rates("[]"));
}

TEST(CpuMachine, TheLimitIsTheSlowerOfArithmeticAndBytes) {
  // 2*128*128*16*1000 operations, less what lands beyond: nothing here, as nothing is cut off.
  const Limit dense = limit(parse_workload("b1_i128_o128_l1000_k16_s8"), made_up());
  EXPECT_EQ(dense.bound_by, "arithmetic");
  EXPECT_DOUBLE_EQ(dense.arithmetic_seconds, 2.0 * 128 * 128 * 16 * 1000 / 1e11);
  EXPECT_EQ(dense.seconds, dense.arithmetic_seconds);
  // The same in f64 and i32 takes their rates.
  EXPECT_DOUBLE_EQ(limit(parse_workload("b1_i128_o128_l1000_k16_s8_f64"), made_up()).arithmetic_seconds,
                   2.0 * 128 * 128 * 16 * 1000 / 5e10);
  EXPECT_DOUBLE_EQ(limit(parse_workload("b1_i128_o128_l1000_k16_s8_i32"), made_up()).arithmetic_seconds,
                   2.0 * 128 * 128 * 16 * 1000 / 2e10);
}

TEST(CpuMachine, BytesMoveAtTheRateOfTheSmallestPlaceThatHoldsThem) {
  // One tap a channel: 4 bytes in and 4 out for each position, and the weights: a copy's mix, nearly.
  const Limit small = limit(parse_workload("b1_i10_o10_l1000_k1_s1_g10"), made_up());
  EXPECT_EQ(small.bound_by, "L2 cache");
  EXPECT_NEAR(small.seconds, 80040 / 6e10, 1e-3 * small.seconds);
  const Limit large = limit(parse_workload("b1_i10_o10_l1000000_k1_s1_g10"), made_up());
  EXPECT_EQ(large.bound_by, "memory");
  EXPECT_NEAR(large.seconds, 80000040 / 1e10, 1e-3 * large.seconds);
}

TEST(CpuMachine, ReadsAndWritesWeighAsTheyAreMixed) {
  // 1 byte read for 4 written: from the copy's 1/2 to 4/5 of the way to writes alone, 3/5 of it.
  const Limit heavy = limit(parse_workload("b1_i10_o10_l1000000_k4_s4_g10"), made_up());
  const double byte = 0.4 / 1e10 + 0.6 / 5e9;
  EXPECT_NEAR(heavy.memory_seconds, 200e6 * byte, 1e-3 * heavy.memory_seconds);
}

TEST(CpuMachine, AnEmptyBatchTakesNoTimeToSpeakOf) {
  const Limit none = limit(parse_workload("b0_i1_o1_l1_k1"), made_up());
  EXPECT_GE(none.seconds, 0);
  EXPECT_LT(none.seconds, 1e-6);
}

// Measuring takes a second, so what follows is one test.
TEST(CpuMachine, IsMeasuredOnceAndRemembered) {
  std::string name = (fs::temp_directory_path() / "tconv_machine_XXXXXX").string();
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  const fs::path folder = name;
  const auto files = [&] {
    std::vector<fs::path> all;
    for (const auto& item : fs::recursive_directory_iterator(folder)) {
      if (item.is_regular_file()) all.push_back(item.path());
    }
    return all;
  };
  {
    const Cache cache(folder);
    const Rates rates = machine_rates(1, cache);
    ASSERT_EQ(files().size(), 1u);
    EXPECT_EQ(rates.threads, 1);
    for (const double rate : {rates.f32, rates.f64, rates.i32}) {
      EXPECT_GT(rate, 1e7);
      EXPECT_LT(rate, 1e13);
    }
    ASSERT_FALSE(rates.levels.empty());
    EXPECT_EQ(rates.levels.back().cache, 0);
    for (const Level& level : rates.levels) {
      for (const double rate : {level.read, level.write, level.copy}) {
        EXPECT_GT(rate, 1e7);
        EXPECT_LT(rate, 1e14);
      }
    }
    // A measurement would differ in some digit of a dozen.
    EXPECT_EQ(print_rates(machine_rates(1, cache)), print_rates(rates));
    // More threads than any machine has cores are those of all its cores.
    EXPECT_LE(machine_rates(1 << 20, cache).threads, 1024);

    // A damaged file is a miss, and whole again afterwards.
    for (const fs::path& file : files()) fs::resize_file(file, fs::file_size(file) / 2);
    const std::string again = print_rates(machine_rates(1, cache));
    EXPECT_TRUE(parse_rates(again));
    EXPECT_EQ(print_rates(machine_rates(1, cache)), again);
  }
  fs::remove_all(folder);
}

}  // namespace
}  // namespace tconv::cpu
