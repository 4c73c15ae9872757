// answer.cu and answer_cuda.py as text, the grid that answer.cu computes against the solver's, and what nvcc makes of
// it.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/emit.hpp"
#include "cuda/layer.hpp"
#include "cuda/plan.hpp"
#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "util/error.hpp"
#include "util/subprocess.hpp"

namespace tconv::cuda {
namespace {

constexpr const char* kTargets[] = {"a100", "rtx3090", "rtx4090", "h200", "b200", "rtx5090"};
// Dead phases, many rows, depthwise, one output channel and a long filter, groups and padding beyond the first outputs.
constexpr const char* kWords[] = {"@kb79", "@hifigan_v1_up0", "@bigvgan_aa_up_C24", "@istft_1024_256",
                                  "b3_i12_o9_l50_k7_s3_p9_a2_d4_g3_f16_bias"};

request::Module module_with(bool bias_possible, bool has_bias) {
  return {.class_name = "ModelNew",
          .parameters = {{"c_in", "int", ""}, {"c_out", "int", ""}, {"k", "int", ""}, {"stride", "int", "1"}},
          .body = {"super().__init__()", "self.up = nn.ConvTranspose1d(c_in, c_out, k, stride)"},
          .input = "x",
          .weight = "self.up.weight",
          .bias = bias_possible ? "self.up.bias" : "",
          .stride = "stride",
          .padding = "",
          .output_padding = "",
          .dilation = "",
          .groups = "",
          .bias_possible = bias_possible,
          .has_stride = true,
          .has_bias = has_bias,
          .bias_init_note = {}};
}

Answer answer_for(const char* word, const char* target) {
  return emit(module_with(true, true), parse_workload(word), *find_target(target));
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

TEST(CudaEmit, IsSelfContained) {
  for (const char* target : kTargets) {
    for (const char* word : kWords) {
      SCOPED_TRACE(std::string(word) + " " + target);
      const std::string text = answer_for(word, target).source;
      EXPECT_EQ(count(text, "#include \""), 0U);
      EXPECT_EQ(count(text, "#pragma once"), 0U);
      EXPECT_EQ(count(text, "struct Call {"), 1U);
      EXPECT_EQ(count(text, "struct Element;"), 1U);
      EXPECT_GE(count(text, "__global__ void"), 2U);
      for (const char* entry : {"_out_length(", "_packed_bytes(", "_pack(", "_run("})
        EXPECT_EQ(count(text, std::string("conv_transpose1d") + entry), entry == std::string("_out_length(") ? 2U : 1U);
    }
  }
}

TEST(CudaEmit, IsTheSameOnEveryRun) {
  const Answer first = answer_for("@kb79", "h200"), second = answer_for("@kb79", "h200");
  EXPECT_EQ(first.source, second.source);
  EXPECT_EQ(first.drop_in, second.drop_in);
}

// A row of the table of launches.
struct Row {
  std::int64_t from, positions, tiles, blocks;
  bool persistent;
  int threads, shared_bytes, cluster;
};
std::vector<Row> rows_of(const std::string& text) {
  static const std::regex row(
      R"(\{(\d+), schedule_\d+::run, (\d+), (\d+), (\d+), (true|false), (\d+), (\d+), (\d+), \d+\},)");
  std::vector<Row> rows;
  for (std::sregex_iterator at(text.begin(), text.end(), row), end; at != end; ++at) {
    const std::smatch& m = *at;
    rows.push_back({std::stoll(m[1]), std::stoll(m[2]), std::stoll(m[3]), std::stoll(m[4]), m[5] == "true",
                    std::stoi(m[6]), std::stoi(m[7]), std::stoi(m[8])});
  }
  return rows;
}

// As conv_transpose1d_run chooses.
const Row& row_for(const std::vector<Row>& rows, std::int64_t positions) {
  const Row* fastest = rows.data();
  for (const Row& row : rows) {
    if (row.from <= positions) fastest = &row;
  }
  return *fastest;
}

TEST(CudaEmit, LaunchesAsTheSolverDoes) {
  for (const char* key : kTargets) {
    const Target& target = *find_target(key);
    for (const char* word : kWords) {
      SCOPED_TRACE(std::string(word) + " " + key);
      const Workload workload = parse_workload(word);
      const Choice choice = choose_solver(workload.problem, target);
      const std::vector<Row> rows = rows_of(answer_for(word, key).source);
      ASSERT_FALSE(rows.empty());
      EXPECT_EQ(rows.front().from, 0);
      EXPECT_TRUE(std::ranges::is_sorted(rows, {}, &Row::from));

      // The workload itself gets what a plan would run.
      const Schedule& due = choice.schedules[fastest(*choice.solver, choice.schedules, workload, target)];
      EXPECT_EQ(row_for(rows, workload.extent.batch * positions(workload)).positions, due.positions);

      for (const Extent extent :
           {workload.extent, Extent{1, workload.extent.length / 3 + 40}, Extent{5, 999}, Extent{200, 70001}}) {
        const Workload other{workload.problem, extent};
        const Row& row = row_for(rows, extent.batch * positions(other));
        const std::int64_t most = row.blocks * (row.persistent ? static_cast<std::int64_t>(target.sms.value) : 1);
        const std::int64_t tiles = extent.batch * ceil_div(positions(other), row.positions) * row.tiles;
        const std::int64_t blocks = tiles < most ? tiles : most / row.cluster * row.cluster;
        EXPECT_TRUE(std::ranges::any_of(
            choice.schedules,
            [&](const Schedule& s) {
              const Launch launch = choice.solver->launch(other, target, s);
              // Images that share a tile need fewer blocks.
              return s.positions == row.positions &&
                     (launch.blocks == blocks || (s.splits > 1 && row.persistent && launch.blocks < blocks)) &&
                     launch.threads == row.threads && launch.shared_bytes == row.shared_bytes &&
                     launch.cluster == row.cluster;
            }))
            << extent.batch << " x " << extent.length;
      }
    }
  }
}

// No layer's solver launches by a rule that the file does not know, which would be a defect.
TEST(CudaEmit, ServesTheCatalogue) {
  for (const char* target : {"h200", "rtx4090"}) {
    for (const CatalogueEntry& entry : catalogue()) {
      SCOPED_TRACE(std::string(entry.name) + " " + target);
      const Answer answer = emit(module_with(true, true), entry.workload, *find_target(target));
      EXPECT_FALSE(rows_of(answer.source).empty());
      EXPECT_GT(answer.seconds, 0);
    }
  }
}

TEST(CudaEmit, TheBiasIsTheModules) {
  const Target& target = *find_target("h200");
  const auto drop_in = [&](bool possible, bool free) {
    return emit(module_with(possible, free), parse_workload("@kb79"), target).drop_in;
  };
  const std::string never = drop_in(false, false), always = drop_in(true, false), either = drop_in(true, true);
  EXPECT_EQ(count(never, "\", True): "), 0U);
  EXPECT_EQ(count(always, "\", False): "), 0U);
  EXPECT_GE(count(never, "\", False): "), 5U);
  EXPECT_EQ(count(always, "\", True): "), count(never, "\", False): "));
  EXPECT_EQ(count(either, "\", True): "), count(either, "\", False): "));
  EXPECT_NE(emit(module_with(true, false), parse_workload("@kb79"), target).source.find("NEEDS_BIAS = true"),
            std::string::npos);
}

struct Kind {
  const char* name;  // of the test
  const char* word;
  const char* target;
};
std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.word << " for " << kind.target; }

class CudaEmitted : public testing::TestWithParam<Kind> {};

// By the very command that the file gives.
TEST_P(CudaEmitted, CompilesAlone) {
  const std::string text = answer_for(GetParam().word, GetParam().target).source;
  std::string folder = (std::filesystem::temp_directory_path() / "tconv_emit_XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string file = folder + "/answer.cu";
  std::ofstream(file) << text;
  std::smatch command;
  ASSERT_TRUE(std::regex_search(text, command, std::regex(R"(//     (nvcc .*) answer\.cu\n)")));
  std::istringstream words(command[1]);
  std::vector<std::string> argv;
  for (std::string word; words >> word;) argv.push_back(word);
  argv.insert(argv.end(), {"-Werror", "all-warnings", file, "-o", folder + "/answer.o"});
  ProcessResult result;
  std::string absent;
  try {
    result = run_process(argv, "", std::chrono::minutes(14));
  } catch (const Error& error) {
    absent = error.what();
  }
  std::filesystem::remove_all(folder);
  if (!absent.empty()) GTEST_SKIP() << absent;
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

INSTANTIATE_TEST_SUITE_P(Targets, CudaEmitted,
                         testing::Values(Kind{"a100", "@kb79", "a100"}, Kind{"rtx3090", "@kb79", "rtx3090"},
                                         Kind{"rtx4090", "@kb79", "rtx4090"}, Kind{"h200", "@kb79", "h200"},
                                         Kind{"b200", "@kb79", "b200"}, Kind{"rtx5090", "@kb79", "rtx5090"},
                                         Kind{"depthwise", "@bigvgan_aa_up_C24", "l4"},
                                         Kind{"f16_bias", "b1_i512_o256_l862_k16_s8_p4_f16_bias", "h100"},
                                         Kind{"f64_groups", "b3_i12_o9_l50_k7_s3_p2_d4_g3_f64", "a100"}),
                         [](const auto& kind) { return std::string(kind.param.name); });

}  // namespace
}  // namespace tconv::cuda
