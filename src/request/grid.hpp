// From a launch grid back to the workload that produced it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "request/diagnose.hpp"

namespace tconv::request {

using Meta = std::map<std::string, std::int64_t>;

// What a launch may use for block sizes: one per autotune config (with num_warps and num_stages where the
// config gives them), or the launch's own meta alone.
[[nodiscard]] std::vector<Meta> launch_metas(const Launch& launch, const Kernel* kernel);

// The block a factor is divided by: 1 where it is not divided. Absent when neither the code nor `meta` fixes it.
[[nodiscard]] std::optional<std::int64_t> block_of(const GridFactor& factor, const Meta& meta);

// Programs along each axis. Absent when the expression was not understood, a block is unknown, or an axis
// does not fit in int64. The workload must be valid.
[[nodiscard]] std::optional<std::vector<std::int64_t>> grid_of(const Launch& launch, const Meta& meta,
                                                               const Workload& workload);
[[nodiscard]] std::optional<std::int64_t> product(const std::vector<std::int64_t>& axes);  // absent on overflow

// Most programs CUDA launches along an axis: 2^31-1 on x, 65535 on y and z.
[[nodiscard]] std::int64_t axis_limit(std::size_t axis) noexcept;

// launch__grid_size as a count. Throws Error(usage) when it is no positive integer or more than CUDA launches
// on the launch's axes (three when `launch` is null or was not understood).
[[nodiscard]] std::int64_t program_count(double grid_size, const Launch* launch, const std::string& path);

// Why a module cannot express a problem ("its constructor has no groups, and the workload has 4"). Absent when it can.
[[nodiscard]] std::optional<std::string> inexpressible(const Module& module, const Problem& problem);
// The problem with those of its numbers replaced that the module fixes; it may be invalid then. Its channels and
// kernel stay.
[[nodiscard]] Problem as_fixed(const Module& module, Problem problem);

// `programs`: launch__grid_size, absent when the request has none. `given`: the user's workload, or null.
// Throws Error(usage) when no config of the code can produce the grid: at the user's workload, or at any.
[[nodiscard]] WorkloadGuess guess_workload(const Request& request, const Launch* launch, const Kernel* kernel,
                                           std::optional<std::int64_t> programs, const Workload* given);

}  // namespace tconv::request
