#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "util/error.hpp"
#include "util/subprocess.hpp"

namespace tconv {
namespace {

using namespace std::chrono_literals;

TEST(RunProcess, ReturnsOutputErrorAndExitCode) {
  const auto result = run_process({"sh", "-c", "echo out; echo err >&2; exit 7"}, "", 10s);
  EXPECT_EQ(result.out, "out\n");
  EXPECT_EQ(result.err, "err\n");
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_FALSE(result.timed_out);
}

TEST(RunProcess, PassesArgumentsWithoutAShell) {
  const auto result = run_process({"printf", "%s", "a b; $HOME `x`"}, "", 10s);
  EXPECT_EQ(result.out, "a b; $HOME `x`");
}

// cat fills its output pipe long before it has read its input.
TEST(RunProcess, DoesNotDeadlockOnLargeInputAndOutput) {
  const std::string big(8u << 20, 'x');
  const auto result = run_process({"cat"}, big, 60s);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(result.out == big);
}

TEST(RunProcess, DropsOutputBeyondTheCap) {
  const auto result = run_process({"sh", "-c", "head -c 1000000 /dev/zero"}, "", 60s, 1000);
  EXPECT_EQ(result.out.size(), 1000u);
  EXPECT_EQ(result.exit_code, 0);
}

TEST(RunProcess, SurvivesAChildThatDoesNotReadItsInput) {
  const auto result = run_process({"true"}, std::string(4u << 20, 'x'), 60s);
  EXPECT_EQ(result.exit_code, 0);
}

TEST(RunProcess, KillsAtTheTimeout) {
  const auto start = std::chrono::steady_clock::now();
  const auto result = run_process({"sleep", "60"}, "", 200ms);
  EXPECT_TRUE(result.timed_out);
  EXPECT_EQ(result.exit_code, 128 + SIGKILL);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 20s);
}

TEST(RunProcess, NamesAProgramThatCannotBeStarted) {
  try {
    (void)run_process({"/nonexistent/program"}, "", 1s);
    FAIL() << "started a program that does not exist";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::no_device);
    EXPECT_EQ(error.where(), "/nonexistent/program");
  }
}

TEST(RunProcess, ReportsTheSignalOfAKilledChild) {
  EXPECT_EQ(run_process({"sh", "-c", "kill -SEGV $$"}, "", 10s).exit_code, 128 + SIGSEGV);
}

TEST(Child, AnswersLineByLine) {
  Child child({"cat"}, {});
  for (const std::string line : {"one", "", "three"}) {
    child.write_line(line);
    EXPECT_EQ(child.read_line(10s), line);
  }
}

TEST(Child, HandsOutLinesThatArriveTogether) {
  Child child({"sh", "-c", "printf 'a\\nb\\nc\\n'"}, {});
  EXPECT_EQ(child.read_line(10s), "a");
  EXPECT_EQ(child.read_line(10s), "b");
  EXPECT_EQ(child.read_line(10s), "c");
}

TEST(Child, SetsAndReplacesEnvironment) {
  ASSERT_EQ(::setenv("TCONV_TEST_VARIABLE", "old", 1), 0);
  Child child({"sh", "-c", "echo $TCONV_TEST_VARIABLE"}, {{"TCONV_TEST_VARIABLE", "new"}});
  EXPECT_EQ(child.read_line(10s), "new");
}

TEST(Child, ReportsTheLastWordsOfADeadChild) {
  Child child({"sh", "-c", "echo 'no such device' >&2; exit 3"}, {});
  try {
    (void)child.read_line(10s);
    FAIL() << "read a line of a child that wrote none";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::check_failed);
    const std::string what = error.what();
    EXPECT_NE(what.find("exit code 3"), std::string::npos) << what;
    EXPECT_NE(what.find("no such device"), std::string::npos) << what;
  }
}

TEST(Child, ReportsAChildThatDoesNotAnswer) {
  Child child({"sleep", "60"}, {});
  EXPECT_THROW((void)child.read_line(100ms), Error);
}

// The error pipe holds 64 KiB: a child that fills it must not hang.
TEST(Child, DrainsStandardErrorWhileItWaits) {
  Child child({"sh", "-c", "head -c 1000000 /dev/zero >&2; echo done"}, {});
  EXPECT_EQ(child.read_line(30s), "done");
}

TEST(Child, WritingToADeadChildDoesNotKillUs) {
  Child child({"true"}, {});
  EXPECT_THROW((void)child.read_line(10s), Error);
  child.write_line(std::string(1u << 20, 'x'));
  EXPECT_THROW((void)child.read_line(10s), Error);
}

TEST(FindPython, PrefersTheVariable) {
  ASSERT_EQ(::setenv("TCONV_PYTHON", "/some/python", 1), 0);
  EXPECT_EQ(find_python(), "/some/python");
  ::unsetenv("TCONV_PYTHON");
  EXPECT_NE(find_python(), "/some/python");
}

TEST(FindPython, FindsOneThatRuns) {
  const std::string python = find_python();
  if (python.empty()) GTEST_SKIP() << "no Python on this machine";
  EXPECT_EQ(run_process({python, "-c", "print(6*7)"}, "", 60s).out, "42\n");
}

}  // namespace
}  // namespace tconv
