#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "request/request.hpp"
#include "util/error.hpp"

namespace tconv::request {
namespace {

constexpr std::string_view kTarget = R"(# Target GPU
GPU Name: 4090
Architecture: Ada Lovelace
• Compute Capability: 8.9
• Number of SMs: 128
• Memory Bandwidth: 1008 GB/s
• TF32 Tensor Core TFLOPS: 82.6 with dense
• BFLOAT16 Tensor Core TFLOPS: 165.2 with dense
• FP16 Tensor Core TFLOPS: 165.2 with dense
• Maximum number of registers per thread: 255
• Maximum threads per block: 1024
• Maximum threads per SM: 1536
• Warp size: 32
• Maximum concurrent warps per SM: 48
• Shared memory capacity per SM: 100 KB
• Maximum shared memory per thread block: 99 KB
• L2 cache (global, all SM shared): 72 MB
)";

constexpr std::string_view kStage = R"(## Current Optimization Stage

Focus: Memory use and latency.

Metrics:
- dram__throughput.avg.pct_of_peak_sustained_elapsed
- smsp__warp_issue_stalled_long_scoreboard_per_warp_active.pct (<20%)

Rules:
- Raise num_stages only where memory stalls
- Keep the access pattern without evidence

Autotune:
- Try num_stages ∈ {1,2,3}
)";

constexpr std::string_view kCode = "import torch\n\nx = 1\n";
constexpr std::string_view kMetrics = R"({
  "deconv_kernel": {
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": 96.5,
    "launch__grid_size": 4096
  }
})";

struct Parts {
  std::string target{kTarget};
  std::string heading = "[OPTIMIZATION STAGE]";
  std::string stage{kStage};
  std::string between;  // stage and code
  std::string code = "```python\n" + std::string(kCode) + "```\n";
  std::string metrics{kMetrics};
  std::string rest =
      "**Task**: Make it faster.\n\nOUTPUT RULES (STRICT):\n1. One file\n\n```python\n# <optimized Triton code>\n```\n";
};

std::string text_of(const Parts& parts) {
  return fmt::format("Make a kernel faster.\n\n{}\n{}\n\n{}\n\n{}[CURRENT CODE]\n{}\n[NCU PROFILING METRICS]\n{}\n\n{}",
                     parts.target, parts.heading, parts.stage, parts.between, parts.code, parts.metrics, parts.rest);
}

Request read(const Parts& parts) { return parse_sections(text_of(parts), "r.txt"); }
Request read_stage_text(std::string stage) {
  Parts parts;
  parts.stage = std::move(stage);
  return read(parts);
}
Request read_metrics_text(std::string metrics) {
  Parts parts;
  parts.metrics = std::move(metrics);
  return read(parts);
}

// The line of `what` in the text, from 1.
int line_of(std::string_view text, std::string_view what) {
  const auto at = text.find(what);
  EXPECT_NE(at, std::string_view::npos) << what;
  return 1 + static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
}

void expect_refused(std::string_view text, int line, std::string_view says) {
  try {
    static_cast<void>(parse_sections(text, "r.txt"));
    ADD_FAILURE() << "not refused: " << says;
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(error.exit(), Exit::usage) << what;
    EXPECT_EQ(error.where(), fmt::format("r.txt:{}", line)) << what;
    EXPECT_NE(what.find(says), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    EXPECT_FALSE(error.rule().empty()) << what;
  }
}

bool notes(const Request& request, std::string_view what) {
  return std::ranges::any_of(request.notes, [&](const std::string& n) { return n.find(what) != std::string::npos; });
}

// --- target ------------------------------------------------------------------------------------------------------

TEST(RequestTarget, BulletsInUnitsOfTheirOwn) {
  const StatedTarget stated = read({}).stated;
  EXPECT_EQ(stated.name, "4090");
  EXPECT_EQ(stated.architecture, "Ada Lovelace");
  EXPECT_EQ(stated.sm, 89);
  EXPECT_EQ(stated.sms, 128);
  EXPECT_DOUBLE_EQ(stated.dram_bytes_per_s.value(), 1008e9);
  EXPECT_DOUBLE_EQ(stated.tf32_flops.value(), 82.6e12);
  EXPECT_DOUBLE_EQ(stated.f16_flops.value(), 165.2e12);
  EXPECT_DOUBLE_EQ(stated.bf16_flops.value(), 165.2e12);
  EXPECT_EQ(stated.registers_per_thread, 255);
  EXPECT_EQ(stated.threads_per_block, 1024);
  EXPECT_EQ(stated.threads_per_sm, 1536);
  EXPECT_EQ(stated.warps_per_sm, 48);
  EXPECT_EQ(stated.smem_per_sm, 100.0 * 1024);
  EXPECT_EQ(stated.smem_per_block, 99.0 * 1024);
  EXPECT_EQ(stated.l2_bytes, 72.0 * 1024 * 1024);
}

TEST(RequestTarget, OtherSpellings) {
  Parts parts;
  parts.target =
      "# Target GPU\nGPU Name: X\n- Compute Capability: 10.0\n* Memory Bandwidth: 3.35 TB/s\n- Number of SMs: 1,024\n"
      "- FP16 Tensor Core TFLOPS: 2.25 PFLOPS\n- L2 cache: unknown\n- Colour: green\nno colon here\n";
  const StatedTarget stated = read(parts).stated;
  EXPECT_EQ(stated.sm, 100);
  EXPECT_DOUBLE_EQ(stated.dram_bytes_per_s.value(), 3.35e12);
  EXPECT_EQ(stated.sms, 1024);
  EXPECT_DOUBLE_EQ(stated.f16_flops.value(), 2.25e15);
  EXPECT_FALSE(stated.l2_bytes || stated.tf32_flops);
}

TEST(RequestTarget, OneLine) {
  Parts parts;
  parts.target = "# Target GPU: NVIDIA GeForce RTX 4090\n";
  const Request request = read(parts);
  EXPECT_EQ(request.stated.name, "NVIDIA GeForce RTX 4090");
  EXPECT_FALSE(request.stated.sms);
  EXPECT_TRUE(notes(request, "one line"));

  // The figures may follow the missing metrics instead.
  parts.metrics =
      "No NCU metrics available.\n\nGPU Hardware Info:\n• Number of SMs: 128\n• Memory Bandwidth: 1008 GB/s";
  const Request late = read(parts);
  EXPECT_TRUE(late.metrics.empty());
  EXPECT_EQ(late.stated.sms, 128);
  EXPECT_DOUBLE_EQ(late.stated.dram_bytes_per_s.value(), 1008e9);
}

TEST(RequestTarget, ImpossibleFigures) {
  for (const auto& [line, says] : std::vector<std::pair<std::string, std::string>>{
           {"• Number of SMs: many", "Number of SMs is \"many\""},
           {"• Number of SMs: -4", "Number of SMs is \"-4\""},
           {"• Memory Bandwidth: 0 GB/s", "Memory Bandwidth is \"0 GB/s\""},
           {"• Memory Bandwidth: 1.2.3 GB/s", "1.2.3"},
           {"• L2 cache: " + std::string(400, '9') + " MB", "L2 cache"},
           {"• Compute Capability: 89", "compute capability"},
           {"• Compute Capability: x.y", "compute capability"},
           {"• Compute Capability: 8.99", "compute capability"}}) {
    Parts parts;
    parts.target = "# Target GPU\nGPU Name: X\n" + line + "\n";
    expect_refused(text_of(parts), 5, says);
  }
  Parts parts;
  parts.target = "# Target GPU\n• Number of SMs: 4\n";
  expect_refused(text_of(parts), 3, "has no name");
}

// --- stage -------------------------------------------------------------------------------------------------------

TEST(RequestStage, ReadsFocusMetricsRulesAndLimits) {
  const std::string text = text_of({});
  const Stage stage = parse_sections(text, "r.txt").stage;
  EXPECT_EQ(stage.kind, StageKind::memory);
  EXPECT_EQ(stage.focus, "Memory use and latency.");
  EXPECT_EQ(stage.metrics,
            (std::vector<std::string>{"dram__throughput.avg.pct_of_peak_sustained_elapsed",
                                      "smsp__warp_issue_stalled_long_scoreboard_per_warp_active.pct (<20%)"}));
  ASSERT_EQ(stage.rules.size(), 3u);
  EXPECT_EQ(stage.rules[0].text, "- Raise num_stages only where memory stalls");
  EXPECT_EQ(stage.rules[0].line, line_of(text, "- Raise num_stages"));
  EXPECT_EQ(stage.rules[2].text, "- Try num_stages ∈ {1,2,3}");
  EXPECT_EQ(stage.limits.num_stages, (std::vector<int>{1, 2, 3}));
  EXPECT_TRUE(stage.limits.num_warps.empty());
  EXPECT_FALSE(stage.limits.min_configs || stage.limits.max_configs);
}

TEST(RequestStage, HeadingWithATrailingLetter) {
  Parts parts;
  parts.heading = "[OPTIMIZATION STAGE]f";
  const Request request = read(parts);
  EXPECT_EQ(request.stage.kind, StageKind::memory);
  EXPECT_TRUE(notes(request, "[OPTIMIZATION STAGE]f"));
  EXPECT_FALSE(notes(read({}), "heading"));
}

TEST(RequestStage, Kinds) {
  const auto kind = [](std::string_view focus) { return read_stage_text(fmt::format("{}\n", focus)).stage.kind; };
  EXPECT_EQ(kind("Focus: Grid layout and parallel work."), StageKind::grid);
  EXPECT_EQ(kind("**Focus**: Grid layout & parallelism."), StageKind::grid);
  EXPECT_EQ(kind("**Focus**: Tune BLOCK_M/N/K for reuse."), StageKind::block_tiling);
  EXPECT_EQ(kind("Focus: BLOCK_M/N/K selection."), StageKind::block_tiling);
  EXPECT_EQ(kind("**Focus:** Memory access patterns and latency."), StageKind::memory);
  EXPECT_EQ(kind("Focus: Final micro-tuning."), StageKind::advanced_memory);
  EXPECT_EQ(kind("**Focus**: Final micro-optimizations (small)."), StageKind::advanced_memory);
  EXPECT_EQ(kind("Focus: Memory optimization and final parameter tuning."), StageKind::memory_and_tuning);
  EXPECT_EQ(kind("**Stage**: memory_and_tuning\nFocus: The rest."), StageKind::memory_and_tuning);
  EXPECT_EQ(kind("Focus: Grid & indexing for FUSED operations."), StageKind::fused);
  EXPECT_EQ(kind("Focus: Sing a song."), StageKind::unknown);
  EXPECT_TRUE(notes(read_stage_text("Focus: Sing a song.\n"), "none of the known ones"));
  for (const StageKind each : {StageKind::grid, StageKind::block_tiling, StageKind::memory, StageKind::advanced_memory,
                               StageKind::memory_and_tuning}) {
    EXPECT_EQ(kind(fmt::format("Stage label: {}", name(each))), each);
  }
}

TEST(RequestStage, Limits) {
  const auto limits = [](std::string_view rule) {
    return read_stage_text(fmt::format("Rules:\n- {}\n", rule)).stage.limits;
  };
  const auto range = [&](std::string_view rule) {
    const StageLimits l = limits(rule);
    return std::pair{l.min_configs.value_or(-1), l.max_configs.value_or(-1)};
  };
  EXPECT_EQ(range("a small list (2–4 configs), powers of two"), (std::pair{2, 4}));
  EXPECT_EQ(range("Max 2-3 configs to save time"), (std::pair{2, 3}));
  EXPECT_EQ(range("3—6 configs around the current one"), (std::pair{3, 6}));
  EXPECT_EQ(range("2-3 BLOCK_SIZE configs with a fallback"), (std::pair{2, 3}));
  EXPECT_EQ(range("2 to 4 configs"), (std::pair{2, 4}));
  EXPECT_EQ(range("at most 3 configs"), (std::pair{-1, 3}));
  EXPECT_EQ(range("Max 2-3 configs (e.g., num_stages ∈ {2,3})"), (std::pair{2, 3}));
  EXPECT_EQ(limits("Max 2-3 configs (e.g., num_stages ∈ {2,3})").num_stages, (std::vector<int>{2, 3}));
  EXPECT_EQ(range("keep num_warps=4 configs"), (std::pair{-1, -1}));
  EXPECT_EQ(range("4-2 configs"), (std::pair{-1, -1}));
  EXPECT_EQ(range("99999999999999999999 configs"), (std::pair{-1, -1}));
  EXPECT_EQ(range("BLOCK in {16, 32}; many configs"), (std::pair{-1, -1}));

  EXPECT_EQ(limits("`num_warps`: {2, 4, 8, 16}").num_warps, (std::vector<int>{2, 4, 8, 16}));
  EXPECT_EQ(limits("num_stages ∈ {2, 3, 4}").num_stages, (std::vector<int>{2, 3, 4}));
  EXPECT_EQ(limits("vary `num_stages` (e.g., {3, 1, 2, 2})").num_stages, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(limits("num_stages in [1, 2] and num_warps in [4, 8]").num_warps, (std::vector<int>{4, 8}));
  EXPECT_EQ(limits("num_stages in [1, 2] and num_warps in [4, 8]").num_stages, (std::vector<int>{1, 2}));
  EXPECT_TRUE(limits("num_stages as for num_warps ∈ {4, 8}").num_stages.empty());
  EXPECT_TRUE(limits("num_stages ∈ {0, 1}").num_stages.empty());
  EXPECT_TRUE(limits("num_stages ∈ {1, 2").num_stages.empty());
  EXPECT_TRUE(limits("num_stages ∈ {one}").num_stages.empty());
  EXPECT_TRUE(limits("start num_stages with 2").num_stages.empty());
}

TEST(RequestStage, MarkdownParagraphsConditionsAndExamples) {
  Parts parts;
  parts.stage = R"(**Focus**: Tune BLOCK sizes.

**NCU Metrics to Check**:
• `sm__warps_active.avg.pct_of_peak_sustained_active`: occupancy (target: >50%)

**Guidelines**:
1. First.
✅ Second.

Pattern:
```
x = tl.load(p)  # [CURRENT CODE]
```

IF registers are LOW (< 96):
  - Use num_warps=8

**Tip**:
A list of 2–4 configs on the **kernel**.
)";
  const std::string text = text_of(parts);
  const Stage stage = parse_sections(text, "r.txt").stage;
  EXPECT_EQ(stage.metrics,
            std::vector<std::string>{"`sm__warps_active.avg.pct_of_peak_sustained_active`: occupancy (target: >50%)"});
  ASSERT_EQ(stage.rules.size(), 4u);
  EXPECT_EQ(stage.rules[0].text, "1. First.");
  EXPECT_EQ(stage.rules[1].text, "✅ Second.");
  EXPECT_EQ(stage.rules[2].text, "IF registers are LOW (< 96): Use num_warps=8");
  EXPECT_EQ(stage.rules[3].text, "A list of 2–4 configs on the **kernel**.");
  EXPECT_EQ(stage.rules[3].line, line_of(text, "A list of"));
  EXPECT_EQ(stage.limits.max_configs, 4);
}

TEST(RequestStage, FailedAttempt) {
  Parts parts;
  parts.between =
      "## Previous Attempt Failed\nIt spilled.\nTask: none of yours.\n\n**Your Task**: another way.\n- Do NOT repeat "
      "it\n\n";
  const std::string text = text_of(parts);
  const Request request = parse_sections(text, "r.txt");
  EXPECT_TRUE(request.failure.starts_with("It spilled.\n"));
  EXPECT_EQ(request.stage.rules.size(), 4u);
  EXPECT_EQ(request.stage.rules.back().text, "- Do NOT repeat it");
  EXPECT_EQ(request.stage.rules.back().line, line_of(text, "- Do NOT repeat it"));
  EXPECT_TRUE(read({}).failure.empty());
}

// --- code --------------------------------------------------------------------------------------------------------

TEST(RequestCode, Block) {
  const std::string text = text_of({});
  const Request request = parse_sections(text, "r.txt");
  EXPECT_EQ(request.code.source, kCode);
  EXPECT_EQ(request.code_line, line_of(text, "import torch"));

  std::string windows;
  for (const char c : text) windows += c == '\n' ? std::string("\r\n") : std::string(1, c);
  EXPECT_EQ(parse_sections(windows, "r.txt").code.source, kCode);
  EXPECT_EQ(parse_sections("\xef\xbb\xbf" + text, "r.txt").code.source, kCode);
}

TEST(RequestCode, HeadingsInsideTheCodeAreText) {
  Parts parts;
  parts.code = "```python\ns = '''\n[CURRENT CODE]\n[NCU PROFILING METRICS]\n# Target GPU\n'''\n```\n";
  EXPECT_EQ(read(parts).metrics.size(), 1u);
}

TEST(RequestCode, BadBlocks) {
  Parts parts;
  parts.code = "";
  const std::string none = text_of(parts);
  expect_refused(none, line_of(none, "[CURRENT CODE]"), "no code block");
  parts.code = "import torch\n";
  const std::string bare = text_of(parts);
  expect_refused(bare, line_of(bare, "[CURRENT CODE]"), "no code block");
  parts.code = "```python\na = 1\n```\n\n```python\nb = 2\n```\n";
  const std::string two = text_of(parts);
  expect_refused(two, line_of(two, "b = 2") - 1, "a second code block under [CURRENT CODE]");
  parts.code = "```python\n\n```\n";
  const std::string empty = text_of(parts);
  expect_refused(empty, line_of(empty, "[CURRENT CODE]") + 1, "the code block is empty");
  parts.code = "```python\na = 1\n```\n";
  parts.rest = "**Task**: Go.\n\n```python\nb = 2\n```\n";
  const std::string late = text_of(parts);
  expect_refused(late, line_of(late, "b = 2") - 1, "a second code block, after the metrics");
  parts.code = "```python\n" + std::string((1 << 20) + 1, '#') + "\n```\n";
  const std::string large = text_of(parts);
  expect_refused(large, line_of(large, "[CURRENT CODE]") + 1, "the code block has");
}

// --- metrics -----------------------------------------------------------------------------------------------------

TEST(RequestMetrics, ByKernel) {
  const Request request = read({});
  ASSERT_EQ(request.metrics.size(), 1u);
  EXPECT_EQ(request.metrics[0].kernel, "deconv_kernel");
  EXPECT_DOUBLE_EQ(request.metrics[0].values.at("sm__throughput.avg.pct_of_peak_sustained_elapsed"), 96.5);
  EXPECT_DOUBLE_EQ(request.metrics[0].values.at("launch__grid_size"), 4096);
  EXPECT_TRUE(request.notes.empty());
}

TEST(RequestMetrics, SeveralLaunchesOfOneKernel) {
  const Request request =
      read_metrics_text(R"({"k": [{"launch__grid_size": 1}, {"launch__grid_size": 2}], "j": {"a": 3}})");
  ASSERT_EQ(request.metrics.size(), 3u);
  EXPECT_EQ(request.metrics[0].kernel, "j");
  EXPECT_EQ(request.metrics[1].kernel, "k");
  EXPECT_EQ(request.metrics[2].values.at("launch__grid_size"), 2);  // in their order
  EXPECT_TRUE(notes(request, "2 launches of k"));
}

TEST(RequestMetrics, Lists) {
  const Request request = read_metrics_text(R"([{"Kernel Name": "k", "launch__grid_size": "2,098,176"}, {"a": 1}])");
  ASSERT_EQ(request.metrics.size(), 2u);
  EXPECT_EQ(request.metrics[0].kernel, "k");
  EXPECT_EQ(request.metrics[0].values.at("launch__grid_size"), 2098176);
  EXPECT_EQ(request.metrics[1].kernel, "");
  EXPECT_TRUE(notes(request, "a list"));
}

TEST(RequestMetrics, FlatFencedAndLabelled) {
  const Request request = read_metrics_text("# Current metrics\n```json\n{\"launch__grid_size\": 7}\n```\n");
  ASSERT_EQ(request.metrics.size(), 1u);
  EXPECT_EQ(request.metrics[0].kernel, "");
  EXPECT_EQ(request.metrics[0].values.at("launch__grid_size"), 7);
  EXPECT_EQ(read_metrics_text("Metrics of the last run:\n{\"a\": 1}\nand a remark").metrics.size(), 1u);
}

TEST(RequestMetrics, NoneAtAll) {
  for (const std::string_view text : {"{}", "[]", "No NCU metrics available", "no ncu metrics available."}) {
    SCOPED_TRACE(text);
    const Request request = read_metrics_text(std::string(text));
    EXPECT_TRUE(request.metrics.empty());
    EXPECT_EQ(request.notes.size(), 1u);
  }
}

TEST(RequestMetrics, NullAndInfinity) {
  const Request request =
      read_metrics_text(R"({"k": {"a.pct": null, "b.pct": "inf", "c": "-inf", "d.pct": "nan", "e": "12.5"}})");
  const KernelMetrics& metrics = request.metrics.at(0);
  EXPECT_EQ(metrics.null_values, (std::vector<std::string>{"a.pct", "d.pct"}));
  EXPECT_TRUE(std::isinf(metrics.values.at("b.pct")) && metrics.values.at("b.pct") > 0);
  EXPECT_LT(metrics.values.at("c"), 0);
  EXPECT_EQ(metrics.values.at("e"), 12.5);
}

TEST(RequestMetrics, Impossible) {
  const auto refuse = [](std::string metrics, std::string_view at, std::string_view says) {
    Parts parts;
    parts.metrics = std::move(metrics);
    const std::string text = text_of(parts);
    expect_refused(text, line_of(text, at), says);
  };
  refuse("{\n\"k\": {\n\"dram__throughput.avg.pct_of_peak_sustained_elapsed\": 112.5\n}}", "112.5", "112.5 %");
  refuse("{\n\"k\": {\n\"lts__t_sector_hit_rate.pct\": -1\n}}", "-1", "-1 %");
  refuse("[{\"a.pct\": 4},\n{\"a.pct\": 104}]", "104", "104 %");
  refuse("{\"k\": {\n\"sm__x\": ", "{\"k\"", "does not end");
  refuse("{\n\"k\": {,}}", "{,}", "no JSON");
  refuse("{\n\"k\": {\"a\": NaN}}", "NaN", "no JSON");
  refuse("n/a", "n/a", "the metrics are no JSON: \"n/a\"");
  refuse("{\"k\": 1, \"j\": {}}", "{\"k\"", "the metrics of k are no object");
  refuse("[1]", "[1]", "no object");
  refuse("{\"k\": {\n\"a\": true}}", "\"a\"", "metric a is no number");
  refuse("{\"k\": {\n\"a\": \"much\"}}", "\"a\"", "metric a is no number");
  refuse("{\"k\": {\n\"a\": [1]}}", "\"a\"", "metric a is no number");
  refuse(std::string(100000, '['), "[[[[", "nest too deeply");
  refuse("# only a label", "# only a label", "holds no JSON");
}

TEST(RequestMetrics, EmptySection) {
  Parts parts;
  parts.metrics = "";
  const std::string text = text_of(parts);
  expect_refused(text, line_of(text, "[NCU PROFILING METRICS]") + 1, "the metrics section is empty");
}

TEST(RequestMetrics, ManyAreReadInLinearTime) {
  std::string many = "{\"k\": {";
  for (int i = 0; i < 9999; ++i) many += fmt::format("\"metric_number_{}.pct\": {},\n", i, i % 100);
  EXPECT_EQ(read_metrics_text(many + "\"last\": 1}}").metrics.at(0).values.size(), 10000u);
  Parts parts;
  parts.metrics = many + "\"one\": 1, \"more\": 2}}";
  const std::string text = text_of(parts);
  expect_refused(text, line_of(text, "{\"k\""), "too many metrics");
}

// --- the whole ---------------------------------------------------------------------------------------------------

TEST(RequestText, MissingAndDoubledSections) {
  const std::string text = text_of({});
  const auto last = static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  for (const std::string heading :
       {"# Target GPU", "[OPTIMIZATION STAGE]", "[CURRENT CODE]", "[NCU PROFILING METRICS]"}) {
    SCOPED_TRACE(heading);
    std::string missing = text;
    missing.replace(missing.find(heading), heading.size(), "");
    if (heading != "[CURRENT CODE]") expect_refused(missing, last, fmt::format("no {} section", heading));
    std::string twice = text;
    twice.insert(twice.find("**Task**"), heading + "\n");
    expect_refused(twice, line_of(text, "**Task**"), fmt::format("a second {} section", heading));
  }
  std::string uncoded = text;
  uncoded.erase(uncoded.find("[CURRENT CODE]"), 14);
  EXPECT_THROW(static_cast<void>(parse_sections(uncoded, "r.txt")), Error);
}

TEST(RequestText, TruncatedAnywhereBeforeTheMetricsEnd) {
  const std::string text = text_of({});
  const std::size_t whole = text.find("\n}\n\n**Task**") + 2;  // past the JSON
  for (std::size_t cut = 0; cut < whole; ++cut) {
    try {
      static_cast<void>(parse_sections(std::string_view(text).substr(0, cut), "r.txt"));
      // A cut through the last bracket's own line is the only one that leaves a request.
      ADD_FAILURE() << "read although cut at " << cut;
    } catch (const Error& error) {
      EXPECT_EQ(error.exit(), Exit::usage) << error.what();
      EXPECT_TRUE(error.where().starts_with("r.txt:")) << error.what();
    }
  }
  EXPECT_NO_THROW(static_cast<void>(parse_sections(std::string_view(text).substr(0, whole), "r.txt")));
}

TEST(RequestText, BytesThatAreNoText) {
  std::string text = text_of({});
  const auto at = text.find("Ada");
  std::string nul = text;
  nul[at] = '\0';
  expect_refused(nul, 5, "a NUL byte");
  std::string invalid = text;
  invalid.replace(at, 2, "\xff\xfe");
  expect_refused(invalid, 5, "byte 0xff");
  expect_refused("", 1, "no # Target GPU section");
  expect_refused(std::string(kMaxRequestBytes + 1, 'x'), 1, "bytes");
  expect_refused(std::string(300000, '\n'), 1, "lines");
}

TEST(RequestText, FilesAndPaths) {
  EXPECT_THROW(static_cast<void>(read_request("/nowhere/at/all.txt")), Error);
  const auto path = std::filesystem::temp_directory_path() / fmt::format("tconv-reader-{}.txt", ::getpid());
  std::ofstream(path) << std::string(kMaxRequestBytes + 1, 'x');
  try {
    static_cast<void>(read_request(path));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::usage) << error.what();
  }
  std::filesystem::remove(path);
}

// A message about the code counts lines from the start of the request.
TEST(RequestText, CodeThatDoesNotParse) {
  Parts parts;
  parts.code = "```python\nimport torch\n\nx = = 1\n```\n";
  const std::string text = text_of(parts);
  try {
    static_cast<void>(parse_request(text, "r.txt"));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::usage);
    EXPECT_EQ(error.where(), fmt::format("r.txt:{}", line_of(text, "x = = 1"))) << error.what();
  }
}

TEST(RequestExamples, AreRead) {
  const auto folder = std::filesystem::path(TCONV_SOURCE_DIR) / "examples" / "requests";
  std::vector<std::pair<std::string, StageKind>> expected{{"a100_fused_list_metrics", StageKind::fused},
                                                          {"h200_tapscan_dilated", StageKind::memory_and_tuning},
                                                          {"l4_depthwise", StageKind::block_tiling},
                                                          {"rtx4090_naive_vocoder", StageKind::memory}};
  for (const auto& [file, kind] : expected) {
    SCOPED_TRACE(file);
    const Request request = read_request(folder / (file + ".txt"));
    EXPECT_EQ(request.stage.kind, kind);
    EXPECT_EQ(request.code.launches.size(), 1u);
    EXPECT_TRUE(request.code.output_length_formula);
    EXPECT_NE(find_target(request.stated.name), nullptr) << request.stated.name;
    for (const GridAxis& axis : request.code.launches[0].grid) {
      for (const GridFactor& factor : axis.factors) EXPECT_NE(factor.size, GridSize::unknown);
    }
    for (const Finding& finding : request.code.findings) {
      EXPECT_NE(finding.severity, Finding::Severity::wrong_result) << finding.title;
    }
  }
}

TEST(RequestShared, BothRequests) {
  const auto folder = std::filesystem::path(TCONV_SOURCE_DIR) / ".." / "shared" / "requests";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no shared/requests beside the project";
  int read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const Request request = read_request(entry.path());
    EXPECT_EQ(request.stated.sms, 128);
    EXPECT_TRUE(request.stage.kind == StageKind::memory || request.stage.kind == StageKind::block_tiling);
    EXPECT_FALSE(request.stage.rules.empty());
    EXPECT_EQ(request.metrics.size(), 1u);
    EXPECT_EQ(request.metrics.at(0).kernel, request.code.launches.at(0).kernel);
    EXPECT_TRUE(request.notes.empty());
    ++read;
  }
  EXPECT_EQ(read, 2);
}

}  // namespace
}  // namespace tconv::request
