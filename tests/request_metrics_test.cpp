#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "request/metrics.hpp"
#include "util/error.hpp"

namespace tconv::request {
namespace {

constexpr std::string_view kDependency = "smsp__warp_issue_stalled_memory_dependency_per_warp_active.pct";
constexpr std::string_view kLongScoreboard = "smsp__warp_issue_stalled_long_scoreboard_per_warp_active.pct";

KernelMetrics one(const std::string& name, double value) { return {"k", {{name, value}}, {}}; }

TEST(Metrics, FindsByBaseWithAndWithoutRollup) {
  ASSERT_NE(find_metric("sm__throughput.avg.pct_of_peak_sustained_elapsed", 89), nullptr);
  EXPECT_EQ(find_metric("sm__throughput", 90), find_metric("sm__throughput.avg.pct_of_peak_sustained_elapsed", 90));
  EXPECT_EQ(find_metric("sm__throughpu", 89), nullptr);
  EXPECT_EQ(find_metric("", 89), nullptr);
}

TEST(Metrics, EveryRowIsFoundUnderItsOwnName) {
  for (const MetricFact& fact : metric_facts()) {
    const MetricFact* found = find_metric(fact.base, fact.first_sm);
    EXPECT_EQ(found, &fact) << fact.base;
    EXPECT_FALSE(fact.meaning.empty()) << fact.base;
    EXPECT_FALSE(fact.unit.empty()) << fact.base;
    if (fact.kind == MetricKind::absent || fact.kind == MetricKind::deprecated) {
      EXPECT_FALSE(fact.why.empty()) << fact.base;
    }
    if (!fact.replacement.empty()) {
      EXPECT_FALSE(fact.rollup.empty()) << fact.base;
      const MetricFact* other = find_metric(fact.replacement, fact.first_sm);
      EXPECT_TRUE(other == nullptr || other->kind == MetricKind::counter)
          << "an alias must exist: " << fact.replacement;
    }
  }
}

TEST(Metrics, TensorPipeIsDeprecatedOnAdaOnly) {
  EXPECT_EQ(find_metric("sm__inst_executed_pipe_tensor", 89)->kind, MetricKind::deprecated);
  EXPECT_EQ(find_metric("sm__inst_executed_pipe_tensor", 80)->kind, MetricKind::counter);
  EXPECT_EQ(find_metric("sm__inst_executed_pipe_tensor", 90)->kind, MetricKind::counter);
}

TEST(Metrics, NameAndTargetFromStageText) {
  EXPECT_EQ(metric_name("`sm__warps_active.avg.pct_of_peak_sustained_active`: Warp occupancy (target: >50%)"),
            "sm__warps_active.avg.pct_of_peak_sustained_active");
  EXPECT_EQ(metric_name("- launch__grid_size"), "launch__grid_size");
  EXPECT_EQ(metric_name("see lts__t_sector_hit_rate.pct."), "lts__t_sector_hit_rate.pct");
  EXPECT_EQ(metric_name("occupancy"), "");
  const auto above = metric_target("sm__throughput.avg (target: >60%)");
  ASSERT_TRUE(above);
  EXPECT_TRUE(above->above);
  EXPECT_EQ(above->threshold, 60);
  const auto below = metric_target("x.pct (<20%)");
  ASSERT_TRUE(below);
  EXPECT_FALSE(below->above);
  EXPECT_EQ(below->threshold, 20);
  EXPECT_EQ(metric_target("x (\u2265 60.5 %)")->threshold, 60.5);
  EXPECT_FALSE(metric_target("x.pct"));
  EXPECT_FALSE(metric_target("x.pct (> nothing)"));
}

TEST(Metrics, RefusesImpossiblePercentages) {
  const auto refused = [](const std::string& name, double value) {
    try {
      require_possible(one(name, value), "r.txt");
    } catch (const Error& error) {
      EXPECT_EQ(error.exit(), Exit::usage);
      EXPECT_EQ(error.where(), "r.txt");
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
      return true;
    }
    return false;
  };
  EXPECT_TRUE(refused("lts__t_sector_hit_rate.pct", 100.01));
  EXPECT_TRUE(refused("sm__throughput.avg.pct_of_peak_sustained_elapsed", -0.01));
  EXPECT_TRUE(refused("anything.pct", 1e300));
  EXPECT_FALSE(refused("lts__t_sector_hit_rate.pct", 0));
  EXPECT_FALSE(refused("lts__t_sector_hit_rate.pct", 100));
  EXPECT_FALSE(refused("launch__grid_size", 2098176));
  EXPECT_FALSE(refused("dram__bytes.sum.per_second", 1e12));
  EXPECT_FALSE(refused("lts__t_sector_hit_rate.pct", std::numeric_limits<double>::infinity()));
  EXPECT_FALSE(refused("lts__t_sector_hit_rate.pct", std::numeric_limits<double>::quiet_NaN()));
}

TEST(Metrics, ValueByBase) {
  KernelMetrics metrics{
      "k", {{"sm__throughput.avg.pct", 3}, {"sm__throughput_other.avg", 5}, {"z__inf.pct", HUGE_VAL}}, {}};
  EXPECT_EQ(metric_value(metrics, "sm__throughput"), 3);
  EXPECT_EQ(metric_value(metrics, "sm__throughput_other"), 5);
  EXPECT_FALSE(metric_value(metrics, "sm__through"));
  EXPECT_FALSE(metric_value(metrics, "z__inf"));
}

TEST(Metrics, NotesTheCounterThatNoChipHas) {
  Stage stage;
  stage.metrics = {"dram__throughput.avg.pct_of_peak_sustained_elapsed", std::string(kDependency) + " (<20%)"};
  const KernelMetrics metrics = one("dram__throughput.avg.pct_of_peak_sustained_elapsed", 11.34);
  for (const int sm : {70, 80, 89, 90, 100, 120}) {
    const auto notes = metric_notes(stage, &metrics, sm);
    ASSERT_EQ(notes.size(), 1U);
    EXPECT_EQ(notes[0].asked, kDependency);
    EXPECT_EQ(notes[0].alias, kLongScoreboard);
    EXPECT_NE(notes[0].why.find("Volta"), std::string::npos);
    EXPECT_NE(notes[0].why.find("does not carry it"), std::string::npos);
  }
}

TEST(Metrics, NotesNullInfiniteUnknownAndMissing) {
  Stage stage;
  stage.metrics = {"launch__grid_size"};
  KernelMetrics metrics{"k", {{"lts__t_sector_hit_rate.pct", HUGE_VAL}, {"my__metric.avg", 1}}, {"sm__throughput.avg"}};
  const auto notes = metric_notes(stage, &metrics, 89);
  ASSERT_EQ(notes.size(), 4U);
  EXPECT_EQ(notes[0].asked, "launch__grid_size");
  EXPECT_NE(notes[0].why.find("not a counter"), std::string::npos);
  EXPECT_EQ(notes[1].asked, "lts__t_sector_hit_rate.pct");
  EXPECT_NE(notes[1].why.find("finite"), std::string::npos);
  EXPECT_EQ(notes[2].asked, "my__metric.avg");
  EXPECT_EQ(notes[3].asked, "sm__throughput.avg");
  EXPECT_EQ(metric_notes(stage, nullptr, 89).size(), 1U);
  EXPECT_TRUE(metric_notes(Stage{}, nullptr, 89).empty());
}

TEST(Metrics, HostileNamesArePrintedSafely) {
  KernelMetrics metrics = one("a\x1b[31m__b\n" + std::string(5000, 'x'), 1);
  const auto notes = metric_notes(Stage{}, &metrics, 89);
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_LT(notes[0].asked.size(), 200U);
  EXPECT_EQ(notes[0].asked.find('\x1b'), std::string::npos);
  EXPECT_EQ(notes[0].asked.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace tconv::request
