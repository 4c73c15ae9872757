#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "request/diagnose.hpp"
#include "request/grid.hpp"
#include "request/rules.hpp"
#include "util/error.hpp"

namespace tconv::request {
namespace {

constexpr const char* kSm = "sm__throughput.avg.pct_of_peak_sustained_elapsed";
constexpr const char* kDram = "dram__throughput.avg.pct_of_peak_sustained_elapsed";
constexpr const char* kWarps = "sm__warps_active.avg.pct_of_peak_sustained_active";
constexpr const char* kL2 = "lts__t_sector_hit_rate.pct";
constexpr const char* kGrid = "launch__grid_size";

GridAxis axis(GridSize size, std::string block = "", std::int64_t value = 0) {
  return {{GridFactor{size, 1, std::move(block), value}}};
}

Module constructor() {
  Module module;
  module.class_name = "ModelNew";
  for (const char* name : {"in_channels", "out_channels", "kernel_size"})
    module.parameters.push_back({name, "int", ""});
  module.parameters.push_back({"bias", "bool", "False"});
  module.stride = "self.stride";
  module.padding = "self.padding";
  module.dilation = "self.dilation";
  module.bias_possible = true;
  module.has_stride = module.has_padding = module.has_dilation = module.has_bias = true;
  return module;
}

StatedTarget stated_4090() {
  StatedTarget stated;
  stated.name = "4090";
  stated.sm = 89;
  stated.sms = 128;
  stated.dram_bytes_per_s = 1008e9;
  stated.tf32_flops = 82.6e12;
  stated.f16_flops = stated.bf16_flops = 165.2e12;
  stated.warps_per_sm = 48;
  stated.threads_per_sm = 1536;
  return stated;
}

// One output channel per program, every tap tested in floating point; profiled at 2098176 programs.
Request scalar_request() {
  Request request;
  request.path = "scalar.txt";
  request.stated = stated_4090();
  request.stage.kind = StageKind::memory;
  request.stage.metrics = {kDram, kL2, "smsp__warp_issue_stalled_memory_dependency_per_warp_active.pct (<20%)"};
  request.stage.rules = {{11, "- Increase num_stages only if memory stalls are high"},
                         {12, "- Do not rewrite access patterns without metric evidence"},
                         {13, "- Larger BLOCK_K improves reuse but increases register pressure"},
                         {16, "- If unsure, try num_stages ∈ {1,2,3} on kernel"}};
  request.stage.limits.num_stages = {1, 2, 3};
  Kernel kernel;
  kernel.name = "k";
  kernel.float_index_arithmetic = kernel.scans_all_taps = kernel.masks_loads = kernel.int64_offsets = true;
  request.code.kernels = {kernel};
  Launch launch;
  launch.kernel = "k";
  launch.grid = {axis(GridSize::batch), axis(GridSize::c_out), axis(GridSize::out_length, "BLOCK_T", 128)};
  launch.grid_text = "(B, C_OUT, triton.cdiv(L_OUT, BLOCK_T))";
  launch.meta = {{"BLOCK_T", 128}};
  launch.num_warps = 4;
  launch.num_stages = 2;
  request.code.launches = {launch};
  request.code.module = constructor();
  request.code.uses_strides = true;
  request.metrics = {{"k", {{kSm, 96.68}, {kGrid, 2098176}, {kWarps, 96.22}, {kDram, 11.34}, {kL2, 98.69}}, {}}};
  return request;
}

// A tiled matrix product under an autotuner; profiled at 32800 programs.
Request tiled_request() {
  Request request;
  request.path = "tiled.txt";
  request.stated = stated_4090();
  request.stage.kind = StageKind::block_tiling;
  request.stage.metrics = {"`sm__warps_active.avg.pct_of_peak_sustained_active`: Warp occupancy (target: >50%)"};
  request.stage.rules = {{31, "- Tensor Cores: BLOCK_M/N multiple of 16; BLOCK_K multiple of 8."},
                         {32, "- FP32: BLOCK_M/N in [32, 64, 128, 256], BLOCK_K in [16, 32, 64]."},
                         {33, "- **All BLOCK_SIZE/BLOCK_* must be powers of 2** (16, 32, 64, 128, 256, 512, 1024)."},
                         {34,
                          "- Avoid oversized tiles (wasted masking); change BLOCK_* only when occupancy or reuse "
                          "metrics indicate issues."},
                         {35, "- If BLOCK sizes are unclear, keep the baseline tile as a valid candidate."}};
  request.stage.limits.min_configs = 2;
  request.stage.limits.max_configs = 4;
  Kernel kernel;
  kernel.name = "t";
  kernel.uses_dot = kernel.scans_all_taps = kernel.masks_loads = kernel.division_in_loop = true;
  const auto config = [](std::int64_t c_in, std::int64_t c_out, std::int64_t l, int warps) {
    return AutotuneConfig{{{"BLOCK_C_IN", c_in}, {"BLOCK_C_OUT", c_out}, {"BLOCK_L", l}}, warps, 0};
  };
  kernel.autotune = {config(16, 64, 64, 4), config(16, 64, 128, 8), config(16, 64, 256, 8), config(16, 128, 64, 8),
                     config(32, 64, 64, 8), config(32, 64, 128, 8), config(32, 128, 64, 8)};
  kernel.autotune_key = {"C_in", "C_out", "L_out"};
  request.code.kernels = {kernel};
  Launch launch;
  launch.kernel = "t";
  launch.grid = {axis(GridSize::batch), axis(GridSize::c_out, "BLOCK_C_OUT"), axis(GridSize::out_length, "BLOCK_L")};
  launch.grid_text = "lambda META: (B, cdiv(C_out, META['BLOCK_C_OUT']), cdiv(L_out, META['BLOCK_L']))";
  request.code.launches = {launch};
  request.code.module = constructor();
  request.metrics = {{"t", {{kSm, 45.41}, {kGrid, 32800}, {kWarps, 33.05}, {kDram, 60.38}, {kL2, 87.85}}, {}}};
  return request;
}

Diagnosis plain(const Request& request) { return diagnose(request, nullptr, nullptr); }

bool mentions(const std::vector<std::string>& sentences, std::string_view text) {
  return std::ranges::any_of(sentences, [&](const std::string& s) { return s.find(text) != std::string::npos; });
}

// The refusal of `call`, or "" when it goes through.
template <typename Call>
std::string refusal(Call call, Exit expected) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), expected) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "";
}

RuleVerdict judged(Request request, const std::string& rule) {
  request.stage.rules = {{1, rule}};
  return plain(request).rules.at(0);
}

// --- workload --------------------------------------------------------------------------------------------------

TEST(DiagnoseWorkload, ScalarGridIsKernelBench79) {
  const Diagnosis d = plain(scalar_request());
  EXPECT_EQ(d.workload.catalogue_name, "kb_l1_79");
  ASSERT_TRUE(d.workload.workload);
  EXPECT_EQ(*d.workload.workload, find_in_catalogue("kb79")->workload);
  EXPECT_NE(d.workload.how.find("2098176 = 16 x 64 x 2049"), std::string::npos) << d.workload.how;
  EXPECT_TRUE(d.workload.also.empty());
}

TEST(DiagnoseWorkload, TiledGridIsKernelBench74AndFixesTheConfig) {
  const Diagnosis d = plain(tiled_request());
  EXPECT_EQ(d.workload.catalogue_name, "kb_l1_74");
  EXPECT_NE(d.workload.how.find("32800 = 32 x 1 x 1025"), std::string::npos) << d.workload.how;
  EXPECT_EQ(d.workload.config, (Meta{{"BLOCK_C_OUT", 64}, {"BLOCK_L", 128}, {"num_warps", 8}}))
      << "two configs fit; what they disagree on is not implied";
}

TEST(DiagnoseWorkload, EveryCatalogueEntryIsFoundFromItsOwnGrid) {
  for (const CatalogueEntry& entry : catalogue()) {
    Request request = scalar_request();
    request.code.module.has_groups = request.code.module.has_output_padding = true;
    const auto axes = grid_of(request.code.launches[0], {}, entry.workload);
    ASSERT_TRUE(axes) << entry.name;
    request.metrics[0].values[kGrid] = static_cast<double>(*product(*axes));
    const WorkloadGuess guess = plain(request).workload;
    EXPECT_TRUE(guess.catalogue_name == entry.name || std::ranges::count(guess.also, entry.name) == 1) << entry.name;
  }
}

TEST(DiagnoseWorkload, PrefersWhatTheModuleCanExpress) {
  Request request = scalar_request();
  // The dense and the depthwise layer have the same grid, and so do layers of other models.
  const Workload dense = find_in_catalogue("pt47341_dense")->workload;
  request.metrics[0].values[kGrid] = static_cast<double>(*product(*grid_of(request.code.launches[0], {}, dense)));
  const std::string no_padding = "pt47341_depthwise (its output_padding is 1, and the module fixes it at 0)";
  EXPECT_TRUE(mentions(plain(request).workload.also, no_padding));
  request.code.module.has_output_padding = true;
  WorkloadGuess guess = plain(request).workload;
  EXPECT_EQ(std::ranges::count(guess.also, "pt47341_dense"), 1);
  EXPECT_EQ(std::ranges::count(guess.also, "pt47341_depthwise"), 0);
  EXPECT_TRUE(mentions(guess.also, "pt47341_depthwise (its groups is 512, and the module fixes it at 1)"));
  request.code.module.has_groups = true;
  guess = plain(request).workload;
  EXPECT_EQ(std::ranges::count(guess.also, "pt47341_depthwise"), 1);
  // A stride the code fixes rules out all others.
  request.code.module.has_stride = false;
  request.code.module.stride = "3";
  EXPECT_EQ(plain(request).workload.workload->problem.stride, 3);
  request.code.module.stride = "7";
  EXPECT_FALSE(plain(request).workload.workload);
}

TEST(DiagnoseWorkload, UnknownCountsAreFactoredNotGuessed) {
  Request request = scalar_request();
  request.metrics[0].values[kGrid] = 2098177;  // 23 x 91225 + 2: of no catalogue entry
  const Diagnosis d = plain(request);
  EXPECT_FALSE(d.workload.workload);
  EXPECT_NE(d.workload.how.find("2098177 = "), std::string::npos) << d.workload.how;
  EXPECT_NE(d.workload.how.find("blocks of 128"), std::string::npos) << d.workload.how;
  EXPECT_FALSE(d.limit);
  EXPECT_FALSE(d.implied_seconds);
  EXPECT_FALSE(d.rules.empty());
}

TEST(DiagnoseWorkload, TheUsersWorkloadMustGiveTheGrid) {
  const Request request = scalar_request();
  const Workload right = parse_workload("b16_i8_o64_l131072_k3_s2_p1_d2_f16");
  const Diagnosis d = diagnose(request, nullptr, &right);
  EXPECT_EQ(*d.workload.workload, right);
  EXPECT_TRUE(d.workload.catalogue_name.empty());
  const Workload wrong = parse_workload("b16_i32_o64_l1000_k3_s2_p1_d2");
  const std::string text = refusal([&] { (void)diagnose(request, nullptr, &wrong); }, Exit::usage);
  EXPECT_NE(text.find("2098176"), std::string::npos) << text;
  EXPECT_NE(text.find("16 x 64 x 16"), std::string::npos) << text;
  const Workload grouped = parse_workload("b16_i32_o64_l131072_k3_s2_p1_d2_g2");
  EXPECT_NE(refusal([&] { (void)diagnose(request, nullptr, &grouped); }, Exit::usage).find("groups is 2"),
            std::string::npos);
  Request bare = request;
  bare.metrics.clear();
  EXPECT_EQ(*diagnose(bare, nullptr, &wrong).workload.workload, wrong) << "nothing to check it against";
}

TEST(DiagnoseWorkload, EveryConfigMayProduceTheGrid) {
  Request request = tiled_request();
  request.metrics[0].values[kGrid] = 32 * 2049;  // BLOCK_L = 64 (two configs of 64 channels, two of 128)
  const Diagnosis d = plain(request);
  EXPECT_EQ(d.workload.catalogue_name, "kb_l1_74");
  EXPECT_EQ(d.workload.config.at("BLOCK_L"), 64);
  EXPECT_FALSE(d.workload.config.contains("BLOCK_C_OUT"));
}

TEST(DiagnoseWorkload, ImpossibleGridSizes) {
  const auto with = [](double size, std::size_t axes = 3) {
    Request request = scalar_request();
    request.metrics[0].values[kGrid] = size;
    request.code.launches[0].grid.resize(axes);
    return refusal([&] { (void)plain(request); }, Exit::usage);
  };
  EXPECT_NE(with(0), "");
  EXPECT_NE(with(-5), "");
  EXPECT_NE(with(12.5), "");
  EXPECT_NE(with(1e17), "");
  EXPECT_NE(with(2147483648.0, 1), "") << "one axis ends at 2^31-1";
  EXPECT_EQ(with(2147483647.0, 1), "");
  EXPECT_EQ(with(2147483648.0, 2), "");
}

TEST(DiagnoseWorkload, ConstantFactorsMustDivideTheGrid) {
  Request request = scalar_request();
  request.code.launches[0].grid.push_back({{GridFactor{GridSize::constant, 5, "", 0}}});
  request.code.launches[0].grid.erase(request.code.launches[0].grid.begin());
  EXPECT_NE(refusal([&] { (void)plain(request); }, Exit::usage).find("2098176"), std::string::npos);
  request.metrics[0].values[kGrid] = 2098175;
  EXPECT_EQ(refusal([&] { (void)plain(request); }, Exit::usage), "");
}

// --- time, limit, units ----------------------------------------------------------------------------------------

TEST(DiagnoseTime, ImpliedTimeIsBytesOverTheStatedShareOfBandwidth) {
  const Diagnosis scalar = plain(scalar_request());
  const double bytes = 4.0 * (16.0 * 32 * 131072 + 32.0 * 64 * 3 + 16.0 * 64 * 262145);
  ASSERT_TRUE(scalar.implied_seconds && scalar.limit && scalar.gap);
  EXPECT_NEAR(*scalar.implied_seconds, bytes / (0.1134 * 1008e9), 1e-9);
  EXPECT_NEAR(*scalar.implied_seconds, 11.74e-3, 0.01e-3);
  EXPECT_NEAR(100 / *scalar.gap, 12.4, 0.5);
  EXPECT_NEAR(*scalar.gap, *scalar.implied_seconds / scalar.limit->seconds, 1e-9);
  const Diagnosis tiled = plain(tiled_request());
  EXPECT_NEAR(*tiled.implied_seconds, 2.65e-3, 0.01e-3);
  EXPECT_GT(*tiled.gap, 1.4);
  EXPECT_LT(*tiled.gap, 1.7);
}

TEST(DiagnoseTime, AnotherTargetMovesTheLimitNotTheGap) {
  const Request request = scalar_request();
  const Diagnosis own = plain(request);
  const Diagnosis other = diagnose(request, find_target("h200"), nullptr);
  EXPECT_TRUE(other.target_overridden);
  EXPECT_EQ(other.target, find_target("h200"));
  EXPECT_EQ(other.request_target, find_target("rtx4090"));
  EXPECT_LT(other.limit->seconds, own.limit->seconds / 3);
  EXPECT_EQ(*other.gap, *own.gap);
  EXPECT_EQ(other.request_limit->seconds, own.limit->seconds);
  EXPECT_FALSE(diagnose(request, find_target("rtx4090"), nullptr).target_overridden);
}

TEST(DiagnoseTime, NothingIsImpliedWithoutDramOrMetrics) {
  Request request = scalar_request();
  request.metrics[0].values[kDram] = 0;
  EXPECT_FALSE(plain(request).implied_seconds);
  request.metrics[0].values.erase(kDram);
  EXPECT_FALSE(plain(request).gap);
  request.metrics.clear();
  const Diagnosis d = plain(request);
  EXPECT_TRUE(mentions(d.units, "no metrics"));
  EXPECT_FALSE(d.workload.workload);
}

TEST(DiagnoseUnits, ScalarKernelIsBusyWithIndices) {
  const std::vector<std::string> units = plain(scalar_request()).units;
  EXPECT_TRUE(mentions(units, "at 11.34 % of 1008 GB/s")) << "the floor";
  EXPECT_TRUE(mentions(units, "floor"));
  EXPECT_TRUE(mentions(units, "32 x 3 = 96 taps"));
  EXPECT_TRUE(mentions(units, "2 scanned for each useful one"));
  EXPECT_TRUE(mentions(units, "1 of 2 phases are dead"));
  EXPECT_TRUE(mentions(units, "50 % of the outputs are structurally zero"));
  EXPECT_TRUE(mentions(units, "no tl.dot"));
  EXPECT_TRUE(mentions(units, "requested 192 times (64 output channels x 3 taps)"));
  EXPECT_TRUE(mentions(units, "46.2 of 48 warps"));
}

TEST(DiagnoseUnits, TiledKernelWaitsOnLatency) {
  const std::vector<std::string> units = plain(tiled_request()).units;
  EXPECT_TRUE(mentions(units, "waits on latency"));
  EXPECT_TRUE(mentions(units, "15.9 of 48 warps per SM, 1.98 programs of 8 warps"));
  EXPECT_TRUE(mentions(units, "requested 5 times (1 block of output channels x 5 taps)"));
  EXPECT_FALSE(mentions(units, "no tl.dot"));
  EXPECT_FALSE(mentions(units, "dead"));
}

TEST(DiagnoseUnits, SentencesFollowTheNumbers) {
  Request request = scalar_request();
  const Workload w = parse_workload("b16_i8_o64_l131072_k6_s2_p1_d1_f16_bias");  // 262146 outputs
  request.metrics[0].values[kDram] = 80;
  request.metrics[0].values[kSm] = 40;
  const std::vector<std::string> units = diagnose(request, nullptr, &w).units;
  EXPECT_TRUE(mentions(units, "DRAM is the busy unit: 80 %"));
  EXPECT_TRUE(mentions(units, "8 x 6 = 48 taps"));
  EXPECT_TRUE(mentions(units, "cannot read more than 50 %")) << "f16 on a GeForce";
  EXPECT_FALSE(mentions(units, "dead"));
  EXPECT_FALSE(mentions(diagnose(request, find_target("h200"), nullptr).units, "cannot read more than 50 %"));
}

// --- the machine -----------------------------------------------------------------------------------------------

TEST(DiagnoseTarget, DisagreementsAboveOnePercent) {
  Request request = scalar_request();
  EXPECT_TRUE(plain(request).disagreements.empty());
  request.stated.dram_bytes_per_s = 1008e9 * 1.009;
  EXPECT_TRUE(plain(request).disagreements.empty());
  request.stated.dram_bytes_per_s = 1008e9 * 1.011;
  request.stated.f16_flops = 330.4e12;
  const auto found = plain(request).disagreements;
  ASSERT_EQ(found.size(), 2U);
  EXPECT_NE(found[0].what.find("DRAM"), std::string::npos);
  EXPECT_NE(found[1].what.find("twice ours"), std::string::npos);
  EXPECT_EQ(found[1].stated, 330.4e12);
  EXPECT_FALSE(found[1].source.empty());
}

TEST(DiagnoseTarget, AnUnknownGpuIsTakenAsStated) {
  Request request = scalar_request();
  request.stated.name = "4090 \x1b[1m Zeta";
  request.stated.sms = 64;
  request.stated.dram_bytes_per_s = 500e9;
  request.stated.tf32_flops = 41.3e12;
  const Diagnosis d = plain(request);
  ASSERT_NE(d.stated_sheet, nullptr);
  EXPECT_EQ(d.target, &d.stated_sheet->target);
  EXPECT_EQ(d.target->sms.value, 64);
  EXPECT_EQ(d.target->dram_bytes_per_s.value, 500e9);
  EXPECT_NEAR(d.target->fp32_flops.value, find_target("rtx4090")->fp32_flops.value / 2, 1e9);
  EXPECT_EQ(d.target->display.find('\x1b'), std::string_view::npos);
  EXPECT_NEAR(*d.implied_seconds, 11.74e-3 * 1008 / 500, 1e-4);
  const Diagnosis copy = d;
  EXPECT_EQ(copy.target->key, "stated");
}

TEST(DiagnoseTarget, AnUnknownGpuThatStatesTooLittleIsRefused) {
  Request request = scalar_request();
  request.stated = {};
  request.stated.name = "Zeta";
  EXPECT_NE(refusal([&] { (void)plain(request); }, Exit::unsupported).find("Zeta"), std::string::npos);
  request.stated.sm = 999;
  request.stated.sms = 10;
  request.stated.dram_bytes_per_s = 1e12;
  EXPECT_NE(refusal([&] { (void)plain(request); }, Exit::unsupported), "");
  const Diagnosis d = diagnose(request, find_target("h200"), nullptr);
  EXPECT_EQ(d.request_target, nullptr);
  EXPECT_FALSE(d.implied_seconds);
  EXPECT_TRUE(d.limit);
}

TEST(DiagnoseMetrics, ImpossiblePercentagesAreRefusedInAnyKernel) {
  Request request = scalar_request();
  request.metrics.push_back({"other", {{kL2, 100.5}}, {}});
  EXPECT_NE(refusal([&] { (void)plain(request); }, Exit::usage).find("100.5"), std::string::npos);
}

TEST(DiagnoseMetrics, TheLastEntryOfTheLaunchedKernelCounts) {
  Request request = scalar_request();
  KernelMetrics trial = request.metrics[0];
  trial.values[kDram] = 50;
  KernelMetrics other{"at::native::fill", {{kDram, 90}}, {}};
  request.metrics = {trial, request.metrics[0], other};
  EXPECT_NEAR(*plain(request).implied_seconds, 11.74e-3, 0.01e-3);
  request.metrics = {other, other};
  EXPECT_FALSE(plain(request).implied_seconds) << "neither is of the kernel the code launches";
}

// --- findings --------------------------------------------------------------------------------------------------

TEST(DiagnoseFindings, FromSizes) {
  const auto titles = [](const Diagnosis& d) {
    std::vector<std::string> all;
    for (const Finding& finding : d.findings) all.push_back(finding.title + ": " + finding.detail);
    return all;
  };
  EXPECT_TRUE(mentions(titles(plain(scalar_request())), "dead outputs"));
  EXPECT_TRUE(
      mentions(titles(plain(tiled_request())), "L_out is part of the key: each new length compiles and times 7"));
  // y has 64 x 131084 elements a batch entry: 256 of them pass 2^31 - 1.
  EXPECT_TRUE(mentions(titles(plain(tiled_request())), "from batch 256 on"));
  Request request = tiled_request();
  request.metrics.clear();
  const Workload large = parse_workload("b256_i32_o64_l131072_k5_s1_d3_tf32");
  const Diagnosis d = diagnose(request, nullptr, &large);
  ASSERT_TRUE(mentions(titles(d), "overflow"));
  EXPECT_EQ(std::ranges::count(d.findings, Finding::Severity::wrong_result, &Finding::severity), 1);
  const Workload fits = parse_workload("b255_i32_o64_l131072_k5_s1_d3_tf32");
  EXPECT_FALSE(mentions(titles(diagnose(request, nullptr, &fits)), "overflow"));
  Request scalar = scalar_request();
  scalar.metrics.clear();
  const Workload length = parse_workload("b1_i1_o1_l8388481_k1_s1");  // 65536 blocks of 128 and one more
  EXPECT_TRUE(mentions(titles(diagnose(scalar, nullptr, &length)), "axis z has 65536"));
  const Workload shorter = parse_workload("b1_i1_o1_l8388480_k1_s1");
  EXPECT_FALSE(mentions(titles(diagnose(scalar, nullptr, &shorter)), "axis z"));
}

TEST(DiagnoseFindings, KeepsThoseOfTheCode) {
  Request request = scalar_request();
  request.code.findings = {{Finding::Severity::wrong_result, 7, "drops taps", "at stride 41"}};
  EXPECT_EQ(plain(request).findings.front().title, "drops taps");
}

// --- rules -----------------------------------------------------------------------------------------------------

TEST(DiagnoseRules, MemoryStageOfTheScalarKernel) {
  const Diagnosis d = plain(scalar_request());
  ASSERT_EQ(d.rules.size(), 5U) << "four rules and the stall target";
  EXPECT_EQ(d.rules[0].line, 11);
  EXPECT_EQ(d.rules[0].verdict, Verdict::not_needed);
  EXPECT_NE(d.rules[0].why.find("no stall metric was collected; DRAM 11.34 % with sm__throughput 96.68 %"),
            std::string::npos)
      << d.rules[0].why;
  EXPECT_EQ(d.rules[1].verdict, Verdict::applied);
  EXPECT_NE(d.rules[1].why.find("permits a rewrite"), std::string::npos) << d.rules[1].why;
  EXPECT_NE(d.rules[1].why.find("192 times"), std::string::npos) << d.rules[1].why;
  EXPECT_EQ(d.rules[2].verdict, Verdict::applied);
  EXPECT_NE(d.rules[2].why.find("32 channels x at most 3 taps"), std::string::npos) << d.rules[2].why;
  EXPECT_EQ(d.rules[3].verdict, Verdict::applied);
  EXPECT_NE(d.rules[3].why.find("now 2; the answer's lies in {1, 2, 3}"), std::string::npos) << d.rules[3].why;
  EXPECT_EQ(d.rules[4].verdict, Verdict::conflict);
  EXPECT_NE(d.rules[4].why.find("long_scoreboard"), std::string::npos);
}

TEST(DiagnoseRules, TilingStageOfTheTiledKernel) {
  const Diagnosis d = plain(tiled_request());
  ASSERT_EQ(d.rules.size(), 6U);
  EXPECT_EQ(d.rules[0].verdict, Verdict::applied);
  EXPECT_EQ(d.rules[1].verdict, Verdict::not_needed) << "TF32, not FP32";
  EXPECT_EQ(d.rules[2].verdict, Verdict::applied);
  EXPECT_EQ(d.rules[3].verdict, Verdict::applied) << "33 % occupancy asks for other blocks";
  EXPECT_NE(d.rules[3].why.find("15.9 of 48"), std::string::npos) << d.rules[3].why;
  EXPECT_EQ(d.rules[4].verdict, Verdict::not_needed);
  EXPECT_EQ(d.rules[5].verdict, Verdict::applied);
  EXPECT_NE(d.rules[5].why.find("not met"), std::string::npos);
}

TEST(DiagnoseRules, TheVerdictFollowsTheEvidence) {
  const std::string stages = "Increase `num_stages` only if memory stalls are high; otherwise keep it small.";
  Request stalled = tiled_request();
  EXPECT_EQ(judged(stalled, stages).verdict, Verdict::applied) << "latency";
  const char* counter = "smsp__warp_issue_stalled_long_scoreboard_per_warp_active.pct";
  stalled.metrics[0].values[counter] = 20.5;
  EXPECT_EQ(judged(stalled, stages).verdict, Verdict::applied);
  stalled.metrics[0].values[counter] = 19.5;
  EXPECT_EQ(judged(stalled, stages).verdict, Verdict::not_needed);

  const std::string warps = "- Change num_warps only if occupancy suggests it";
  EXPECT_EQ(judged(tiled_request(), warps).verdict, Verdict::applied);
  EXPECT_EQ(judged(scalar_request(), warps).verdict, Verdict::conflict);

  const std::string grid = "Change grid only if SM utilization is clearly low";
  EXPECT_EQ(judged(tiled_request(), grid).verdict, Verdict::applied);
  EXPECT_EQ(judged(scalar_request(), grid).verdict, Verdict::conflict);

  const std::string keep = "- Do NOT modify grid or BLOCK sizes";
  EXPECT_EQ(judged(scalar_request(), keep).verdict, Verdict::conflict);
  EXPECT_EQ(judged(scalar_request(), "Always include original config").verdict, Verdict::conflict);
  Request good = tiled_request();
  good.metrics[0].values[kDram] = 90;  // at its limit
  EXPECT_EQ(judged(good, keep).verdict, Verdict::applied);
  EXPECT_EQ(judged(good, "Do not rewrite access patterns without metric evidence").verdict, Verdict::not_needed);
  EXPECT_EQ(judged(good, "Always include original config").verdict, Verdict::applied);
}

TEST(DiagnoseRules, SmThroughputTarget) {
  Request request = scalar_request();
  request.stage.rules.clear();
  request.stage.metrics = {std::string(kSm) + " (>60%)"};
  EXPECT_EQ(plain(request).rules.at(0).verdict, Verdict::conflict) << "met at 12 % of the limit";
  request.metrics[0].values[kSm] = 45;
  EXPECT_EQ(plain(request).rules.at(0).verdict, Verdict::applied);
  const Workload half = parse_workload("b16_i32_o64_l131072_k3_s2_p1_d2_f16");
  const RuleVerdict unreachable = diagnose(request, nullptr, &half).rules.at(0);
  EXPECT_EQ(unreachable.verdict, Verdict::conflict);
  EXPECT_NE(unreachable.why.find("GeForce"), std::string::npos);
  request.stated.name = "H100";
  EXPECT_EQ(diagnose(request, nullptr, &half).rules.at(0).verdict, Verdict::applied);
}

// Rule texts as the variants of the stages phrase them; each must be recognized, that is, judged by a reason of its
// own.
TEST(DiagnoseRules, EveryKnownPhrasingIsRecognized) {
  const char* rules[] = {"1D: (cdiv(N, BLOCK))",
                         "2D: (cdiv(M, BLOCK_M), cdiv(N, BLOCK_N))",
                         "3D (batch×M×N) → `(batch, cdiv(M, BLOCK_M), cdiv(N, BLOCK_N))`",
                         ">3D: flatten ONLY independent dims",
                         "Prefer batch / head / expert / group parallelism before shrinking BLOCK",
                         "For grouped operations: ensure group dimension is in grid (e.g., program_id(2) for groups)",
                         "Change grid only if SM utilization is clearly low",
                         "Max 3 grid dims, static rank",
                         "grid=(G0,G1,G2) must match tl.program_id(0/1/2)",
                         "If unsure about correctness, do NOT change grid",
                         "Autotune either BLOCK_* OR (num_warps, num_stages)",
                         "If autotuning BLOCK_*, use grid=lambda META: (...)",
                         "Never redefine BLOCK_* in both kernel and launch",
                         "Max 2-3 configs to reduce compilation time",
                         "BLOCK_* must be powers of 2",
                         "Tensor Core: BLOCK_M/N multiple of 16, BLOCK_K multiple of 8 (preference)",
                         "FP32: M/N ∈ {32,64,128,256}, K ∈ {16,32,64}",
                         "Avoid oversized tiles (mask waste)",
                         "Keep baseline tile if unsure",
                         "2–4 configs max",
                         "Autotune ONLY on @triton.jit kernel",
                         "Increase num_stages only if memory stalls > 20%",
                         "Improve locality or coalescing only when metrics show issues; avoid unnecessary rewrites.",
                         "num_warps ∈ {2,4,8,16}",
                         "num_stages ∈ {2,3,4}",
                         "`num_warps`: {2, 4, 8, 16}",
                         "Change num_stages by ±1 only",
                         "Change num_stages only by ±1 from current.",
                         "Do not modify BLOCK sizes or grid mapping here.",
                         "3–6 nearby configs",
                         "Always include original config",
                         "Revert if gain <1–2% or unstable",
                         "Revert if gain < 2%",
                         "All fused operations share the SAME grid - do NOT split into multiple kernels",
                         "Grid should cover the OUTPUT tensor dimensions",
                         "Every fused op MUST use identical offset calculation",
                         "Every fused op MUST use identical boundary mask",
                         "Single tl.store() for final output - required",
                         "tl.store() for intermediate results - NEVER (this is what fusion eliminates)",
                         "Count tl.store() calls: should equal number of OUTPUT tensors (usually 1)",
                         "If you see store-then-load pattern for same data → BUG, refactor",
                         "Multiple tl.load() for different inputs (x, weight, bias) - OK",
                         "If registers > 128: reduce BLOCK_* by half",
                         "launch__registers_per_thread > 128 → likely spilling",
                         "If register spilling suspected, reduce BLOCK_SIZE",
                         "IF register pressure LOW (regs < 96, no spill):",
                         "IF register pressure HIGH (regs > 128 or occupancy_limit_registers):",
                         "Trade-off: recompute cheap ops (e.g., x*0.5) vs store intermediate",
                         "Recompute: cheap ops (add, mul, max)",
                         "Start conservative: BLOCK_SIZE ∈ {256, 512} for element-wise",
                         "For matmul fusion: BLOCK_M/N ∈ {32, 64}, BLOCK_K ∈ {32}",
                         "num_stages: start with 2, increase only if memory-bound",
                         "Fusion kernels are often compute-bound, not memory-bound",
                         "Prioritize num_warps over num_stages",
                         "For activation-heavy fusion: try num_warps=8",
                         "If ANY op needs different indexing → do NOT fuse, split kernel",
                         "If metrics are acceptable, skip this stage",
                         "Coalesced access on input load and output store",
                         "IF multi-input fusion (3+ distinct loads):",
                         "Atomic operations",
                         "Do NOT repeat the failed strategy"};
  for (const Request& request : {scalar_request(), tiled_request()}) {
    for (const char* rule : rules) {
      const RuleVerdict verdict = judged(request, std::string("- ") + rule);
      EXPECT_EQ(verdict.why.find("no check is known"), std::string::npos) << rule;
      EXPECT_FALSE(verdict.why.empty()) << rule;
      EXPECT_EQ(verdict.rule, std::string("- ") + rule);
    }
  }
  EXPECT_NE(judged(scalar_request(), "Paint it blue").why.find("no check is known"), std::string::npos);
  EXPECT_EQ(judged(scalar_request(), "Paint it blue").verdict, Verdict::applied);
}

TEST(DiagnoseRules, EveryKnownPhrasingIsJudgedWithoutEvidenceToo) {
  Request request = scalar_request();
  request.metrics.clear();
  request.code.launches.clear();
  request.code.kernels.clear();
  request.stated.name = "H200";
  for (const char* rule :
       {"Change grid only if SM utilization is clearly low",
        "Avoid oversized tiles (wasted masking); change only when ...",
        "Change num_warps only if occupancy suggests it", "Increase num_stages only if memory stalls are high",
        "Do not rewrite access patterns without metric evidence", "Do NOT modify grid or BLOCK sizes",
        "Revert if gain <2%", "Tensor Core: multiple of 16", "Fusion kernels are often compute-bound",
        "Change num_stages by ±1 only"}) {
    EXPECT_NE(judged(request, rule).verdict, Verdict::conflict) << rule;
  }
}

// --- as a whole ------------------------------------------------------------------------------------------------

TEST(Diagnose, IsDeterministic) {
  for (const Request& request : {scalar_request(), tiled_request()}) {
    const Diagnosis a = plain(request);
    const Diagnosis b = plain(request);
    EXPECT_EQ(a.units, b.units);
    EXPECT_EQ(a.workload.how, b.workload.how);
    ASSERT_EQ(a.rules.size(), b.rules.size());
    for (std::size_t i = 0; i < a.rules.size(); ++i) EXPECT_EQ(a.rules[i].why, b.rules[i].why);
  }
}

TEST(Diagnose, HostileCodeFactsDoNotOverflow) {
  Request request = scalar_request();
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t value : {most, most - 1, std::int64_t{0}, std::int64_t{-1}, std::int64_t{1}}) {
    request.code.launches[0].grid = {
        {{GridFactor{GridSize::constant, value, "", 0}, GridFactor{GridSize::constant, value, "", 0}}},
        {{GridFactor{GridSize::out_length, 1, "B", value}}},
        {{GridFactor{GridSize::c_out, 1, "C", 0}}}};
    request.code.launches[0].meta = {{"C", value}, {"num_warps", value}};
    try {
      (void)plain(request);
    } catch (const Error& error) {
      EXPECT_EQ(error.exit(), Exit::usage) << error.what();
    }
  }
}

}  // namespace
}  // namespace tconv::request
