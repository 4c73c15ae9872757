#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "report/facts.hpp"
#include "report/format.hpp"

namespace tconv::report {
namespace {

constexpr std::size_t kWidth = 120;
constexpr std::size_t kMostOfField = 960;  // columns of one string of the request
constexpr std::size_t kRejectedShown = 5;
constexpr std::size_t kBarCells = 30;

class Terminal {
 public:
  explicit Terminal(bool colour) : colour_(colour) {}

  enum class Style { none, bold, dim, red, yellow, green, blue };

  [[nodiscard]] std::string styled(std::string_view text, Style style) const {
    static constexpr std::string_view kCodes[] = {"", "1", "2", "31", "33", "32", "34"};
    if (!colour_ || style == Style::none) return std::string(text);
    return fmt::format("\x1b[{}m{}\x1b[0m", kCodes[static_cast<std::size_t>(style)], text);
  }

  void heading(std::string_view title) {
    out_ += '\n';
    out_ += styled(title, Style::bold);
    out_ += '\n';
  }
  void line(std::string_view text) {
    out_ += text;
    out_ += '\n';
  }
  // `lead` in its style, padded to `indent`; then the text, wrapped beside it.
  void paragraph(std::string_view lead, std::string_view text, std::size_t indent, Style style = Style::none,
                 Style text_style = Style::none) {
    const std::vector<std::string> lines = wrap(clip(plain(text), kMostOfField), kWidth - indent);
    std::string start = styled(lead, style) + std::string(indent - std::min(indent, columns(lead)), ' ');
    for (const std::string& text_line : lines) {
      const std::string whole = start + styled(text_line, text_style);
      out_ += whole.substr(0, whole.find_last_not_of(' ') + 1);
      out_ += '\n';
      start = std::string(indent, ' ');
    }
  }
  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  bool colour_;
  std::string out_;
};
using Style = Terminal::Style;

constexpr std::size_t kLabel = 12;

// A bar in eighths of a cell; anything above zero is seen.
std::string bar(double fraction) {
  static constexpr std::string_view kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const double cells = std::clamp(fraction, 0.0, 1.0) * static_cast<double>(kBarCells);
  const auto eighths = std::max<std::size_t>(fraction > 0 ? 1 : 0, static_cast<std::size_t>(std::lround(cells * 8)));
  std::string out;
  for (std::size_t i = 0; i < eighths / 8; ++i) out += "█";
  out += kEighths[eighths % 8];
  return out;
}

Style style_of(std::string_view key) {
  if (key == "current") return Style::yellow;
  if (key == "answer") return Style::green;
  return key == "limit" ? Style::blue : Style::dim;
}

void times(Terminal& out, const Facts& facts) {
  out.heading("Time");
  double longest = 0;
  for (const TimeRow& row : facts.times) longest = std::max(longest, row.seconds.value_or(0));
  for (const TimeRow& row : facts.times) {
    std::string drawn = row.seconds ? bar(*row.seconds / longest) : "";
    drawn = out.styled(drawn, style_of(row.key)) + std::string(kBarCells - columns(drawn), ' ');
    const std::string value = row.seconds ? seconds_text(*row.seconds) : "-";
    const std::string ratio =
        row.seconds && !row.other_machine && facts.limit > 0 ? ratio_text(*row.seconds / facts.limit) : "";
    const std::string head = fmt::format("  {:<15}{} {:>10} {:>7}  ", row.name, drawn, value, ratio);
    out.line(head + clip(plain(row.note), kWidth - 2 - 15 - kBarCells - 1 - 10 - 1 - 7 - 2));
  }
  out.paragraph("  limit", facts.limit_sentence, kLabel);
  if (facts.speedup) {
    out.paragraph("  so",
                  fmt::format("{} faster than the current kernel, if both figures hold; {} of the limit",
                              ratio_text(*facts.speedup), ratio_text(*facts.predicted / facts.limit)),
                  kLabel);
  }
}

void findings(Terminal& out, const Facts& facts) {
  if (facts.findings.empty()) return;
  out.heading("Findings in the current code");
  for (const request::Finding* finding : facts.findings) {
    const bool wrong = finding->severity == request::Finding::Severity::wrong_result;
    const bool limits = finding->severity == request::Finding::Severity::limitation;
    const std::string where = finding->line > 0 ? fmt::format("line {}: ", finding->line) : "";
    out.paragraph(fmt::format("  {}", name(finding->severity)), where + finding->title, 16,
                  wrong    ? Style::red
                  : limits ? Style::yellow
                           : Style::none,
                  Style::none);
    if (!finding->detail.empty()) out.paragraph("", finding->detail, 18, Style::none, Style::dim);
  }
}

void rules(Terminal& out, const Facts& facts) {
  if (facts.diagnosis.rules.empty()) return;
  out.heading("Stage rules");
  for (const request::RuleVerdict& rule : facts.diagnosis.rules) {
    const Style style = rule.verdict == request::Verdict::conflict  ? Style::red
                        : rule.verdict == request::Verdict::applied ? Style::green
                                                                    : Style::dim;
    out.paragraph(fmt::format("  {}", name(rule.verdict)), rule.rule, 16, style);
    if (!rule.why.empty()) out.paragraph("", rule.why, 18, Style::none, Style::dim);
  }
}

void metrics(Terminal& out, const Facts& facts) {
  if (!facts.diagnosis.metric_notes.empty()) {
    out.heading("Metrics");
    for (const request::MetricNote& note : facts.diagnosis.metric_notes) {
      out.paragraph("  asked", note.asked, kLabel);
      if (!note.alias.empty()) out.paragraph("  collect", note.alias, kLabel);
      out.paragraph("  because", note.why, kLabel, Style::none, Style::dim);
    }
  }
  if (!facts.diagnosis.disagreements.empty()) {
    out.heading("The request's target sheet against ours (ours is used)");
    for (const request::Disagreement& other : facts.diagnosis.disagreements) {
      out.paragraph("  -",
                    fmt::format("{}: stated {}, ours {} ({})", other.what, number_text(other.stated),
                                number_text(other.ours), other.source),
                    4);
    }
  }
}

void schedules(Terminal& out, const Facts& facts) {
  out.heading(fmt::format("Schedules, best first ({})", facts.body_sentence));
  out.line(
      out.styled("   #  rows phases  positions  C_in warps stages    predicted     memory arithmetic      "
                 "issue   tail",
                 Style::dim));
  std::size_t number = 0;
  for (const ScheduleRow& row : facts.schedules) {
    const plan::Candidate& c = *row.candidate;
    const plan::Schedule& s = c.schedule;
    out.line(fmt::format("{:>4}{:>6}{:>7}{:>11}{:>6}{:>6}{:>7}{:>13}{:>11}{:>11}{:>11}{:>7.2f}", ++number, s.block_rows,
                         s.phases, s.block_positions, s.block_channels, s.warps, s.stages, seconds_text(c.seconds),
                         seconds_text(c.memory_seconds), seconds_text(c.arithmetic_seconds),
                         seconds_text(c.issue_seconds), c.tail));
  }
  if (facts.schedules.empty()) out.line("  none was chosen");

  out.heading("Compiled for the target");
  if (facts.answer.compiled.empty()) {
    out.paragraph("  no:", facts.answer.not_compiled.empty() ? "no reason was given" : facts.answer.not_compiled, 6);
    return;
  }
  out.line(
      out.styled("   #  registers/thread  shared memory/CTA   spills   occupancy  CTAs/SM  limited by", Style::dim));
  const auto resources = [&](std::string_view label, const Compiled& compiled) {
    out.line(fmt::format("{:>4}{:>18}{:>17} B{:>7} B{:>10.0f} %{:>9}  {}", label, compiled.registers,
                         compiled.shared_memory, compiled.spills, compiled.occupancy.fraction * 100,
                         compiled.occupancy.blocks_per_sm, plain(compiled.occupancy.limited_by)));
  };
  number = 0;
  for (const ScheduleRow& row : facts.schedules) {
    ++number;
    if (row.compiled) resources(fmt::format("{}", number), *row.compiled);
  }
  for (const Compiled* compiled : facts.other_compiled) resources("-", *compiled);
  out.line(out.styled(fmt::format("  Triton {}", clip(plain(facts.answer.compiled.front().triton_version), 40)),
                      Style::dim));
}

void rejected(Terminal& out, const Facts& facts) {
  const auto& all = facts.plan.rejected;
  if (all.empty()) return;
  out.heading(fmt::format("Passed over ({})", all.size()));
  for (std::size_t i = 0; i < std::min(all.size(), kRejectedShown); ++i) {
    out.paragraph("  -", fmt::format("{}: {}", all[i].what, all[i].why), 4);
  }
  if (all.size() > kRejectedShown) {
    out.line(out.styled(fmt::format("    and {} more, in report.md", all.size() - kRejectedShown), Style::dim));
  }
}

}  // namespace

std::string text(const Answer& answer, bool colour) {
  const Facts facts = gather(answer);
  Terminal out(colour);
  out.paragraph("", fmt::format("ConvTranspose1d for {}", facts.target_sentence), 0, Style::none, Style::bold);
  out.paragraph("request", facts.request.path, kLabel);
  out.paragraph(
      "stage",
      facts.request.stage.focus.empty() ? facts.stage : fmt::format("{}: {}", facts.stage, facts.request.stage.focus),
      kLabel);
  const request::WorkloadGuess& guess = facts.diagnosis.workload;
  out.paragraph("workload",
                guess.catalogue_name.empty() ? facts.word : fmt::format("{}  (@{})", facts.word, guess.catalogue_name),
                kLabel);
  if (!facts.workload_sentence.empty()) out.paragraph("", facts.workload_sentence, kLabel, Style::none, Style::dim);
  for (const std::string& other : guess.also)
    out.paragraph("", "the same grid: " + other, kLabel, Style::none, Style::dim);
  out.paragraph("phases", facts.phases_sentence, kLabel);
  if (!answer.also.empty()) out.paragraph("also", answer.also, kLabel);

  times(out, facts);
  if (!facts.diagnosis.units.empty()) {
    out.heading("What the evidence says");
    for (const std::string& unit : facts.diagnosis.units) out.paragraph("  -", unit, 4);
  }
  findings(out, facts);
  rules(out, facts);
  metrics(out, facts);
  schedules(out, facts);
  rejected(out, facts);
  if (!facts.request.notes.empty()) {
    out.heading("Reading the request");
    for (const std::string& note : facts.request.notes) out.paragraph("  -", note, 4);
  }
  return out.take();
}

}  // namespace tconv::report
