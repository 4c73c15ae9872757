#include "report/facts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "problem/grammar.hpp"
#include "report/format.hpp"
#include "util/error.hpp"

namespace tconv::report {
namespace {

const Answer& complete(const Answer& answer) {
  const bool whole = answer.request && answer.diagnosis && answer.plan && answer.plan->target;
  if (!whole) {
    throw Error(Exit::defect, "report", "the answer lacks its request, diagnosis, plan or target",
                "a report needs all four");
  }
  return answer;
}

std::optional<double> positive(std::optional<double> seconds) {
  return seconds && std::isfinite(*seconds) && *seconds > 0 ? seconds : std::nullopt;
}

std::string target_sentence(const Facts& facts) {
  const Target& target = facts.target;
  std::string out = fmt::format("{} ({}, sm_{})", target.display, target.architecture, target.sm);
  if (facts.diagnosis.target_overridden) {
    out += facts.request.stated.name.empty()
               ? "; chosen on the command line"
               : fmt::format("; chosen on the command line, the request names {}", facts.request.stated.name);
  }
  return out;
}

std::string workload_sentence(const Facts& facts) {
  const request::WorkloadGuess& guess = facts.diagnosis.workload;
  std::string out = guess.how;
  if (!guess.workload) {
    out +=
        fmt::format("{}The answer serves any length; the figures here are for {}.", out.empty() ? "" : " ", facts.word);
  }
  return out;
}

std::string phases_sentence(const Facts& facts) {
  const Phases& phases = facts.phases;
  const std::string taps = fmt::format("{} tap{}", phases.max_taps(), phases.max_taps() == 1 ? "" : "s");
  if (phases.count() == 1) return fmt::format("one phase of {} (stride 1)", taps);
  if (phases.dead() == 0)
    return fmt::format("{} phases of the output, all live, at most {} each", phases.count(), taps);
  return fmt::format("{} phases of the output: {} live, at most {}{}, and {} dead (no tap reaches {}: bias only)",
                     phases.count(), phases.live(), taps, phases.live() == 1 ? "" : " each", phases.dead(),
                     phases.dead() == 1 ? "it" : "them");
}

std::string limit_sentence(const Facts& facts) {
  const Limit& limit = facts.plan.limit;
  const Work& work = limit.work;
  const std::string moved = fmt::format("{} must move ({} read, {} written)", quantity_text(work.bytes(), "B"),
                                        quantity_text(work.bytes_read, "B"), quantity_text(work.bytes_written, "B"));
  const std::string arithmetic = fmt::format("{} useful", quantity_text(work.useful_flops, "FLOP"));
  const double rate = achievable_flops(facts.target, facts.workload.problem.arithmetic);
  if (limit.bound_by == "memory") {
    return fmt::format("bound by memory: {} at the {} that DRAM reaches for this mix; {}", moved,
                       quantity_text(facts.dram, "B/s"), arithmetic);
  }
  if (limit.bound_by == "arithmetic") {
    return fmt::format("bound by arithmetic: {} at the {} reached in {}; {}", arithmetic, quantity_text(rate, "FLOP/s"),
                       name(facts.workload.problem.arithmetic), moved);
  }
  return fmt::format("bound by {}: {} for one launch; {}, {}", limit.bound_by, seconds_text(limit.launch_seconds),
                     moved, arithmetic);
}

std::vector<TimeRow> time_rows(const Facts& facts) {
  std::vector<TimeRow> rows;
  TimeRow current{"current kernel", facts.current, "", facts.current_elsewhere, "current"};
  const std::string machine = facts.request.stated.name.empty() ? "the request's GPU" : facts.request.stated.name;
  if (!facts.current) {
    current.note = "not known: the metrics do not determine it";
  } else if (facts.current_elsewhere) {
    current.note = fmt::format("implied by the metrics, on {}: another machine", machine);
  } else {
    current.note = "implied by the metrics";
  }
  rows.push_back(current);
  rows.push_back({"cuDNN", std::nullopt, "not known: it takes the device to time it", false, "cudnn"});
  rows.push_back({"answer", facts.predicted, facts.predicted ? "predicted by the model" : "no schedule was chosen",
                  false, "answer"});
  rows.push_back({"limit", facts.limit, fmt::format("bound by {}", facts.plan.limit.bound_by), false, "limit"});
  return rows;
}

}  // namespace

Facts gather(const Answer& incomplete) {
  const Answer& answer = complete(incomplete);
  const plan::Plan& plan = *answer.plan;
  Facts facts{.answer = answer,
              .request = *answer.request,
              .diagnosis = *answer.diagnosis,
              .plan = plan,
              .target = *plan.target,
              .workload = plan.workload,
              .phases = Phases(plan.workload.problem),
              .word = print_word(plan.workload),
              .stage = std::string(request::name(answer.request->stage.kind))};
  facts.current = positive(facts.diagnosis.implied_seconds);
  facts.current_elsewhere = facts.diagnosis.target_overridden;
  if (!plan.chosen.empty()) facts.predicted = positive(plan.chosen.front().seconds);
  facts.limit = plan.limit.seconds;
  if (facts.current && facts.predicted && !facts.current_elsewhere) facts.speedup = *facts.current / *facts.predicted;
  facts.dram = achievable_dram(facts.target, plan.limit.work.bytes_read, plan.limit.work.bytes_written);

  facts.times = time_rows(facts);
  for (const request::Finding& finding : facts.diagnosis.findings) facts.findings.push_back(&finding);
  std::stable_sort(facts.findings.begin(), facts.findings.end(), [](const auto* a, const auto* b) {
    return a->severity != b->severity ? a->severity < b->severity : a->line < b->line;
  });
  const auto compiled_as = [&](const plan::Schedule& schedule) {
    return std::find_if(answer.compiled.begin(), answer.compiled.end(),
                        [&](const Compiled& compiled) { return compiled.schedule == schedule; });
  };
  for (const plan::Candidate& candidate : plan.chosen) {
    const auto found = compiled_as(candidate.schedule);
    facts.schedules.push_back({&candidate, found == answer.compiled.end() ? nullptr : &*found});
  }
  for (const Compiled& compiled : answer.compiled) {
    const bool chosen = std::any_of(plan.chosen.begin(), plan.chosen.end(), [&](const plan::Candidate& candidate) {
      return candidate.schedule == compiled.schedule;
    });
    if (!chosen) facts.other_compiled.push_back(&compiled);
  }

  facts.target_sentence = target_sentence(facts);
  facts.workload_sentence = workload_sentence(facts);
  facts.phases_sentence = phases_sentence(facts);
  facts.limit_sentence = limit_sentence(facts);
  facts.body_sentence = plan.exact_body ? "FMA body: the products run outside the matrix unit"
                                        : "matrix body: the products run on the matrix unit";
  return facts;
}

std::string_view name(request::Verdict verdict) noexcept {
  switch (verdict) {
    case request::Verdict::applied:
      return "applied";
    case request::Verdict::not_needed:
      return "not needed";
    case request::Verdict::conflict:
      return "conflict";
  }
  return "unknown";
}

std::string_view name(request::Finding::Severity severity) noexcept {
  switch (severity) {
    case request::Finding::Severity::wrong_result:
      return "wrong result";
    case request::Finding::Severity::limitation:
      return "limitation";
    case request::Finding::Severity::performance:
      return "performance";
    case request::Finding::Severity::note:
      return "note";
  }
  return "unknown";
}

std::string_view key(request::Verdict verdict) noexcept {
  return verdict == request::Verdict::not_needed ? "not_needed" : name(verdict);
}

std::string_view key(request::Finding::Severity severity) noexcept {
  return severity == request::Finding::Severity::wrong_result ? "wrong_result" : name(severity);
}

}  // namespace tconv::report
