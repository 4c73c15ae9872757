#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cuda/gemm.hpp"
#include "cuda/layer.hpp"
#include "cuda/solver.hpp"
#include "problem/phases.hpp"

namespace tconv::cuda {
namespace {

// Figures of kernels/gemm_sm90.cuh's GemmSm90, by the same formulas; the kernel asserts the sizes it is launched with.
struct Shape : Gemm {
  std::int64_t row_bytes = 0, chunk = 0, chunks = 0, steps = 0;

  explicit Shape(const Problem& p) : Gemm(p) {
    const std::int64_t step = 32 / element_bytes;
    steps = ceil_div(c_in, step);
    row_bytes = steps == 1 ? 32 : steps == 2 ? 64 : 128;
    chunk = row_bytes / element_bytes;
    chunks = ceil_div(c_in, chunk);
  }
  // Of a tile; several at once have whole channels each.
  [[nodiscard]] static std::int64_t rows(const Schedule& s) { return std::int64_t{s.rows} * s.at_once; }
  [[nodiscard]] std::int64_t tile_channels(const Schedule& s) const { return live <= rows(s) ? rows(s) / live : 1; }
  [[nodiscard]] std::int64_t row_tiles(const Schedule& s) const {
    return live <= rows(s) ? ceil_div(c_out, tile_channels(s)) : c_out * ceil_div(live, rows(s));
  }
  [[nodiscard]] std::int64_t weight_bytes(const Schedule& s) const { return rows(s) * row_bytes * planes; }
  [[nodiscard]] std::int64_t weight_entries() const { return chunks * taps; }
  // Whether a block needs the same weights for all of its tiles.
  [[nodiscard]] bool same_weights(const Schedule& s) const { return s.splits == 1 && row_tiles(s) == 1 && groups == 1; }
  [[nodiscard]] bool resident(const Schedule& s) const {
    return same_weights(s) && weight_entries() <= s.weight_stages;
  }
  // Whether each of two groups has a ring with its rows of the weights, which it refills itself, and no room for
  // outputs.
  [[nodiscard]] bool own_weights(const Schedule& s) const {
    return s.by_rows && s.rows == 128 && element_bytes == 4 && !resident(s);
  }
  // What a lane of a producer loads of a chunk, as pairs of positions of 16 bytes of channels; a few rows past whole
  // rounds are no item.
  [[nodiscard]] std::int64_t items(std::int64_t positions) const {
    const std::int64_t columns = std::max<std::int64_t>(1, row_bytes / 64);
    constexpr std::int64_t kTail = 6;
    return columns * ceil_div(positions + span() - kTail, row_bytes == 32 ? 128 : 64);
  }
  // Outputs leave from registers where the phases of eight positions are a long run in y.
  [[nodiscard]] bool direct(const Problem& p) const {
    return gap == 1 && (((live == 4 || live == 8) && p.padding % 2 == 0) || (planes == 2 && live == 1));
  }
};

constexpr std::int64_t kItemsOfBatch = 10;  // what the kernel's Items lets the registers hold, of 16-byte pairs

// Of the consumers, of the group that brings x, and of one that asks for w, unless the consumers do.
int threads(const Shape& shape, const Schedule& s) {
  return 128 * (s.warpgroups + (shape.own_weights(s) || s.at_once > 1 ? 1 : 2));
}

std::int64_t positions_of_group(const Schedule& s) {
  return s.positions * (s.by_rows ? s.rows / 64 : 1) / s.warpgroups;
}

std::int64_t shared_bytes(const Problem& p, const Schedule& s) {
  const Shape shape(p);
  const std::int64_t group_positions = positions_of_group(s);
  const std::int64_t rows = Shape::rows(s);
  const bool whole = shape.live <= rows;
  const std::int64_t x_bytes = ceil_div((s.positions + shape.span()) * shape.row_bytes, 1024) * 1024 * shape.planes;
  const std::int64_t vector = 16 / shape.element_bytes;
  const std::int64_t channels = shape.tile_channels(s);
  const std::int64_t segment = whole ? group_positions * p.stride : rows * shape.gap;
  std::int64_t pitch = ceil_div(segment, vector) * vector + vector;
  if (whole && shape.gap == 1 && (shape.live == 2 || shape.live == 4)) {
    while (pitch * shape.element_bytes % 128 != 16 * shape.live) pitch += vector;
  }
  // Bytes of a group; beyond, it stores in parts.
  const std::int64_t most = shape.planes == 1 && rows <= 240 ? 20 << 10 : 10 << 10;
  std::int64_t parts = 1;
  for (std::int64_t more = 2; whole && channels * shape.live == rows && 8 * more <= rows &&
                              channels / parts * pitch * shape.element_bytes > most;
       ++more) {
    if (rows % (8 * more) == 0 && channels % more == 0) parts = more;
  }
  const std::int64_t segments = whole ? channels / parts : group_positions;
  // Split, sums of each position in a pitch of 16 modulo 32 instead; and the bias of a channel a row at most, of two
  // tiles.
  const std::int64_t sums = ceil_div(rows, 16) * 16;
  const std::int64_t staged = shape.own_weights(s) ? 0
                              : s.by_rows          ? std::int64_t{32} * (512 + 8 * shape.element_bytes)
                              : s.splits > 1       ? 4 * group_positions * (sums + (48 - sums % 32) % 32)
                              : shape.direct(p)    ? 0
                                                   : segments * pitch * shape.element_bytes;
  const std::int64_t out_bytes = staged + 8 * rows;
  const std::int64_t w_stages =
      shape.same_weights(s) ? std::min<std::int64_t>(s.weight_stages, shape.weight_entries()) : s.weight_stages;
  const std::int64_t out_at = ceil_div(s.stages * x_bytes + w_stages * shape.weight_bytes(s), 128) * 128;
  // A place of w is full or empty; where there are two rings, who empties it knows.
  const std::int64_t barriers = 2 * (s.stages + w_stages + (s.splits > 1 ? s.warpgroups : 0));
  return out_at + ceil_div(s.warpgroups * out_bytes, 128) * 128 + 8 * barriers + 1024;
}

std::optional<std::string> refuse(const Problem& p, const Target& target) {
  if (target.sm != 90) return fmt::format("wgmma is an instruction of compute capability 9.0, not {}", target.sm);
  if (auto why = refuse_gemm(p, "wgmma")) return why;
  const Shape shape(p);
  if (shape.weight_entries() * shape.row_tiles({.rows = 128}) * shape.weight_bytes({.rows = 128}) >= (1ll << 31))
    return "the packed weights of a group are above 2^31 bytes, and its offsets are 32-bit";
  return std::nullopt;
}

// wgmma's N, as kernels/wgmma.cuh has it. What all tiles of a call take, in rows multiplied by one tap: a tile takes as
// long as its rows, or, `least`, as to bring x.
std::int64_t time_of_tiles(const Shape& shape, const Schedule& s, std::int64_t least) {
  constexpr std::int64_t kTile = 16;  // what else a tile takes
  const std::int64_t products = shape.taps * shape.terms;
  return shape.row_tiles(s) * (std::max(products * Shape::rows(s), least) + products * kTile);
}
constexpr std::int64_t kBring = 240;  // what it takes to bring the x of a tile
bool whole_slots(const Shape& shape, int rows) { return shape.row_bytes * rows % 1024 == 0; }  // as the swizzle repeats

// The fewest tiles, then the fewest rows that are padding.
int rows_of_tile(const Shape& shape) {
  constexpr int kRows[] = {8, 16, 24, 32, 40, 48, 64, 80, 96, 128};
  int best = 128;
  std::int64_t best_time = -1;
  for (const int rows : kRows) {
    if (!whole_slots(shape, rows) || (rows < 64 && shape.row_tiles({.rows = rows}) > 1)) continue;
    const std::int64_t time = time_of_tiles(shape, {.rows = rows}, 0);
    if (best_time < 0 || time < best_time) best = rows, best_time = time;
  }
  return best;
}

// Of a call of many tiles, where it counts how often x is brought: that takes as long as 240 rows of one tap. Of 5, 6,
// 7 or 10 phases there are more in 112 or 120 rows than in 80 or 96, with as little padding.
int rows_of_many_tiles(const Shape& shape, int rows) {
  for (const int more : {112, 120}) {
    if (whole_slots(shape, more) &&
        time_of_tiles(shape, {.rows = more}, kBring) < time_of_tiles(shape, {.rows = rows}, kBring))
      rows = more;
  }
  return rows;
}

// Two tiles of rows in one product, which reads x from shared memory once for both; half as much x is brought for as
// many sums, but twice the weights. Both groups go through the weights together, so where outputs take as long as
// products one waits for the other, unless all weights stay.
std::optional<Schedule> two_at_once(const Shape& shape, int rows, int rows_of_many) {
  std::optional<Schedule> best;
  if (shape.planes > 1) return best;
  for (const int one : {rows, rows_of_many}) {
    const Schedule s{.positions = 128, .rows = one, .warpgroups = 2, .at_once = 2};
    if (one <= 64 || one % shape.live != 0 || shape.row_tiles({.rows = one}) == 1) continue;
    if (!best || time_of_tiles(shape, s, kBring) < time_of_tiles(shape, *best, kBring)) best = s;
  }
  return best;
}

// Where the shared memory that there is allows it. Tiles of 64 positions wait for loads; larger ones whose outputs
// leave from registers, or two of rows at once that stage them, make more of slots for weights.
int most_x_stages(const Problem& p, const Shape& shape, const Schedule& s) {
  if (s.positions == 64) return 4;
  if (shape.direct(p)) return 3;
  return s.at_once > 1 ? 2 : s.positions == 128 ? 4 : 3;
}

std::vector<Schedule> schedules(const Problem& p, const Target& target) {
  const Shape shape(p);
  const int rows = rows_of_tile(shape), rows_of_many = rows_of_many_tiles(shape, rows);
  const auto room = static_cast<std::int64_t>(target.smem_per_block.value);
  // A block that leaves more to L1 has more loads of x on their way: up to a seventh faster. The next step of what
  // shared memory may be, of which the system takes 1 KiB.
  constexpr std::int64_t kLeavesL1 = 195 << 10;
  // Two slots of weights do not keep up with the products: a fifth slower.
  constexpr int kFewSlots = 3;
  std::vector<Schedule> all;
  const auto add = [&](Schedule s) {
    const std::int64_t limit = s.at_once > 1 ? kLeavesL1 : room;
    const auto fits = [&](const Schedule& one) { return shared_bytes(p, one) <= limit; };
    s.stages = 2, s.weight_stages = 4;
    if (shape.same_weights(s)) s.weight_stages = static_cast<int>(std::min<std::int64_t>(shape.weight_entries(), 64));
    // All weights stay where they fit, else four slots of them, else fewer of both.
    if (!fits(s)) s.weight_stages = 4;
    // Groups with rings of their own may be that far apart in x.
    if (shape.own_weights(s)) s.stages = 3, s.weight_stages = kFewSlots;
    if (!fits(s)) s.stages = 2;
    if (!fits(s)) s.weight_stages = s.at_once > 1 ? kFewSlots : 2;
    if (!fits(s)) s.stages = 1;
    // One stage of x is loaded only when all products of the last are done. Fewer positions leave room for two: in each
    // of nine layers of many phases in TF32 (bench/results/h200_catalogue_schedules.json) that was 6 % faster and more.
    if (!fits(s) || (s.stages == 1 && (s.positions > 128 || s.at_once > 1))) return;
    // What is left holds more of x on its way, then more weights.
    const auto grow = [&](int Schedule::*stages, std::int64_t most) {
      while (s.*stages < most) {
        Schedule more = s;
        ++(more.*stages);
        if (shared_bytes(p, more) > (stages == &Schedule::weight_stages && s.*stages < kFewSlots ? room : kLeavesL1))
          break;
        s = more;
      }
    };
    if (!shape.own_weights(s)) grow(&Schedule::stages, most_x_stages(p, shape, s));
    grow(&Schedule::weight_stages, std::min<std::int64_t>(8, shape.weight_entries()));
    // In entries of the weights, what it takes at least to hide that one group waits for the other's outputs.
    const std::int64_t long_sum = 4 + 2 * shape.element_bytes;
    if (s.at_once > 1 && !shape.resident(s) && shape.weight_entries() < long_sum) return;
    all.push_back(s);
  };
  // Samples that are neighbours in a row of sums and in y pass shared memory in half the stores.
  const bool by_rows = rows % 64 == 0 && shape.planes == 1 && p.stride == 1;
  // Three terms have a second set of sums beside the accumulators. Where a window of 512 comes in two batches, it was a
  // quarter slower than one of 256 under five taps and a little faster under three; in 16 bits it spills.
  if (rows <= 64 && shape.planes == 1 &&
      (shape.items(512) <= kItemsOfBatch || (shape.element_bytes == 4 && shape.taps <= 3)))
    add({.positions = 512, .rows = rows, .warpgroups = 2, .by_rows = by_rows});
  // A window of 192 positions leaves a producer registers for two chunks at a time: faster than 256 positions where the
  // weights stay. Others would come again for fewer positions.
  const bool stay =
      shape.same_weights({.rows = rows}) && shape.weight_entries() * shape.weight_bytes({.rows = rows}) <= 96 << 10;
  if (by_rows && rows == 128 && shape.element_bytes == 2 && stay && shape.span() <= 6)
    add({.positions = 184, .rows = rows, .warpgroups = 2, .by_rows = true});
  else if (rows <= 64 || shape.planes == 1)
    add({.positions = 256, .rows = rows, .warpgroups = 2, .by_rows = by_rows});
  if (rows_of_many > rows && shape.planes == 1) add({.positions = 256, .rows = rows_of_many, .warpgroups = 2});
  if (const auto two = two_at_once(shape, rows, rows_of_many); two && !by_rows) add(*two);
  add({.positions = 128, .rows = rows, .warpgroups = 2, .by_rows = by_rows && rows == 128});
  add({.positions = 64, .rows = rows, .warpgroups = 1});
  // For calls of a few tiles. A shorter sum takes no longer than the exchange of its parts.
  constexpr std::int64_t kLongSum = 4;  // chunks
  for (int splits = 2; splits <= 8 && shape.chunks >= std::max<std::int64_t>(kLongSum, splits); splits *= 2)
    add({.positions = 64, .rows = rows, .warpgroups = 1, .splits = splits});
  return all;
}

// The same image for every schedule with the same rows.
std::int64_t packed_bytes(const Problem& p, const Schedule& s) {
  const Shape shape(p);
  const Schedule packed{.rows = s.rows};
  return shape.groups * shape.row_tiles(packed) * shape.weight_entries() * shape.weight_bytes(packed);
}

std::string source(const Layer& layer, const Target&, const Schedule& s) {
  const Problem& p = layer.problem;
  const Shape shape(p);
  return fmt::format(
      "#include \"gemm_sm90.cuh\"\n\n{}"
      "struct Schedule {{\n"
      "  static constexpr int ROWS = {}, GROUP_POSITIONS = {}, CONSUMERS = {}, X_STAGES = {}, W_STAGES = {};\n"
      "  static constexpr int SPLITS = {}, AT_ONCE = {};\n"
      "  static constexpr bool BY_ROWS = {};\n"
      "}};\n\n"
      "using Gemm = tconv::GemmSm90<Layer, Schedule>;\n"
      "static_assert(Gemm::SHARED_BYTES == {} && Gemm::THREADS == {}, \"as the host launches it\");\n"
      "static_assert(Gemm::PACKED_BYTES == {}, \"as the host allocates it\");\n\n"
      "extern \"C\" __global__ void __launch_bounds__(Gemm::THREADS, 1)\n"
      "    run(const __grid_constant__ tconv::Call call) {{\n"
      "  Gemm::run(call);\n}}\n\n"
      "extern \"C\" __global__ void pack(const __grid_constant__ tconv::Pack call) {{\n"
      "  Gemm::pack(call);\n}}\n",
      gemm_layer(layer), s.rows, positions_of_group(s), s.warpgroups, s.stages, s.weight_stages, s.splits, s.at_once,
      s.by_rows, shared_bytes(p, s), threads(shape, s), packed_bytes(p, s));
}

Launch pack_launch(const Problem& p, const Schedule& s) {
  const Shape shape(p);
  return {.blocks = ceil_div(packed_bytes(p, s) / shape.planes / 16, 256), .threads = 256};
}

// Images of few positions share a split tile of 64, each with room for what its taps read before its first.
std::int64_t images_of_tile(const Workload& workload, const Schedule& s) {
  const Shape shape(workload.problem);
  const std::int64_t span = shape.span();
  const std::int64_t rows = positions(workload) + span;
  return s.splits == 1 || 2 * rows > s.positions + span ? 1 : (s.positions + span) / rows;
}

std::int64_t tiles(const Workload& workload, const Schedule& s) {
  const Shape shape(workload.problem);
  return ceil_div(workload.extent.batch, images_of_tile(workload, s)) * shape.groups * shape.row_tiles(s) *
         ceil_div(positions(workload), s.positions);
}

// That run at a time. One lies inside one of the chip's groups of SMs, and some of each are left over: on an NVIDIA
// H100, 28 clusters of four run at a time but not 32.
std::int64_t clusters(const Target& target, const Schedule& s) {
  const double usable = s.splits > 2 ? 0.85 : 1.0;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(usable * target.sms.value / s.splits));
}

Launch launch(const Workload& workload, const Target& target, const Schedule& s) {
  return {.blocks = std::min(tiles(workload, s), clusters(target, s)) * s.splits,
          .threads = threads(Shape(workload.problem), s),
          .shared_bytes = static_cast<int>(shared_bytes(workload.problem, s)),
          .cluster = s.splits};
}

// A tile is bound by its producers, the matrix unit and shared memory: by the slowest of them, and a little by the
// others. Its outputs come on top; of that and memory much, but not all, is hidden behind the longer. The constants
// were fitted to 1,908 runs of 285 layers and batches on an NVIDIA H200 (bench/results/h200_two_row_tiles.json), of
// which what it chooses takes 1.004 times what the fastest does, geometric mean.
double seconds(const Workload& workload, const Target& target, const Schedule& s) {
  const Problem& p = workload.problem;
  const Shape shape(p);
  const double clock = target.clock_hz.value;
  const auto rounds = static_cast<double>(ceil_div(tiles(workload, s), clusters(target, s)));
  const auto rows = static_cast<double>(Shape::rows(s));
  // Of the sum, what the block with the most chunks has.
  const double chunks = static_cast<double>(ceil_div(shape.chunks, s.splits));
  const double share = chunks / static_cast<double>(shape.chunks);
  // Of 64 positions, or 64 rows, by 32 bytes of channels.
  const double products = share * static_cast<double>(shape.taps * shape.steps * shape.terms);
  const double promote = shape.terms == 1 ? 1.0 : 1.15;  // three terms wait for every tap's sums to add them up
  constexpr double kProducts = 1.05;                     // of the matrix unit's own time
  const double multiply = kProducts * products * s.positions / 64.0 * std::max(32.0, 0.5 * rows) * promote;
  // A producer's items of a chunk, as the kernel counts them, and their batches: the first is on its way while a place
  // is awaited, each further one is waited for.
  constexpr double kItem = 194, kChunk = 770, kBatch = 1800;  // cycles
  const double produce = chunks * (kChunk + kItem * static_cast<double>(shape.items(s.positions)) +
                                   kBatch * static_cast<double>(ceil_div(shape.items(s.positions), kItemsOfBatch) - 1));
  // Shared memory and L1 are one memory of 128 bytes a cycle. Products read both operands from it, of which the first
  // is of 64 rows; weights are written to it unless they stay; x is written to L1, read, and written again, transposed.
  constexpr double kBytesOfCycle = 128;
  const auto group_positions = static_cast<double>(positions_of_group(s));
  const double instructions = products * (s.by_rows ? rows / 64 * s.positions / group_positions : s.positions / 64.0);
  const double operands = instructions * 32 * (64 + (s.by_rows ? group_positions : rows));
  const double weights =
      shape.resident(s) ? 0.0 : share * static_cast<double>(shape.weight_entries() * shape.weight_bytes(s));
  const double window = share * static_cast<double>((s.positions + shape.span()) * shape.c_in * shape.element_bytes);
  const double memory_of_sm = (operands + weights + static_cast<double>(2 + shape.planes) * window) / kBytesOfCycle;
  // Cycles for each output of a thread.
  constexpr double kStaged = 36;
  const double output = s.by_rows ? 17.5 : shape.direct(p) ? 27 : s.at_once > 1 ? 1.8 * kStaged : kStaged;
  const double outputs = s.positions * rows / (128.0 * s.warpgroups);  // of a thread
  // Split, it writes its sums, waits for the other blocks, and reads as many of theirs.
  constexpr double kExchange = 3400, kTile = 360;
  const double store =
      s.splits == 1 ? output * outputs * static_cast<double>(shape.gap) : 2 * kStaged * outputs + kExchange;
  // As fourth powers, whose root is no call of pow: a call of a new size asks for every schedule.
  const auto fourth = [](double cycles) { return cycles * cycles * cycles * cycles; };
  const double sum = std::sqrt(std::sqrt(fourth(multiply) + fourth(produce) + fourth(memory_of_sm)));
  const double blocks = rounds * (sum + store + kTile) / clock;
  // Short segments of y take DRAM longer.
  constexpr double kSegment = 112;  // bytes
  const double segment = shape.live <= Shape::rows(s) ? group_positions * static_cast<double>(p.stride) : rows;
  const Work moved = work(workload);
  const double memory = moved.bytes() / achievable_dram(target, moved.bytes_read, moved.bytes_written) *
                        (1 + kSegment / (segment * static_cast<double>(shape.element_bytes)));
  return std::sqrt(blocks * blocks + memory * memory) + target.launch_s.value;
}

}  // namespace

const Solver kGemmSm90{.name = "gemm_sm90",
                       .refuse = refuse,
                       .schedules = schedules,
                       .source = source,
                       .packed_bytes = packed_bytes,
                       .pack_launch = pack_launch,
                       .launch = launch,
                       .seconds = seconds};

}  // namespace tconv::cuda
