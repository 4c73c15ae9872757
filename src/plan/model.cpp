#include "plan/model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace tconv::plan {
namespace {

// Fitted to measurements (model.hpp says which). Cycles unless a unit is given.
struct Constants {
  double base_registers = 31.7;       // per thread, beside accumulators and staged operands
  double x_load = 3.72;               // L1 wavefronts per 128 bytes of x: rows start anywhere
  double stage_narrow = 6.03;         // bank conflicts of staging x when warps do not tile the positions
  double stage_narrow_mma = 0.95;     // likewise, for mma.sync
  double stage_async = 4.83;          // of cp.async into the transposed layout that wgmma reads
  double stage_async_mma = 1.69;      // into the layout that mma.sync reads
  double operand_a = 0.917;           // re-reads of w by the warps of mma.sync
  double store = 2.24;                // wavefronts per 128 bytes stored
  double scatter = 2.13;              // exponent: a program with 1/n of the phases stores n times as scattered
  double scatter_l2 = 1.20;           // and L2 sees that much more of it
  double row_pattern = 0.74;          // of the DRAM rate of a linear copy: tiles of rows, not lines
  double two_warps = 0.089;           // loss of DRAM rate with two warps a block: fewer bytes in flight
  double eight_warps = 0.101;         // loss of a block's overlap with eight: more of them wait at each barrier
  double l2_fraction = 0.715;         // of the sheet's L2 rate
  double l2_x = 0.625, l2_w = 0.699;  // of the operand traffic that L1 does not absorb
  double latency_sync = 1726;         // of one step that waits for its loads
  double latency_async = 977;         // of one step with the next ones in flight
  double latency_load = 0.405;        // a tile's own wavefronts add to its latency
  double latency_mma = 1.33;          // and its matrix products
  double latency_tile = 1174;         // prologue and epilogue
  double core = 0.886;                // cycles per wavefront
  double alone = 0.142;               // loss of a single block per SM: nothing runs in its shadow
  double matrix = 1.106;              // cycles of the matrix unit over its peak
  double mma_sync = 0.307;            // what mma.sync reaches of the tensor peak on Hopper
  double sharpness = 7.58;            // of the smooth maximum
  double launch_seconds = 7.0e-6;     // two kernels: weights, then the product
};
constexpr Constants kFit;

constexpr int kRegisterCeiling = 236;  // above this estimate ptxas was seen to spill
constexpr int kUnrolledLoads = 48;     // likewise, of a thread in a loop that is unrolled whole
constexpr int kEpilogueCeiling = 128;  // values a thread holds to store; beyond it all spill

std::int64_t next_power_of_two(std::int64_t n) {
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(n, 1))));
}
std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Of the loop over taps and input channels. Saturates.
std::int64_t steps_of(const Problem& p, const Shape& shape, const Schedule& s) {
  const std::int64_t chunks = divide_up(p.c_in / p.groups, s.block_channels);
  return shape.taps > std::numeric_limits<std::int64_t>::max() / chunks ? std::numeric_limits<std::int64_t>::max()
                                                                        : shape.taps * chunks;
}
int threads(const Schedule& s) { return 32 * s.warps; }
double accumulators(const Schedule& s) { return static_cast<double>(s.block_rows) * s.block_positions / threads(s); }
// Without cp.async the operands of a step pass through registers.
double staged(const Schedule& s) {
  return s.stages > 1 ? 0.0 : static_cast<double>(s.block_channels) * (s.block_rows + s.block_positions) / threads(s);
}
bool uses_wgmma(const Target& target, const Schedule& s) {
  return target.sm == 90 && s.warps % 4 == 0 && s.block_rows % 64 == 0;
}
// Values a thread holds to store, zeros of the dead phases included; with one phase a program, half of the rows at
// a time.
double held(const Schedule& s, const Shape& shape) {
  const bool halves = shape.gap_pad > 1 && s.phases == 1;
  return accumulators(s) * static_cast<double>(shape.gap_pad) / (halves ? 2 : 1);
}
// A tile of 64 x 256 whose accumulators take half of the registers, on wgmma. It fits where every second sample is
// dead: zeros come in after the tile went through shared memory, half of its rows at a time, and with one stage there
// are no addresses of a pipeline. (20 problems on sm_90 with bias and without, of 8 to 512 channels a group, tf32, f16
// and bf16, Triton 3.6: up to 255 registers, none spilled.)
bool is_long_tile_that_fits(const Problem& problem, const Shape& shape, const Target& target, const Schedule& s) {
  return uses_wgmma(target, s) && problem.arithmetic != Arithmetic::f32 && shape.gap_pad == 2 && s.phases == 1 &&
         s.stages == 1 && s.warps == 4 && s.block_rows == 64 && s.block_positions == 256 && s.block_channels <= 32;
}
// Whether a tile that holds kEpilogueCeiling of them fits the registers. ptxas was seen to spill the flat ones and
// those of most accumulators where dead phases are interleaved. Without, only square ones that take 32 channels at
// a time, past the registers, never spilled, and of those not the ones whose products are formed one by one (f32)
// nor those where mma.sync is followed by a store that leaves gaps or interleaves nothing. (500 schedules on
// sm_80, 89, 90 and 100, Triton 3.6.)
bool fits_at_the_ceiling(const Problem& problem, const Shape& shape, const Target& target, const Schedule& s) {
  if (is_long_tile_that_fits(problem, shape, target, s)) return true;
  if (shape.gap_pad > 1) return s.block_rows >= 64 && accumulators(s) < kEpilogueCeiling;
  if (problem.arithmetic == Arithmetic::f32 || s.stages <= 1) return false;
  if (s.block_positions != s.block_rows || s.block_channels != 32) return false;
  const bool asynchronous = uses_wgmma(target, s) || target.sm == 100;
  return asynchronous || (s.phases > 1 && s.phases >= shape.live);
}
// Interleaving with the dead phases doubles what the epilogue holds.
int registers(const Schedule& s, const Shape& shape) {
  const double acc = accumulators(s);
  const double gap = static_cast<double>(shape.gap_pad);
  const double loop = acc + kFit.base_registers + staged(s) + 0.7 * acc * (gap - 1);
  const double epilogue = acc + 0.5 * acc * gap + kFit.base_registers;
  return static_cast<int>(std::min(255.0, std::ceil(std::max(loop, epilogue) / 8) * 8));
}
int shared_memory(const Schedule& s, const Shape& shape, int element) {
  const int step = s.block_channels * (s.block_rows + s.block_positions) * element;
  const int epilogue = std::min<int>(s.block_rows * s.block_positions * static_cast<int>(shape.gap_pad) * 4, 65536) / 2;
  return std::max(std::max(s.stages, 1) * step, epilogue);
}

}  // namespace

Shape shape_of(const Workload& workload) {
  const Problem& p = workload.problem;
  const Phases phases(p);
  Shape shape;
  shape.gap = phases.gcd();
  shape.live = p.stride / shape.gap;
  const std::int64_t step = p.dilation / shape.gap;
  shape.taps = shape.live == 1 ? p.kernel : (p.kernel - 1) * step / shape.live + 1;
  shape.positions = phases.last_position(workload.extent.length) - phases.first_position() + 1;
  shape.gap_pad = shape.gap <= 4 ? next_power_of_two(shape.gap) : 1;
  return shape;
}

std::optional<std::string> inadmissible(const Workload& workload, const Target& target, const Schedule& s) {
  const Shape shape = shape_of(workload);
  const int element = bytes_per_element(workload.problem.arithmetic);
  if (s.phases > s.block_rows) {
    return fmt::format("{} phases do not fit {} rows", s.phases, s.block_rows);
  }
  if (accumulators(s) > kEpilogueCeiling) {
    return fmt::format("{:.0f} accumulators a thread leave no registers for operands", accumulators(s));
  }
  const double need = accumulators(s) + 45 + staged(s);
  if (need > kRegisterCeiling && !is_long_tile_that_fits(workload.problem, shape, target, s)) {
    return fmt::format("about {:.0f} registers a thread would spill", need);
  }
  const double values = held(s, shape);
  if (values > kEpilogueCeiling ||
      (values == kEpilogueCeiling && !fits_at_the_ceiling(workload.problem, shape, target, s))) {
    return fmt::format("{:.0f} values a thread to store from a tile of {} x {} would spill", values, s.block_rows,
                       s.block_positions);
  }
  // ptxas unrolls a loop that is shorter than its pipeline and keeps the addresses of all loads at once.
  const std::int64_t steps = steps_of(workload.problem, shape, s);
  const int in_flight = (s.stages - 1) * s.block_channels * s.block_positions / threads(s);
  if (steps < s.stages && in_flight >= kUnrolledLoads) {
    return fmt::format("{} stages over {} steps, {} loads a thread at once, would spill", s.stages, steps, in_flight);
  }
  const int memory = shared_memory(s, shape, element);
  if (memory > target.smem_per_block.value) {
    return fmt::format("{} KB of shared memory, the target has {:.0f} KB a block", memory / 1024,
                       target.smem_per_block.value / 1024);
  }
  if (occupancy(target, registers(s, shape), memory, threads(s)).blocks_per_sm == 0) return "no block fits an SM";
  return std::nullopt;
}

Candidate predict(const Workload& workload, const Target& target, const Schedule& s) {
  const Problem& p = workload.problem;
  const Shape shape = shape_of(workload);
  const double element = bytes_per_element(p.arithmetic);
  const auto batch = static_cast<double>(workload.extent.batch * p.groups);
  const std::int64_t c_out = p.c_out / p.groups;
  const double rows = s.block_rows;
  const double columns = s.block_positions;
  const double depth = s.block_channels;
  const double clock = target.clock_hz.value;
  const double sms = target.sms.value;
  const bool wgmma = uses_wgmma(target, s);

  const std::int64_t out_blocks = divide_up(c_out, s.block_rows / s.phases);
  const double tiles = static_cast<double>(divide_up(shape.live, s.phases)) * static_cast<double>(out_blocks) *
                       static_cast<double>(divide_up(shape.positions, s.block_positions)) * batch;
  const auto steps = static_cast<double>(steps_of(p, shape, s));
  const Occupancy fit =
      occupancy(target, registers(s, shape), shared_memory(s, shape, static_cast<int>(element)), threads(s));
  const double blocks = std::max(1, fit.blocks_per_sm);

  // L1 wavefronts (128 bytes each) of one step: load x, stage it, load and stage w, feed the matrix unit.
  const double x_lines = depth * columns * element / 128;
  const double w_lines = depth * rows * element / 128;
  const bool warps_tile_positions = wgmma ? s.block_positions % (32 * s.warps) == 0 : s.block_positions == 32 * s.warps;
  double stage = wgmma ? kFit.stage_async : kFit.stage_async_mma;
  if (s.stages <= 1) stage = warps_tile_positions ? 1 : wgmma ? kFit.stage_narrow : kFit.stage_narrow_mma;
  double operands = 0;
  if (wgmma) {
    operands = rows / 64 * x_lines + w_lines;
  } else {
    const double warps_down = std::clamp(rows / 32, 1.0, static_cast<double>(s.warps));
    const double warps_across = std::max(1.0, s.warps / warps_down);
    operands = warps_across * w_lines * kFit.operand_a + warps_down * x_lines;
  }
  const double step_lines = kFit.x_load * x_lines + stage * x_lines + 2 * w_lines + operands;
  const double out_lines = rows * columns * static_cast<double>(shape.gap_pad) * 4 / 128;
  // A program with some of the phases only stores every so many samples.
  const double scatter =
      s.phases < shape.live ? std::pow(std::min(8.0, static_cast<double>(shape.live) / s.phases), kFit.scatter) : 1.0;
  const double tile_lines = steps * step_lines + out_lines * (2 + kFit.store * scatter);

  const double per_clock = peak_flops(target, p.arithmetic).value / (2 * sms * clock);  // multiply-adds
  const double speed = wgmma ? 1.0 : target.sm == 90 ? kFit.mma_sync : 1.0;
  const double tile_matrix = steps * rows * columns * depth / (per_clock * speed);

  const double per_sm = std::ceil(tiles / sms);
  const double core = std::max(tile_lines * kFit.core, tile_matrix * kFit.matrix) * per_sm *
                      (1 + kFit.alone / (blocks * blocks)) * (s.warps == 8 ? 1 + kFit.eight_warps : 1) / clock;

  const double wait = s.stages <= 1 ? kFit.latency_sync : kFit.latency_async / (s.stages - 1);
  const double latency = steps * (wait + kFit.latency_load * step_lines) +
                         kFit.latency_mma * tile_matrix * std::max(1.0, 4.0 / s.warps) + kFit.latency_tile +
                         3 * out_lines;
  const double waves = std::ceil(tiles / (sms * blocks));
  const double hidden = latency * waves / clock;

  const Work moved = work(workload);
  const double dram = moved.bytes() /
                      (kFit.row_pattern * achievable_dram(target, moved.bytes_read, moved.bytes_written)) *
                      (s.warps == 2 ? 1 + kFit.two_warps : 1);
  const double l2_bytes = tiles * steps * depth * element * (columns * kFit.l2_x + rows * kFit.l2_w) +
                          moved.bytes_written * (1 + (scatter - 1) * kFit.scatter_l2);
  const double l2 = l2_bytes / (kFit.l2_fraction * target.l2_bytes_per_s.value);

  const double n = kFit.sharpness;
  Candidate candidate;
  candidate.schedule = s;
  candidate.memory_seconds = std::max(dram, l2);
  candidate.arithmetic_seconds = tile_matrix * kFit.matrix * per_sm / clock;
  candidate.issue_seconds = tile_lines * kFit.core * per_sm / clock;
  candidate.tail = per_sm / (tiles / sms);
  candidate.seconds = std::pow(std::pow(core, n) + std::pow(hidden, n) + std::pow(dram, n) + std::pow(l2, n), 1 / n) +
                      kFit.launch_seconds;
  return candidate;
}

}  // namespace tconv::plan
