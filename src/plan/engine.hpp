// What the plans of both engines (cpu, cuda) do alike: choose a solver from their table, and refuse a call.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "problem/layer.hpp"
#include "problem/problem.hpp"
#include "util/error.hpp"

namespace tconv::plan {

struct PassedOver {
  std::string_view solver;
  std::string why;
};

template <typename Solver>
struct Chosen {
  const Solver* solver = nullptr;  // null where none serves
  const Solver* forced = nullptr;
  std::vector<PassedOver> passed_over;
};

// The first solver of the table for which `refuse` has no reason, or the one of a name that is not empty; throws
// Error(usage) for a name that is none, with what it has none `where`.
template <typename Solver, typename Refuse>
[[nodiscard]] Chosen<Solver> choose(std::span<const Solver* const> table, std::string_view name, std::string_view where,
                                    const Refuse& refuse) {
  Chosen<Solver> chosen;
  std::string names;
  for (const Solver* solver : table) {
    if (solver->name == name) chosen.forced = solver;
    names += (names.empty() ? "" : ", ") + std::string(solver->name);
  }
  if (!name.empty() && chosen.forced == nullptr)
    throw Error(Exit::usage, "solver", fmt::format("has no such name{}", where), "one of: " + names);
  for (const Solver* solver : table) {
    if (chosen.forced != nullptr && solver != chosen.forced) {
      chosen.passed_over.push_back({solver->name, fmt::format("'{}' was asked for", name)});
    } else if (std::optional<std::string> why = refuse(*solver)) {
      chosen.passed_over.push_back({solver->name, std::move(*why)});
    } else {
      chosen.solver = solver;
      break;
    }
  }
  return chosen;
}

// Throws Error(usage | unsupported) for a call (kernels/call.h) that no plan of the layer can run. False: there is
// nothing to run.
template <typename Call>
[[nodiscard]] bool require_call(const Layer& layer, const Call& call) {
  const Problem& problem = layer.problem;
  const Extent extent{.batch = call.batch, .length = call.length};
  require_valid(problem, extent);
  if (const std::int64_t due = out_length(problem, extent.length); call.out_length != due)
    throw Error(Exit::usage, "run", fmt::format("an output length of {} is given", call.out_length),
                fmt::format("{} inputs make {}", extent.length, due));
  if (extent.batch == 0) return false;
  if (call.x == nullptr || call.w == nullptr || call.y == nullptr)
    throw Error(Exit::usage, "run", "a pointer is null", "x, the packed weights and y");
  if (problem.bias != (call.bias != nullptr))
    throw Error(Exit::usage, "run", problem.bias ? "the bias is null" : "a bias is given",
                problem.bias ? "the plan's problem has a bias" : "the plan's problem has none");
  if ((layer.before == Activation::snake) != (call.x_alpha != nullptr) ||
      (layer.after == Activation::snake) != (call.y_alpha != nullptr))
    throw Error(Exit::usage, "run", "alphas are given without snake, or snake without them",
                "one alpha a channel for snake, null otherwise");
  return true;
}

// Likewise for a packing of weights.
template <typename Pack>
void require_pack(const Pack& call) {
  if (call.w == nullptr || call.packed == nullptr)
    throw Error(Exit::usage, "pack", "a pointer is null", "the weights and the packed buffer");
}

}  // namespace tconv::plan
