// Target sheets, occupancy and the limit, against published and measured figures.
#include "target/target.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "util/error.hpp"

namespace tconv {
namespace {

const Target& sheet(std::string_view name) {
  const Target* target = find_target(name);
  if (target == nullptr) throw std::runtime_error("no sheet " + std::string(name));
  return *target;
}

TEST(Sheets, HaveAValueAndASourceForEveryFact) {
  std::set<std::string_view> keys;
  for (const Target& t : target_sheets()) {
    EXPECT_TRUE(keys.insert(t.key).second) << t.key;
    const std::vector<Fact> facts = {t.sms,
                                     t.clock_hz,
                                     t.dram_bytes_per_s,
                                     t.dram_read_write_fraction,
                                     t.dram_write_double_fraction,
                                     t.dram_write_heavy_fraction,
                                     t.dram_write_only_fraction,
                                     t.l2_bytes,
                                     t.l2_bytes_per_s,
                                     t.fp32_flops,
                                     t.tf32_flops,
                                     t.f16_flops,
                                     t.bf16_flops,
                                     t.f64_flops,
                                     t.i32_ops,
                                     t.fma_fraction,
                                     t.tensor_fraction,
                                     t.half_fraction,
                                     t.mma_sync_fraction,
                                     t.smem_per_sm,
                                     t.smem_per_block,
                                     t.smem_reserved,
                                     t.registers_per_sm,
                                     t.registers_per_thread,
                                     t.warps_per_sm,
                                     t.blocks_per_sm,
                                     t.threads_per_block,
                                     t.launch_s};
    for (const Fact& fact : facts) {
      EXPECT_GT(fact.value, 0) << t.key << " " << fact.source;
      EXPECT_FALSE(fact.source.empty()) << t.key << " " << fact.value;
    }
    for (const Fact& fraction :
         {t.dram_read_write_fraction, t.dram_write_double_fraction, t.dram_write_heavy_fraction,
          t.dram_write_only_fraction, t.fma_fraction, t.tensor_fraction, t.half_fraction, t.mma_sync_fraction}) {
      EXPECT_LE(fraction.value, 1) << t.key;
    }
    EXPECT_FALSE(t.display.empty() || t.architecture.empty() || t.chip.empty() || t.sm == 0) << t.key;
    EXPECT_EQ(find_target(t.key), &t);
    EXPECT_EQ(find_target(t.display), &t);
  }
}

// Peak rates are SMs x clock x operations per clock and SM; a sheet that took a sparse or an f16-accumulating figure,
// or mistyped a digit, does not fit. Hopper and Blackwell list FFMA at a higher clock than the tensor cores.
TEST(Sheets, FitTheOperationsPerClock) {
  struct Rate {
    std::string_view key;
    double fp32, tf32, f16;  // flop per clock and SM
  };
  for (const Rate& rate : {Rate{"rtx4090", 256, 256, 512},
                           {"rtx4080", 256, 256, 512},
                           {"rtx3090", 256, 256, 512},
                           {"rtx5090", 256, 256, 512},
                           {"l4", 256, 512, 1024},
                           {"l40s", 256, 512, 1024},
                           {"a100", 128, 1024, 2048},
                           {"h100", 256, 2048, 4096},
                           {"h200", 256, 2048, 4096},
                           {"b200", 256, 4096, 8192}}) {
    const Target& t = sheet(rate.key);
    const double clocks = t.sms.value * t.clock_hz.value;
    EXPECT_NEAR(t.fp32_flops.value / clocks / rate.fp32, 1, 0.09) << rate.key;
    EXPECT_NEAR(t.tf32_flops.value / clocks / rate.tf32, 1, 0.06) << rate.key;
    EXPECT_NEAR(t.f16_flops.value / clocks / rate.f16, 1, 0.06) << rate.key;
    EXPECT_EQ(t.f16_flops.value, t.bf16_flops.value) << rate.key;
    EXPECT_EQ(t.geforce, rate.key.starts_with("rtx")) << rate.key;
  }
}

TEST(Sheets, AreFoundByTheNamesRequestsUse) {
  for (const auto& [name, key] :
       std::vector<std::pair<std::string_view, std::string_view>>{{"4090", "rtx4090"},
                                                                  {"RTX 4090", "rtx4090"},
                                                                  {"rtx-4090", "rtx4090"},
                                                                  {"GeForce RTX 4090", "rtx4090"},
                                                                  {"NVIDIA GeForce RTX 4090", "rtx4090"},
                                                                  {" nvidia  rtx_4090 ", "rtx4090"},
                                                                  {"3090", "rtx3090"},
                                                                  {"4080", "rtx4080"},
                                                                  {"A100", "a100"},
                                                                  {"NVIDIA A100-SXM4-80GB", "a100"},
                                                                  {"A100 80GB", "a100"},
                                                                  {"L40S", "l40s"},
                                                                  {"L4", "l4"},
                                                                  {"H100", "h100"},
                                                                  {"H100 SXM", "h100"},
                                                                  {"NVIDIA H100 80GB HBM3", "h100"},
                                                                  {"H200", "h200"},
                                                                  {"NVIDIA H200", "h200"},
                                                                  {"B200", "b200"}}) {
    const Target* found = find_target(name);
    ASSERT_NE(found, nullptr) << name;
    EXPECT_EQ(found->key, key) << name;
  }
  for (const std::string_view name : {"", "RTX", "4090D", "RTX 4090 D", "RTX 4080 SUPER", "RTX 4090 Laptop GPU", "L40",
                                      "A100-SXM4-40GB", "A100 PCIe", "H100 PCIe", "H100 NVL", "nvidia", "GTX 1080"}) {
    EXPECT_EQ(find_target(name), nullptr) << name;
  }
  EXPECT_EQ(find_target(std::string(1000, ' ') + "4090"), nullptr);
}

TEST(Rates, FollowTheArithmetic) {
  const Target& ada = sheet("rtx4090");
  EXPECT_EQ(peak_flops(ada, Arithmetic::f32).value, 82.6e12);
  EXPECT_EQ(peak_flops(ada, Arithmetic::tf32).value, 82.6e12);
  EXPECT_EQ(peak_flops(ada, Arithmetic::f16).value, 165.2e12);
  EXPECT_EQ(peak_flops(ada, Arithmetic::bf16).value, 165.2e12);
  EXPECT_NEAR(peak_flops(ada, Arithmetic::f64).value, 1.29e12, 1e10);
  EXPECT_NEAR(peak_flops(ada, Arithmetic::i32).value, 41.3e12, 1e11);
  const Target& h200 = sheet("h200");
  EXPECT_NEAR(achievable_flops(h200, Arithmetic::tf32), 360e12, 1e9);
  EXPECT_NEAR(achievable_flops(h200, Arithmetic::f32), 120e12, 1e9);  // three products in TF32 for one
  EXPECT_NEAR(achievable_flops(ada, Arithmetic::f32), 77e12, 1e9);
  EXPECT_NEAR(achievable_flops(h200, Arithmetic::f16), 798e12, 1e9);
  EXPECT_EQ(achievable_flops(h200, Arithmetic::bf16), achievable_flops(h200, Arithmetic::f16));
  // f64 runs on the tensor cores of H200, not on those of GeForce.
  EXPECT_EQ(achievable_flops(h200, Arithmetic::f64), h200.f64_flops.value * h200.tensor_fraction.value);
  EXPECT_EQ(achievable_flops(ada, Arithmetic::f64), ada.f64_flops.value * ada.fma_fraction.value);
}

TEST(Rates, InterpolateDramBetweenTheMeasuredMixes) {
  const Target& t = sheet("h200");
  EXPECT_NEAR(achievable_dram(t, 1, 1), 4.03e12, 1e6);
  EXPECT_NEAR(achievable_dram(t, 1, 2), 4.07e12, 1e6);
  EXPECT_NEAR(achievable_dram(t, 1, 4), 3.95e12, 1e6);
  EXPECT_NEAR(achievable_dram(t, 0, 1), 4.50e12, 1e6);
  EXPECT_NEAR(achievable_dram(t, 5, 1), 4.03e12, 1e6);
  EXPECT_NEAR(achievable_dram(t, 5, 7), 4.05e12, 1e6);  // share 7/12, halfway from 1/2 to 2/3
  EXPECT_NEAR(achievable_dram(t, 0, 0), 4.03e12, 1e6);
  EXPECT_NEAR(achievable_dram(sheet("rtx4090"), 1, 3), 921e9, 1e3);
}

TEST(Occupancy, MatchesTheToolkitsCalculator) {
  std::ifstream in(std::filesystem::path(__FILE__).parent_path() / "golden" / "occupancy.json");
  const auto golden = nlohmann::json::parse(in);
  ASSERT_GT(golden.at("cases").size(), 200u);
  int launchable = 0;
  for (const auto& c : golden.at("cases")) {
    const Target& target = sheet(c.at("target").get<std::string>());
    const Occupancy o = occupancy(target, c.at("registers"), c.at("shared_memory"), c.at("threads"));
    EXPECT_EQ(o.blocks_per_sm, c.at("blocks").get<int>()) << c;
    launchable += o.blocks_per_sm > 0 ? 1 : 0;
  }
  EXPECT_GT(launchable, 100);
}

TEST(Occupancy, NamesWhatLimits) {
  const Target& ada = sheet("rtx4090");
  Occupancy o = occupancy(ada, 64, 0, 128);
  EXPECT_EQ(o.by_registers, 8);
  EXPECT_EQ(o.by_warps, 12);
  EXPECT_EQ(o.by_blocks, 24);
  EXPECT_EQ(o.by_shared_memory, 100);
  EXPECT_EQ(o.blocks_per_sm, 8);
  EXPECT_EQ(o.warps_per_sm, 32);
  EXPECT_DOUBLE_EQ(o.fraction, 32.0 / 48.0);
  EXPECT_EQ(o.limited_by, "registers");

  o = occupancy(ada, 32, 49152, 256);  // 50176 bytes each with the reserve: 2 of them in 102400
  EXPECT_EQ(o.blocks_per_sm, 2);
  EXPECT_EQ(o.limited_by, "shared memory");
  EXPECT_EQ(occupancy(ada, 32, 0, 512).limited_by, "warps");
  EXPECT_EQ(occupancy(ada, 0, 0, 32).limited_by, "blocks");

  EXPECT_EQ(occupancy(ada, 32, 99 * 1024, 128).blocks_per_sm, 1);
  EXPECT_EQ(occupancy(ada, 32, 99 * 1024 + 1, 128).blocks_per_sm, 0);
  EXPECT_EQ(occupancy(ada, 256, 0, 128).blocks_per_sm, 0);
  EXPECT_EQ(occupancy(ada, 32, 0, 1025).blocks_per_sm, 0);
  EXPECT_EQ(occupancy(ada, 255, 0, 288).blocks_per_sm, 0);  // 9 warps are checked as 12
  EXPECT_EQ(occupancy(ada, INT_MAX, INT_MAX, INT_MAX).blocks_per_sm, 0);
  for (const auto& [r, s, n] : {std::tuple{-1, 0, 32}, {32, -1, 32}, {32, 0, 0}}) {
    EXPECT_THROW((void)occupancy(ada, r, s, n), Error);
  }
}

TEST(Limit, OfKernelBenchOnH200IsTheMeasuredOne) {
  const Target& h200 = sheet("h200");
  const Limit kb79 = limit(find_in_catalogue("kb79")->workload, h200);
  EXPECT_NEAR(kb79.seconds * 1e3, 0.340, 0.0005);
  EXPECT_EQ(kb79.bound_by, "memory");
  const Limit kb74 = limit(find_in_catalogue("kb74")->workload, h200);
  EXPECT_NEAR(kb74.seconds * 1e3, 0.396, 0.0005);
  EXPECT_EQ(kb74.bound_by, "memory");
  const Limit kb64 = limit(find_in_catalogue("kb64")->workload, h200);
  EXPECT_NEAR(kb64.seconds * 1e3, 1.145, 0.0005);
  EXPECT_EQ(kb64.bound_by, "arithmetic");
  EXPECT_NEAR(kb64.memory_seconds * 1e3, 1.066, 0.0005);
}

// 4.99, 1.75 and 1.46 ms: arithmetic or bytes of the three layers over 82.6 TFLOP/s and 921 GB/s.
TEST(Limit, OfKernelBenchOnRtx4090IsTheDerivedOne) {
  const Target& ada = sheet("rtx4090");
  EXPECT_NEAR(limit(find_in_catalogue("kb64")->workload, ada).seconds * 1e3, 4.99, 0.005);
  EXPECT_NEAR(limit(find_in_catalogue("kb74")->workload, ada).seconds * 1e3, 1.75, 0.005);
  EXPECT_NEAR(limit(find_in_catalogue("kb79")->workload, ada).seconds * 1e3, 1.46, 0.005);
  Workload half = find_in_catalogue("kb64")->workload;
  half.problem.arithmetic = Arithmetic::f16;
  EXPECT_NEAR(limit(half, ada).arithmetic_seconds * 1e3, 4.99 / 2, 0.005);
  EXPECT_NEAR(limit(half, ada).memory_seconds * 1e3, 4.66 / 2, 0.005);
}

TEST(Limit, OfATinyOrEmptyLayerIsItsLaunch) {
  for (const char* word : {"i1_o1_l1_k1", "b0_i64_o64_l1000_k3", "b0_i64_o64_l0_k3_s2"}) {
    const Limit tiny = limit(parse_workload(word), sheet("h200"));
    EXPECT_EQ(tiny.bound_by, "launch") << word;
    EXPECT_EQ(tiny.seconds, sheet("h200").launch_s.value) << word;
  }
  EXPECT_EQ(limit(parse_workload("b0_i64_o64_l1000_k3"), sheet("h200")).memory_seconds, 0);
}

TEST(Limit, OfEveryCatalogueLayerOnEveryTargetIsPositiveAndFinite) {
  for (const Target& target : target_sheets()) {
    for (const CatalogueEntry& entry : catalogue()) {
      const Limit l = limit(entry.workload, target);
      EXPECT_TRUE(std::isfinite(l.seconds) && l.seconds > 0) << target.key << " " << entry.name;
      EXPECT_EQ(l.seconds, std::max({l.memory_seconds, l.arithmetic_seconds, l.launch_seconds})) << entry.name;
    }
  }
}

}  // namespace
}  // namespace tconv
