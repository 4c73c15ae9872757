// tconv compile WORD --target NAME: every schedule of the chosen solver compiled, without a GPU.
#include "cuda/compile.hpp"

#include <fmt/format.h>

#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cuda/plan.hpp"
#include "problem/grammar.hpp"
#include "shared.hpp"
#include "verbs.hpp"

namespace tconv::tool {
namespace {

struct Options {
  std::string word;
  std::string target;
  std::string solver;
  bool json = false;
};

Exit run(const Options& options) {
  const Target& target = require_target(options.target);
  const Word word = parse_word(options.word);
  // Shared memory does not depend on the length; the grid is not shown where none is given.
  Workload workload = word.workload;
  if (!word.has_length) workload.extent = {.batch = 1, .length = 4096 + 2 * workload.problem.padding};
  const Problem& problem = workload.problem;
  const cuda::Choice choice = cuda::choose_solver(problem, target, options.solver);
  const std::string architecture = cuda::architecture_of(target.sm);

  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string text = fmt::format("{} for {}: {}\n", print_word(problem), architecture, choice.solver->name);
  auto to = std::back_inserter(text);
  for (const cuda::Schedule& schedule : choice.schedules) {
    const cuda::Cubin cubin =
        cuda::compile(choice.solver->source({.problem = problem}, target, schedule), architecture);
    const cuda::Launch launch = choice.solver->launch(workload, target, schedule);
    const int shared = launch.shared_bytes + cubin.static_shared_bytes;
    const Occupancy resident = occupancy(target, cubin.registers, shared, launch.threads);
    fmt::format_to(to,
                   "{}: {} threads{}, {} registers, {} bytes spilled, {} bytes of stack, {} bytes of shared memory, {} "
                   "blocks on an SM by {}, {} bytes of code{}\n",
                   cuda::print(schedule), launch.threads,
                   launch.cluster > 1 ? fmt::format(" in clusters of {}", launch.cluster) : "", cubin.registers,
                   cubin.spill_bytes, cubin.stack_bytes, shared, resident.blocks_per_sm, resident.limited_by,
                   cubin.bytes.size(), cubin.cached ? ", cached" : "");
    rows.push_back({{"schedule",
                     {{"positions", schedule.positions},
                      {"rows", schedule.rows},
                      {"stages", schedule.stages},
                      {"weight_stages", schedule.weight_stages},
                      {"warpgroups", schedule.warpgroups},
                      {"splits", schedule.splits}}},
                    {"threads", launch.threads},
                    {"cluster", launch.cluster},
                    {"registers", cubin.registers},
                    {"spill_bytes", cubin.spill_bytes},
                    {"stack_bytes", cubin.stack_bytes},
                    {"shared_bytes", shared},
                    {"blocks_per_sm", resident.blocks_per_sm},
                    {"limited_by", std::string(resident.limited_by)},
                    {"code_bytes", cubin.bytes.size()},
                    {"cached", cubin.cached}});
  }
  nlohmann::ordered_json passed = nlohmann::ordered_json::array();
  for (const plan::PassedOver& other : choice.passed_over) {
    fmt::format_to(to, "not {}: {}\n", other.solver, other.why);
    passed.push_back({{"solver", std::string(other.solver)}, {"why", other.why}});
  }
  const nlohmann::ordered_json out = {{"problem", print_word(problem)},
                                      {"architecture", architecture},
                                      {"solver", std::string(choice.solver->name)},
                                      {"schedules", rows},
                                      {"passed_over", passed}};
  print_result(options.json ? out.dump(2) : text);
  return Exit::ok;
}

}  // namespace

void add_compile(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("compile", "Compile every schedule of a layer's CUDA kernel, without a GPU");
  verb->add_option("WORD", options->word, "i32_o64_k3_s2_p1_d2_tf32, or @name of the catalogue")->required();
  verb->add_option("--target", options->target, "The GPU, such as h200 or rtx4090")->required();
  verb->add_option("--solver", options->solver, "This solver instead of the first that serves the layer");
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace tconv::tool
