// Triton's compiler on an answer, for GPUs that are not here: what it reports, and what it says when it cannot.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "problem/grammar.hpp"
#include "request/request.hpp"
#include "triton/compile.hpp"
#include "triton/emit.hpp"
#include "util/error.hpp"
#include "util/subprocess.hpp"

namespace tconv::triton {
namespace {

struct Answer {
  plan::Plan plan;
  std::string text;
};

Answer answer_for(const std::string& word, const char* target) {
  static const request::Request request = request::read_request(std::filesystem::path(TCONV_SOURCE_DIR) / "examples" /
                                                                "requests" / "rtx4090_naive_vocoder.txt");
  Answer answer{.plan = plan::plan_triton(parse_workload(word), *find_target(target), {}), .text = {}};
  answer.text = emit(request.code.module, answer.plan);
  return answer;
}

class Compile : public testing::Test {
 protected:
  void SetUp() override {
    const std::string python = find_python();
    if (python.empty() || run_process({python, "-c", "import triton"}, "", std::chrono::minutes(1)).exit_code != 0) {
      GTEST_SKIP() << "no Python with triton; scripts/test installs it";
    }
  }
};

TEST_F(Compile, ReportsWhatTheKernelTakes) {
  for (const char* word : {"@hifigan_v2_up3", "b1_i16_o16_l999_k5_s3_d3_bias_f16", "@bigvgan_aa_up_C24"}) {
    for (const char* target : {"rtx4090", "h200"}) {
      SCOPED_TRACE(std::string(word) + " " + target);
      const Answer answer = answer_for(word, target);
      const CompileResult result = compile(answer.text, answer.plan);
      ASSERT_EQ(result.compiled.size(), 1U) << result.why_not;
      const Compiled& one = result.compiled.front();
      EXPECT_EQ(one.schedule, answer.plan.chosen.front().schedule);
      EXPECT_GE(one.registers, 16);
      EXPECT_LE(one.registers, answer.plan.target->registers_per_thread.value);
      EXPECT_LE(one.shared_memory, answer.plan.target->smem_per_block.value);
      EXPECT_GE(one.occupancy.blocks_per_sm, 1);
      EXPECT_EQ(one.spills, 0);
      EXPECT_FALSE(one.triton_version.empty());
    }
  }
}

// A schedule that the planner refuses because it spills does: the refusal is no guess.
TEST_F(Compile, SeesSpills) {
  Answer answer = answer_for("b1_i64_o64_l999_k4_s4_d4_tf32", "rtx4090");
  plan::Schedule& s = answer.plan.chosen.front().schedule;
  s = {.block_rows = 64, .phases = 1, .block_positions = 256, .block_channels = 16, .warps = 4, .stages = 2};
  const CompileResult result = compile(answer.text, answer.plan);
  ASSERT_EQ(result.compiled.size(), 1U);
  EXPECT_GT(result.compiled.front().spills, 0);
}

TEST_F(Compile, RefusesAnAnswerThatDoesNotCompile) {
  const Answer answer = answer_for("@hifigan_v2_up3", "rtx4090");
  std::string broken = answer.text;
  const std::string call = "tl.dot(w, x, acc";
  broken.replace(broken.find(call), call.size(), "tl.dot(w, w, acc");
  for (const std::string& text : {broken, std::string("raise ValueError('broken')\n")}) {
    try {
      (void)compile(text, answer.plan);
      FAIL() << "compiled";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit(), Exit::defect);
      EXPECT_NE(std::string(error.what()).find("compile"), std::string::npos);
    }
  }
}

TEST(CompileWithoutTriton, SaysWhatToInstall) {
  const char* before = std::getenv("TCONV_PYTHON");
  const std::string kept = before == nullptr ? "" : before;
  // -S -I: no site-packages, so no triton, whatever this Python has.
  const auto folder = std::filesystem::temp_directory_path() / ("tconv_compile_test_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const auto bare = folder / "python";
  {
    std::ofstream script(bare);
    script << "#!/bin/sh\nexec python3 -S -I \"$@\"\n";
  }
  std::filesystem::permissions(bare, std::filesystem::perms::owner_all);
  ::setenv("TCONV_PYTHON", bare.c_str(), 1);
  const Answer answer = answer_for("@hifigan_v2_up3", "rtx4090");
  const CompileResult result = compile(answer.text, answer.plan);
  if (before == nullptr) {
    ::unsetenv("TCONV_PYTHON");
  } else {
    ::setenv("TCONV_PYTHON", kept.c_str(), 1);
  }
  std::filesystem::remove_all(folder);
  EXPECT_TRUE(result.compiled.empty());
  EXPECT_NE(result.why_not.find("pip install torch"), std::string::npos) << result.why_not;
}

}  // namespace
}  // namespace tconv::triton
