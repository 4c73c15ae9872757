// The choice of a solver, and on a GPU a plan's checks of a call.
#include <gtest/gtest.h>

#include <optional>
#include <string_view>

#include "cuda/plan.hpp"
#include "util/error.hpp"

namespace tconv::cuda {
namespace {

const Problem kProblem{.c_in = 8, .c_out = 4, .kernel = 5, .stride = 2, .padding = 1};

Exit refusal(auto body) {
  try {
    body();
  } catch (const Error& error) {
    return error.exit();
  }
  return Exit::ok;
}

TEST(ChooseSolver, SaysWhyOthersWerePassedOver) {
  const Choice choice = choose_solver(kProblem, *find_target("h200"), "direct");
  EXPECT_EQ(choice.solver, &kDirect);
  ASSERT_FALSE(choice.schedules.empty());
  EXPECT_EQ(choice.passed_over.size(), solvers().size() - 1);
  for (const plan::PassedOver& passed : choice.passed_over) EXPECT_FALSE(passed.why.empty()) << passed.solver;
}

TEST(ChooseSolver, EveryArithmeticIsServed) {
  for (const Arithmetic arithmetic :
       {Arithmetic::f32, Arithmetic::tf32, Arithmetic::f16, Arithmetic::bf16, Arithmetic::f64, Arithmetic::i32}) {
    Problem problem = kProblem;
    problem.arithmetic = arithmetic;
    for (const Target& target : target_sheets()) EXPECT_NE(choose_solver(problem, target).solver, nullptr);
  }
}

TEST(ChooseSolver, AnUnknownNameIsTheCallersFault) {
  EXPECT_EQ(refusal([] { (void)choose_solver(kProblem, *find_target("h200"), "nothing"); }), Exit::usage);
  EXPECT_EQ(refusal([] { (void)choose_solver(Problem{}, *find_target("h200")); }), Exit::unsupported);
  EXPECT_EQ(refusal([] { (void)choose_solver(kProblem, *find_target("h200"), "depthwise"); }), Exit::unsupported);
}

// In the words of every engine, and before a device is looked for.
TEST(Plan, RefusesALayerAsItsWordsSay) {
  Layer layer{.problem = kProblem, .after = Activation::tanh};
  layer.problem.arithmetic = Arithmetic::i32;
  try {
    const Plan plan(layer, 0);
    ADD_FAILURE() << "planned";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::unsupported);
    EXPECT_NE(std::string_view(error.what()).find(refuse(layer)->what), std::string_view::npos) << error.what();
  }
}

TEST(Plan, ChecksACallBeforeItLaunches) {
  std::optional<Plan> plan;
  try {
    plan.emplace(Layer{.problem = kProblem, .before = Activation::snake}, 0);
  } catch (const Error& error) {
    if (error.exit() == Exit::no_device) GTEST_SKIP() << error.what();
    throw;
  }
  EXPECT_GT(plan->packed_bytes(), 0);
  EXPECT_LT(plan->choose({.batch = 1, .length = 9}), plan->compiled().size());
  Call call{};
  call.batch = 1;
  call.length = 9;
  call.out_length = out_length(kProblem, 9);
  EXPECT_EQ(refusal([&] { plan->run(call, nullptr); }), Exit::usage);  // null pointers
  float memory = 0;
  call.x = call.w = &memory;
  call.y = &memory;
  EXPECT_EQ(refusal([&] { plan->run(call, nullptr); }), Exit::usage);  // snake without its alphas
  call.batch = 0;
  EXPECT_EQ(refusal([&] { plan->run(call, nullptr); }), Exit::ok);
  call.out_length += 1;
  EXPECT_EQ(refusal([&] { plan->run(call, nullptr); }), Exit::usage);
  call.length = -1;
  EXPECT_EQ(refusal([&] { plan->run(call, nullptr); }), Exit::unsupported);
  EXPECT_EQ(refusal([&] { plan->pack({}, nullptr); }), Exit::usage);
}

}  // namespace
}  // namespace tconv::cuda
