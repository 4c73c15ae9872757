#include "request/grid.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv::request {
namespace {

constexpr std::int64_t kMaxX = 2147483647;  // CUDA: gridDim.x up to 2^31-1, gridDim.y and .z up to 2^16-1
constexpr std::int64_t kMaxYz = 65535;
constexpr double kMaxExact = 9007199254740992.0;  // 2^53: beyond, a JSON number is no exact count

std::string launch_text(const Launch* launch) {
  return launch == nullptr || launch->grid_text.empty() ? "the grid" : "the grid " + printable(launch->grid_text, 160);
}

std::string axes_text(const std::vector<std::int64_t>& axes) { return fmt::format("{}", fmt::join(axes, " x ")); }

std::string meta_text(const Meta& meta) {
  std::vector<std::string> parts;
  for (const auto& [key, value] : meta) parts.push_back(fmt::format("{}={}", printable(key, 40), value));
  return fmt::format("{}", fmt::join(parts, ", "));
}

// The entries that every meta has with the same value: what the grid implies when several configs fit.
Meta agreed(const std::vector<Meta>& metas) {
  Meta common = metas.front();
  for (const Meta& meta : metas) {
    std::erase_if(common, [&](const auto& entry) {
      const auto other = meta.find(entry.first);
      return other == meta.end() || other->second != entry.second;
    });
  }
  return common;
}

struct Fit {
  std::vector<std::int64_t> axes;
  std::vector<Meta> metas;  // those that give exactly this many programs
};

// Empty metas when none fits; absent when nothing could be evaluated.
std::optional<Fit> fit(const Launch& launch, const std::vector<Meta>& metas, const Workload& workload,
                       std::int64_t programs) {
  Fit result;
  bool evaluated = false;
  for (const Meta& meta : metas) {
    auto axes = grid_of(launch, meta, workload);
    if (!axes) continue;
    evaluated = true;
    if (product(*axes) != programs) continue;
    if (result.metas.empty()) result.axes = std::move(*axes);
    result.metas.push_back(meta);
  }
  return evaluated ? std::optional(std::move(result)) : std::nullopt;
}

// The part of the grid that no workload can change, and whether there is any other part.
struct FixedPart {
  std::int64_t programs = 1;
  bool free = false;
};
std::optional<FixedPart> fixed_part(const Launch& launch, const Meta& meta) {
  FixedPart part;
  for (const GridAxis& axis : launch.grid) {
    for (const GridFactor& factor : axis.factors) {
      if (factor.size == GridSize::one) continue;
      if (factor.size != GridSize::constant) {
        part.free = true;
        continue;
      }
      const auto block = block_of(factor, meta);
      if (!block || factor.constant < 1) return std::nullopt;
      const std::int64_t count = (factor.constant - 1) / *block + 1;
      if (__builtin_mul_overflow(part.programs, count, &part.programs)) return std::nullopt;
    }
  }
  return part;
}

void require_producible(const Request& request, const Launch& launch, const std::vector<Meta>& metas,
                        std::int64_t programs) {
  if (launch.grid.empty()) return;
  for (const Meta& meta : metas) {
    const auto part = fixed_part(launch, meta);
    if (!part || (part->free ? programs % part->programs == 0 : programs == part->programs)) return;
  }
  throw Error(Exit::usage, request.path,
              fmt::format("launch__grid_size is {}, which {} gives for no workload", programs, launch_text(&launch)),
              "the metrics must be of the current code");
}

std::string factors_text(std::int64_t n) {
  // Trial division is cut off: the cofactor of a count past 2^40 is printed as it is.
  constexpr std::int64_t kLargestTrial = 1 << 20;
  std::vector<std::int64_t> factors;
  for (std::int64_t p = 2; p <= kLargestTrial && p * p <= n; ++p) {
    for (; n % p == 0; n /= p) factors.push_back(p);
  }
  if (n > 1 || factors.empty()) factors.push_back(n);
  return fmt::format("{}", fmt::join(factors, " x "));
}

// What each axis still says when no catalogue workload fits.
std::string hint(const Launch& launch, const std::vector<Meta>& metas, std::int64_t programs) {
  std::vector<std::string> divisors;
  for (const GridAxis& axis : launch.grid) {
    for (const GridFactor& factor : axis.factors) {
      const auto block = metas.size() == 1 ? block_of(factor, metas.front()) : std::nullopt;
      const std::string divided =
          factor.block.empty()
              ? ""
              : fmt::format(" in blocks of {}", block ? std::to_string(*block) : printable(factor.block));
      switch (factor.size) {
        case GridSize::batch:
          divisors.push_back("the batch" + divided);
          break;
        case GridSize::c_out:
          divisors.push_back("C_out" + divided);
          break;
        case GridSize::c_in:
          divisors.push_back("C_in" + divided);
          break;
        case GridSize::out_length:
          divisors.push_back("L_out" + divided);
          break;
        case GridSize::in_length:
          divisors.push_back("L_in" + divided);
          break;
        case GridSize::stride:
          divisors.push_back("the stride" + divided);
          break;
        case GridSize::groups:
          divisors.push_back("the groups" + divided);
          break;
        case GridSize::one:
        case GridSize::constant:
        case GridSize::unknown:
          break;
      }
    }
  }
  if (divisors.empty()) return "";
  return fmt::format("; {} = {}, to be shared out between {}", programs, factors_text(programs),
                     fmt::join(divisors, ", "));
}

std::optional<std::int64_t> literal(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

// One number of a problem, as a module's constructor treats it.
struct Role {
  std::string_view name;
  bool chosen;  // by the caller
  const std::string& expression;
  std::int64_t neutral;  // what it is where the code does not mention it
  std::int64_t Problem::*value;
};

std::array<Role, 5> roles(const Module& module) {
  return {{{"stride", module.has_stride, module.stride, 1, &Problem::stride},
           {"padding", module.has_padding, module.padding, 0, &Problem::padding},
           {"output_padding", module.has_output_padding, module.output_padding, 0, &Problem::output_padding},
           {"dilation", module.has_dilation, module.dilation, 1, &Problem::dilation},
           {"groups", module.has_groups, module.groups, 1, &Problem::groups}}};
}

// Absent where the caller chooses it, or an expression that is no plain number does.
std::optional<std::int64_t> fixed_at(const Role& role) {
  if (role.chosen) return std::nullopt;
  return role.expression.empty() ? std::optional(role.neutral) : literal(role.expression);
}

bool bias_by_default(const Module& module) {
  if (!module.has_bias) return module.bias_possible;
  return std::ranges::any_of(module.parameters, [](const Parameter& parameter) {
    return parameter.name == "bias" && parameter.default_value == "True";
  });
}

WorkloadGuess given_workload(const Request& request, const Launch* launch, const std::vector<Meta>& metas,
                             std::optional<std::int64_t> programs, const Workload& given) {
  require_valid(given.problem, given.extent);
  if (const auto why = inexpressible(request.code.module, given.problem)) {
    throw Error(Exit::usage, request.path, fmt::format("workload {}: {}", print_word(given), *why),
                "the answer keeps the constructor of the code it replaces");
  }
  WorkloadGuess guess;
  guess.workload = given;
  if (!programs) {
    guess.how = "given by the user; the request carries no launch__grid_size to check it against";
    return guess;
  }
  const auto found = launch == nullptr ? std::nullopt : fit(*launch, metas, given, *programs);
  if (!found) {
    guess.how = fmt::format("given by the user; {} could not be evaluated, so launch__grid_size {} was not checked",
                            launch_text(launch), *programs);
    return guess;
  }
  if (found->metas.empty()) {
    std::vector<std::string> counts;
    for (const Meta& meta : metas) {
      const auto axes = grid_of(*launch, meta, given);
      if (axes) counts.push_back(axes_text(*axes));
    }
    counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
    throw Error(Exit::usage, request.path,
                fmt::format("launch__grid_size is {}, and {} gives {} for workload {}", *programs, launch_text(launch),
                            fmt::join(counts, " or "), print_word(given)),
                "the metrics must be of the workload given");
  }
  guess.config = agreed(found->metas);
  guess.how = fmt::format("given by the user; launch__grid_size {} = {} agrees with {}", *programs,
                          axes_text(found->axes), launch_text(launch));
  return guess;
}

}  // namespace

std::vector<Meta> launch_metas(const Launch& launch, const Kernel* kernel) {
  if (kernel == nullptr || kernel->autotune.empty()) {
    Meta meta = launch.meta;
    if (launch.num_warps > 0) meta["num_warps"] = launch.num_warps;
    if (launch.num_stages > 0) meta["num_stages"] = launch.num_stages;
    return {meta};
  }
  std::vector<Meta> metas;
  for (const AutotuneConfig& config : kernel->autotune) {
    Meta meta = config.meta;
    meta.insert(launch.meta.begin(), launch.meta.end());
    if (config.num_warps > 0) meta["num_warps"] = config.num_warps;
    if (config.num_stages > 0) meta["num_stages"] = config.num_stages;
    metas.push_back(std::move(meta));
  }
  return metas;
}

std::optional<std::int64_t> block_of(const GridFactor& factor, const Meta& meta) {
  if (factor.block_value > 0) return factor.block_value;
  if (factor.block.empty()) return 1;
  const auto found = meta.find(factor.block);
  if (found == meta.end() || found->second < 1) return std::nullopt;
  return found->second;
}

std::optional<std::vector<std::int64_t>> grid_of(const Launch& launch, const Meta& meta, const Workload& workload) {
  if (launch.grid.empty()) return std::nullopt;
  const auto size_of = [&](const GridFactor& factor) -> std::optional<std::int64_t> {
    switch (factor.size) {
      case GridSize::one:
        return 1;
      case GridSize::batch:
        return workload.extent.batch;
      case GridSize::c_out:
        return workload.problem.c_out;
      case GridSize::c_in:
        return workload.problem.c_in;
      case GridSize::out_length:
        return out_length(workload.problem, workload.extent.length);
      case GridSize::in_length:
        return workload.extent.length;
      case GridSize::stride:
        return workload.problem.stride;
      case GridSize::groups:
        return workload.problem.groups;
      case GridSize::constant:
        return factor.constant;
      case GridSize::unknown:
        return std::nullopt;
    }
    return std::nullopt;
  };
  std::vector<std::int64_t> axes;
  for (const GridAxis& axis : launch.grid) {
    std::int64_t count = 1;
    for (const GridFactor& factor : axis.factors) {
      const auto size = size_of(factor);
      const auto block = block_of(factor, meta);
      if (!size || !block || *size < 0) return std::nullopt;
      const std::int64_t blocks = *size / *block + (*size % *block != 0 ? 1 : 0);
      if (__builtin_mul_overflow(count, blocks, &count)) return std::nullopt;
    }
    axes.push_back(count);
  }
  return axes;
}

std::optional<std::int64_t> product(const std::vector<std::int64_t>& axes) {
  std::int64_t count = 1;
  for (const std::int64_t axis : axes) {
    if (__builtin_mul_overflow(count, axis, &count)) return std::nullopt;
  }
  return count;
}

std::int64_t axis_limit(std::size_t axis) noexcept { return axis == 0 ? kMaxX : kMaxYz; }

std::int64_t program_count(double grid_size, const Launch* launch, const std::string& path) {
  const auto refuse_it = [&](std::string_view rule) {
    throw Error(Exit::usage, path, fmt::format("launch__grid_size is {}", grid_size), std::string(rule));
  };
  if (!(grid_size > 0) || std::floor(grid_size) != grid_size)
    refuse_it("a launch has a whole number of programs, at least 1");
  const std::size_t axes = launch == nullptr || launch->grid.empty() ? 3 : launch->grid.size();
  double most = static_cast<double>(kMaxX);
  for (std::size_t axis = 1; axis < std::min<std::size_t>(axes, 3); ++axis) most *= static_cast<double>(kMaxYz);
  if (grid_size > std::min(most, kMaxExact)) {
    refuse_it(fmt::format("CUDA launches at most 2147483647 programs on x and 65535 on y and z; this grid has {} {}",
                          axes, axes == 1 ? "axis" : "axes"));
  }
  return static_cast<std::int64_t>(grid_size);
}

std::optional<std::string> inexpressible(const Module& module, const Problem& problem) {
  for (const Role& role : roles(module)) {
    const auto fixed = fixed_at(role);
    if (fixed && *fixed != problem.*role.value)
      return fmt::format("its {} is {}, and the module fixes it at {}", role.name, problem.*role.value, *fixed);
  }
  if (problem.bias && !module.bias_possible) return "it has a bias, and the module has none";
  return std::nullopt;
}

Problem as_fixed(const Module& module, Problem problem) {
  for (const Role& role : roles(module)) problem.*role.value = fixed_at(role).value_or(problem.*role.value);
  problem.bias = problem.bias && module.bias_possible;
  return problem;
}

WorkloadGuess guess_workload(const Request& request, const Launch* launch, const Kernel* kernel,
                             std::optional<std::int64_t> programs, const Workload* given) {
  const std::vector<Meta> metas = launch == nullptr ? std::vector<Meta>{} : launch_metas(*launch, kernel);
  if (programs && launch != nullptr) require_producible(request, *launch, metas, *programs);
  if (given != nullptr) return given_workload(request, launch, metas, programs, *given);

  WorkloadGuess guess;
  if (!programs) {
    guess.how = "unknown: the request carries no launch__grid_size, and no workload was given";
    return guess;
  }
  if (launch == nullptr || launch->grid.empty()) {
    guess.how = fmt::format("unknown: {} was not understood, so launch__grid_size {} says nothing of the sizes",
                            launch_text(launch), *programs);
    return guess;
  }

  struct Match {
    const CatalogueEntry* entry;
    Fit found;
  };
  std::vector<Match> matches;
  std::vector<std::string> refused;
  for (const CatalogueEntry& entry : catalogue()) {
    auto found = fit(*launch, metas, entry.workload, *programs);
    if (!found || found->metas.empty()) continue;
    if (const auto why = inexpressible(request.code.module, entry.workload.problem)) {
      refused.push_back(fmt::format("{} ({})", entry.name, *why));
    } else {
      matches.push_back({&entry, std::move(*found)});
    }
  }
  if (matches.empty()) {
    guess.how = fmt::format("unknown: {} gives {} programs for no workload of the catalogue{}", launch_text(launch),
                            *programs, hint(*launch, metas, *programs));
    guess.also = std::move(refused);
    return guess;
  }
  // A profile is usually taken with the constructor's defaults.
  const bool bias = bias_by_default(request.code.module);
  std::stable_partition(matches.begin(), matches.end(),
                        [&](const Match& m) { return m.entry->workload.problem.bias == bias; });
  const Match& best = matches.front();
  guess.workload = best.entry->workload;
  guess.catalogue_name = best.entry->name;
  guess.config = agreed(best.found.metas);
  guess.how = fmt::format("launch__grid_size {} = {}: {} at {} ({}{})", *programs, axes_text(best.found.axes),
                          launch_text(launch), best.entry->name, print_word(best.entry->workload),
                          guess.config.empty() ? "" : "; " + meta_text(guess.config));
  for (std::size_t i = 1; i < matches.size(); ++i) guess.also.emplace_back(matches[i].entry->name);
  guess.also.insert(guess.also.end(), refused.begin(), refused.end());
  return guess;
}

}  // namespace tconv::request
