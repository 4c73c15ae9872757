// tconv check: the kernels of the CPU or a GPU of this machine against the float64 reference.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "check_runs.hpp"
#include "cpu/plan.hpp"
#include "cuda/plan.hpp"
#include "device.hpp"
#include "problem/grammar.hpp"
#include "shared.hpp"
#include "util/text.hpp"
#include "verbs.hpp"
#include "verify/cases.hpp"
#include "verify/number.hpp"
#include "verify/verify.hpp"

namespace tconv::tool {
namespace {

struct Options {
  std::vector<std::string> words;
  std::string solver;
  std::vector<std::string> arithmetics;
  std::string device;
  std::int64_t cases = 0;
  std::uint64_t seed = 0;
  bool seed_given = false;
  bool json = false;
};

// On the CPU, those that must leave the same bits.
constexpr std::array kThreads{1, 2, 3, 10};

verify::Engine engine_of(const cuda::Plan& plan) {
  // These sum in IEEE arithmetic; any other is taken for a user of the matrix units.
  const std::string_view name = plan.solver().name;
  return name == cuda::kDirect.name || name == cuda::kDepthwise.name ? verify::Engine::ieee
                                                                     : verify::Engine::tensor_cores;
}

struct Totals {
  std::int64_t cases = 0, failed = 0, refused = 0;
  double worst_ratio = 0;
  std::vector<std::string> failures;
};

// Counts and tells what was checked of one case.
class Teller {
 public:
  Teller(const Options& options, const verify::Case& c, Totals& totals, Progress& progress)
      : options_(options), c_(c), totals_(totals), progress_(progress) {}
  void add(std::string_view kernel, const Checked& checked) {
    ++totals_.cases;
    totals_.worst_ratio = std::max(totals_.worst_ratio, checked.ratio);
    if (checked.fault.empty()) return;
    ++totals_.failed;
    std::string around;
    if (c_.before != Activation::none) around += fmt::format(", {} before", name(c_.before));
    if (c_.after != Activation::none) around += fmt::format(", {} after", name(c_.after));
    tell(fmt::format("{}, {}, x {}{}: {}", kernel, verify::name(c_.data), verify::name(c_.layout), around,
                     checked.fault));
  }
  void tell(std::string_view what) {
    totals_.failures.push_back(printable(fmt::format("tconv check {} --device {} --seed {}: {}",
                                                     print_word(c_.workload), options_.device, c_.seed, what),
                                         2000));
    progress_.done();
    if (!options_.json) print_result(totals_.failures.back());  // at once, for a run may be cut short
  }

 private:
  const Options& options_;
  const verify::Case& c_;
  Totals& totals_;
  Progress& progress_;
};

Layer layer_of(const verify::Case& c) {
  return {.problem = c.workload.problem,
          .before = c.before,
          .after = c.after,
          .before_parameter = c.before_parameter,
          .after_parameter = c.after_parameter};
}

void check_cuda(const Options& options, int device, const verify::Case& c, Teller& teller) {
  const cuda::Plan plan(layer_of(c), device, options.solver);
  const verify::Tensors tensors = verify::make_tensors(c);
  const verify::Expected expected = verify::expect(c, tensors, engine_of(plan));
  const std::vector<cuda::Plan::Compiled> all = plan.compiled();
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto run = [&](const Call& call) {
      plan.run(i, call, nullptr);
      cuda::check(cuda::driver().cuCtxSynchronize(), "cuCtxSynchronize");
    };
    const Runnable kernel{.packed_bytes = plan.packed_bytes(),
                          .pack = [&](const Pack& call) { plan.pack(call, nullptr); },
                          .runs = {run, run}};
    teller.add(fmt::format("{} {}", plan.solver().name, cuda::print(all[i].schedule)),
               check_runs<DeviceMemory>(kernel, c, tensors, expected));
  }
}

// A name that no solver has would leave nothing to check.
void require_cpu_solver(const std::string& name) {
  std::vector<std::string_view> names;
  for (const cpu::Solver* solver : cpu::solvers()) names.push_back(solver->name);
  if (std::ranges::find(names, name) == names.end())
    throw Error(Exit::usage, "--solver", fmt::format("there is no '{}' on the CPU", printable(name)),
                fmt::format("one of: {}", fmt::join(names, ", ")));
}

// Every solver that serves the layer, or the one asked for, on every instruction set.
void check_cpu(const Options& options, const verify::Case& c, Teller& teller) {
  static const std::vector<std::string> sets = cpu::instruction_sets();
  const Layer layer = layer_of(c);
  const verify::Tensors tensors = verify::make_tensors(c);
  const verify::Expected expected = verify::expect(c, tensors, verify::Engine::ieee);
  for (const cpu::Solver* solver : cpu::solvers()) {
    if (options.solver.empty() ? solver->refuse(layer).has_value() : solver->name != options.solver) continue;
    const cpu::Plan plan(layer, solver->name);
    std::string packed;
    for (std::size_t i = 0; i < sets.size(); ++i) {
      cpu::use_instruction_set(sets[i]);
      Runnable kernel{.packed_bytes = plan.packed_bytes(),
                      .pack = [&](const Pack& call) { plan.pack(call, static_cast<int>(i) + 1); },
                      .runs = {}};
      for (const int threads : kThreads)
        kernel.runs.emplace_back([&plan, threads](const Call& call) { plan.run(call, threads); });
      Checked checked = check_runs<HostMemory>(kernel, c, tensors, expected);
      if (i == 0) packed = checked.packed;
      if (checked.fault.empty() && checked.packed != packed)
        checked.fault = "the packed weights are not those of " + sets[0];
      teller.add(fmt::format("{} {}", solver->name, sets[i]), checked);
    }
    cpu::use_instruction_set(sets[0]);
  }
}

void check_case(const Options& options, const Device& device, verify::Case c, Totals& totals, Progress& progress) {
  verify::draw_activations(c);
  Teller teller(options, c, totals, progress);
  try {
    if (device) {
      check_cuda(options, *device, c, teller);
    } else {
      check_cpu(options, c, teller);
    }
  } catch (const Error& error) {
    // A forced solver refuses most random layers; without one, none may be refused.
    if (error.exit() == Exit::unsupported && !options.solver.empty() && options.words.empty()) {
      ++totals.refused;
      return;
    }
    // A failed launch leaves the context unusable, so nothing after it would tell more.
    if (error.exit() != Exit::no_device) ++totals.failed, ++totals.cases;
    teller.tell(error.what());
    if (error.exit() == Exit::no_device) throw;
  }
}

// Constructor roles are free: every problem is asked of the engine.
verify::Interface any_problem(const std::vector<std::string>& names) {
  verify::Interface all;
  for (verify::Interface::Role* role : {&all.c_in, &all.c_out, &all.kernel, &all.stride, &all.padding,
                                        &all.output_padding, &all.dilation, &all.groups, &all.bias})
    role->argument = "free";
  for (const std::string& name : names) all.arithmetics.push_back(*arithmetic_named(name));
  if (names.empty())
    all.arithmetics = {Arithmetic::f32,  Arithmetic::tf32, Arithmetic::f16,
                       Arithmetic::bf16, Arithmetic::f64,  Arithmetic::i32};
  return all;
}

Exit run(Options options) {
  const Device device = choose_device(options.device);
  options.device = device ? std::to_string(*device) : "cpu";
  std::optional<UsedDevice> used;
  if (device) {
    used.emplace(*device);
  } else if (!options.solver.empty()) {
    require_cpu_solver(options.solver);
  }
  const std::uint64_t seed = options.seed_given ? options.seed : std::random_device{}();
  std::vector<verify::Case> cases;
  const std::int64_t count = options.cases > 0 ? options.cases : options.words.empty() ? 100 : 4;
  if (options.words.empty()) {
    const verify::Interface interface = any_problem(options.arithmetics);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t own = seed + static_cast<std::uint64_t>(i);
      cases.push_back(
          verify::make_case(verify::draw_workload(interface, {.arithmetics = interface.arithmetics}, own), own));
    }
  }
  for (const std::string& word : options.words) {
    const Workload workload = parse_workload(word);
    verify::require_verifiable(workload);
    // A line of a failing case repeats that case; otherwise a few seeds meet every kind of data and layout.
    for (std::int64_t i = 0; i < (options.seed_given && options.cases == 0 ? 1 : count); ++i)
      cases.push_back(verify::make_case(workload, seed + static_cast<std::uint64_t>(i)));
  }
  Totals totals;
  Progress progress(cases.size());
  for (const verify::Case& c : cases) {
    progress.next(print_word(c.workload));
    check_case(options, device, c, totals, progress);
  }
  progress.done();
  const nlohmann::ordered_json json = {{"device", options.device},   {"seed", seed},
                                       {"checked", totals.cases},    {"failed", totals.failed},
                                       {"refused", totals.refused},  {"worst_error_over_bound", totals.worst_ratio},
                                       {"failures", totals.failures}};
  print_result(options.json
                   ? json.dump(2)
                   : fmt::format("seed {}: {} layers, {} runs checked, {} failed, {} layers refused by the "
                                 "solver, worst error {:.3f} of its bound",
                                 seed, cases.size(), totals.cases, totals.failed, totals.refused, totals.worst_ratio));
  return totals.failed == 0 ? Exit::ok : Exit::check_failed;
}

}  // namespace

void add_check(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("check", "Run the kernels of the CPU or a GPU of this machine against a float64 reference");
  verb->add_option("WORD", options->words, "Layers with their lengths; random ones without");
  add_device(verb, options->device);
  verb->add_option("--solver", options->solver, "This solver instead of the first that serves a layer");
  verb->add_option("--cases", options->cases, "How many random layers, or how many seeds of each WORD")
      ->check(CLI::Range(1, 1000000));
  verb->add_option("--dtype", options->arithmetics, "Only these arithmetics of random layers")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "tf32", "f16", "bf16", "f64", "i32"}));
  verb->add_flag("--json", options->json, "JSON on standard output");
  CLI::Option* seed = verb->add_option("--seed", options->seed, "Case i has seed N + i; random when not given");
  verb->callback([options, seed, &action] {
    options->seed_given = seed->count() > 0;
    action = [options] { return run(*options); };
  });
}

}  // namespace tconv::tool
