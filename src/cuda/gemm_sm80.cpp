#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "cuda/gemm.hpp"
#include "cuda/layer.hpp"
#include "cuda/solver.hpp"
#include "problem/phases.hpp"

namespace tconv::cuda {
namespace {

// Rows of packed weights that hold whole channels with all their live phases; what is left of them only pads.
struct Band {
  std::int64_t rows = 0, channels = 0;
};

// The least power of two up to 64 that a channel fits in without much padding; else whole fragments of one channel.
Band band_of(const Gemm& gemm) {
  Band best{.rows = ceil_div(gemm.live, 16) * 16, .channels = 1};
  const auto padding = [&](const Band& b) {
    return static_cast<double>(b.rows) / static_cast<double>(b.channels * gemm.live);
  };
  if (gemm.live > 64) return best;
  best.rows =
      std::max<std::int64_t>(16, static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(gemm.live))));
  best.channels = best.rows / gemm.live;
  constexpr double kWorth = 1.1;  // of a tile that holds fewer rows in vain
  for (std::int64_t rows = best.rows * 2; rows <= 64; rows *= 2) {
    const Band wider{.rows = rows, .channels = rows / gemm.live};
    if (padding(wider) * kWorth < padding(best)) best = wider;
  }
  return best;
}

// Figures of kernels/gemm_sm80.cuh's GemmSm80, by the same formulas; the kernel asserts the sizes it is launched with.
struct Shape : Gemm {
  Band band;
  std::int64_t steps_all = 0;  // of 8 words of channels
  std::int64_t fragments = 0;  // of 16 rows, of a group

  explicit Shape(const Problem& p) : Gemm(p), band(band_of(*this)) {
    constexpr std::int64_t kStepBytes = 32;
    steps_all = ceil_div(c_in, kStepBytes / element_bytes);
    fragments = ceil_div(c_out, band.channels) * (band.rows / 16);
  }
  [[nodiscard]] bool whole(int rows) const { return rows % band.rows == 0; }
  [[nodiscard]] bool possible(int rows) const { return whole(rows) || (band.channels == 1 && rows < band.rows); }
  [[nodiscard]] std::int64_t row_tiles(int rows) const {
    return whole(rows) ? ceil_div(c_out, rows / band.rows * band.channels) : c_out * ceil_div(live, rows);
  }
};

// Rows and positions of one warp: as many as the registers hold, so that operands are read as seldom as possible; f32
// holds two planes of them.
struct Warp {
  int rows = 0, positions = 0;
};
Warp warp_of(const Problem& p, const Schedule& s) {
  const int most = s.positions < 128 ? 16 : p.arithmetic == Arithmetic::f32 ? 32 : 64;
  const int rows = std::min(s.rows, most);
  return {.rows = rows, .positions = s.rows * s.positions / (4 * s.warpgroups * rows)};
}
int threads(const Schedule& s) { return 128 * s.warpgroups; }

// That should share an SM: what the sums leave of its registers.
int blocks_per_sm(const Problem& p, const Schedule& s) {
  const int sums = s.rows * s.positions / threads(s);
  const bool f32 = p.arithmetic == Arithmetic::f32;
  const int resident = f32 && threads(s) == 128 ? 384 : f32 || sums > 32 ? 512 : 640;
  return std::max(1, resident / threads(s));
}

// How a schedule cuts the sum: chunks of one or two steps, and an entry of weights for each tap of a chunk.
struct Cut {
  std::int64_t window = 0;  // positions of x that a tile reads
  std::int64_t steps = 0, chunks = 0, entries = 0, entry_bytes = 0;

  Cut(const Problem& p, const Shape& shape, const Schedule& s) {
    const std::int64_t span = shape.span();
    const std::int64_t lead = span + ((p.padding / p.stride - span) % 4 + 4) % 4;
    window = ceil_div(s.positions + lead, 4) * 4;
    constexpr std::int64_t kLoads = 4;  // in flight of a thread, of 16 bytes; more cost too many registers
    const bool two = shape.steps_all > 1 && 16 * (window / 4) <= kLoads * threads(s);
    steps = two ? 2 : 1;
    chunks = ceil_div(shape.steps_all, steps);
    entries = chunks * shape.taps;
    entry_bytes = steps * s.rows * 32 * shape.planes;
  }
};

std::int64_t shared_bytes(const Problem& p, const Schedule& s) {
  const Shape shape(p);
  const Cut cut(p, shape, s);
  const std::int64_t pitch = (cut.window + 7) / 16 * 16 + 8;
  const std::int64_t stages = std::int64_t{s.stages} * 8 * cut.steps * pitch * 4 + s.weight_stages * cut.entry_bytes;
  const std::int64_t vector = 16 / shape.element_bytes;
  const bool whole = shape.whole(s.rows);
  const bool exact = shape.band.rows == shape.band.channels * shape.live;
  const auto out_bytes = [&](std::int64_t parts) {
    const std::int64_t rows = s.rows / parts;
    const std::int64_t channels =
        rows % shape.band.rows == 0 ? rows / shape.band.rows * shape.band.channels : rows / shape.live;
    const std::int64_t segment = whole ? s.positions * p.stride : rows * shape.gap;
    return (whole ? channels : s.positions) * (ceil_div(segment, vector) * vector + vector) * shape.element_bytes;
  };
  const auto possible = [&](std::int64_t parts) {
    const std::int64_t rows = s.rows / parts;
    return s.rows % (16 * parts) == 0 && (!whole || rows % shape.band.rows == 0 || (rows % shape.live == 0 && exact));
  };
  std::int64_t parts = 1;
  while (out_bytes(parts) > stages && possible(2 * parts)) parts *= 2;
  return std::max(stages, out_bytes(parts));
}

// The fewest tiles, then the fewest rows that are padding.
int rows_of_tile(const Problem& p, const Shape& shape) {
  int best = 0;
  std::int64_t best_padded = 0;
  for (const int rows : {128, 64, 32, 16}) {
    if (!shape.possible(rows) || (p.arithmetic == Arithmetic::f32 && rows > 64)) continue;
    const std::int64_t padded = shape.row_tiles(rows) * (rows + 16);  // 16: what a tile costs whatever its rows
    if (best == 0 || padded < best_padded) best = rows, best_padded = padded;
  }
  return best;
}

std::vector<Schedule> schedules(const Problem& p, const Target& target) {
  const Shape shape(p);
  std::vector<Schedule> all;
  const auto add = [&](int rows, int positions, int warpgroups) {
    Schedule s{.positions = positions, .rows = rows, .warpgroups = warpgroups};
    s.stages = Cut(p, shape, s).chunks == 1 ? 1 : 2;
    // As many blocks as should share an SM, then as many entries of weights on their way as fit beside them. Few
    // positions leave few blocks, which have nothing to wait for but weights.
    const bool few = positions < 128;
    const auto fits = [&](int weight_stages, int blocks) {
      s.weight_stages = weight_stages;
      const double bytes = static_cast<double>(shared_bytes(p, s));
      return bytes <= target.smem_per_block.value &&
             blocks * (bytes + target.smem_reserved.value) <= target.smem_per_sm.value;
    };
    for (int blocks = few ? 2 : blocks_per_sm(p, s); blocks >= 1; --blocks) {
      for (int weight_stages = few ? 8 : 4; weight_stages >= 2; --weight_stages) {
        if (!fits(weight_stages, blocks)) continue;
        all.push_back(s);
        return;
      }
    }
  };
  const int rows = rows_of_tile(p, shape);
  if (rows == 0) return all;
  // f32 has no registers for the widest tiles.
  const bool f32 = p.arithmetic == Arithmetic::f32;
  add(rows, 128, rows == 128 || (f32 && rows == 64) ? 2 : 1);
  if (rows < 128 && !f32) add(rows, 256, 2);
  // For calls too short to fill the device with those.
  for (const int few : {64, 32, 16}) {
    if (few > rows || !shape.possible(few)) continue;
    add(few, few == 64 ? 32 : 64, 1);
    break;
  }
  return all;
}

std::int64_t packed_bytes(const Problem& p, const Schedule&) {
  const Shape shape(p);
  return shape.groups * shape.steps_all * shape.taps * shape.fragments * shape.planes * 512;
}

std::optional<std::string> refuse(const Problem& p, const Target& target) {
  if (target.sm < 80) return fmt::format("mma.sync on tf32 needs compute capability 8.0, not {}", target.sm);
  if (auto why = refuse_gemm(p, "mma.sync")) return why;
  // The matrix unit cuts its sums off instead of rounding them, so the error grows with their length: measured against
  // float64 on an NVIDIA H100, 2.0 times cuDNN's after 96 products, 2.7 after 160, 4.3 after 384.
  constexpr std::int64_t kExactProducts = 96;
  const std::int64_t products = p.c_in / p.groups * Phases(p).max_taps();
  if (p.arithmetic == Arithmetic::f32 && products > kExactProducts)
    return fmt::format("a sum of {} products in three TF32 terms errs more than twice as far as one in f32", products);
  if (packed_bytes(p, {}) / (p.groups * 16) >= (1ll << 31))
    return "the packed weights of a group are above 2^35 bytes, and its offsets are 32-bit";
  if (schedules(p, target).empty()) return "no tile of it fits shared memory";
  return std::nullopt;
}

std::string source(const Layer& layer, const Target&, const Schedule& s) {
  const Problem& p = layer.problem;
  const Shape shape(p);
  const Warp warp = warp_of(p, s);
  return fmt::format(
      "#include \"gemm_sm80.cuh\"\n\n{}"
      "struct Schedule {{\n"
      "  static constexpr int ROWS = {}, POSITIONS = {}, WARP_ROWS = {}, WARP_POSITIONS = {}, STEPS = {};\n"
      "  static constexpr int X_STAGES = {}, W_STAGES = {}, BAND = {}, BAND_CHANNELS = {};\n"
      "}};\n\n"
      "using Gemm = tconv::GemmSm80<Layer, Schedule>;\n"
      "static_assert(Gemm::SHARED_BYTES == {} && Gemm::THREADS == {}, \"as the host launches it\");\n"
      "static_assert(Gemm::PACKED_BYTES == {}, \"as the host allocates it\");\n\n"
      "extern \"C\" __global__ void __launch_bounds__(Gemm::THREADS, {})\n"
      "    run(const __grid_constant__ tconv::Call call) {{\n"
      "  Gemm::run(call);\n}}\n\n"
      "extern \"C\" __global__ void pack(const __grid_constant__ tconv::Pack call) {{\n"
      "  Gemm::pack(call);\n}}\n",
      gemm_layer(layer), s.rows, s.positions, warp.rows, warp.positions, Cut(p, shape, s).steps, s.stages,
      s.weight_stages, shape.band.rows, shape.band.channels, shared_bytes(p, s), threads(s), packed_bytes(p, s),
      blocks_per_sm(p, s));
}

Launch pack_launch(const Problem& p, const Schedule& s) {
  return {.blocks = ceil_div(packed_bytes(p, s) / Shape(p).planes / 16, 256), .threads = 256};
}

std::int64_t tiles(const Workload& workload, const Schedule& s) {
  const Shape shape(workload.problem);
  return workload.extent.batch * shape.groups * shape.row_tiles(s.rows) * ceil_div(positions(workload), s.positions);
}

Launch launch(const Workload& workload, const Target&, const Schedule& s) {
  return {.blocks = tiles(workload, s),
          .threads = threads(s),
          .shared_bytes = static_cast<int>(shared_bytes(workload.problem, s))};
}

// The blocks of an SM share its matrix units, its shared memory and its issue slots; each alone passes through its own
// latencies. All of them share L2 and DRAM.
double seconds(const Workload& workload, const Target& target, const Schedule& s) {
  const Problem& p = workload.problem;
  const Shape shape(p);
  const Warp warp = warp_of(p, s);
  const Cut cut(p, shape, s);
  const double sms = target.sms.value, clock = target.clock_hz.value;
  const double warps = threads(s) / 32.0;
  const double steps = static_cast<double>(shape.steps_all * shape.taps);
  const double x_words = static_cast<double>(cut.window) * 8.0 * static_cast<double>(shape.steps_all);

  const Arithmetic multiplied = p.arithmetic == Arithmetic::f32 ? Arithmetic::tf32 : p.arithmetic;
  const double rate = achievable_flops(target, multiplied) * target.mma_sync_fraction.value / (sms * clock);
  const double flops = 2.0 * s.rows * s.positions * steps * 8 * (4.0 / shape.element_bytes) * shape.terms;
  // Wavefronts of 128 bytes: fragments, staging x, and the outputs in and out.
  const double outputs = static_cast<double>(s.rows) * s.positions * static_cast<double>(shape.gap);
  const double fragments = warps * steps * (4.0 * warp.rows / 16 * shape.planes + 2.0 * warp.positions / 8);
  const double wavefronts = fragments + x_words / 32 + 2 * outputs / 32 + outputs * shape.element_bytes / 128;
  constexpr double kIssue = 6;  // instructions for each output of a thread
  const double issue = kIssue * outputs / 32 / 4;
  const double busy = std::max(flops / rate, wavefronts) + issue;

  constexpr double kTile = 2500;    // cycles: the first chunk's way into shared memory, and the outputs' way out
  constexpr double kEntry = 150;    // likewise: a barrier, and the first fragments
  constexpr double kWeights = 800;  // from L2; a ring of entries hides its part of them
  const double entry = std::max(kEntry, kWeights / (s.weight_stages - 1));
  const double alone = busy + kTile + entry * static_cast<double>(cut.entries);

  const double each = std::ceil(static_cast<double>(tiles(workload, s)) / sms);  // tiles of the fullest SM
  const double room =
      std::floor(target.smem_per_sm.value / (static_cast<double>(shared_bytes(p, s)) + target.smem_reserved.value));
  const double resident = std::max(1.0, std::min<double>(blocks_per_sm(p, s), room));
  const double compute = std::max(each * busy, std::ceil(each / resident) * alone) / clock;

  const double weights = static_cast<double>(cut.entries * cut.entry_bytes);
  constexpr double kOfL2 = 0.6;  // reached by blocks that all read the same weights
  const double l2 =
      static_cast<double>(tiles(workload, s)) * (weights + x_words * 4) / (kOfL2 * target.l2_bytes_per_s.value);
  const Work moved = work(workload);
  const double memory = moved.bytes() / achievable_dram(target, moved.bytes_read, moved.bytes_written);
  return std::max({compute, l2, memory}) + target.launch_s.value;
}

}  // namespace

const Solver kGemmSm80{.name = "gemm_sm80",
                       .refuse = refuse,
                       .schedules = schedules,
                       .source = source,
                       .packed_bytes = packed_bytes,
                       .pack_launch = pack_launch,
                       .launch = launch,
                       .seconds = seconds,
                       .one_image = true};

}  // namespace tconv::cuda
