#include <fmt/format.h>

#include <initializer_list>
#include <iterator>

#include "report/facts.hpp"
#include "report/format.hpp"

namespace tconv::report {
namespace {

// One table row; the cells are Markdown already.
std::string row(std::initializer_list<std::string> cells) {
  std::string out = "|";
  for (const std::string& cell : cells) out += fmt::format(" {} |", cell.empty() ? " " : cell);
  return out + "\n";
}

std::string rule(std::initializer_list<std::string_view> columns) {
  std::string out = "|";
  for (const std::string_view column : columns) out += fmt::format("{}|", column);
  return out + "\n";
}

std::string bullets(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += fmt::format("- {}\n", markdown_text(line));
  return out + "\n";
}

std::string times(const Facts& facts) {
  std::string out =
      "## Time\n\n" + row({"", "time", "of the limit", "where it comes from"}) + rule({"---", "---:", "---:", "---"});
  for (const TimeRow& time : facts.times) {
    const bool comparable = time.seconds && !time.other_machine && facts.limit > 0;
    out += row({time.name, time.seconds ? seconds_text(*time.seconds) : "-",
                comparable ? ratio_text(*time.seconds / facts.limit) : "", markdown_text(time.note)});
  }
  out += fmt::format("\nThe limit is {}.\n", markdown_text(facts.limit_sentence));
  if (facts.speedup) {
    out += fmt::format("The answer is predicted {} faster than the current kernel.\n", ratio_text(*facts.speedup));
  }
  return out + "\n";
}

std::string findings(const Facts& facts) {
  if (facts.findings.empty()) return "";
  std::string out = "## Findings in the current code\n\n" + row({"severity", "line", "finding", "when"}) +
                    rule({"---", "---:", "---", "---"});
  for (const request::Finding* finding : facts.findings) {
    out += row({std::string(name(finding->severity)), finding->line > 0 ? fmt::format("{}", finding->line) : "",
                markdown_text(finding->title), markdown_text(finding->detail)});
  }
  return out + "\n";
}

std::string rules(const Facts& facts) {
  if (facts.diagnosis.rules.empty()) return "";
  std::string out =
      "## Stage rules\n\n" + row({"line", "rule", "verdict", "why"}) + rule({"---:", "---", "---", "---"});
  for (const request::RuleVerdict& verdict : facts.diagnosis.rules) {
    out += row({verdict.line > 0 ? fmt::format("{}", verdict.line) : "", markdown_text(verdict.rule),
                std::string(name(verdict.verdict)), markdown_text(verdict.why)});
  }
  return out + "\n";
}

std::string metrics(const Facts& facts) {
  std::string out;
  if (!facts.diagnosis.metric_notes.empty()) {
    out += "## Metrics\n\n" + row({"asked", "collect instead", "why"}) + rule({"---", "---", "---"});
    for (const request::MetricNote& note : facts.diagnosis.metric_notes) {
      out += row({markdown_code(note.asked), markdown_code(note.alias), markdown_text(note.why)});
    }
    out += '\n';
  }
  if (!facts.diagnosis.disagreements.empty()) {
    out += "## The request's target sheet against ours\n\nOurs is used.\n\n" +
           row({"what", "stated", "ours", "source"}) + rule({"---", "---:", "---:", "---"});
    for (const request::Disagreement& other : facts.diagnosis.disagreements) {
      out += row(
          {markdown_text(other.what), number_text(other.stated), number_text(other.ours), markdown_text(other.source)});
    }
    out += '\n';
  }
  return out;
}

std::string schedules(const Facts& facts) {
  std::string out = fmt::format("## Schedules\n\nBest first; {}.\n\n", facts.body_sentence);
  out += row({"#", "rows", "phases", "positions", "C_in a step", "warps", "stages", "predicted", "memory", "arithmetic",
              "issue", "tail"});
  out += rule({"---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:"});
  std::size_t number = 0;
  for (const ScheduleRow& chosen : facts.schedules) {
    const plan::Candidate& c = *chosen.candidate;
    const plan::Schedule& s = c.schedule;
    out += row({fmt::format("{}", ++number), fmt::format("{}", s.block_rows), fmt::format("{}", s.phases),
                fmt::format("{}", s.block_positions), fmt::format("{}", s.block_channels), fmt::format("{}", s.warps),
                fmt::format("{}", s.stages), seconds_text(c.seconds), seconds_text(c.memory_seconds),
                seconds_text(c.arithmetic_seconds), seconds_text(c.issue_seconds), fmt::format("{:.2f}", c.tail)});
  }
  out += "\n## Compiled for the target\n\n";
  if (facts.answer.compiled.empty()) {
    const std::string& why = facts.answer.not_compiled;
    return out + fmt::format("Not compiled: {}\n\n", why.empty() ? "no reason was given" : markdown_text(why));
  }
  out += row(
      {"#", "registers a thread", "shared memory a CTA", "spills", "occupancy", "CTAs an SM", "limited by", "Triton"});
  out += rule({"---:", "---:", "---:", "---:", "---:", "---:", "---", "---"});
  const auto resources = [&](std::string label, const Compiled& compiled) {
    out += row({std::move(label), fmt::format("{}", compiled.registers), fmt::format("{} B", compiled.shared_memory),
                fmt::format("{} B", compiled.spills), fmt::format("{:.0f} %", compiled.occupancy.fraction * 100),
                fmt::format("{}", compiled.occupancy.blocks_per_sm), markdown_text(compiled.occupancy.limited_by),
                markdown_text(compiled.triton_version)});
  };
  number = 0;
  for (const ScheduleRow& chosen : facts.schedules) {
    ++number;
    if (chosen.compiled) resources(fmt::format("{}", number), *chosen.compiled);
  }
  for (const Compiled* compiled : facts.other_compiled) {
    resources(markdown_text(plan::print_schedule(compiled->schedule)), *compiled);
  }
  return out + "\n";
}

std::string rejected(const Facts& facts) {
  if (facts.plan.rejected.empty()) return "";
  std::string out = fmt::format("## Passed over ({})\n\n", facts.plan.rejected.size()) + row({"candidate", "why"}) +
                    rule({"---", "---"});
  for (const plan::Rejection& rejection : facts.plan.rejected) {
    out += row({markdown_text(rejection.what), markdown_text(rejection.why)});
  }
  return out + "\n";
}

}  // namespace

std::string markdown(const Answer& answer) {
  const Facts facts = gather(answer);
  const request::WorkloadGuess& guess = facts.diagnosis.workload;
  std::string out = fmt::format("# ConvTranspose1d for {}\n\n", markdown_text(facts.target.display));
  out += row({"", ""}) + rule({"---", "---"});
  out += row({"request", markdown_code(facts.request.path)});
  out += row({"target", markdown_text(facts.target_sentence)});
  out += row({"stage", facts.stage + (facts.request.stage.focus.empty() ? "" : ": ") +
                           markdown_text(facts.request.stage.focus)});
  out += row({"workload", markdown_code(facts.word) +
                              (guess.catalogue_name.empty() ? "" : ", " + markdown_code("@" + guess.catalogue_name))});
  if (!facts.workload_sentence.empty()) out += row({"found by", markdown_text(facts.workload_sentence)});
  for (const std::string& other : guess.also) out += row({"the same grid", markdown_text(other)});
  for (const auto& [key, value] : guess.config) {
    out += row({"implied by the grid", markdown_code(fmt::format("{}={}", key, value))});
  }
  out += row({"phases", markdown_text(facts.phases_sentence)});
  if (!answer.also.empty()) out += row({"also", markdown_text(answer.also)});
  out += '\n';

  out += times(facts);
  if (!facts.diagnosis.units.empty()) out += "## What the evidence says\n\n" + bullets(facts.diagnosis.units);
  out += findings(facts);
  out += rules(facts);
  out += metrics(facts);
  out += schedules(facts);
  out += rejected(facts);
  if (!facts.request.failure.empty()) {
    out += "## The previous attempt's failure, as stated\n\n" + markdown_fence(facts.request.failure, "text") + "\n";
  }
  if (!facts.request.notes.empty()) out += "## Reading the request\n\n" + bullets(facts.request.notes);
  out += "## The answer\n\n" + markdown_fence(answer.source, "python");
  return out;
}

}  // namespace tconv::report
