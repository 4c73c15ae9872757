#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "report/drawings.hpp"
#include "report/format.hpp"

namespace tconv::report {
namespace {

constexpr double kLeft = 92, kRight = 740, kTop = 12, kBottom = 400;  // the plot, in pixels
constexpr double kWidth = 960, kHeight = 456;
constexpr double kLineHeight = 17;
constexpr double kBesidePoints = 300;  // room for the labels of points
constexpr double kBelowPoints = 76;    // room for the labels of points that coincide

// A logarithmic axis over whole decades.
struct Axis {
  int low = 0, high = 1;    // powers of ten
  double from = 0, to = 1;  // pixels
  [[nodiscard]] double at(double value) const {
    return from + (std::log10(value) - low) / static_cast<double>(high - low) * (to - from);
  }
};

struct Ceiling {
  double rate = 0;  // flop/s
  std::string label, value;
  bool binding = true;  // part of the limit
};

struct Point {
  double rate = 0;
  std::string_view key;
  std::string label;
  double y = 0, label_y = 0;
};

int decade_below(double value) { return static_cast<int>(std::floor(std::log10(value))); }
int decade_above(double value) { return static_cast<int>(std::ceil(std::log10(value))); }

std::vector<Ceiling> ceilings(const Facts& facts) {
  const Arithmetic arithmetic = facts.workload.problem.arithmetic;
  const double achieved = achievable_flops(facts.target, arithmetic);
  const double peak = peak_flops(facts.target, arithmetic).value;
  const double ffma = facts.target.fp32_flops.value;
  std::vector<Ceiling> out;
  // On some chips the matrix unit is no faster than FFMA in this arithmetic: one line then says both.
  const bool same = std::abs(achieved / ffma - 1) < 0.02;
  // f32 on the matrix unit, which no peak of f32 bounds.
  const bool three_terms = arithmetic == Arithmetic::f32 && achieved > peak;
  const std::string unit = three_terms                     ? "f32 in 3 TF32"
                           : arithmetic == Arithmetic::f32 ? "FFMA"
                                                           : std::string(name(arithmetic)) + (same ? " and FFMA" : "");
  out.push_back({achieved, unit + ", achievable",
                 three_terms
                     ? quantity_text(achieved, "FLOP/s")
                     : fmt::format("{} of {}", quantity_text(achieved, "FLOP/s"), quantity_text(peak, "FLOP/s")),
                 true});
  if (!same && (three_terms || arithmetic != Arithmetic::f32))
    out.push_back({ffma, "FFMA, no matrix unit", quantity_text(ffma, "FLOP/s"), false});
  std::sort(out.begin(), out.end(), [](const Ceiling& a, const Ceiling& b) { return a.rate > b.rate; });
  return out;
}

std::vector<Point> points(const Facts& facts) {
  const double flops = facts.plan.limit.work.useful_flops;
  std::vector<Point> out;
  for (const TimeRow& row : facts.times) {
    if (!row.seconds || row.other_machine || !(*row.seconds > 0)) continue;
    const double rate = flops / *row.seconds;
    out.push_back({rate, row.key,
                   fmt::format("{}{}: {}, {}", row.name, row.key == "answer" ? " (predicted)" : "",
                               seconds_text(*row.seconds), quantity_text(rate, "FLOP/s"))});
  }
  std::sort(out.begin(), out.end(), [](const Point& a, const Point& b) { return a.rate > b.rate; });
  return out;
}

std::string marker(const Point& point, double x) {
  if (point.key == "limit") {
    return fmt::format("<path class=\"mark {}\" d=\"M{:.1f} {:.1f}l8 8l-8 8l-8 -8z\"/>\n", point.key, x, point.y - 8);
  }
  if (point.key == "current") {
    return fmt::format("<rect class=\"mark {}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"12\"/>\n", point.key,
                       x - 6, point.y - 6);
  }
  return fmt::format("<circle class=\"mark {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"6\"/>\n", point.key, x, point.y);
}

std::string tick_text(int decade, std::string_view unit) {
  if (unit.empty()) return decade < 6 ? fmt::format("{:g}", std::pow(10.0, decade)) : fmt::format("1e{}", decade);
  const int prefix = static_cast<int>(std::floor(decade / 3.0));
  const std::string scaled = quantity_text(std::pow(1000.0, prefix), unit);  // "1.00 TFLOP/s"
  return number_text(std::pow(10.0, decade - 3 * prefix)) + scaled.substr(scaled.find(' '));
}

}  // namespace

std::string roofline_svg(const Facts& facts) {
  const Work& work = facts.plan.limit.work;
  // No useful product (every tap lands outside the input) has no place on a logarithmic chart.
  if (!(work.useful_flops > 0) || !(work.bytes() > 0) || !(facts.limit > 0)) return "";
  const double intensity = work.useful_flops / work.bytes();
  std::vector<Ceiling> tops = ceilings(facts);
  std::vector<Point> marks = points(facts);

  // Room to the right of the points for their labels, room to the left for the slope to be seen.
  const double ridge = tops.front().rate / facts.dram;
  Axis x{decade_below(std::min(intensity / 3, ridge / 12)), decade_above(std::max(intensity, ridge * 4)), kLeft,
         kRight};
  while (x.at(intensity) + kBesidePoints > kRight) ++x.high;
  const int top = decade_above(tops.front().rate * 1.1);
  Axis y{std::min(decade_below(std::min(marks.back().rate, tops.back().rate)), top - 3), top, kBottom, kTop};
  while (y.at(marks.back().rate) + kBelowPoints > kBottom) --y.low;
  const double slope_start = std::max(std::pow(10.0, x.low), std::pow(10.0, y.low) / facts.dram);

  std::string svg;
  auto out = std::back_inserter(svg);
  fmt::format_to(out,
                 "<svg class=\"chart\" style=\"min-width:720px\" viewBox=\"0 0 {0:g} {1:g}\" width=\"{0:g}\" "
                 "height=\"{1:g}\" role=\"img\" "
                 "aria-labelledby=\"roof-title roof-desc\">\n<title id=\"roof-title\">Roofline of {2}</title>\n"
                 "<desc id=\"roof-desc\">The workload has {3:.3g} useful FLOP per byte that must move.",
                 kWidth, kHeight, html_text(facts.target.display), intensity);
  for (const Point& mark : marks) fmt::format_to(out, " {}.", html_text(mark.label));
  svg += "</desc>\n";

  // Grid.
  for (int decade = x.low; decade <= x.high; ++decade) {
    const double at = x.at(std::pow(10.0, decade));
    fmt::format_to(out, "<line class=\"grid\" x1=\"{0:.1f}\" y1=\"{1:g}\" x2=\"{0:.1f}\" y2=\"{2:g}\"/>\n", at, kTop,
                   kBottom);
    fmt::format_to(out, "<text class=\"tick\" x=\"{:.1f}\" y=\"{:g}\" text-anchor=\"middle\">{}</text>\n", at,
                   kBottom + 19, tick_text(decade, ""));
  }
  for (int decade = y.low; decade <= y.high; ++decade) {
    const double at = y.at(std::pow(10.0, decade));
    fmt::format_to(out, "<line class=\"grid\" x1=\"{0:g}\" y1=\"{1:.1f}\" x2=\"{2:g}\" y2=\"{1:.1f}\"/>\n", kLeft, at,
                   kRight);
    fmt::format_to(out, "<text class=\"tick\" x=\"{:g}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft - 8,
                   at + 4, tick_text(decade, "FLOP/s"));
  }
  fmt::format_to(out,
                 "<text class=\"axis\" x=\"{:g}\" y=\"{:g}\" text-anchor=\"middle\">useful FLOP per byte that "
                 "must move</text>\n",
                 (kLeft + kRight) / 2, kBottom + 44);

  // Ceilings, each from its own ridge; labels in the right margin, pushed apart.
  double label_y = 0;
  for (const Ceiling& ceiling : tops) {
    const double at = y.at(ceiling.rate);
    label_y = std::max(at - 3, label_y);
    fmt::format_to(out, "<line class=\"roof{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:g}\" y2=\"{:.1f}\"/>\n",
                   ceiling.binding ? "" : " minor", x.at(ceiling.rate / facts.dram), at, kRight, at);
    fmt::format_to(out, "<path class=\"leader\" d=\"M{:g} {:.1f}L{:g} {:.1f}\"/>\n", kRight + 1, at, kRight + 12,
                   label_y);
    fmt::format_to(out,
                   "<text class=\"label\" x=\"{0:g}\" y=\"{1:.1f}\">{2}<tspan class=\"value\" x=\"{0:g}\" dy=\"15\">"
                   "{3}</tspan></text>\n",
                   kRight + 16, label_y + 4, html_text(ceiling.label), html_text(ceiling.value));
    label_y += 2 * kLineHeight + 4;
  }
  const double bend = tops.front().rate;
  const double x1 = x.at(slope_start), y1 = y.at(slope_start * facts.dram);
  const double x2 = x.at(bend / facts.dram), y2 = y.at(bend);
  fmt::format_to(out, "<line class=\"roof\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", x1, y1, x2,
                 y2);
  const double angle = std::atan2(y2 - y1, x2 - x1);
  // The label sits above the longer part of the slope that the points leave free.
  const double split = std::clamp(x.at(intensity), x1, x2);
  const double along = ((split - x1 > x2 - split ? x1 + split : split + x2) / 2 - x1) / (x2 - x1);
  const double middle_x = x1 + along * (x2 - x1) + 10 * std::sin(angle);
  const double middle_y = y1 + along * (y2 - y1) - 10 * std::cos(angle);
  fmt::format_to(out,
                 "<text class=\"label\" text-anchor=\"middle\" transform=\"translate({:.1f} {:.1f}) rotate({:.1f})\">"
                 "DRAM, achievable {}</text>\n",
                 middle_x, middle_y, angle * 180 / 3.14159265358979, html_text(quantity_text(facts.dram, "B/s")));

  // Points, all at the workload's intensity.
  const double at_x = x.at(intensity);
  fmt::format_to(out, "<line class=\"intensity\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:g}\"/>\n", at_x,
                 y.at(marks.front().rate), kBottom);
  fmt::format_to(out, "<text class=\"tick halo\" x=\"{:.1f}\" y=\"{:g}\" text-anchor=\"end\">{:.3g} FLOP/B</text>\n",
                 at_x - 7, kBottom - 8, intensity);
  double below = kTop;
  for (Point& mark : marks) {
    mark.y = y.at(mark.rate);
    mark.label_y = std::max(mark.y + 14, below);
    below = mark.label_y + kLineHeight;
  }
  for (const Point& mark : marks) {
    fmt::format_to(out, "<path class=\"leader\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>\n", at_x, mark.y, at_x + 25,
                   mark.label_y);
  }
  for (auto mark = marks.rbegin(); mark != marks.rend(); ++mark) svg += marker(*mark, at_x);
  for (const Point& mark : marks) {
    fmt::format_to(out, "<text class=\"label halo {}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", mark.key, at_x + 29,
                   mark.label_y + 4, html_text(mark.label));
  }
  svg += "</svg>\n";
  return svg;
}

}  // namespace tconv::report
