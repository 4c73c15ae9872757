// Answers with plausible figures for the report's tests. Times and resources are made up; the limit,
// phases and occupancy come from the project's own arithmetic.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "problem/grammar.hpp"
#include "report/report.hpp"

namespace tconv::test {

// Owns what an Answer points to.
struct ReportCase {
  request::Request request;
  request::Diagnosis diagnosis;
  plan::Plan plan;
  report::Answer answer;
};

inline std::unique_ptr<ReportCase> report_case(std::string_view word, std::string_view target_name) {
  auto made = std::make_unique<ReportCase>();
  const Target* target = find_target(target_name);
  const Workload workload = parse_workload(word);

  request::Request& request = made->request;
  request.path = "requests/79.txt";
  request.stated.name = "4090";
  request.stage.kind = request::StageKind::memory;
  request.stage.focus = "Memory efficiency & latency hiding.";

  plan::Plan& plan = made->plan;
  plan.workload = workload;
  plan.target = target;
  plan.limit = limit(workload, *target);
  const double best = plan.limit.seconds;
  for (int i = 0; i < 3; ++i) {
    plan::Candidate candidate;
    candidate.schedule = {.block_rows = 64,
                          .phases = 1,
                          .block_positions = 64 << i,
                          .block_channels = 32,
                          .warps = i == 0 ? 4 : 8,
                          .stages = 2 + i};
    candidate.seconds = best * (1.11 + 0.07 * i);
    candidate.memory_seconds = best * 1.05;
    candidate.arithmetic_seconds = best * 0.31;
    candidate.issue_seconds = best * 0.42;
    candidate.tail = 1.02;
    plan.chosen.push_back(candidate);
  }
  plan.ranked = plan.chosen;
  for (int i = 0; i < 12; ++i) {
    plan.rejected.push_back({fmt::format("rows 256, positions {}, warps 4", 64 + i),
                             "accumulator needs 512 registers a thread, the target has 255"});
  }

  request::Diagnosis& diagnosis = made->diagnosis;
  diagnosis.target = target;
  diagnosis.workload.workload = workload;
  diagnosis.workload.catalogue_name = "kb_l1_79";
  diagnosis.workload.how = "launch__grid_size 2098176 = 16 (batch) x 64 (C_out) x 2049 (output blocks of 128)";
  diagnosis.limit = plan.limit;
  diagnosis.implied_seconds = best * 8.04;
  diagnosis.gap = 8.04;
  diagnosis.units = {
      "SM throughput 96.7 % of peak at 12 % of the limit: the busy unit does index arithmetic, not products.",
      "DRAM throughput 11.3 %: memory waits for the kernel, not the kernel for memory.",
      "One output channel per program: every x element is read 64 times, from L2 (hit rate 98.7 %).",
      "Half the outputs are structurally bias only, and the kernel still scans every tap for them."};
  diagnosis.metric_notes = {{"smsp__warp_issue_stalled_memory_dependency_per_warp_active.pct",
                             "smsp__warp_issue_stalled_long_scoreboard_per_warp_active.pct",
                             "no such metric on AD102; it names a counter of chips before Volta"}};
  using Severity = request::Finding::Severity;
  diagnosis.findings = {
      {Severity::performance, 71, "No matrix unit: products run as scalar FFMA", "32 x 3 products per output"},
      {Severity::wrong_result, 76, "The tap test divides in floating point",
       "At strides such as 3, 5 and 7, floor(x * (1/s)) falls one short and the tap is dropped."},
      {Severity::note, 0, "The launch fixes num_warps=4 and num_stages=2", ""},
      {Severity::limitation, 80, "The index goes through float32",
       "Beyond 2^24 outputs the index is no longer exact."}};
  diagnosis.rules = {
      {30, "Increase num_stages only if memory stalls are high", request::Verdict::applied, "num_stages stays in 1..3"},
      {31, "Do not rewrite access patterns without metric evidence", request::Verdict::conflict,
       "The evidence asks for it: 11.3 % DRAM throughput at 12 % of the limit."},
      {32, "Larger BLOCK_K improves reuse but increases register pressure", request::Verdict::not_needed,
       "C_in = 32 is one step."}};
  diagnosis.disagreements = {{"L2 bytes", 72e6, 75497472, "NVIDIA Ada whitepaper"}};

  report::Answer& answer = made->answer;
  answer.request = &request;
  answer.diagnosis = &diagnosis;
  answer.plan = &plan;
  answer.source = "import torch\n\n\n@triton.jit\ndef kernel(x, BLOCK: tl.constexpr):\n    mask = x < 3 & (x > 1)\n";
  for (const plan::Candidate& candidate : plan.chosen) {
    const int registers = 96 + 16 * candidate.schedule.stages;
    const int shared = 12288 * candidate.schedule.stages;
    answer.compiled.push_back({candidate.schedule, registers, shared, 0,
                               occupancy(*target, registers, shared, candidate.schedule.warps * 32), "3.6.0"});
  }
  return made;
}

inline constexpr std::string_view kKernelBench79 = "b16_i32_o64_l131072_k3_s2_p1_d2_tf32";

}  // namespace tconv::test
