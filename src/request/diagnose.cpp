#include "request/diagnose.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "problem/phases.hpp"
#include "request/evidence.hpp"
#include "request/grid.hpp"
#include "request/rules.hpp"
#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv::request {
namespace {

constexpr double kSameFigure = 0.01;  // relative difference up to which two sheets agree
constexpr double kBusy = 75;          // percent of its peak from which a unit is what the kernel waits for
constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

// --- the machine ---------------------------------------------------------------------------------------------

bool positive(const std::optional<double>& value) { return value && std::isfinite(*value) && *value > 0; }

// A sheet for a GPU we have none of. Null when the request does not state compute capability, SMs and DRAM
// bandwidth, or when no sheet has that compute capability.
std::shared_ptr<const StatedSheet> sheet_as_stated(const StatedTarget& stated) {
  if (!stated.sm || !positive(stated.sms) || !positive(stated.dram_bytes_per_s)) return nullptr;
  // The sheet with the nearest tensor rate per SM: GeForce and data-centre chips of one compute capability differ.
  const Target* base = nullptr;
  double nearest = std::numeric_limits<double>::infinity();
  for (const Target& sheet : target_sheets()) {
    if (sheet.sm != *stated.sm) continue;
    const double distance = positive(stated.tf32_flops)
                                ? std::fabs(*stated.tf32_flops / *stated.sms - sheet.tf32_flops.value / sheet.sms.value)
                                : 0;
    if (base != nullptr && distance >= nearest) continue;
    base = &sheet;
    nearest = distance;
  }
  if (base == nullptr) return nullptr;

  auto made = std::make_shared<StatedSheet>();
  made->name = printable(stated.name) + " (as the request states it)";
  made->architecture = stated.architecture.empty() ? std::string(base->architecture) : printable(stated.architecture);
  Target& target = made->target;
  target = *base;
  target.key = "stated";
  target.display = made->name;
  target.architecture = made->architecture;
  constexpr std::string_view kStated = "stated in the request";
  constexpr std::string_view kScaled = "derived: a sheet of the same compute capability, by the number of SMs";
  const double scale = *stated.sms / base->sms.value;
  for (Fact Target::*rate : {&Target::l2_bytes_per_s, &Target::fp32_flops, &Target::tf32_flops, &Target::f16_flops,
                             &Target::bf16_flops, &Target::f64_flops, &Target::i32_ops, &Target::l2_bytes}) {
    target.*rate = {(target.*rate).value * scale, kScaled};
  }
  const auto take = [&](Fact Target::*fact, const std::optional<double>& value) {
    if (positive(value)) target.*fact = {*value, kStated};
  };
  take(&Target::sms, stated.sms);
  take(&Target::dram_bytes_per_s, stated.dram_bytes_per_s);
  take(&Target::tf32_flops, stated.tf32_flops);
  take(&Target::f16_flops, stated.f16_flops);
  take(&Target::bf16_flops, stated.bf16_flops);
  take(&Target::registers_per_thread, stated.registers_per_thread);
  take(&Target::threads_per_block, stated.threads_per_block);
  take(&Target::warps_per_sm, stated.warps_per_sm);
  take(&Target::smem_per_sm, stated.smem_per_sm);
  take(&Target::smem_per_block, stated.smem_per_block);
  take(&Target::l2_bytes, stated.l2_bytes);
  return made;
}

std::vector<Disagreement> disagreements(const StatedTarget& stated, const Target& ours) {
  std::vector<Disagreement> found;
  const auto compare = [&](std::string what, const std::optional<double>& value, double our_value,
                           std::string_view source, bool rate = false) {
    if (!value || our_value <= 0) return;
    const double ratio = *value / our_value;
    if (std::fabs(ratio - 1) <= kSameFigure) return;
    // The usual confusions: a sparse figure is twice the dense one, and so is f16 with f16 sums on a GeForce.
    if (rate && std::fabs(ratio - 2) <= 2 * kSameFigure) what += " (twice ours: with sparsity, or with f16 sums?)";
    found.push_back({std::move(what), *value, our_value, std::string(source)});
  };
  const auto fact = [&](std::string what, const std::optional<double>& value, const Fact& our_fact, bool rate = false) {
    compare(std::move(what), value, our_fact.value, our_fact.source, rate);
  };
  if (stated.sm && *stated.sm != ours.sm) {
    found.push_back({"compute capability x 10", static_cast<double>(*stated.sm), static_cast<double>(ours.sm),
                     std::string(ours.chip)});
  }
  fact("SMs", stated.sms, ours.sms);
  fact("DRAM bandwidth, bytes/s", stated.dram_bytes_per_s, ours.dram_bytes_per_s);
  fact("TF32 tensor rate, flop/s", stated.tf32_flops, ours.tf32_flops, true);
  fact("f16 tensor rate, flop/s", stated.f16_flops, ours.f16_flops, true);
  fact("bf16 tensor rate, flop/s", stated.bf16_flops, ours.bf16_flops, true);
  fact("registers per thread", stated.registers_per_thread, ours.registers_per_thread);
  fact("threads per block", stated.threads_per_block, ours.threads_per_block);
  compare("threads per SM", stated.threads_per_sm, 32 * ours.warps_per_sm.value, ours.warps_per_sm.source);
  fact("warps per SM", stated.warps_per_sm, ours.warps_per_sm);
  fact("shared memory per SM, bytes", stated.smem_per_sm, ours.smem_per_sm);
  fact("shared memory per block, bytes", stated.smem_per_block, ours.smem_per_block);
  fact("L2 cache, bytes", stated.l2_bytes, ours.l2_bytes);
  return found;
}

// --- what is busy, and on what ---------------------------------------------------------------------------------

std::string rate_text(double flops) {
  return flops >= 1e12 ? fmt::format("{:.3g} TFLOP/s", flops / 1e12) : fmt::format("{:.3g} GFLOP/s", flops / 1e9);
}

class Units {
 public:
  explicit Units(const Evidence& evidence) : e_(evidence) {}

  std::vector<std::string> sentences() && {
    if (e_.metrics == nullptr) {
      say("The request carries no metrics{}: the current kernel's time is unknown.",
          e_.request->metrics.empty() ? "" : " of the kernel its code launches");
    }
    time();
    classification();
    index_arithmetic();
    dead_phases();
    matrix_unit();
    traffic();
    occupancy();
    return std::move(out_);
  }

 private:
  template <typename... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    out_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  void time() {
    if (!e_.implied_seconds) return;
    const Work w = work(*e_.workload);
    say("DRAM at {} of {:.4g} GB/s on the {} moves the {} that x, w and y hold in {}. This assumes that each byte "
        "moves once, so it is a floor: a kernel that moves some twice takes longer.",
        percent_text(*e_.dram), e_.machine->dram_bytes_per_s.value / 1e9, e_.machine->display, bytes_text(w.bytes()),
        time_text(*e_.implied_seconds));
    if (!e_.gap) return;
    if (*e_.gap < 1) {
      say("The floor is under the limit there, {}: the DRAM percentage alone shows no gap.",
          time_text(e_.limit->seconds));
      return;
    }
    say("The limit there is {} (bound by {}), so the kernel runs at no more than {:.0f} % of the limit: {:.3g} times "
        "as long as it must.",
        time_text(e_.limit->seconds), e_.limit->bound_by, 100 / *e_.gap, *e_.gap);
    if (w.useful_flops > 0) {
      say("Useful arithmetic is {:.4g} GFLOP, at most {} in that time.", w.useful_flops / 1e9,
          rate_text(w.useful_flops / *e_.implied_seconds));
    }
  }

  void classification() {
    if (!e_.sm || !e_.dram) return;
    if (*e_.sm >= kBusy && *e_.dram < kBusy) {
      say("The SMs are the busy unit: sm__throughput {} with DRAM at {}{}", percent_text(*e_.sm),
          percent_text(*e_.dram), wasteful(e_) ? ", and not on useful work." : ".");
    } else if (*e_.dram >= kBusy) {
      say("DRAM is the busy unit: {} of its datasheet rate, where the best copy reaches {:.0f} %.",
          percent_text(*e_.dram), copy_percent());
    } else {
      say("No unit is near its peak (sm__throughput {}, DRAM {} where the best copy reaches {:.0f} %): the kernel "
          "waits "
          "on latency.",
          percent_text(*e_.sm), percent_text(*e_.dram), copy_percent());
    }
  }

  [[nodiscard]] double copy_percent() const {
    return e_.machine == nullptr ? 100 : 100 * e_.machine->dram_read_write_fraction.value;
  }

  void index_arithmetic() {
    if (e_.kernel == nullptr || !e_.workload || !e_.kernel->scans_all_taps) return;
    const Problem& p = e_.workload->problem;
    const std::int64_t channels = p.c_in / p.groups;
    const double scanned = static_cast<double>(channels) * static_cast<double>(p.kernel);
    const double ratio = scan_ratio(e_);
    if (e_.kernel->uses_dot && ratio < 1.01) return;  // the test costs little there, and no tap fails it
    say("Each output tests {} x {} = {:.0f} taps (C_in per group x K), of which {:.4g} on average land on an input: "
        "{:.3g} scanned for each useful one.",
        channels, p.kernel, scanned, scanned / ratio, ratio);
    if (e_.kernel->uses_dot) return;
    const int operations = index_operations(*e_.kernel, e_.request->code.uses_strides);
    std::string issue;
    if (const auto seconds = index_seconds(e_)) {
      issue = fmt::format("; at one instruction per scheduler and cycle these alone take {}", time_text(*seconds));
      if (e_.implied_seconds) issue += fmt::format(" of the {}", time_text(*e_.implied_seconds));
    }
    say("A scanned tap costs at least {} index operations{} for one multiply-add, {:.3g} per useful multiply-add{}.",
        operations, e_.kernel->float_index_arithmetic ? " (the division goes through floating point)" : "",
        operations * ratio, issue);
  }

  void dead_phases() {
    if (!e_.workload) return;
    const Phases phases(e_.workload->problem);
    if (phases.dead() == 0) return;
    say("{} of {} phases are dead (gcd(stride, dilation) = {}, K = {}): {:.4g} % of the outputs are structurally {}, "
        "and "
        "need no load and no arithmetic.",
        phases.dead(), phases.count(), phases.gcd(), e_.workload->problem.kernel, 100 * dead_fraction(*e_.workload),
        e_.workload->problem.bias ? "the bias alone" : "zero");
  }

  void matrix_unit() {
    if (e_.kernel == nullptr) return;
    if (!e_.kernel->uses_dot) {
      const auto channels = channels_per_program(e_);
      say("The kernel has no tl.dot: the matrix units are idle{}.",
          channels && *channels == 1 ? ", and a program computes one output channel, so no loaded x is shared" : "");
    }
    if (e_.machine == nullptr || !e_.workload) return;
    const Arithmetic arithmetic = e_.workload->problem.arithmetic;
    if (e_.machine->geforce && (arithmetic == Arithmetic::f16 || arithmetic == Arithmetic::bf16)) {
      say("On a GeForce the {} matrix rate with f32 sums is half of what sm__throughput measures against: a matrix "
          "product cannot read more than 50 %.",
          name(arithmetic));
    }
    if (arithmetic == Arithmetic::tf32 && e_.machine->tf32_flops.value <= 1.01 * e_.machine->fp32_flops.value) {
      say("TF32 on the matrix units peaks at {}, FP32 lanes at {}: here they save instructions, not flops.",
          rate_text(e_.machine->tf32_flops.value), rate_text(e_.machine->fp32_flops.value));
    }
  }

  void traffic() {
    const auto reread = reread_factor(e_);
    if (!reread || *reread <= 1 || e_.kernel == nullptr) return;
    const Workload& w = *e_.workload;
    const auto channels = channels_per_program(e_);
    const std::int64_t rows = *channels > 0 ? static_cast<std::int64_t>(*reread) / w.problem.kernel : 0;
    const double bytes = *reread * static_cast<double>(input_elements(w)) * bytes_per_element(w.problem.arithmetic);
    say("Each element of x is requested {:.0f} times ({} {} x {} taps), {} through L1 and L2{}.", *reread, rows,
        *channels == 1 ? "output channels"
        : rows == 1    ? "block of output channels"
                       : "blocks of output channels",
        w.problem.kernel, bytes_text(bytes),
        e_.l2 ? fmt::format("; {} of L2 lookups hit (stores count as lookups)", percent_text(*e_.l2)) : "");
  }

  void occupancy() {
    if (!e_.warps || e_.machine == nullptr) return;
    const double resident = *e_.warps / 100 * e_.machine->warps_per_sm.value;
    const auto per_block = e_.config.find("num_warps");
    std::string blocks;
    if (per_block != e_.config.end() && per_block->second > 0) {
      blocks = fmt::format(", {:.3g} programs of {} warps", resident / static_cast<double>(per_block->second),
                           per_block->second);
    }
    say("warps_active {} is {:.1f} of {:.0f} warps per SM{}{}", percent_text(*e_.warps), resident,
        e_.machine->warps_per_sm.value, blocks,
        *e_.warps < 50 ? ": few to hide latency with. launch__registers_per_thread and launch__occupancy_limit_* tell "
                         "which resource holds them down."
                       : ": occupancy is not what limits it.");
  }

  const Evidence& e_;
  std::vector<std::string> out_;
};

// --- findings that need sizes ----------------------------------------------------------------------------------

bool names_a_length(std::string_view key) {
  std::string lower;
  for (const char c : key) lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower == "l" || lower == "t" || lower.starts_with("l_") || lower.ends_with("_l") || lower == "lin" ||
         lower == "lout" || lower.find("len") != std::string::npos;
}

void size_findings(const Evidence& e, std::vector<Finding>& findings) {
  using Severity = Finding::Severity;
  if (e.kernel != nullptr && !e.kernel->autotune.empty()) {
    const auto key = std::ranges::find_if(e.kernel->autotune_key, names_a_length);
    if (key != e.kernel->autotune_key.end()) {
      findings.push_back({Severity::performance, e.kernel->line, "the autotune key holds a length",
                          fmt::format("{} is part of the key: each new length compiles and times {} configs again",
                                      printable(*key), e.kernel->autotune.size())});
    }
  }
  if (!e.workload) return;
  const Workload& w = *e.workload;
  const std::int64_t x = input_elements(w);
  const std::int64_t y = output_elements(w);
  const std::int64_t largest = std::max(x, y);
  if (e.kernel != nullptr && !e.kernel->int64_offsets && w.extent.batch > 0) {
    const std::int64_t per_batch = largest / w.extent.batch;
    if (largest > kInt32Max) {
      findings.push_back({Severity::wrong_result, e.kernel->line, "32-bit offsets overflow at this size",
                          fmt::format("x has {} and y {} elements; an int32 offset ends at {}", x, y, kInt32Max)});
    } else if (per_batch > 0) {
      findings.push_back({Severity::limitation, e.kernel->line, "32-bit offsets hold at this size",
                          fmt::format("in range here (x has {} and y {} elements), but past {} from batch {} on", x, y,
                                      kInt32Max, kInt32Max / per_batch + 1)});
    }
  }
  const auto axes = e.launch == nullptr ? std::nullopt : grid_of(*e.launch, e.config, w);
  for (std::size_t i = 0; axes && i < axes->size(); ++i) {
    if ((*axes)[i] <= axis_limit(i)) continue;
    findings.push_back({Severity::limitation, 0, "the grid is too large to launch at this size",
                        fmt::format("axis {} has {} programs, and CUDA launches at most {} there",
                                    "xyz"[std::min<std::size_t>(i, 2)], (*axes)[i], axis_limit(i))});
  }
  const double dead = dead_fraction(w);
  if (dead > 0 && e.kernel != nullptr && e.kernel->scans_all_taps) {
    findings.push_back({Severity::performance, e.kernel->line, "dead outputs are computed",
                        fmt::format("{:.4g} % of the outputs have no tap at all; the kernel tests {} taps for each",
                                    100 * dead, w.problem.c_in / w.problem.groups * w.problem.kernel)});
  }
}

}  // namespace

Diagnosis diagnose(const Request& request, const Target* target, const Workload* workload) {
  for (const KernelMetrics& metrics : request.metrics) {
    require_possible(metrics, request.path);
    const auto launch = std::ranges::find(request.code.launches, metrics.kernel, &Launch::kernel);
    const auto grid = metric_value(metrics, "launch__grid_size");
    if (grid)
      static_cast<void>(program_count(*grid, launch == request.code.launches.end() ? nullptr : &*launch, request.path));
  }

  Diagnosis d;
  d.request_target = find_target(request.stated.name);
  if (d.request_target != nullptr) {
    d.disagreements = disagreements(request.stated, *d.request_target);
  } else if ((d.stated_sheet = sheet_as_stated(request.stated)) != nullptr) {
    d.request_target = &d.stated_sheet->target;
  } else if (target == nullptr) {
    throw Error(Exit::unsupported, request.path,
                request.stated.name.empty() ? "the request names no GPU"
                                            : fmt::format("no sheet for GPU \"{}\"", printable(request.stated.name)),
                "without a sheet a request states compute capability, SMs and memory bandwidth of a known "
                "architecture; or name a target");
  }
  d.target = target != nullptr ? target : d.request_target;
  d.target_overridden = target != nullptr && target != d.request_target;

  Evidence e = gather(request);
  e.machine = d.request_target;
  std::optional<std::int64_t> programs;
  if (e.metrics != nullptr) {
    if (const auto grid = metric_value(*e.metrics, "launch__grid_size")) {
      programs = program_count(*grid, e.launch, request.path);
    }
  }
  d.workload = guess_workload(request, e.launch, e.kernel, programs, workload);
  e.workload = d.workload.workload;
  e.config = d.workload.config;
  if (e.config.empty() && e.launch != nullptr) {
    const auto metas = launch_metas(*e.launch, e.kernel);
    if (metas.size() == 1) e.config = metas.front();
  }
  if (e.workload) {
    d.limit = limit(*e.workload, *d.target);
    if (e.machine != nullptr) {
      d.request_limit = e.limit = limit(*e.workload, *e.machine);
      if (e.dram && *e.dram > 0) {
        e.implied_seconds = work(*e.workload).bytes() / (*e.dram / 100 * e.machine->dram_bytes_per_s.value);
        if (e.limit->seconds > 0) e.gap = *e.implied_seconds / e.limit->seconds;
      }
    }
    d.implied_seconds = e.implied_seconds;
    d.gap = e.gap;
  }
  d.units = Units(e).sentences();
  d.metric_notes =
      metric_notes(request.stage, e.metrics, d.request_target == nullptr ? d.target->sm : d.request_target->sm);
  d.findings = request.code.findings;
  size_findings(e, d.findings);
  d.rules = judge_rules(e);
  return d;
}

}  // namespace tconv::request
