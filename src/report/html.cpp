#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <iterator>

#include "report/drawings.hpp"
#include "report/facts.hpp"
#include "report/format.hpp"

namespace tconv::report {
namespace {

constexpr std::size_t kRejectedShown = 200;

constexpr std::string_view kStyle = R"css(
:root {
  color-scheme: light dark;
  --bg: #ffffff; --panel: #f6f8fa; --ink: #1f2328; --muted: #57606a; --rule: #d0d7de; --grid: #e4e8ec;
  --current: #a34a00; --answer: #0a6b36; --limit: #0b5cad; --bad: #b42318; --fine: #0a6b36;
  --t0: #0b5cad; --t1: #b35900; --t2: #0a7f3f; --t3: #a3195b; --t4: #6639ba; --t5: #00727a; --t6: #7d6000; --t7: #57606a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #0d1117; --panel: #161b22; --ink: #e6edf3; --muted: #9da7b3; --rule: #3d444d; --grid: #262c34;
    --current: #f0a050; --answer: #4cc38a; --limit: #6cb6ff; --bad: #ff8a80; --fine: #4cc38a;
    --t0: #6cb6ff; --t1: #f0a050; --t2: #4cc38a; --t3: #ff8ab8; --t4: #b99cff; --t5: #4fd1d9; --t6: #e3c04b; --t7: #9da7b3;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 28px 72px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 44px 0 12px; padding-top: 14px; border-top: 1px solid var(--rule); }
p { margin: 0 0 10px; overflow-wrap: anywhere; }
.lead, .note { color: var(--muted); }
.note { font-size: 13.5px; }
code, pre, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace; }
code { font-size: 13px; background: var(--panel); padding: 1px 5px; border-radius: 4px; overflow-wrap: anywhere; }
pre { font-size: 12.5px; line-height: 1.45; background: var(--panel); border: 1px solid var(--rule); border-radius: 8px;
  padding: 14px 16px; overflow: auto; max-height: 640px; tab-size: 4; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 20px; margin: 18px 0 24px; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 20px; }
li { margin-bottom: 6px; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; }
.tile { background: var(--panel); border: 1px solid var(--rule); border-top: 4px solid var(--rule); border-radius: 8px;
  padding: 12px 16px; }
.tile b { display: block; font-size: 26px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 13px; display: block; }
.tile.current { border-top-color: var(--current); } .tile.answer { border-top-color: var(--answer); }
.tile.limit { border-top-color: var(--limit); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--muted); font-weight: 600; font-size: 13px; vertical-align: bottom; }
th, td { padding: 7px 10px 7px 0; border-bottom: 1px solid var(--rule); }
td { vertical-align: top; overflow-wrap: anywhere; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.w { white-space: nowrap; }
td.n + td:not(.n), th.n + th:not(.n) { padding-left: 12px; }
td p { margin: 3px 0 0; color: var(--muted); font-size: 13.5px; }
.badge { display: inline-block; font-size: 12.5px; font-weight: 600; line-height: 1.3; padding: 2px 9px; border-radius: 10px;
  border: 1px solid currentColor; white-space: nowrap; color: var(--muted); }
.badge.wrong_result, .badge.conflict { color: var(--bad); } .badge.limitation { color: var(--current); }
.badge.performance { color: var(--limit); } .badge.applied { color: var(--fine); }
details { margin-top: 10px; } summary { cursor: pointer; font-weight: 600; margin-bottom: 10px; }
svg.chart { display: block; margin: 6px 0; font-size: 12.5px; max-width: 100%; height: auto; }
svg text { fill: var(--ink); }
svg .tick, svg .axis, svg .value, svg .missing { fill: var(--muted); }
svg .strong { font-weight: 600; }
svg .index { font: 11.5px ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .roof { stroke: var(--ink); stroke-width: 2; stroke-linecap: round; }
svg .minor { stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 6 4; }
svg .intensity { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 4; }
svg .leader { stroke: var(--muted); stroke-width: 1; fill: none; }
svg .halo { paint-order: stroke; stroke: var(--bg); stroke-width: 5px; stroke-linejoin: round; }
svg text.current { fill: var(--current); } svg text.answer { fill: var(--answer); } svg text.limit { fill: var(--limit); }
svg .mark { stroke: var(--bg); stroke-width: 1.5; }
svg .bar.current, svg .mark.current { fill: var(--current); }
svg .bar.answer, svg .mark.answer { fill: var(--answer); }
svg .bar.limit, svg .mark.limit { fill: var(--limit); }
svg .bar.elsewhere { fill-opacity: 0.35; stroke: var(--current); stroke-dasharray: 4 3; }
svg .empty { fill: none; stroke: var(--muted); stroke-dasharray: 4 3; }
svg .group { fill: var(--panel); }
svg .cell { fill: var(--bg); stroke: var(--muted); stroke-width: 1; }
svg .cell.outside { stroke-dasharray: 3 3; fill: none; }
svg .cell.dead { fill: url(#hatch); }
svg .hatch { stroke: var(--muted); stroke-width: 2; stroke-opacity: 0.6; }
svg .tap { stroke-width: 1.75; stroke-opacity: 0.9; } svg .key { stroke-width: 3; }
svg .tap.outside { stroke-dasharray: 3 4; }
svg .t0 { stroke: var(--t0); } svg .t1 { stroke: var(--t1); } svg .t2 { stroke: var(--t2); } svg .t3 { stroke: var(--t3); }
svg .t4 { stroke: var(--t4); } svg .t5 { stroke: var(--t5); } svg .t6 { stroke: var(--t6); } svg .t7 { stroke: var(--t7); }
@media print { pre { max-height: none; } }
)css";

// Every cell is HTML already.
struct Cell {
  std::string html;
  std::string_view style;  // "n": a number, "w": not to be broken, "": text
};

Cell words(std::string_view text) { return {html_text(text), ""}; }
Cell short_words(std::string_view text) { return {html_text(text), "w"}; }
Cell number(std::string_view text) { return {html_text(text), "n"}; }
Cell number(std::int64_t value) { return {fmt::format("{}", value), "n"}; }
Cell line_number(int line) { return number(line > 0 ? fmt::format("{}", line) : ""); }
Cell badge(std::string_view key, std::string_view text) {
  return {fmt::format("<span class=\"badge {}\">{}</span>", key, html_text(text)), "w"};
}
// A statement and, under it, what explains it.
Cell explained(std::string_view statement, std::string_view explanation) {
  std::string html = html_text(statement);
  if (!explanation.empty()) html += fmt::format("<p>{}</p>", html_text(explanation));
  return {html, ""};
}

std::string style_attribute(std::string_view style) { return style.empty() ? "" : fmt::format(" class=\"{}\"", style); }

std::string table_head(std::initializer_list<Cell> cells) {
  std::string out = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (const Cell& cell : cells) {
    out += fmt::format("<th scope=\"col\"{}>{}</th>", style_attribute(cell.style), cell.html);
  }
  return out + "</tr></thead>\n<tbody>\n";
}
std::string table_row(std::initializer_list<Cell> cells) {
  std::string out = "<tr>";
  for (const Cell& cell : cells) out += fmt::format("<td{}>{}</td>", style_attribute(cell.style), cell.html);
  return out + "</tr>\n";
}
constexpr std::string_view kTableEnd = "</tbody></table></div>\n";

std::string list(const std::vector<std::string>& lines) {
  std::string out = "<ul>\n";
  for (const std::string& line : lines) out += fmt::format("<li>{}</li>\n", html_text(line));
  return out + "</ul>\n";
}

std::string head(const Facts& facts) {
  const request::WorkloadGuess& guess = facts.diagnosis.workload;
  std::string out = fmt::format("<h1>ConvTranspose1d for {}</h1>\n<dl>\n", html_text(facts.target.display));
  const auto entry = [&](std::string_view term, const std::string& html) {
    out += fmt::format("<dt>{}</dt><dd>{}</dd>\n", term, html);
  };
  entry("request", fmt::format("<code>{}</code>", html_text(facts.request.path)));
  entry("target", html_text(facts.target_sentence));
  entry("stage",
        html_text(facts.request.stage.focus.empty() ? facts.stage
                                                    : fmt::format("{}: {}", facts.stage, facts.request.stage.focus)));
  std::string workload = fmt::format("<code>{}</code>", html_text(facts.word));
  if (!guess.catalogue_name.empty()) workload += fmt::format(" <code>@{}</code>", html_text(guess.catalogue_name));
  entry("workload", workload);
  if (!facts.workload_sentence.empty()) entry("found by", html_text(facts.workload_sentence));
  for (const std::string& other : guess.also) entry("the same grid", html_text(other));
  for (const auto& [key, value] : guess.config) {
    entry("implied by the grid", fmt::format("<code>{}={}</code>", html_text(key), value));
  }
  entry("phases", html_text(facts.phases_sentence));
  if (!facts.answer.also.empty()) entry("also", html_text(facts.answer.also));
  return out + "</dl>\n";
}

std::string tiles(const Facts& facts) {
  std::string out = "<div class=\"tiles\">\n";
  const auto tile = [&](std::string_view key, std::string_view title, std::string_view value, std::string_view note) {
    out += fmt::format("<div class=\"tile {}\"><span>{}</span><b>{}</b><span>{}</span></div>\n", key, html_text(title),
                       html_text(value), html_text(note));
  };
  for (const TimeRow& row : facts.times) {
    if (row.key == "cudnn") continue;
    const bool comparable = row.seconds && !row.other_machine && row.key != "limit" && facts.limit > 0;
    tile(row.key, row.name, row.seconds ? seconds_text(*row.seconds) : "not known",
         comparable ? fmt::format("{} of the limit; {}", ratio_text(*row.seconds / facts.limit), row.note) : row.note);
  }
  if (facts.speedup) {
    tile("speedup", "answer against current", ratio_text(*facts.speedup), "faster, if both figures hold");
  }
  return out + "</div>\n";
}

std::string time_svg(const Facts& facts) {
  constexpr double kLabel = 116, kBars = 420, kRow = 34, kBar = 20, kTop = 6, kWidth = 980;
  double longest = 0;
  for (const TimeRow& row : facts.times) longest = std::max(longest, row.seconds.value_or(0));
  const double height = kTop * 2 + kRow * static_cast<double>(facts.times.size());
  std::string out = fmt::format(
      "<svg class=\"chart\" style=\"min-width:720px\" viewBox=\"0 0 {0:g} {1:g}\" width=\"{0:g}\" height=\"{1:g}\" "
      "role=\"img\" "
      "aria-labelledby=\"time-title time-desc\">\n<title id=\"time-title\">Time of one call</title>\n"
      "<desc id=\"time-desc\">",
      kWidth, height);
  for (const TimeRow& row : facts.times) {
    out += html_text(
        fmt::format("{}: {}, {}. ", row.name, row.seconds ? seconds_text(*row.seconds) : "no figure", row.note));
  }
  out += "</desc>\n";
  double y = kTop;
  for (const TimeRow& row : facts.times) {
    const double base = y + kBar / 2 + 5;
    out += fmt::format("<text class=\"label strong\" x=\"{:g}\" y=\"{:g}\" text-anchor=\"end\">{}</text>\n",
                       kLabel - 12, base, html_text(row.name));
    if (row.seconds && longest > 0) {
      const double width = std::max(2.0, *row.seconds / longest * kBars);
      out += fmt::format("<rect class=\"bar {}{}\" x=\"{:g}\" y=\"{:g}\" width=\"{:.1f}\" height=\"{:g}\" rx=\"2\"/>\n",
                         row.key, row.other_machine ? " elsewhere" : "", kLabel, y, width, kBar);
      out += fmt::format(
          "<text class=\"label\" x=\"{:.1f}\" y=\"{:g}\"><tspan class=\"strong\">{}</tspan>"
          "<tspan class=\"value\" dx=\"8\">{}</tspan></text>\n",
          kLabel + width + 9, base, html_text(seconds_text(*row.seconds)), html_text(row.note));
    } else {
      out += fmt::format("<rect class=\"empty\" x=\"{:g}\" y=\"{:g}\" width=\"26\" height=\"{:g}\" rx=\"2\"/>\n",
                         kLabel + 0.5, y, kBar);
      out += fmt::format("<text class=\"missing\" x=\"{:g}\" y=\"{:g}\">{}</text>\n", kLabel + 36, base,
                         html_text(row.note));
    }
    y += kRow;
  }
  return out + "</svg>\n";
}

std::string performance(const Facts& facts) {
  std::string out = "<h2>Time of one call</h2>\n<div class=\"scroll\">" + time_svg(facts) + "</div>\n";
  out += fmt::format("<p class=\"note\">The limit is {}.</p>\n", html_text(facts.limit_sentence));
  const std::string roofline = roofline_svg(facts);
  if (!roofline.empty()) {
    out += "<h2>Roofline</h2>\n<div class=\"scroll\">" + roofline + "</div>\n";
    out +=
        "<p class=\"note\">Useful means products whose tap lands inside the input; bytes are those that must move, "
        "each tensor once. Solid lines bound the limit";
    out += roofline.find("roof minor") != std::string::npos ? "; the dashed one is for comparison." : ".";
    if (facts.current && facts.current_elsewhere) {
      out += " The current kernel was timed on another machine and is left out.";
    }
    out += "</p>\n";
  }
  return out;
}

std::string phases(const Facts& facts) {
  const PhaseWindow window = phase_window(facts.workload);
  const std::int64_t stride = facts.workload.problem.stride;
  std::string out = "<h2>Phases: which tap feeds which output</h2>\n";
  out += fmt::format("<p>Here: {}. ", html_text(facts.phases_sentence));
  if (stride > 1) {
    out += fmt::format("Each phase writes one output in {}. ", stride);
  }
  if (facts.phases.dead() > 0)
    out += "Hatched outputs receive no tap: they are the bias alone, with no load and no product. ";
  out += "Colours tell the taps of a phase apart.</p>\n";
  out += "<div class=\"scroll\">" + phases_svg(facts.workload) + "</div>\n";
  out += fmt::format("<p class=\"note\">A window of {} position{} per phase, q = {} to {}.", window.positions,
                     window.positions == 1 ? "" : "s", window.first_position,
                     window.first_position + window.positions - 1);
  if (!window.all_residues) {
    out += fmt::format(" Drawn: the first {} of {} phases.", window.residues, facts.phases.count());
  }
  if (!window.all_taps) {
    out += fmt::format(" Drawn: at most {} taps of a phase, of up to {}.", window.taps, facts.phases.max_taps());
  }
  return out + "</p>\n";
}

std::string diagnosis(const Facts& facts) {
  std::string out;
  if (!facts.diagnosis.units.empty()) out += "<h2>What the evidence says</h2>\n" + list(facts.diagnosis.units);
  if (!facts.findings.empty()) {
    out +=
        "<h2>Findings in the current code</h2>\n" + table_head({words("severity"), number("line"), words("finding")});
    for (const request::Finding* finding : facts.findings) {
      out += table_row({badge(key(finding->severity), name(finding->severity)), line_number(finding->line),
                        explained(finding->title, finding->detail)});
    }
    out += kTableEnd;
  }
  if (!facts.diagnosis.rules.empty()) {
    out += "<h2>Stage rules</h2>\n" + table_head({words("verdict"), number("line"), words("rule")});
    for (const request::RuleVerdict& rule : facts.diagnosis.rules) {
      out += table_row(
          {badge(key(rule.verdict), name(rule.verdict)), line_number(rule.line), explained(rule.rule, rule.why)});
    }
    out += kTableEnd;
  }
  if (!facts.diagnosis.metric_notes.empty()) {
    out += "<h2>Metrics</h2>\n" + table_head({words("asked"), words("collect instead"), words("why")});
    for (const request::MetricNote& note : facts.diagnosis.metric_notes) {
      const std::string alias = note.alias.empty() ? "" : fmt::format("<code>{}</code>", html_text(note.alias));
      out += table_row({{fmt::format("<code>{}</code>", html_text(note.asked)), ""}, {alias, ""}, words(note.why)});
    }
    out += kTableEnd;
  }
  if (!facts.diagnosis.disagreements.empty()) {
    out += "<h2>The request's target sheet against ours</h2>\n<p class=\"note\">Ours is used.</p>\n" +
           table_head({words("what"), number("stated"), number("ours"), words("source of ours")});
    for (const request::Disagreement& other : facts.diagnosis.disagreements) {
      out += table_row(
          {words(other.what), number(number_text(other.stated)), number(number_text(other.ours)), words(other.source)});
    }
    out += kTableEnd;
  }
  return out;
}

std::string schedules(const Facts& facts) {
  std::string out = fmt::format("<h2>Schedules</h2>\n<p class=\"note\">Best first; {}.</p>\n", facts.body_sentence);
  out += table_head({number("#"), number("rows"), number("phases"), number("positions"), number("C_in a step"),
                     number("warps"), number("stages"), number("predicted"), number("memory"), number("arithmetic"),
                     number("issue"), number("tail")});
  std::int64_t rank = 0;
  for (const ScheduleRow& row : facts.schedules) {
    const plan::Candidate& c = *row.candidate;
    const plan::Schedule& s = c.schedule;
    out += table_row({number(++rank), number(s.block_rows), number(s.phases), number(s.block_positions),
                      number(s.block_channels), number(s.warps), number(s.stages), number(seconds_text(c.seconds)),
                      number(seconds_text(c.memory_seconds)), number(seconds_text(c.arithmetic_seconds)),
                      number(seconds_text(c.issue_seconds)), number(fmt::format("{:.2f}", c.tail))});
  }
  out += kTableEnd;
  out += "<h2>Compiled for the target</h2>\n";
  if (facts.answer.compiled.empty()) {
    const std::string& why = facts.answer.not_compiled;
    return out + fmt::format("<p>Not compiled: {}</p>\n", why.empty() ? "no reason was given" : html_text(why));
  }
  out += table_head({number("#"), number("registers a thread"), number("shared memory a CTA"), number("spills"),
                     number("occupancy"), number("CTAs an SM"), words("limited by"), words("Triton")});
  const auto resources = [&](const Cell& label, const Compiled& c) {
    out += table_row({label, number(c.registers), number(fmt::format("{} B", c.shared_memory)),
                      number(fmt::format("{} B", c.spills)),
                      number(fmt::format("{:.0f} %", c.occupancy.fraction * 100)), number(c.occupancy.blocks_per_sm),
                      short_words(c.occupancy.limited_by), short_words(c.triton_version)});
  };
  rank = 0;
  for (const ScheduleRow& row : facts.schedules) {
    ++rank;
    if (row.compiled) resources(number(rank), *row.compiled);
  }
  for (const Compiled* compiled : facts.other_compiled) {
    resources(words(plan::print_schedule(compiled->schedule)), *compiled);
  }
  out += kTableEnd;
  return out;
}

std::string rejected(const Facts& facts) {
  const auto& all = facts.plan.rejected;
  if (all.empty()) return "";
  std::string out =
      fmt::format("<h2>Passed over</h2>\n<details><summary>{} candidate{}, each with its reason</summary>\n",
                  all.size(), all.size() == 1 ? "" : "s");
  out += table_head({words("candidate"), words("why")});
  for (std::size_t i = 0; i < std::min(all.size(), kRejectedShown); ++i) {
    out += table_row({words(all[i].what), words(all[i].why)});
  }
  out += kTableEnd;
  if (all.size() > kRejectedShown) {
    out += fmt::format("<p class=\"note\">The first {}; report.md lists all {}.</p>\n", kRejectedShown, all.size());
  }
  return out + "</details>\n";
}

}  // namespace

std::string html(const Answer& answer) {
  const Facts facts = gather(answer);
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      // A request is hostile: even if a string of it escaped, nothing may run or load.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\"/>\n";
  out += fmt::format("<title>ConvTranspose1d for {}: {}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
                     html_text(facts.target.display), html_text(facts.word), kStyle);
  out += head(facts);
  out += tiles(facts);
  out += performance(facts);
  out += phases(facts);
  out += diagnosis(facts);
  out += schedules(facts);
  out += rejected(facts);
  if (!facts.request.failure.empty()) {
    out += fmt::format("<h2>The previous attempt's failure, as stated</h2>\n<pre>{}</pre>\n",
                       html_lines(facts.request.failure));
  }
  if (!facts.request.notes.empty()) out += "<h2>Reading the request</h2>\n" + list(facts.request.notes);
  out +=
      fmt::format("<h2>The answer</h2>\n<details><summary>answer.py</summary>\n<pre><code>{}</code></pre></details>\n",
                  html_lines(answer.source));
  return out + "</main>\n</body>\n</html>\n";
}

}  // namespace tconv::report
