#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "report/drawings.hpp"
#include "report/format.hpp"
#include "report_fixture.hpp"
#include "report_xml.hpp"

namespace tconv::report {
namespace {

using test::Element;
using test::has_class;
using test::Markup;

struct Drawn {
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> taps;  // k, i, t
  std::size_t lines = 0;
  std::set<std::int64_t> outputs, dead;
};

Drawn read_phases(const Workload& workload) {
  const Markup markup = test::read_markup(phases_svg(workload));
  EXPECT_EQ(markup.error, "");
  Drawn out;
  bool dead = false;
  for (const Element& element : markup.elements) {
    if (has_class(element, "tap")) {
      ++out.lines;
      out.taps.emplace(std::stoll(element.attributes.at("data-k")), std::stoll(element.attributes.at("data-x")),
                       std::stoll(element.attributes.at("data-y")));
    }
    if (has_class(element, "cell")) dead = has_class(element, "dead");
    if (element.name == "text" && element.text.starts_with("y[")) {
      const std::int64_t t = std::stoll(element.text.substr(2));
      out.outputs.insert(t);
      if (dead) out.dead.insert(t);
    }
  }
  return out;
}

class PhasePicture : public testing::TestWithParam<const char*> {};

// Against the definition, i*stride - padding + k*dilation == t, not against Phases.
TEST_P(PhasePicture, DrawsEveryTapOfEveryOutputShown) {
  const Workload workload = parse_workload(GetParam());
  const Problem& p = workload.problem;
  const Drawn drawn = read_phases(workload);
  ASSERT_TRUE(phase_window(workload).all_taps);
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> expected;
  for (const std::int64_t t : drawn.outputs) {
    bool reached = false;
    for (std::int64_t k = 0; k < p.kernel; ++k) {
      const std::int64_t reach = t + p.padding - k * p.dilation;
      if (reach % p.stride != 0) continue;
      expected.emplace(k, reach / p.stride, t);
      reached = true;
    }
    EXPECT_EQ(drawn.dead.contains(t), !reached) << "y[" << t << "]";
  }
  EXPECT_EQ(drawn.taps, expected);
  EXPECT_EQ(drawn.lines, expected.size());
}

TEST_P(PhasePicture, DrawsAsManyLinesAsPhasesSays) {
  const Workload workload = parse_workload(GetParam());
  const Phases phases(workload.problem);
  const PhaseWindow window = phase_window(workload);
  std::int64_t expected = 0;
  for (std::int64_t r = 0; r < window.residues; ++r) expected += phases.phase(r).count * window.positions;
  EXPECT_EQ(static_cast<std::int64_t>(read_phases(workload).lines), expected);
}

INSTANTIATE_TEST_SUITE_P(Layers, PhasePicture,
                         testing::Values("b16_i32_o64_l131072_k3_s2_p1_d2_tf32", "i512_o256_l862_k16_s8_p4_tf32_bias",
                                         "i768_o768_l3762_k12_s2_g768", "i32_o64_l131072_k5_s1_d3_tf32",
                                         "i2_o2_l100_k2_s5", "i2_o2_l100_k3_s6_d4_p2", "i4_o4_l4096_k1024_s256_p512",
                                         "i1_o1_l50_k1_s1"));

TEST(PhaseWindow, SaysWhatItLeavesOut) {
  const PhaseWindow wide = phase_window(parse_workload("i1_o1_l9000_k4096_s2"));
  EXPECT_FALSE(wide.all_taps);
  EXPECT_TRUE(wide.all_residues);
  EXPECT_LE(wide.inputs.size(), 20u);
  const Workload many = parse_workload("i1_o1_l90_k512_s512");
  EXPECT_FALSE(phase_window(many).all_residues);
  EXPECT_NE(phases_svg(many).find("first 8 phases"), std::string::npos);
}

// Every sweep ends, stays small, and draws no output that does not exist.
TEST(PhaseWindow, StaysWithinTheTensorsForManyProblems) {
  for (std::int64_t stride = 1; stride <= 9; ++stride) {
    for (std::int64_t kernel = 1; kernel <= 17; kernel += 4) {
      for (std::int64_t dilation = 1; dilation <= 4; ++dilation) {
        for (const std::int64_t length : {1, 3, 400}) {
          Workload workload;
          workload.problem = {.c_in = 1, .c_out = 1, .kernel = kernel, .stride = stride, .dilation = dilation};
          workload.extent.length = length;
          workload.problem.padding = std::min<std::int64_t>(2, (dilation * (kernel - 1)) / 2);
          const PhaseWindow window = phase_window(workload);
          EXPECT_LE(window.inputs.size(), 20u);
          EXPECT_GE(window.positions, 1);
          const std::int64_t outputs = out_length(workload.problem, length);
          for (const std::int64_t t : read_phases(workload).outputs) {
            EXPECT_GE(t, 0);
            EXPECT_LT(t, outputs);
          }
        }
      }
    }
  }
}

TEST(PhaseWindow, HugeDilationStaysDrawable) {
  const Workload workload = parse_workload("i1_o1_l10_k9_s3_d1000003");
  const Drawn drawn = read_phases(workload);
  EXPECT_FALSE(drawn.outputs.empty());
  EXPECT_LE(phase_window(workload).inputs.size(), 20u);
}

struct Box {
  double left, right, baseline;
  std::string text;
};

// Labels of the roofline that are not rotated, with a generous guess of their widths.
std::vector<Box> labels(const Markup& markup) {
  std::vector<Box> out;
  for (const Element& element : markup.elements) {
    if (element.name != "text" || element.attributes.contains("transform")) continue;
    const double width = 6.4 * static_cast<double>(columns(element.text));
    const double x = std::stod(element.attributes.at("x"));
    const auto anchor = element.attributes.find("text-anchor");
    const double left = anchor == element.attributes.end() ? x : anchor->second == "end" ? x - width : x - width / 2;
    out.push_back({left, left + width, std::stod(element.attributes.at("y")), element.text});
  }
  return out;
}

TEST(Roofline, LabelsNeitherOverlapNorLeaveThePicture) {
  for (const Target& target : target_sheets()) {
    for (const char* word : {"b16_i32_o64_l131072_k3_s2_p1_d2_tf32", "i512_o256_l862_k16_s8_p4_f16_bias",
                             "i768_o768_l3762_k12_s2_g768", "b64_i128_o128_l65536_k3_tf32", "i1_o1_l1_k1",
                             "i2048_o2048_l100000_k64_s2_bf16", "i8_o8_l1000_k4_s2_f64", "i8_o8_l1000_k4_s2_i32"}) {
      for (const double slower : {1.0, 1.02, 8.0, 3000.0}) {
        const auto made = test::report_case(word, target.key);
        made->diagnosis.implied_seconds = made->plan.limit.seconds * slower;
        const Markup markup = test::read_markup(roofline_svg(gather(made->answer)));
        ASSERT_EQ(markup.error, "");
        const double width = std::stod(markup.elements.front().attributes.at("width"));
        const double height = std::stod(markup.elements.front().attributes.at("height"));
        const std::vector<Box> boxes = labels(markup);
        ASSERT_GE(boxes.size(), 8u);
        for (std::size_t i = 0; i < boxes.size(); ++i) {
          EXPECT_GE(boxes[i].left, 0) << boxes[i].text;
          EXPECT_LE(boxes[i].right, width) << target.key << ' ' << word << ' ' << boxes[i].text;
          EXPECT_LE(boxes[i].baseline, height) << boxes[i].text;
          for (std::size_t j = 0; j < i; ++j) {
            const bool apart = boxes[i].left >= boxes[j].right || boxes[j].left >= boxes[i].right ||
                               std::abs(boxes[i].baseline - boxes[j].baseline) >= 12;
            EXPECT_TRUE(apart) << target.key << ' ' << word << ": '" << boxes[i].text << "' on '" << boxes[j].text
                               << "'";
          }
        }
      }
    }
  }
}

TEST(Roofline, PointsLieAtTheirRates) {
  const auto made = test::report_case(test::kKernelBench79, "rtx4090");
  const std::string svg = roofline_svg(gather(made->answer));
  const double flops = made->plan.limit.work.useful_flops;
  for (const double seconds :
       {*made->diagnosis.implied_seconds, made->plan.chosen[0].seconds, made->plan.limit.seconds}) {
    EXPECT_NE(svg.find(quantity_text(flops / seconds, "FLOP/s")), std::string::npos);
  }
}

TEST(Roofline, LeavesOutWhatAnotherMachineTook) {
  const auto made = test::report_case(test::kKernelBench79, "h200");
  EXPECT_NE(roofline_svg(gather(made->answer)).find("current kernel"), std::string::npos);
  made->diagnosis.target_overridden = true;
  EXPECT_EQ(roofline_svg(gather(made->answer)).find("current kernel"), std::string::npos);
}

}  // namespace
}  // namespace tconv::report
