#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cuda/layer.hpp"
#include "cuda/solver.hpp"
#include "problem/phases.hpp"

namespace tconv::cuda {
namespace {

// As kernels/depthwise.cuh: a thread takes runs, the least that is whole positions and whole vectors of 16 bytes of y.
bool narrow(const Problem& p) {
  const std::int64_t span = (p.kernel - 1) * p.dilation / p.stride;
  return p.stride <= 4 && std::max(span, p.kernel) * bytes_per_sum(p.arithmetic) <= 128;
}

constexpr int kThreads = 128;  // of a narrow block

int vector(const Problem& p) { return 16 / bytes_per_element(p.arithmetic); }  // samples of 16 bytes
// How many take 16 bytes of x.
int runs_of_vector(const Problem& p) { return std::gcd(vector(p), static_cast<int>(p.stride)); }
int run(const Problem& p) { return vector(p) / runs_of_vector(p); }

// Runs of a thread, 64 bytes of x; or positions, so many that their loads hide each other's latency.
int repeats(const Problem& p) { return narrow(p) ? 4 * runs_of_vector(p) : 4; }

// Of a row's threads, less what its first vector has of what is before the row.
int positions_of(const Problem& p, int threads) {
  const int stride = static_cast<int>(p.stride);
  return threads * repeats(p) * run(p) - (vector(p) + stride - 2) / stride;
}

int threads(const Problem& p, const Schedule& s) {
  if (narrow(p)) return kThreads;
  const std::int64_t columns = s.positions / repeats(p);
  // Strides that divide no warp leave some threads of the block idle.
  return static_cast<int>(std::min<std::int64_t>(256, ceil_div(columns * p.stride, 32) * 32));
}

std::optional<std::string> refuse(const Problem& p, const Target& target) {
  if (target.sm < 80) return fmt::format("the conversions need compute capability 8.0, not {}", target.sm);
  if (p.c_in != p.groups) return fmt::format("a group has {} input channels, not one", p.c_in / p.groups);
  return too_large_for_int(p);
}

// A block has one row of many positions, or several that share its threads.
std::vector<Schedule> schedules(const Problem& p, const Target&) {
  std::vector<Schedule> all;
  if (narrow(p)) {
    for (const int rows : {1, 2, 4, 8, 16, 32})
      all.push_back({.positions = positions_of(p, kThreads / rows), .rows = rows});
    return all;
  }
  const auto of_threads = [&](std::int64_t count) {
    all.push_back({.positions = static_cast<int>(std::max<std::int64_t>(1, count / p.stride)) * repeats(p), .rows = 1});
  };
  of_threads(256);
  if (p.stride <= 4) of_threads(64);
  return all;
}

std::string source(const Layer& layer, const Target&, const Schedule& s) {
  const Problem& p = layer.problem;
  // Of its own accord the compiler spills a register for one block more, where a thread has many: 512 threads suffice.
  const bool few = narrow(p) && p.kernel * bytes_per_sum(p.arithmetic) <= 48;
  const std::string least_blocks = few ? "" : fmt::format(", {}", std::max(1, 512 / threads(p, s)));
  return fmt::format(
      "#include \"depthwise.cuh\"\n\n"
      "struct Layer {{\n{}"
      "  static constexpr int THREADS = {}, ROWS = {}, REPEATS = {}, POSITIONS = {};\n"
      "}};\n\n"
      "extern \"C\" __global__ void __launch_bounds__({}{}) run(const __grid_constant__ tconv::Call call) {{\n"
      "  tconv::depthwise<Layer>(call);\n}}\n\n"
      "extern \"C\" __global__ void pack(const __grid_constant__ tconv::Pack pack) {{\n"
      "  tconv::pack_depthwise<Layer>(pack);\n}}\n",
      layer_constants(layer), threads(p, s), s.rows, repeats(p), s.positions, threads(p, s), least_blocks);
}

std::int64_t packed_bytes(const Problem& p, const Schedule&) {
  return p.c_out * p.kernel * bytes_per_sum(p.arithmetic);
}

Launch pack_launch(const Problem& p, const Schedule&) {
  return {.blocks = std::min<std::int64_t>(ceil_div(p.c_out * p.kernel, 256), 1 << 16), .threads = 256};
}

std::int64_t tiles(const Workload& workload, const Schedule& s) {
  const Problem& p = workload.problem;
  const std::int64_t residue_tiles =
      narrow(p) ? 1 : ceil_div(p.stride, std::min<std::int64_t>(p.stride, threads(p, s)));
  return workload.extent.batch * ceil_div(p.c_out, s.rows) * ceil_div(positions(workload), s.positions) * residue_tiles;
}

Launch launch(const Workload& workload, const Target&, const Schedule& s) {
  constexpr std::int64_t kGrid = 0x7fffffff;
  return {.blocks = std::min(tiles(workload, s), kGrid), .threads = threads(workload.problem, s)};
}

double seconds(const Workload& workload, const Target& target, const Schedule& s) {
  const Problem& p = workload.problem;
  const Work moved = work(workload);
  const double memory = moved.bytes() / achievable_dram(target, moved.bytes_read, moved.bytes_written);
  double peak = target.fp32_flops.value;
  if (p.arithmetic == Arithmetic::i32) peak = target.i32_ops.value;
  if (p.arithmetic == Arithmetic::f64) peak = target.f64_flops.value;
  const double arithmetic = moved.useful_flops / peak;
  // A multiprocessor starts an instruction of four warps in a cycle: of a block those that find its place and stage its
  // x, then a run's or, in wide blocks, a tap's with its reads of shared memory. Runs beyond a row's end cost nothing,
  // but the beginning costs the same for few positions, so rows that have few share it.
  const auto used = static_cast<double>(
      ceil_div(std::min<std::int64_t>(positions(workload), s.positions), std::int64_t{kThreads} / s.rows * run(p)));
  const auto kernel = static_cast<double>(p.kernel), stride = static_cast<double>(p.stride);
  const double instructions = narrow(p) ? 400 + used * (35 + run(p) * kernel) : 400 + 12 * kernel / stride;
  const double blocks = std::max(1.0, static_cast<double>(tiles(workload, s)) / target.sms.value);
  const double issue = blocks * threads(p, s) / 32 * instructions / (4 * target.clock_hz.value);
  constexpr double kLatency = 1.5e-6;  // of one block: a load, its sums and their stores
  // Instructions and memory overlap in part.
  return std::hypot(memory, std::max(arithmetic, kLatency + issue)) + target.launch_s.value;
}

}  // namespace

const Solver kDepthwise{.name = "depthwise",
                        .refuse = refuse,
                        .schedules = schedules,
                        .source = source,
                        .packed_bytes = packed_bytes,
                        .pack_launch = pack_launch,
                        .launch = launch,
                        .seconds = seconds,
                        .one_image = true};

}  // namespace tconv::cuda
