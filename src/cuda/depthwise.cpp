#include <fmt/format.h>

#include <algorithm>

#include "cuda/layer.hpp"
#include "cuda/solver.hpp"
#include "problem/phases.hpp"

namespace tconv::cuda {
namespace {

// As kernels/depthwise.cuh: all phases of adjacent positions in one thread.
bool narrow(const Problem& p) { return p.stride <= 4; }

// Odd where a thread's run is adjacent; long enough to hide the latency of DRAM behind each other.
int thread_positions(const Problem& p) { return narrow(p) ? 7 : 4; }

int threads(const Problem& p, const Schedule& s) {
  if (narrow(p)) return s.positions / thread_positions(p);
  const std::int64_t columns = s.positions / thread_positions(p);
  // Strides that divide no warp leave some threads of the block idle.
  return static_cast<int>(std::min<std::int64_t>(256, ceil_div(columns * p.stride, 32) * 32));
}

std::optional<std::string> refuse(const Problem& p, const Target& target) {
  if (target.sm < 80) return fmt::format("the conversions need compute capability 8.0, not {}", target.sm);
  if (p.c_in != p.groups) return fmt::format("a group has {} input channels, not one", p.c_in / p.groups);
  return too_large_for_int(p);
}

std::vector<Schedule> schedules(const Problem& p, const Target&) {
  const int run = thread_positions(p);
  if (narrow(p)) return {{.positions = 128 * run}, {.positions = 32 * run}};
  const int columns = static_cast<int>(std::max<std::int64_t>(1, 256 / p.stride));
  return {{.positions = columns * run}};
}

std::string source(const Layer& layer, const Target&, const Schedule& s) {
  const Problem& p = layer.problem;
  return fmt::format(
      "#include \"depthwise.cuh\"\n\n"
      "struct Layer {{\n{}"
      "  static constexpr int THREADS = {}, THREAD_POSITIONS = {};\n"
      "}};\n\n"
      "extern \"C\" __global__ void __launch_bounds__({}) run(const __grid_constant__ tconv::Call call) {{\n"
      "  tconv::depthwise<Layer>(call);\n}}\n\n"
      "extern \"C\" __global__ void pack(const __grid_constant__ tconv::Pack pack) {{\n"
      "  tconv::pack_depthwise<Layer>(pack);\n}}\n",
      layer_constants(layer), threads(p, s), thread_positions(p), threads(p, s));
}

// The same image for every schedule.
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
  return workload.extent.batch * p.c_out * ceil_div(positions(workload), s.positions) * residue_tiles;
}

Launch launch(const Workload& workload, const Target&, const Schedule& s) {
  constexpr std::int64_t kGrid = 0x7fffffff;
  return {.blocks = std::min(tiles(workload, s), kGrid), .threads = threads(workload.problem, s)};
}

double seconds(const Workload& workload, const Target& target, const Schedule& s) {
  const Problem& p = workload.problem;
  const Work moved = work(workload);
  constexpr double kOfCopy = 0.85;  // of the bandwidth of a copy
  const double memory = moved.bytes() / (kOfCopy * achievable_dram(target, moved.bytes_read, moved.bytes_written));
  double peak = target.fp32_flops.value;
  if (p.arithmetic == Arithmetic::i32) peak = target.i32_ops.value;
  if (p.arithmetic == Arithmetic::f64) peak = target.f64_flops.value;
  constexpr double kOfPeak = 0.25;  // about one read of shared memory for each multiply-add
  const double flops = 2.0 * static_cast<double>(tiles(workload, s)) * s.positions * static_cast<double>(p.kernel);
  // A block runs through one load, one sum and one store, as many at once as threads fit.
  constexpr double kBlockLatency = 2e-6;
  const double resident = target.sms.value * std::max(1.0, 1024.0 / threads(p, s));
  const double rounds = std::max(1.0, static_cast<double>(tiles(workload, s)) / resident);
  return std::max({memory, flops / (kOfPeak * peak), rounds * kBlockLatency}) + target.launch_s.value;
}

}  // namespace

const Solver kDepthwise{.name = "depthwise",
                        .refuse = refuse,
                        .schedules = schedules,
                        .source = source,
                        .packed_bytes = packed_bytes,
                        .pack_launch = pack_launch,
                        .launch = launch,
                        .seconds = seconds};

}  // namespace tconv::cuda
