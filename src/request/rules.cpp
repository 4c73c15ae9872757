#include "request/rules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "problem/phases.hpp"
#include "request/metrics.hpp"

namespace tconv::request {
namespace {

// Where the stages themselves put their thresholds: what they call a low, a high, a saturated reading.
constexpr double kLowSm = 60;
constexpr double kBusySm = 75;
constexpr double kLowWarps = 50;
constexpr double kBusyDram = 60;
constexpr double kHighStalls = 20;
constexpr double kManyRegisters = 128;
constexpr double kMmaRows = 16;  // rows of the smallest matrix instruction's tile

struct Judgement {
  Verdict verdict = Verdict::applied;
  std::string why;
};

Judgement applied(std::string why) { return {Verdict::applied, std::move(why)}; }
Judgement not_needed(std::string why) { return {Verdict::not_needed, std::move(why)}; }
Judgement conflict(std::string why) { return {Verdict::conflict, std::move(why)}; }

// Lower case, one space between words, ASCII only; Markdown and bullets gone; dashes and "element of" spelt out.
std::string normalized(std::string_view text) {
  struct Spelling {
    std::string_view from, to;
  };
  constexpr auto kSpellings = std::to_array<Spelling>({{"\u2013", "-"},
                                                       {"\u2014", "-"},
                                                       {"\u2212", "-"},
                                                       {"\u2208", " in "},
                                                       {"\u2265", ">="},
                                                       {"\u2264", "<="},
                                                       {"\u00d7", "x"},
                                                       {"\u2192", ":"},
                                                       {"\u00b1", "+-"}});
  std::string out;
  const auto put = [&](char c) {
    if (c == ' ' && (out.empty() || out.back() == ' ')) return;
    out += c;
  };
  while (!text.empty()) {
    const auto spelling = std::ranges::find_if(kSpellings, [&](const Spelling& s) { return text.starts_with(s.from); });
    if (spelling != kSpellings.end()) {
      for (const char c : spelling->to) put(c);
      text.remove_prefix(spelling->from.size());
      continue;
    }
    const char c = text.front();
    text.remove_prefix(1);
    if (c == '`' || (c == '*' && (out.empty() || out.back() != '_'))) continue;
    if (c >= 'A' && c <= 'Z') {
      put(static_cast<char>(c - 'A' + 'a'));
    } else {
      put(c > ' ' && c <= '~' ? c : ' ');
    }
  }
  while (out.starts_with("- ")) out.erase(0, 2);
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

// --- facts that several rules ask for ---------------------------------------------------------------------------

bool issue_bound(const Evidence& e) { return e.sm && e.dram && *e.sm >= kBusySm && *e.dram < kBusyDram; }

bool uses_matrix_unit(const Evidence& e) {
  if (!e.workload) return true;
  const Arithmetic a = e.workload->problem.arithmetic;
  const bool depthwise = e.workload->problem.c_in == e.workload->problem.groups;
  return !depthwise && (a == Arithmetic::tf32 || a == Arithmetic::f16 || a == Arithmetic::bf16);
}

std::string arithmetic_text(const Evidence& e) {
  return e.workload ? std::string(name(e.workload->problem.arithmetic)) : "TF32, f16 or bf16";
}

// What the evidence says against the current access pattern; empty when it says nothing.
std::string access_evidence(const Evidence& e) {
  std::string text;
  const auto say = [&](const std::string& sentence) {
    if (!text.empty()) text += "; ";
    text += sentence;
  };
  if (!wasteful(e)) return text;
  if (e.gap) say(fmt::format("{}: {}", metrics_text(e), gap_text(e)));
  if (const double ratio = scan_ratio(e); ratio > 1.01) {
    say(fmt::format("the code scans {:.3g} taps for each useful one", ratio));
  }
  if (const auto reread = reread_factor(e); reread && *reread > 1) {
    say(fmt::format("it requests each element of x {:.0f} times", *reread));
  }
  return text;
}

std::string set_text(const std::vector<int>& values) { return fmt::format("{{{}}}", fmt::join(values, ", ")); }

int current(const Evidence& e, const char* what) {
  const auto found = e.config.find(what);
  return found == e.config.end() ? 0 : static_cast<int>(found->second);
}

std::string current_text(const Evidence& e, const char* what) {
  const int value = current(e, what);
  return value > 0 ? fmt::format("now {}", value) : "now not fixed by the code";
}

std::string warps_text(const Evidence& e) {
  if (!e.warps) return "";
  if (e.machine == nullptr) return fmt::format("warps_active {}", percent_text(*e.warps));
  return fmt::format("warps_active {} is {:.1f} of {:.0f} warps per SM", percent_text(*e.warps),
                     *e.warps / 100 * e.machine->warps_per_sm.value, e.machine->warps_per_sm.value);
}

// --- judges: grid ------------------------------------------------------------------------------------------------

Judgement grid_form(const Evidence&, const std::string& rule) {
  if (rule.starts_with("3d")) {
    return applied(
        "the output has three independent dimensions (batch, output channel, position), the ones of this form");
  }
  return not_needed(
      "the output has three independent dimensions (batch, output channel, position), and the form has fewer");
}
Judgement flatten(const Evidence&, const std::string&) {
  return not_needed("the output has three dimensions, no more than a grid has axes");
}
Judgement prefer_batch(const Evidence& e, const std::string&) {
  if (!e.workload || e.machine == nullptr || e.launch == nullptr) {
    return applied("batch and output channels are independent and come before smaller blocks");
  }
  const auto axes = grid_of(*e.launch, e.config, *e.workload);
  const auto programs = axes ? product(*axes) : std::nullopt;
  if (!programs) return applied("batch and output channels are independent and come before smaller blocks");
  const double per_sm = static_cast<double>(*programs) / e.machine->sms.value;
  const std::string text =
      fmt::format("{} programs over {:.0f} SMs are {:.4g} for each", *programs, e.machine->sms.value, per_sm);
  if (per_sm >= 8) return not_needed(text + ": parallelism is not short");
  return applied(text + ": batch and output channels are spread first");
}
Judgement groups(const Evidence& e, const std::string&) {
  if (e.workload && e.workload->problem.groups == 1 && !e.request->code.module.has_groups) {
    return not_needed("the workload has one group, and the constructor offers no more");
  }
  if (e.workload && e.workload->problem.groups == 1) return not_needed("the workload has one group");
  return applied("output channels are dealt to programs within their group, so the grid covers the groups");
}
Judgement grid_only_if_low(const Evidence& e, const std::string&) {
  if (!e.sm) {
    if (wasteful(e)) return conflict("no sm__throughput was collected, and " + access_evidence(e));
    return not_needed("no sm__throughput was collected, and nothing else asks for another grid");
  }
  if (*e.sm < kLowSm) return applied(fmt::format("sm__throughput is {}, under {:.0f} %", percent_text(*e.sm), kLowSm));
  if (wasteful(e)) {
    return conflict(
        fmt::format("sm__throughput {} reads as well used, yet {}: the counter is saturated by work that is "
                    "not needed",
                    percent_text(*e.sm), access_evidence(e)));
  }
  return not_needed(fmt::format("sm__throughput is {}, and the kernel is near its limit", percent_text(*e.sm)));
}
Judgement three_axes(const Evidence& e, const std::string&) {
  if (e.launch != nullptr && !e.launch->grid.empty()) {
    return applied(fmt::format("the current grid has {} axes; the answer's has at most 3, and their number is fixed",
                               e.launch->grid.size()));
  }
  return applied("the answer's grid has at most 3 axes, and their number is fixed");
}
Judgement program_ids(const Evidence&, const std::string&) {
  return applied("grid and tl.program_id are written from the same schedule");
}
Judgement if_unsure(const Evidence&, const std::string&) {
  return not_needed(
      "indices follow from the phases of the problem, and `tconv verify` checks the answer against float64");
}
Judgement autotune_either(const Evidence& e, const std::string&) {
  const StageLimits& limits = e.request->stage.limits;
  if (!limits.num_stages.empty() || !limits.num_warps.empty()) {
    return applied("this stage varies num_warps and num_stages, so the block sizes stay out of the list");
  }
  return applied("a config fixes a whole schedule, so block sizes and warps never vary apart from each other");
}
Judgement meta_grid(const Evidence&, const std::string&) {
  return applied("where block sizes are tuned, the grid is computed from META");
}
Judgement meta_once(const Evidence& e, const std::string&) {
  if (e.kernel != nullptr && e.launch != nullptr) {
    for (const AutotuneConfig& config : e.kernel->autotune) {
      for (const auto& [key, value] : config.meta) {
        if (e.launch->meta.contains(key)) {
          return conflict(
              fmt::format("the current code gives {} in its configs and again at the launch; the answer "
                          "gives it once",
                          key));
        }
      }
    }
  }
  return applied("each block size is given in one place");
}
Judgement config_count(const Evidence& e, const std::string&) {
  const StageLimits& limits = e.request->stage.limits;
  const std::size_t now = e.kernel == nullptr ? 0 : e.kernel->autotune.size();
  std::string text = fmt::format("the current kernel has {} configs", now);
  if (limits.min_configs && limits.max_configs) {
    text += fmt::format("; the answer keeps to {} to {}", *limits.min_configs, *limits.max_configs);
  } else if (limits.max_configs) {
    text += fmt::format("; the answer keeps to at most {}", *limits.max_configs);
  } else {
    text += "; the answer's list is no longer than the stage allows";
  }
  return applied(text);
}
Judgement on_the_kernel(const Evidence&, const std::string&) {
  return applied("an autotune list decorates the @triton.jit kernel, never the wrapper");
}

// --- judges: tiles -----------------------------------------------------------------------------------------------

Judgement powers_of_two(const Evidence& e, const std::string&) {
  if (e.kernel != nullptr) {
    const auto& configs = e.kernel->autotune;
    for (const AutotuneConfig& config : configs) {
      for (const auto& [key, value] : config.meta) {
        if (key.starts_with("BLOCK") && (value < 1 || (value & (value - 1)) != 0)) {
          return applied(fmt::format("the current {}={} is none; the answer's blocks are", key, value));
        }
      }
    }
  }
  return applied("every block of the answer is a power of two, as tl.arange itself requires");
}
Judgement tensor_tile(const Evidence& e, const std::string&) {
  if (!uses_matrix_unit(e)) {
    return not_needed(
        fmt::format("{}{} does not run on the matrix unit", arithmetic_text(e),
                    e.workload->problem.c_in == e.workload->problem.groups ? " with one input channel a group" : ""));
  }
  if (e.workload) {
    const Phases phases(e.workload->problem);
    const std::int64_t channels = e.workload->problem.c_out / e.workload->problem.groups;
    const double rows = static_cast<double>(channels) * static_cast<double>(phases.live());
    if (rows < kMmaRows) {
      return conflict(
          fmt::format("a group has {:.0f} rows (output channels times live phases): a tile of {:.0f} would be "
                      "{:.0f} % masked",
                      rows, kMmaRows, 100 * (1 - rows / kMmaRows)));
    }
  }
  const bool idle = e.kernel != nullptr && !e.kernel->uses_dot;
  return applied(fmt::format("the products run in {} on the matrix unit{}", arithmetic_text(e),
                             idle ? ", which the current kernel leaves idle" : ""));
}
Judgement fp32_tile(const Evidence& e, const std::string&) {
  if (uses_matrix_unit(e)) {
    return not_needed(fmt::format("the products run in {} on the matrix unit, not in FP32 lanes", arithmetic_text(e)));
  }
  return applied(fmt::format("{} runs in the FP32 and integer lanes", arithmetic_text(e)));
}
Judgement oversized(const Evidence& e, const std::string& rule) {
  std::string text;
  const auto masked = masked_fraction(e);
  if (masked) text = fmt::format("masks throw away {:.2g} % of the current launch's outputs", 100 * *masked);
  const bool gated = rule.find("only when") != std::string::npos || rule.find("only if") != std::string::npos;
  const auto join = [&](const std::string& sentence) { return text.empty() ? sentence : text + "; " + sentence; };
  if (gated && e.warps && *e.warps < kLowWarps) {
    return applied(join(fmt::format("{}, under {:.0f} %, which asks for other blocks", warps_text(e), kLowWarps)));
  }
  if (gated && wasteful(e)) return applied(join("reuse asks for other blocks: " + access_evidence(e)));
  if (gated && !e.warps) return not_needed(join("no occupancy was collected, and nothing else asks for other blocks"));
  if (gated) return not_needed(join(warps_text(e) + ": no reason to change the blocks"));
  return applied(join("a tile's masked share counts in the predicted time, so an oversized one loses"));
}
Judgement keep_baseline(const Evidence& e, const std::string& rule) {
  if (wasteful(e) && (rule.find("unclear") != std::string::npos || rule.find("unsure") != std::string::npos)) {
    return not_needed(
        "the sizes are not unclear: the plan ranks them by predicted time, for another loop than the current one (" +
        access_evidence(e) + ")");
  }
  if (wasteful(e)) {
    return conflict("the current tile belongs to a loop that the answer does not have: " + access_evidence(e));
  }
  return applied(
      fmt::format("the current settings{}{} stay among the candidates",
                  current(e, "num_warps") > 0 ? fmt::format(" (num_warps {})", current(e, "num_warps")) : "",
                  current(e, "num_stages") > 0 ? fmt::format(" (num_stages {})", current(e, "num_stages")) : ""));
}

// --- judges: memory ----------------------------------------------------------------------------------------------

Judgement stages_if_stalled(const Evidence& e, const std::string&) {
  if (e.long_scoreboard) {
    const std::string text =
        fmt::format("long_scoreboard stalls are {} of warps per cycle", percent_text(*e.long_scoreboard));
    return *e.long_scoreboard > kHighStalls ? applied(text + ": more stages are permitted")
                                            : not_needed(text + ": no reason for more stages");
  }
  const std::string none = "no stall metric was collected";
  if (issue_bound(e)) {
    return not_needed(fmt::format(
        "{}; DRAM {} with sm__throughput {} says that the SM is what binds, so more stages "
        "alone cannot help{}",
        none, percent_text(*e.dram), percent_text(*e.sm), wasteful(e) ? ": the access pattern must change" : ""));
  }
  if (e.dram && e.sm && *e.sm < kBusySm && *e.dram < 90) {
    return applied(fmt::format(
        "{}; sm__throughput {} and DRAM {} leave both units waiting, which is latency{}: more "
        "stages are permitted",
        none, percent_text(*e.sm), percent_text(*e.dram), e.warps ? fmt::format(" ({})", warps_text(e)) : ""));
  }
  if (e.dram) {
    return not_needed(
        fmt::format("{}; DRAM is at {}: it has no idle time that more stages could fill", none, percent_text(*e.dram)));
  }
  return not_needed(none + ", so nothing shows memory stalls");
}
Judgement access_pattern(const Evidence& e, const std::string&) {
  const std::string evidence = access_evidence(e);
  if (evidence.empty()) {
    return not_needed(e.gap ? fmt::format("the kernel is near its limit ({}): no rewrite is called for", gap_text(e))
                            : "no metric and no workload asks for a rewrite");
  }
  if (e.gap) return applied("the evidence permits a rewrite: " + evidence);
  return conflict("no DRAM percentage was collected, but the code itself shows the waste: " + evidence);
}
Judgement block_k(const Evidence& e, const std::string&) {
  std::string text;
  if (e.workload) {
    const Phases phases(e.workload->problem);
    const std::int64_t channels = e.workload->problem.c_in / e.workload->problem.groups;
    text = fmt::format("one output sums {} channels x at most {} taps, so a larger block would be masked", channels,
                       phases.max_taps());
  } else {
    text = "the block of input channels never passes C_in per group";
  }
  if (e.registers) text += fmt::format("; the current kernel uses {:.0f} registers a thread", *e.registers);
  return applied(text + "; registers are read from the compiled answer");
}
Judgement stages_set(const Evidence& e, const std::string&) {
  const auto& allowed = e.request->stage.limits.num_stages;
  if (allowed.empty())
    return applied(
        fmt::format("num_stages is {}; the schedule's depth follows the stage", current_text(e, "num_stages")));
  return applied(
      fmt::format("num_stages is {}; the answer's lies in {}", current_text(e, "num_stages"), set_text(allowed)));
}
Judgement warps_set(const Evidence& e, const std::string&) {
  const auto& allowed = e.request->stage.limits.num_warps;
  if (allowed.empty()) return applied(fmt::format("num_warps is {}", current_text(e, "num_warps")));
  return applied(
      fmt::format("num_warps is {}; the answer's lies in {}", current_text(e, "num_warps"), set_text(allowed)));
}
Judgement warps_if_occupancy(const Evidence& e, const std::string&) {
  if (!e.warps) {
    return wasteful(e) ? conflict("no occupancy was collected, and the answer's tile is not the current one: " +
                                  access_evidence(e))
                       : not_needed("no occupancy was collected, and nothing else asks for other warps");
  }
  if (*e.warps < kLowWarps)
    return applied(fmt::format("{}, under {:.0f} %: num_warps may change", warps_text(e), kLowWarps));
  if (wasteful(e)) {
    return conflict(
        fmt::format("{}, so occupancy asks for nothing, but the tile that ends the waste sets its own warps: {}",
                    warps_text(e), access_evidence(e)));
  }
  return not_needed(warps_text(e) + ": occupancy gives no reason to change num_warps");
}
Judgement stages_by_one(const Evidence& e, const std::string&) {
  const int now = current(e, "num_stages");
  if (now == 0) return applied("the code fixes no num_stages to count from; the stage's own set holds");
  return applied(fmt::format("num_stages is now {}, so {} to {}", now, std::max(1, now - 1), now + 1));
}
Judgement keep_grid_and_blocks(const Evidence& e, const std::string&) {
  if (!wasteful(e))
    return applied(e.gap ? fmt::format("the kernel is near its limit ({})", gap_text(e)) : "grid and blocks stay");
  return conflict("what is lost is lost in the grid and the loop, not in warps and stages: " + access_evidence(e));
}
Judgement revert(const Evidence& e, const std::string&) {
  if (!e.gap) return applied("the answer is to be timed against the current kernel before it replaces it");
  const double room = 100 * (1 - 1 / *e.gap);
  if (room < 2)
    return applied(
        fmt::format("{}: the limit itself leaves {:.1f} %, so expect to keep the current kernel", gap_text(e), room));
  return applied(
      fmt::format("{}: the limit leaves {:.0f} % of the time to gain; time both before replacing", gap_text(e), room));
}

// --- judges: fused kernels -----------------------------------------------------------------------------------------

Judgement one_kernel(const Evidence&, const std::string&) {
  return applied(
      "one kernel computes convolution and bias, with one grid, one set of offsets and one mask of the output");
}
Judgement one_store(const Evidence&, const std::string&) {
  return applied("every output is stored once, by the program that sums it; sums and bias stay in registers");
}
Judgement loads(const Evidence&, const std::string&) {
  return applied("x, w and bias are three inputs, each loaded where it is used");
}
Judgement not_elementwise(const Evidence&, const std::string&) {
  return not_needed("a transposed convolution sums over channels and taps: no part of it is element-wise");
}
Judgement matmul_tile(const Evidence& e, const std::string&) {
  if (!uses_matrix_unit(e))
    return not_needed(fmt::format("{} does not run as a matrix product here", arithmetic_text(e)));
  return applied("a live phase is a matrix product of weights and input positions, with bias added to its tile");
}
Judgement few_registers(const Evidence& e, const std::string& rule) {
  const bool low = rule.find("low") != std::string::npos || rule.find("< 96") != std::string::npos;
  if (!e.registers) return not_needed("no register count was collected; the answer's is read from its compilation");
  const std::string text = fmt::format("the current kernel uses {:.0f} registers a thread", *e.registers);
  if (low) return *e.registers < 96 ? applied(text + ", under 96") : not_needed(text + ", not under 96");
  return *e.registers > kManyRegisters ? applied(fmt::format("{}, over {:.0f}: smaller blocks", text, kManyRegisters))
                                       : not_needed(fmt::format("{}, not over {:.0f}", text, kManyRegisters));
}
Judgement recompute(const Evidence& e, const std::string&) {
  if (e.kernel != nullptr && !e.kernel->activations.empty()) {
    return applied(fmt::format("the kernel applies {} once to the finished sum, in registers",
                               fmt::join(e.kernel->activations, ", ")));
  }
  return not_needed("nothing is fused behind the convolution but the bias: no intermediate to keep or recompute");
}
Judgement exclusions(const Evidence& e, const std::string& rule) {
  if (rule.find("atomic") != std::string::npos) {
    return e.kernel != nullptr && e.kernel->uses_atomics
               ? applied("the current kernel uses atomics; the answer sums in one program and needs none")
               : not_needed("neither the current kernel nor the answer uses atomics");
  }
  return not_needed("the sum over channels and taps stays within one program, and its indices do not depend on data");
}
Judgement multi_input(const Evidence& e, const std::string&) {
  const bool bias = e.workload ? e.workload->problem.bias : e.request->code.module.bias_possible;
  return bias ? applied("x, w and bias are three inputs, but bias is loaded outside the loop and takes no stage")
              : not_needed("x and w are the only inputs");
}
Judgement compute_bound(const Evidence& e, const std::string&) {
  if (!e.limit) return applied("no workload is known, so no limit says which unit binds");
  const std::string text =
      fmt::format("the limit is bound by {} ({} of memory against {} of arithmetic)", e.limit->bound_by,
                  time_text(e.limit->memory_seconds), time_text(e.limit->arithmetic_seconds));
  return e.limit->bound_by == "arithmetic" ? applied(text) : conflict(text);
}
Judgement split_kernel(const Evidence&, const std::string&) {
  return not_needed("bias needs the output's own indices, so nothing has to be split off");
}
Judgement skip_if_acceptable(const Evidence& e, const std::string&) {
  if (wasteful(e)) return not_needed("the metrics are not acceptable: " + access_evidence(e));
  return e.gap ? applied(fmt::format("the kernel is near its limit ({})", gap_text(e)))
               : applied("no metric says that the stage can be skipped or must be run");
}
Judgement another_way(const Evidence& e, const std::string&) {
  return e.request->failure.empty() ? not_needed("the request reports no failed attempt")
                                    : applied("the answer is written from the phases, not from the failed attempt");
}

struct Pattern {
  std::array<std::string_view, 3> words;  // all must occur in the normalized rule
  Judgement (*judge)(const Evidence&, const std::string&);
};
// The first match decides: what is special stands before what is general.
constexpr auto kPatterns = std::to_array<Pattern>({
    // memory and tuning
    {{"increase num_stages only"}, stages_if_stalled},
    {{"num_stages", "increase only if"}, stages_if_stalled},
    {{"do not rewrite access pattern"}, access_pattern},
    {{"locality", "only when metrics"}, access_pattern},
    {{"rewrit", "metric"}, access_pattern},
    {{"num_warps only if"}, warps_if_occupancy},
    {{"num_stages", "1 only"}, stages_by_one},
    {{"num_stages only by"}, stages_by_one},
    {{"not modify", "block"}, keep_grid_and_blocks},
    {{"revert if"}, revert},
    {{"prioritize num_warps"}, compute_bound},
    {{"often compute-bound"}, compute_bound},
    {{"multi-input"}, multi_input},
    {{"stage buffers all inputs"}, multi_input},
    {{"activation-heavy"}, recompute},
    {{"include", "original"}, keep_baseline},
    {{"keep original"}, keep_baseline},
    {{"conservative baseline"}, keep_baseline},
    {{"baseline tile"}, keep_baseline},
    {{"num_stages", "higher stages need more registers"}, few_registers},
    {{"fewer warps", "registers"}, few_registers},
    // fused kernels
    {{"register pressure low"}, few_registers},
    {{"register pressure high"}, few_registers},
    {{"high register"}, few_registers},
    {{"registers", "128"}, few_registers},
    {{"spill"}, few_registers},
    {{"occupancy_limit_registers"}, few_registers},
    {{"larger block_k"}, block_k},
    {{"block_k", "register pressure"}, block_k},
    {{"recompute"}, recompute},
    {{"keep: expensive"}, recompute},
    {{"keep y"}, recompute},
    {{"reduction ops"}, exclusions},
    {{"atomic"}, exclusions},
    {{"data-dependent"}, exclusions},
    {{"cross-block"}, exclusions},
    {{"element-wise"}, not_elementwise},
    {{"matmul"}, matmul_tile},
    {{"store-then-load"}, one_store},
    {{"intermediate"}, one_store},
    {{"tl.store"}, one_store},
    {{"minimal stores"}, one_store},
    {{"final output"}, one_store},
    {{"tl.load"}, loads},
    {{"coalesced"}, loads},
    {{"different indexing"}, split_kernel},
    {{"fused op"}, one_kernel},
    {{"same grid"}, one_kernel},
    {{"fusion correctness"}, if_unsure},
    {{"same boundary condition"}, one_kernel},
    {{"broadcast"}, one_kernel},
    {{"output tensor dimensions"}, one_kernel},
    {{"skip this stage"}, skip_if_acceptable},
    {{"block_size in"}, not_elementwise},
    // tiles
    {{"tensor core", "multiple of"}, tensor_tile},
    {{"fp32", "m/n"}, fp32_tile},
    {{"oversized"}, oversized},
    // grid
    {{"autotune", "either"}, autotune_either},
    {{"grid", "lambda meta"}, meta_grid},
    {{"never redefine"}, meta_once},
    {{"1d", "cdiv"}, grid_form},
    {{"2d", "cdiv"}, grid_form},
    {{"3d", "cdiv"}, grid_form},
    {{"flatten"}, flatten},
    {{"parallelism", "before shrinking"}, prefer_batch},
    {{"grouped op"}, groups},
    {{"change grid only"}, grid_only_if_low},
    {{"grid dim"}, three_axes},
    {{"program_id"}, program_ids},
    {{"if unsure about correctness"}, if_unsure},
    {{"do not repeat"}, another_way},
    {{"different approach"}, another_way},
    // lists and sets
    {{"configs"}, config_count},
    {{"power", "of 2"}, powers_of_two},
    {{"num_stages in"}, stages_set},
    {{"num_stages:"}, stages_set},
    {{"num_stages", "{"}, stages_set},
    {{"num_warps in"}, warps_set},
    {{"num_warps:"}, warps_set},
    {{"num_warps", "{"}, warps_set},
    {{"autotune", "kernel"}, on_the_kernel},
    {{"autotune", "jit"}, on_the_kernel},
    {{"powers of two"}, powers_of_two},
    {{"num_warps"}, warps_set},
    {{"num_stages"}, stages_set},
});

Judgement judge(const Evidence& e, const std::string& rule) {
  for (const Pattern& pattern : kPatterns) {
    if (std::ranges::all_of(pattern.words,
                            [&](std::string_view word) { return rule.find(word) != std::string::npos; })) {
      return pattern.judge(e, rule);
    }
  }
  const StageLimits& limits = e.request->stage.limits;
  std::string kept = limits.powers_of_two ? "blocks that are powers of two" : "its blocks";
  if (limits.max_configs) kept += fmt::format(", at most {} configs", *limits.max_configs);
  if (!limits.num_stages.empty()) kept += ", num_stages in " + set_text(limits.num_stages);
  if (!limits.num_warps.empty()) kept += ", num_warps in " + set_text(limits.num_warps);
  return applied(
      fmt::format("no check is known for this rule; the answer changes the kernel, its schedule and its launch "
                  "and nothing else, within what the stage allows ({})",
                  kept));
}

// --- targets of metrics ------------------------------------------------------------------------------------------

bool halved_tensor_rate(const Evidence& e) {
  if (e.machine == nullptr || !e.machine->geforce || !e.workload) return false;
  const Arithmetic a = e.workload->problem.arithmetic;
  return a == Arithmetic::f16 || a == Arithmetic::bf16;
}

Judgement judge_target(const Evidence& e, std::string_view metric, const MetricTarget& target) {
  const int sm = e.machine == nullptr ? 0 : e.machine->sm;
  const std::string_view base = metric.substr(0, metric.find('.'));
  const MetricFact* fact = find_metric(metric, sm);
  std::string_view asked = base;
  std::string prefix;
  if (fact != nullptr && fact->kind == MetricKind::absent) {
    if (fact->replacement.empty()) return conflict(std::string(fact->why));
    asked = fact->replacement;
    prefix = fmt::format("read from {}: ", fact->replacement);
  }
  const auto value = e.metrics == nullptr ? std::nullopt : metric_value(*e.metrics, asked);
  if (base == "sm__throughput" && target.above && target.threshold >= 50 && halved_tensor_rate(e)) {
    return conflict(
        fmt::format("out of reach: on a GeForce the {} matrix rate with f32 sums is half the rate the counter "
                    "measures against, so a matrix product reads at most 50 %",
                    arithmetic_text(e)));
  }
  if (!value) {
    if (fact != nullptr && fact->kind == MetricKind::absent) {
      return conflict(fmt::format("{}; collect {}{}", fact->why, fact->replacement, fact->rollup));
    }
    return applied("not collected, so the target is not known to be met");
  }
  const bool met = target.above ? *value > target.threshold : *value < target.threshold;
  const std::string text = fmt::format("{}{} against {} {}", prefix, percent_text(*value),
                                       target.above ? "over" : "under", percent_text(target.threshold));
  if (!met) return applied(text + ": not met");
  if (wasteful(e) && e.gap)
    return conflict(fmt::format("{}: met, yet {}; a gate on it would pass a slow kernel", text, gap_text(e)));
  return not_needed(text + ": met");
}

}  // namespace

std::vector<RuleVerdict> judge_rules(const Evidence& evidence) {
  std::vector<RuleVerdict> verdicts;
  for (const Rule& rule : evidence.request->stage.rules) {
    Judgement j = judge(evidence, normalized(rule.text));
    verdicts.push_back({rule.line, rule.text, j.verdict, std::move(j.why)});
  }
  for (const std::string& text : evidence.request->stage.metrics) {
    const std::string_view metric = metric_name(text);
    const auto target = metric_target(text);
    if (metric.empty() || !target) continue;
    Judgement j = judge_target(evidence, metric, *target);
    verdicts.push_back({0, text, j.verdict, std::move(j.why)});
  }
  return verdicts;
}

}  // namespace tconv::request
