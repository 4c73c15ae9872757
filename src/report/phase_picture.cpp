#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>

#include "report/drawings.hpp"
#include "report/format.hpp"

namespace tconv::report {
namespace {

constexpr std::int64_t kMostResidues = 8;
constexpr std::int64_t kMostTaps = 8;
constexpr std::size_t kMostInputs = 20;
constexpr int kColours = 8;  // of taps, in the style sheet

// Pixels.
constexpr double kMargin = 12, kLegend = 64, kCell = 30, kGap = 14, kFan = 150, kLine = 17, kCharacter = 7.0,
                 kRoom = 800;
constexpr double kLeastWidth = 760;  // narrower screens scroll: the labels would be unreadable

bool inside(std::int64_t index, std::int64_t length) { return index >= 0 && index < length; }

std::set<std::int64_t> inputs_of(const Phases& phases, const PhaseWindow& window) {
  std::set<std::int64_t> out;
  for (std::int64_t r = 0; r < window.residues; ++r) {
    const Phase phase = phases.phase(r);
    for (std::int64_t j = 0; j < std::min(phase.count, window.taps); ++j) {
      for (std::int64_t n = 0; n < window.positions; ++n) {
        out.insert(window.first_position + n + phase.tap(j).offset);
      }
    }
    if (out.size() > kMostInputs) break;  // too many already; the exact number does not matter
  }
  return out;
}

std::string offset_text(std::int64_t offset) {
  return offset == 0 ? "x[q]" : fmt::format("x[q{}{}]", offset < 0 ? "−" : "+", offset < 0 ? -offset : offset);
}

std::string tap_text(const Tap& tap) { return fmt::format("w[{}]·{}", tap.k, offset_text(tap.offset)); }

double text_width(std::string_view text) { return kCharacter * static_cast<double>(columns(text)); }

std::string summary(const Phases& phases, const PhaseWindow& window, const Workload& workload) {
  const Problem& problem = workload.problem;
  std::string out = fmt::format("K={}, stride {}, dilation {}, padding {}: ", problem.kernel, problem.stride,
                                problem.dilation, problem.padding);
  out += fmt::format(
      "output y[t] with t = {}q + r{} belongs to phase r. {} of {} phases are live, with at most {} "
      "tap{} each; {} dead.",
      problem.stride == 1 ? "" : fmt::format("{}·", problem.stride),
      problem.padding == 0 ? "" : fmt::format(" − {}", problem.padding), phases.live(), phases.count(),
      phases.max_taps(), phases.max_taps() == 1 ? "" : "s", phases.dead());
  if (!window.all_residues) out += fmt::format(" Only the first {} phases are drawn.", window.residues);
  if (!window.all_taps) out += fmt::format(" Only the first {} taps of a phase are drawn.", window.taps);
  return out;
}

}  // namespace

PhaseWindow phase_window(const Workload& workload) {
  const Phases phases(workload.problem);
  const std::int64_t length = workload.extent.length;
  PhaseWindow window;
  window.residues = std::min(phases.count(), kMostResidues);
  window.taps = std::min(phases.max_taps(), kMostTaps);
  window.positions = window.residues > 4 ? 2 : window.residues > 1 ? 3 : 4;

  // Where every tap of the window lands inside the input, if the input is long enough for that.
  const std::int64_t first = phases.first_position();
  const std::int64_t last = phases.last_position(length);
  const std::int64_t whole = (workload.problem.padding + phases.count() - 1) / phases.count();  // t >= 0 from here on
  for (;;) {
    std::int64_t lowest = 0;
    for (std::int64_t r = 0; r < window.residues; ++r) {
      const Phase phase = phases.phase(r);
      const std::int64_t shown = std::min(phase.count, window.taps);
      if (shown > 0) lowest = std::min(lowest, phase.tap(shown - 1).offset);
    }
    window.first_position = std::clamp(std::max(whole, -lowest), first, std::max(first, last - window.positions + 1));
    const std::set<std::int64_t> inputs = inputs_of(phases, window);
    if (inputs.size() <= kMostInputs || (window.positions <= 2 && window.taps <= 2 && window.residues <= 2)) {
      window.inputs.assign(inputs.begin(), inputs.end());
      break;
    }
    if (window.positions > 2) {
      --window.positions;
    } else if (window.taps > 4 || (window.residues <= 2 && window.taps > 2)) {
      --window.taps;
    } else {
      --window.residues;
    }
  }
  window.all_residues = window.residues == phases.count();
  window.all_taps = window.taps >= phases.max_taps();
  return window;
}

std::string phases_svg(const Workload& workload) {
  const Phases phases(workload.problem);
  const PhaseWindow window = phase_window(workload);
  const std::int64_t length = workload.extent.length;
  const std::int64_t outputs = out_length(workload.problem, length);
  const auto index_of = [&](std::int64_t q, std::int64_t r) {
    return q * phases.count() + r - workload.problem.padding;
  };

  // Cells are as wide as the longest label asks for.
  const std::int64_t last_q = window.first_position + window.positions - 1;
  const double roomy = kRoom / static_cast<double>(window.residues * window.positions);
  const double cell = std::max(text_width(fmt::format("y[{}]", index_of(last_q, window.residues - 1))) + 10,
                               std::clamp(roomy, 46.0, 72.0));
  double group = static_cast<double>(window.positions) * cell;
  for (std::int64_t r = 0; r < window.residues; ++r) {
    const Phase phase = phases.phase(r);
    group = std::max(group, text_width(fmt::format("phase {}", r)));
    for (std::int64_t j = 0; j < std::min(phase.count, window.taps); ++j) {
      group = std::max(group, text_width(tap_text(phase.tap(j))) + 18);
    }
  }
  group += 16;

  // The input row: spread out over the outputs it feeds, with a gap where indices are left out.
  const double outputs_width = static_cast<double>(window.residues) * (group + kGap) - kGap;
  const auto input_count = static_cast<double>(window.inputs.size());
  const double spread =
      std::clamp((0.7 * outputs_width - input_count * cell) / std::max(1.0, input_count - 1), 0.0, 1.5 * cell);
  std::map<std::int64_t, double> input_x;
  std::vector<double> ellipses;
  double cursor = -spread;
  for (std::size_t i = 0; i < window.inputs.size(); ++i) {
    if (i > 0 && window.inputs[i] != window.inputs[i - 1] + 1) {
      ellipses.push_back(cursor + (spread + 22) / 2);
      cursor += 22;
    }
    cursor += spread;
    input_x[window.inputs[i]] = cursor;
    cursor += cell;
  }
  const double inputs_width = cursor;
  const double width = kLegend + std::max(inputs_width, outputs_width) + kMargin;
  const double middle = kLegend + std::max(inputs_width, outputs_width) / 2;
  const double inputs_left = middle - inputs_width / 2;
  const double outputs_left = middle - outputs_width / 2;
  const double inputs_top = kMargin;
  const double outputs_top = inputs_top + kCell + kFan;
  const double list_top = outputs_top + kCell + 26;
  const double height = list_top + kLine * static_cast<double>(std::max<std::int64_t>(window.taps, 1) + 1) + kMargin;

  std::string groups, lines, cells, svg;  // drawn in this order
  auto cell_out = std::back_inserter(cells);
  auto line_out = std::back_inserter(lines);
  const auto draw_cell = [&](double x, double y, std::string_view style, std::string_view label) {
    fmt::format_to(cell_out,
                   "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:g}\" rx=\"3\"/>\n", style,
                   x + 1, y, cell - 2, kCell);
    fmt::format_to(cell_out, "<text class=\"index halo\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                   x + cell / 2, y + kCell / 2 + 4, label);
  };

  for (const auto& [index, x] : input_x) {
    const bool real = inside(index, length);
    draw_cell(inputs_left + x, inputs_top, real ? "cell" : "cell outside", real ? fmt::format("x[{}]", index) : "0");
  }
  for (const double x : ellipses) {
    fmt::format_to(cell_out, "<text class=\"index\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">…</text>\n",
                   inputs_left + x, inputs_top + kCell / 2 + 4);
  }
  for (std::int64_t r = 0; r < window.residues; ++r) {
    const Phase phase = phases.phase(r);
    const double left = outputs_left + static_cast<double>(r) * (group + kGap);
    const double cells_left = left + (group - static_cast<double>(window.positions) * cell) / 2;
    fmt::format_to(std::back_inserter(groups),
                   "<rect class=\"group\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"6\"/>\n",
                   left, outputs_top - 8, group, height - outputs_top + 8 - kMargin / 2);
    for (std::int64_t n = 0; n < window.positions; ++n) {
      const std::int64_t q = window.first_position + n;
      const std::int64_t t = index_of(q, r);
      const double x = cells_left + static_cast<double>(n) * cell;
      const bool real = inside(t, outputs);
      draw_cell(x, outputs_top,
                !real          ? "cell outside"
                : phase.dead() ? "cell dead"
                               : "cell",
                real ? fmt::format("y[{}]", t) : "none");
      for (std::int64_t j = 0; real && j < std::min(phase.count, window.taps); ++j) {
        const Tap tap = phase.tap(j);
        const std::int64_t i = q + tap.offset;
        fmt::format_to(
            line_out,
            "<line class=\"tap t{}{}\" data-k=\"{}\" data-x=\"{}\" data-y=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" "
            "x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
            j % kColours, inside(i, length) ? "" : " outside", tap.k, i, t, inputs_left + input_x.at(i) + cell / 2,
            inputs_top + kCell, x + cell / 2, outputs_top);
      }
    }
    const double centre = left + group / 2;
    fmt::format_to(cell_out,
                   "<text class=\"label strong\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">phase {}"
                   "</text>\n",
                   centre, list_top - 6, r);
    if (phase.dead()) {
      fmt::format_to(cell_out,
                     "<text class=\"label\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">bias only</text>\n",
                     centre, list_top + kLine - 5);
    }
    for (std::int64_t j = 0; j < std::min(phase.count, window.taps); ++j) {
      const std::string text = tap_text(phase.tap(j));
      const double y = list_top + kLine * static_cast<double>(j + 1) - 5;
      const double x = centre - (text_width(text) + 18) / 2;
      fmt::format_to(cell_out,
                     "<line class=\"key t{0}\" x1=\"{1:.1f}\" y1=\"{2:.1f}\" x2=\"{3:.1f}\" y2=\"{2:.1f}\"/>\n",
                     j % kColours, x, y - 4, x + 12);
      fmt::format_to(cell_out, "<text class=\"index\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", x + 18, y, text);
    }
  }

  auto out = std::back_inserter(svg);
  fmt::format_to(out,
                 "<svg class=\"chart\" style=\"min-width:{3:.0f}px\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
                 "height=\"{1:.0f}\" role=\"img\" "
                 "aria-labelledby=\"phases-title phases-desc\">\n<title id=\"phases-title\">Which tap feeds which "
                 "output</title>\n<desc id=\"phases-desc\">{2}</desc>\n",
                 width, height, html_text(summary(phases, window, workload)), std::min(width, kLeastWidth));
  svg +=
      "<defs><pattern id=\"hatch\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" "
      "patternTransform=\"rotate(45)\"><line class=\"hatch\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"7\"/></pattern></defs>\n";
  fmt::format_to(out, "<text class=\"label strong\" x=\"{:g}\" y=\"{:.1f}\">input</text>\n", 4.0,
                 inputs_top + kCell / 2 + 4);
  fmt::format_to(out, "<text class=\"label strong\" x=\"{:g}\" y=\"{:.1f}\">output</text>\n", 4.0,
                 outputs_top + kCell / 2 + 4);
  svg += groups;
  svg += lines;
  svg += cells;
  svg += "</svg>\n";
  return svg;
}

}  // namespace tconv::report
