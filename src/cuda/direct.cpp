#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "cuda/layer.hpp"
#include "cuda/solver.hpp"
#include "problem/phases.hpp"

namespace tconv::cuda {
namespace {

// The constants of kernels/direct.cuh that a schedule settles.
struct Tile {
  int rows = 0, positions = 0;                // of a block
  int thread_rows = 0, thread_positions = 0;  // of those, a thread's
  int phases = 0, channels = 0;               // what the rows are
  int depth = 0, step_taps = 0;               // input channels and taps of a step

  [[nodiscard]] int threads() const { return rows / thread_rows * (positions / thread_positions); }
};

// Every power of two up to 2^29 is an int.
int power_of_two_from(std::int64_t value) {
  return static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(value, 1))));
}

std::int64_t channels_out(const Problem& p) { return p.c_out / p.groups; }

// Whole vectors of 16 bytes, where there are four channels to fill one.
std::int64_t padded_channels(const Problem& p) {
  const std::int64_t channels = channels_out(p);
  return channels < 4 ? channels : ceil_div(channels, 4) * 4;
}

// Whether the first tap of every live phase has offset 0, so that a thread's rows may mix phases.
bool one_offset(const Problem& p) { return (Phases(p).live() - 1) * p.dilation < p.stride; }

int thread_rows(const Problem& p, int rows) {
  const int most = rows >= 64 ? 8 : std::min(rows, 4);
  return one_offset(p) ? most : std::min(most, power_of_two_from(channels_out(p)));
}

int thread_positions(const Problem& p, const Schedule& s) {
  // 8 x 8 doubles are more registers than a thread has.
  return p.arithmetic != Arithmetic::f64 && s.rows >= 32 && s.positions >= 128 ? 8 : 4;
}

Tile tile_of(const Problem& p, const Schedule& s) {
  const Phases phases(p);
  Tile tile{.rows = s.rows,
            .positions = s.positions,
            .thread_rows = thread_rows(p, s.rows),
            .thread_positions = thread_positions(p, s)};

  const bool mixed = one_offset(p);
  const std::int64_t grain = mixed ? 1 : tile.thread_rows;
  std::int64_t most_phases = std::min<std::int64_t>(phases.live(), tile.rows / grain);
  // The window of x grows by what lies between the offsets of a tile's phases.
  constexpr std::int64_t kSpread = 256;
  if (!mixed) most_phases = std::min(most_phases, 1 + (kSpread - 1) * p.stride / p.dilation);
  tile.phases = static_cast<int>(ceil_div(phases.live(), ceil_div(phases.live(), most_phases)));
  std::int64_t channels = tile.rows / tile.phases;
  if (channels >= 8) channels = channels / 4 * 4;  // weights then arrive in vectors
  channels = channels / grain * grain;
  const std::int64_t needed = mixed ? padded_channels(p) : ceil_div(channels_out(p), grain) * grain;
  tile.channels = static_cast<int>(std::min(channels, needed));

  constexpr std::int64_t kTapSpan = 96;  // of the window, likewise
  const std::int64_t offset_step = p.dilation / phases.gcd();
  const std::int64_t most_taps = std::min({phases.max_taps(), std::int64_t{8}, 1 + kTapSpan / offset_step});
  tile.step_taps = static_cast<int>(ceil_div(phases.max_taps(), ceil_div(phases.max_taps(), most_taps)));
  const std::int64_t spread = mixed || tile.phases == 1 ? 0 : (tile.phases - 1) * p.dilation / p.stride + 1;
  const std::int64_t window = tile.positions + (tile.step_taps - 1) * offset_step + spread;
  const std::int64_t stage_bytes =
      std::int64_t{2} * bytes_per_sum(p.arithmetic) * (std::int64_t{tile.step_taps} * tile.rows + window);
  constexpr std::int64_t kStageBytes = 44 << 10;  // of 48 KiB static shared memory
  tile.depth = std::min(16, power_of_two_from(p.c_in / p.groups));
  while (tile.depth > 1 && tile.depth * stage_bytes > kStageBytes) tile.depth /= 2;
  return tile;
}

std::optional<std::string> refuse(const Problem& p, const Target& target) {
  if (target.sm < 80) return fmt::format("copies to shared memory need compute capability 8.0, not {}", target.sm);
  return too_large_for_int(p);
}

// Of the sum of a tile.
std::int64_t steps(const Problem& p, const Tile& tile) {
  return ceil_div(Phases(p).max_taps(), tile.step_taps) * ceil_div(p.c_in / p.groups, tile.depth);
}

std::vector<Schedule> schedules(const Problem& p, const Target& target) {
  const std::int64_t rows_needed = Phases(p).live() * padded_channels(p);
  int rows = power_of_two_from(std::min<std::int64_t>(rows_needed, 128));
  // At most 16 threads across the rows, so that a warp's worth remain along the positions.
  rows = std::min(rows, 16 * thread_rows(p, rows));
  const int per_thread = thread_positions(p, {.positions = 128, .rows = rows});
  const int threads = rows == 128 ? 256 : 128;
  std::vector<Schedule> all{{.positions = threads / (rows / thread_rows(p, rows)) * per_thread, .rows = rows}};
  // For calls too short to fill the device with the first.
  const Schedule small{.positions = rows <= 4 ? 128 : 64, .rows = std::min(rows, 32)};
  if (small.positions * small.rows < all.front().positions * all.front().rows) all.push_back(small);
  if (target.sm < 90) return all;  // has no clusters
  // A long sum, shared by the blocks of a cluster where the tiles are few.
  constexpr std::int64_t kLongSum = 512;  // products
  if (p.c_in / p.groups * Phases(p).max_taps() < kLongSum) return all;
  const std::size_t whole = all.size();
  for (const int splits : {2, 4, 8}) {
    for (std::size_t i = 0; i < whole; ++i) {
      if (steps(p, tile_of(p, all[i])) < splits) continue;
      all.push_back(all[i]);
      all.back().splits = splits;
    }
  }
  return all;
}

std::string source(const Layer& layer, const Target&, const Schedule& s) {
  const Problem& p = layer.problem;
  const Tile tile = tile_of(p, s);
  return fmt::format(
      "#include \"direct.cuh\"\n\n"
      "struct Layer {{\n{}"
      "  static constexpr int PADDED_C_OUT = {}, ROWS = {}, POSITIONS = {};\n"
      "  static constexpr int THREAD_ROWS = {}, THREAD_POSITIONS = {}, PHASES = {}, CHANNELS = {};\n"
      "  static constexpr int DEPTH = {}, STEP_TAPS = {}, SPLITS = {};\n"
      "}};\n\n"
      "extern \"C\" __global__ void __launch_bounds__({}, {}) run(const __grid_constant__ tconv::Call call) {{\n"
      "  tconv::direct<Layer>(call);\n}}\n\n"
      "extern \"C\" __global__ void pack(const __grid_constant__ tconv::Pack pack) {{\n"
      "  tconv::pack_direct<Layer>(pack);\n}}\n",
      layer_constants(layer), padded_channels(p), tile.rows, tile.positions, tile.thread_rows, tile.thread_positions,
      tile.phases, tile.channels, tile.depth, tile.step_taps, s.splits, tile.threads(),
      std::max(1, 512 / tile.threads()));
}

std::int64_t packed_elements(const Problem& p) {
  const Phases phases(p);
  return p.c_in * phases.max_taps() * phases.live() * padded_channels(p);
}

// The same image for every schedule.
std::int64_t packed_bytes(const Problem& p, const Schedule&) {
  return packed_elements(p) * bytes_per_sum(p.arithmetic);
}

Launch pack_launch(const Problem& p, const Schedule&) {
  return {.blocks = std::min<std::int64_t>(ceil_div(packed_elements(p), 256), 1 << 16), .threads = 256};
}

std::int64_t tiles(const Workload& workload, const Tile& tile) {
  const Problem& p = workload.problem;
  return workload.extent.batch * p.groups * ceil_div(positions(workload), tile.positions) *
         ceil_div(channels_out(p), tile.channels) * ceil_div(Phases(p).live(), tile.phases);
}

Launch launch(const Workload& workload, const Target&, const Schedule& s) {
  const Tile tile = tile_of(workload.problem, s);
  const std::int64_t most = 0x7fffffff / s.splits;
  return {.blocks = std::min(tiles(workload, tile), most) * s.splits, .threads = tile.threads(), .cluster = s.splits};
}

double seconds(const Workload& workload, const Target& target, const Schedule& s) {
  const Problem& p = workload.problem;
  const Phases phases(p);
  const Tile tile = tile_of(p, s);
  // tf32 is computed as f32, and f16 and bf16 sum in f32: none uses the tensor cores, f64 neither.
  Fact peak = target.fp32_flops;
  if (p.arithmetic == Arithmetic::i32) peak = target.i32_ops;
  const bool fast_f64 = target.sm == 80 || target.sm == 90 || target.sm == 100;
  if (p.arithmetic == Arithmetic::f64) peak.value = fast_f64 ? peak.value / 2 : target.f64_flops.value;

  // The larger a thread's tile, the more multiply-adds for each read of shared memory.
  const double efficiency = 0.6 * tile.thread_rows * tile.thread_positions /
                            (tile.thread_rows * tile.thread_positions + 2.0 * tile.thread_rows + tile.thread_positions);
  const std::int64_t channels = p.c_in / p.groups;
  const double tile_flops =
      2.0 * tile.rows * tile.positions * static_cast<double>(phases.max_taps()) * static_cast<double>(channels);
  const auto block_steps = static_cast<double>(ceil_div(steps(p, tile), s.splits));
  const auto count = static_cast<double>(tiles(workload, tile) * s.splits);
  const double resident = std::max(1, 512 / tile.threads());
  // A block alone on its processor waits for every step's copies.
  constexpr double kStepLatency = 0.7e-6;
  const double rounds = std::max(1.0, count / (target.sms.value * resident));
  const double per_sm = std::max(1.0, count / target.sms.value);
  const double arithmetic = per_sm * tile_flops / s.splits / (peak.value / target.sms.value * efficiency);
  const Work moved = work(workload);
  const double memory = moved.bytes() / achievable_dram(target, moved.bytes_read, moved.bytes_written);
  // Blocks that share a tile wait for each other, and each reads what all have.
  constexpr double kExchange = 2e-6;
  const double exchange = s.splits > 1 ? rounds * kExchange : 0;
  return std::max({arithmetic, memory, rounds * block_steps * kStepLatency}) + exchange + target.launch_s.value;
}

}  // namespace

const Solver kDirect{.name = "direct",
                     .refuse = refuse,
                     .schedules = schedules,
                     .source = source,
                     .packed_bytes = packed_bytes,
                     .pack_launch = pack_launch,
                     .launch = launch,
                     .seconds = seconds};

}  // namespace tconv::cuda
