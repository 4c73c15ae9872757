// The reader and the diagnosis together, on the request files that may lie in a folder beside the project.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "request/diagnose.hpp"
#include "request/request.hpp"

namespace tconv::request {
namespace {

class DiagnoseFiles : public testing::Test {
 protected:
  // The file whose name starts with `prefix`; skips the test when there is none.
  void read(const std::string& prefix) {
    const std::filesystem::path folder = std::filesystem::path(TCONV_SOURCE_DIR) / ".." / "shared" / "requests";
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
      if (!entry.path().filename().string().starts_with(prefix)) continue;
      request_ = read_request(entry.path());
      diagnosis_ = diagnose(request_, nullptr, nullptr);
      return;
    }
    GTEST_SKIP() << "no request " << prefix << "* in shared/requests beside the project";
  }

  [[nodiscard]] bool says(const std::string& text) const {
    return std::ranges::any_of(diagnosis_.units,
                               [&](const std::string& s) { return s.find(text) != std::string::npos; });
  }
  [[nodiscard]] bool aliases_the_dependency_stall() const {
    return std::ranges::any_of(diagnosis_.metric_notes, [](const MetricNote& note) {
      return note.asked.find("memory_dependency") != std::string::npos &&
             note.alias == "smsp__warp_issue_stalled_long_scoreboard_per_warp_active.pct";
    });
  }

  Request request_;
  Diagnosis diagnosis_;
};

TEST_F(DiagnoseFiles, ScalarKernel) {
  read("000");
  if (IsSkipped()) return;
  EXPECT_EQ(diagnosis_.workload.catalogue_name, "kb_l1_79");
  EXPECT_NE(diagnosis_.workload.how.find("16 x 64 x 2049"), std::string::npos) << diagnosis_.workload.how;
  ASSERT_TRUE(diagnosis_.implied_seconds && diagnosis_.gap);
  EXPECT_NEAR(*diagnosis_.implied_seconds, 11.74e-3, 0.01e-3);
  EXPECT_NEAR(100 / *diagnosis_.gap, 12.4, 0.5);
  EXPECT_TRUE(diagnosis_.disagreements.empty());
  EXPECT_TRUE(says("32 x 3 = 96 taps"));
  EXPECT_TRUE(says("50 % of the outputs are structurally zero"));
  EXPECT_TRUE(says("no tl.dot"));
  EXPECT_TRUE(says("requested 192 times"));
  EXPECT_TRUE(aliases_the_dependency_stall());
  EXPECT_GE(diagnosis_.rules.size(), 4U);
}

TEST_F(DiagnoseFiles, TiledKernel) {
  read("001");
  if (IsSkipped()) return;
  EXPECT_EQ(diagnosis_.workload.catalogue_name, "kb_l1_74");
  EXPECT_NE(diagnosis_.workload.how.find("32 x 1 x 1025"), std::string::npos) << diagnosis_.workload.how;
  EXPECT_EQ(diagnosis_.workload.config.at("BLOCK_L"), 128);
  ASSERT_TRUE(diagnosis_.implied_seconds && diagnosis_.gap);
  EXPECT_NEAR(*diagnosis_.implied_seconds, 2.65e-3, 0.01e-3);
  EXPECT_TRUE(diagnosis_.disagreements.empty());
  EXPECT_TRUE(says("15.9 of 48 warps"));
  EXPECT_FALSE(says("no tl.dot"));
  EXPECT_GE(diagnosis_.rules.size(), 5U);
}

}  // namespace
}  // namespace tconv::request
