// Implicit GEMM for sm_90: positions x (C_out x live phases), summed over (taps x C_in).
//
// PyTorch keeps time contiguous, wgmma wants channels contiguous. The producers transpose x on its way into shared
// memory, once for a tile: row q holds a chunk of channels of position q, swizzled. A tap then is nothing but another first
// row, so all taps and all phases multiply from that one copy. The weights were packed in the very bytes of shared
// memory, and a bulk copy brings each (chunk, tap) of them.
//
// Warps: 4 a consumer group (wgmma and the epilogue), 4 that bring x, one that asks for w, which bulk copies bring, unless the
// groups do that themselves, and those that only complete its warpgroup. Blocks are persistent.
//
// Layer:    C_IN, C_OUT (of one group), GROUPS, K, STRIDE, PADDING, GAP, LIVE, STEP, TAPS, JUMP, BIAS, Storage, and its
//           activations (activation.cuh). Tap number t of every phase reads x[position - t * JUMP]; see src/cuda/layer.hpp.
// Schedule: ROWS (of a row tile, as w is packed), AT_ONCE: one row tile, or two of them side by side in one product,
//           GROUP_POSITIONS (of one consumer group), CONSUMERS, X_STAGES, W_STAGES, SPLITS: blocks of a cluster that share a
//           tile, each the sum over some of the chunks. BY_ROWS: which operand is wgmma's first, of which it takes 64 rows: w,
//           and a warp has 16 rows at all positions of its group; or x, and it has all rows at 16 positions.
#pragma once

#include "activation.cuh"
#include "call.h"
#include "gemm.cuh"
#include "ptx.cuh"
#include "wgmma.cuh"

namespace tconv {

// Of positive numbers. A division of 64 bits is a call, for which the producers have no registers: below 2^32 it is one of 32,
// and above, bit by bit.
__device__ inline long long quotient(long long a, long long b) {
  if ((a | b) >> 32 == 0) return static_cast<unsigned>(a) / static_cast<unsigned>(b);
  long long quotient = 0, rest = 0;
#pragma unroll 1
  for (int bit = 62; bit >= 0; --bit) {
    rest = 2 * rest + (a >> bit & 1);
    quotient = 2 * quotient + (rest >= b);
    if (rest >= b) rest -= b;
  }
  return quotient;
}

template <class Layer, class Schedule>
struct GemmSm90 {
  using Storage = typename Layer::Storage;
  using Element = typename Storage::Element;

  // --- the shape of a tile ----------------------------------------------------------------------

  static constexpr int SIZE = sizeof(Element);
  static constexpr int STEP = 32 / SIZE;  // channels of one wgmma: 32 bytes
  static constexpr int STEPS_ALL = (Layer::C_IN + STEP - 1) / STEP;
  static constexpr int ROW_BYTES = STEPS_ALL == 1 ? 32 : STEPS_ALL == 2 ? 64 : 128;
  static constexpr int CHUNK = ROW_BYTES / SIZE;  // channels of one row in shared memory
  static constexpr int UNIT = 16 / SIZE;          // channels, or samples, of 16 bytes
  static constexpr int CHUNKS = (Layer::C_IN + CHUNK - 1) / CHUNK;
  static constexpr int STEPS = ROW_BYTES / 32;
  static constexpr int LAST_STEPS = STEPS_ALL - (CHUNKS - 1) * STEPS;
  static constexpr int PLANES = Storage::TERMS == 3 ? 2 : 1;  // hi and lo

  static constexpr int CONSUMERS = Schedule::CONSUMERS;
  static constexpr int SPLITS = Schedule::SPLITS;
  static constexpr bool BY_ROWS = Schedule::BY_ROWS;
  static constexpr int AT_ONCE = Schedule::AT_ONCE, PACKED_ROWS = Schedule::ROWS, ROWS = AT_ONCE * PACKED_ROWS;
  static constexpr int SLICES = BY_ROWS ? ROWS / 64 : 1;  // of a tile's rows, a group each
  static constexpr int GROUP_POSITIONS = Schedule::GROUP_POSITIONS, TILES = GROUP_POSITIONS / 64;
  static constexpr int POSITIONS = GROUP_POSITIONS * CONSUMERS / SLICES;
  static_assert(!BY_ROWS || (ROWS % 64 == 0 && CONSUMERS % SLICES == 0 && SPLITS == 1));
  static_assert(!BY_ROWS || Layer::STRIDE == 1, "neighbouring positions are neighbours in y");
  static_assert(GROUP_POSITIONS % (BY_ROWS ? 8 : 64) == 0, "whole instructions");
  static constexpr int SPAN = (Layer::TAPS - 1) * Layer::JUMP;  // positions before the tile that it reads
  static constexpr int X_ROWS = POSITIONS + SPAN;
  static constexpr int X_PLANE = (X_ROWS * ROW_BYTES + 1023) / 1024 * 1024;
  static constexpr int X_BYTES = X_PLANE * PLANES;

  // Rows of a tile: whole channels with all their live phases, or some of the phases of one channel.
  static constexpr bool WHOLE = Layer::LIVE <= ROWS;
  static constexpr int TILE_CHANNELS = WHOLE ? ROWS / Layer::LIVE : 1;
  static constexpr int TILE_PHASES = WHOLE ? Layer::LIVE : ROWS;
  static constexpr int PHASE_TILES = (Layer::LIVE + TILE_PHASES - 1) / TILE_PHASES;
  static constexpr int ROW_TILES = (Layer::C_OUT + TILE_CHANNELS - 1) / TILE_CHANNELS * PHASE_TILES;
  static constexpr int PACKED_CHANNELS = TILE_CHANNELS / AT_ONCE;
  static constexpr int PACKED_TILES = (Layer::C_OUT + PACKED_CHANNELS - 1) / PACKED_CHANNELS * PHASE_TILES;
  static_assert(AT_ONCE == 1 || (AT_ONCE == 2 && PACKED_ROWS % Layer::LIVE == 0 && !BY_ROWS && SPLITS == 1 && PLANES == 1),
                "row tiles of whole channels lie side by side");
  static constexpr int W_PLANE = ROWS * ROW_BYTES, PACKED_PLANE = PACKED_ROWS * ROW_BYTES;
  static constexpr int PACKED_ENTRY = PACKED_PLANE * PLANES;
  static constexpr int W_ENTRIES = CHUNKS * Layer::TAPS;  // of a row tile
  // All weights stay in shared memory when a block never needs others.
  static constexpr bool RESIDENT = ROW_TILES == 1 && Layer::GROUPS == 1 && W_ENTRIES <= Schedule::W_STAGES &&
                                   SPLITS == 1;
  static constexpr int W_STAGES = RESIDENT ? W_ENTRIES : Schedule::W_STAGES;
  static constexpr int X_STAGES = Schedule::X_STAGES;
  // In 32 bits, two groups that each have rows of their own do not go through the weights together: each has a ring with its
  // rows of them and refills it itself. A block has a warpgroup less then, and a thread registers for 256 positions at once.
  // Nor do their outputs pass shared memory, as what four lanes have of a row is a sector of 32 bytes.
  static constexpr bool OWN_W = BY_ROWS && SLICES == 2 && !RESIDENT && SIZE == 4;
  static constexpr int W_RINGS = OWN_W ? 2 : 1;
  // A product of two row tiles needs more registers than a thread has in a block of four warpgroups. Such blocks do without the
  // warp that asks for w, too: the group that gives a slot back last refills it.
  static constexpr bool WIDE = AT_ONCE == 2;
  static constexpr bool GROUPS_ASK = OWN_W || WIDE;
  static constexpr int W_SLOTS = W_RINGS * W_STAGES, W_SLOT = W_PLANE * PLANES / W_RINGS;  // of all rings; bytes of one

  // Output of a consumer group: a segment of samples for each channel (WHOLE), or for each position. Long segments are what
  // DRAM writes fastest, so all positions at once, and a part of the channels at a time where shared memory is short.
  static constexpr int SEGMENT = WHOLE ? GROUP_POSITIONS * Layer::STRIDE : TILE_PHASES * Layer::GAP;
  // Of two or four phases, what a warp lays at once is of four or two channels: it meets in no bank where one begins 16 bytes a
  // phase further than the one before it, beside whole 128.
  static constexpr int pitch_from(int pitch) {
    return WHOLE && Layer::GAP == 1 && (Layer::LIVE == 2 || Layer::LIVE == 4) && pitch * SIZE % 128 != 16 * Layer::LIVE
               ? pitch_from(pitch + UNIT)
               : pitch;
  }
  static constexpr int PITCH = pitch_from(segment_pitch<Element>(SEGMENT));
  // Two planes take the room themselves, and so do slots of 32 KiB.
  static constexpr int OUT_MOST = (PLANES == 1 && ROWS <= 240 ? 20 : 10) * 1024;
  // The fewest that fit, or as many as there may be: each is whole channels and whole blocks of eight rows.
  static constexpr int parts_from(int parts, int valid) {
    if (!WHOLE || TILE_CHANNELS * Layer::LIVE != ROWS || TILE_CHANNELS / valid * PITCH * SIZE <= OUT_MOST || 8 * parts > ROWS)
      return valid;
    return parts_from(parts + 1, ROWS % (8 * parts) == 0 && TILE_CHANNELS % parts == 0 ? parts : valid);
  }
  static constexpr int PARTS = parts_from(2, 1);
  static constexpr int PART_CHANNELS = TILE_CHANNELS / PARTS;
  static constexpr int SEGMENTS = WHOLE ? PART_CHANNELS : GROUP_POSITIONS;
  // Split, it holds the sums of every block over this block's share of the positions instead: a row of the tile's rows for
  // each. A lane has two of each eight of them; those of sixteen are neighbours there and are written as 16 bytes, which in
  // this pitch meet no other lane's in a bank.
  static constexpr int SUMS_ROWS = (ROWS + 15) / 16 * 16;
  static constexpr int SUMS_PITCH = SUMS_ROWS + (48 - SUMS_ROWS % 32) % 32;
  __device__ static constexpr int place_of(int row) { return row / 16 * 16 + row % 8 / 2 * 4 + row / 8 % 2 * 2 + row % 2; }
  // Where four or eight phases of eight positions are a run in y, two samples of it in a lane, a group's outputs leave from
  // registers. Three terms take so long to multiply that shorter runs do not delay them.
  static constexpr bool PAIRS = Layer::LIVE % 2 == 0 && Layer::PADDING % 2 == 0;
  static constexpr bool DIRECT =
      SPLITS == 1 && !BY_ROWS && Layer::GAP == 1 &&
      ((PAIRS && (Layer::LIVE == 4 || Layer::LIVE == 8)) || (PLANES == 2 && Layer::LIVE == 1));
  static_assert(!DIRECT || WHOLE, "a channel's live phases are at most eight");
  // By rows, a warp stages 512 bytes of eight rows at a time.
  static constexpr int PART_POSITIONS = 512 / SIZE, PART_PITCH = PART_POSITIONS + 8;
  static constexpr int STAGED_BYTES = SPLITS > 1        ? GROUP_POSITIONS * SUMS_PITCH * 4
                                      : DIRECT || OWN_W ? 0
                                      : BY_ROWS         ? 4 * 8 * PART_PITCH * SIZE
                                                        : SEGMENTS * PITCH * SIZE;
  static constexpr int OUT_BYTES = STAGED_BYTES + 2 * ROWS * 4;  // and behind it the bias of two tiles' channels
  static constexpr bool MERGES = SPLITS > 1 && POSITIONS == 64;
  static_assert(GROUP_POSITIONS % SPLITS == 0 && SPLITS <= CHUNKS, "every block has chunks to sum and positions to store");

  static constexpr int X_AT = 0;
  static constexpr int W_AT = X_AT + X_STAGES * X_BYTES;
  static constexpr int OUT_AT = (W_AT + W_SLOTS * W_SLOT + 127) / 128 * 128;
  static constexpr int BARRIERS_AT = OUT_AT + (CONSUMERS * OUT_BYTES + 127) / 128 * 128;
  static constexpr int SUMS_BARRIERS = SPLITS > 1 ? CONSUMERS : 0;
  static constexpr int BARRIERS = 2 * (X_STAGES + W_STAGES + SUMS_BARRIERS);  // two rings have no w_empty
  static constexpr int SHARED_BYTES = BARRIERS_AT + 8 * BARRIERS + 1024;  // room to align

  static constexpr int PRODUCERS = 4;  // warps that bring x
  static constexpr int THREADS = 128 * (CONSUMERS + (GROUPS_ASK ? 1 : 2));
  // Of two consumer groups: they and the producers of x take registers from the warpgroup that needs few. More than the
  // launch's, and the block would wait for them forever.
  static constexpr bool MOVE_REGISTERS = CONSUMERS == 2;
  static constexpr int LAUNCH_REGISTERS = 65536 / THREADS / 8 * 8;
  static constexpr int LAST_REGISTERS = GROUPS_ASK ? 0 : 24;
  static constexpr int CONSUMER_REGISTERS = OWN_W ? 192 : WIDE ? 184 : BY_ROWS && GROUP_POSITIONS <= 192 ? 144 : 176;
  static constexpr int PRODUCER_REGISTERS = (GROUPS_ASK ? 504 : 512) - LAST_REGISTERS - 2 * CONSUMER_REGISTERS;
  static_assert(!MOVE_REGISTERS || 2 * CONSUMER_REGISTERS + PRODUCER_REGISTERS + LAST_REGISTERS ==
                                       THREADS / 128 * LAUNCH_REGISTERS,
                "what the launch gave");
  static_assert(CONSUMERS <= 2 && PRODUCERS == 4, "four warpgroups at most");

  // Two samples that are neighbours in y are laid into shared memory at once: two phases, or, in 16 bits, a sample and its dead
  // phase, or, of one phase, two positions, which lie in two lanes and are turned.
  static constexpr bool TURNED = SIZE == 2 && Layer::LIVE == 1 && Layer::GAP == 1;
  static constexpr bool PAIRED = TURNED || (SIZE == 2 && Layer::GAP == 2) || (Layer::GAP == 1 && Layer::LIVE % 2 == 0);
  struct OutShape {
    static constexpr bool WHOLE = GemmSm90::WHOLE, PAIRED = GemmSm90::PAIRED;
    static constexpr int SEGMENT = GemmSm90::SEGMENT, PITCH = GemmSm90::PITCH, SEGMENTS = GemmSm90::SEGMENTS;
    static constexpr int THREADS = 128, BATCH = GemmSm90::WIDE && GemmSm90::PARTS > 2 ? 2 : 4;
  };
  using Out = Segments<Layer, OutShape>;

  static_assert(PACKED_ROWS % 8 == 0 && PACKED_PLANE % 256 == 0, "a swizzle repeats every 8 rows");
  static_assert(PACKED_PLANE % 1024 == 0 || ROW_BYTES < 128, "a 128-byte swizzle repeats every 1024 bytes");
  static_assert((BY_ROWS ? GROUP_POSITIONS : TILES * ROWS) <= 256, "accumulators: half as many registers a thread");

  unsigned shared;  // aligned to 1024 bytes
  const Call& call;
  long long first_position, end_position;
  long long position_tiles;  // of an image
  // Images of few positions share a split tile: each has image_rows of its 64, with room for what its taps read before it.
  int images, image_rows;
  long long image_tiles, tiles;

  __device__ explicit GemmSm90(const Call& c, unsigned base) : shared((base + 1023) & ~1023u), call(c) {
    first_position = Layer::PADDING / Layer::STRIDE;
    end_position = (call.out_length - 1 + Layer::PADDING) / Layer::STRIDE + 1;
    position_tiles = (end_position - first_position + POSITIONS - 1) / POSITIONS;
    images = 1;
    image_rows = POSITIONS + SPAN;
    if (MERGES && end_position - first_position + SPAN <= (POSITIONS + SPAN) / 2) {
      image_rows = static_cast<int>(end_position - first_position) + SPAN;
      images = (POSITIONS + SPAN) / image_rows;
    }
    image_tiles = (call.batch + images - 1) / images;
    tiles = position_tiles * image_tiles * (Layer::GROUPS * ROW_TILES);
  }

  __device__ unsigned x_full(int s) const { return shared + BARRIERS_AT + 8 * s; }
  __device__ unsigned x_empty(int s) const { return x_full(X_STAGES + s); }
  __device__ unsigned w_full(int s) const { return x_full(2 * X_STAGES + s); }
  // Two rings have none; of two row tiles at once it counts how often a group gave the slot back.
  __device__ unsigned w_empty(int s) const { return w_full(W_SLOTS + s); }
  __device__ unsigned w_slot(int s) const { return shared + W_AT + s * W_SLOT; }
  __device__ static int first_slot(int group) { return OWN_W ? group * W_STAGES : 0; }
  __device__ unsigned sums_full(int group) const { return x_full(BARRIERS - 2 * SUMS_BARRIERS + group); }
  __device__ unsigned sums_empty(int group) const { return sums_full(CONSUMERS + group); }

  // The blocks of a cluster take the same tiles, and each its own chunks.
  __device__ static int split() { return SPLITS == 1 ? 0 : static_cast<int>(ptx::cluster_rank()); }
  __device__ static long long first_tile() { return blockIdx.x / SPLITS; }
  __device__ static long long tile_step() { return gridDim.x / SPLITS; }
  __device__ static int first_chunk() { return split() * CHUNKS / SPLITS; }
  __device__ static int end_chunk() { return (split() + 1) * CHUNKS / SPLITS; }

  struct Tile {
    int row_tile, group;
    long long image, position;  // of its first output; its images take the same positions
  };
  // Blocks that run together share both operands through L2: a band of position tiles goes through all row tiles, and a
  // band's part of x stays in L2 meanwhile.
  static constexpr long long BAND_BYTES = 12 << 20;
  static constexpr long long BAND_FITS = BAND_BYTES / (1ll * POSITIONS * Layer::C_IN * SIZE);
  static constexpr int BAND = BAND_FITS < 1 ? 1 : BAND_FITS > 64 ? 64 : static_cast<int>(BAND_FITS);
  static_assert(1ll * BAND * ROW_TILES * Layer::GROUPS < (1ll << 31), "tiles of a band are counted in int");
  __device__ Tile tile_at(long long index) const {
    Tile t;
    long long place = index;  // among the position tiles of all images
    t.row_tile = t.group = 0;
    if constexpr (ROW_TILES * Layer::GROUPS > 1) {
      const long long band = index / (BAND * ROW_TILES * Layer::GROUPS);
      const int inner = static_cast<int>(index % (BAND * ROW_TILES * Layer::GROUPS));
      const long long left = position_tiles * image_tiles - band * BAND;
      const int width = left < BAND ? static_cast<int>(left) : BAND;
      place = band * BAND + inner % width;
      t.row_tile = inner / width % ROW_TILES;
      t.group = inner / width / ROW_TILES;
    }
    t.image = quotient(place, position_tiles);
    t.position = first_position + (place - t.image * position_tiles) * POSITIONS;
    if constexpr (MERGES) t.image *= images;
    return t;
  }

  // Of a group.
  __device__ static long long first_position_of(const Tile& tile, int group) {
    return tile.position + group / SLICES * GROUP_POSITIONS;
  }

  struct Ring {
    int slot = 0;
    unsigned parity = 0;
    template <int STAGES>
    __device__ void next() {
      if (++slot == STAGES) slot = 0, parity ^= 1;
    }
  };

  // --- producers --------------------------------------------------------------------------------

  static constexpr int COLUMNS = ROW_BYTES / 16;  // units of a row
  static constexpr int ROW_WARPS = COLUMNS < PRODUCERS ? PRODUCERS / COLUMNS : 1;     // that share a column's rows
  static constexpr int COLUMN_STEPS = COLUMNS > PRODUCERS ? COLUMNS / PRODUCERS : 1;  // columns of a warp
  static constexpr int COLUMN_STEP = PRODUCERS * UNIT;                                // channels from one to the next

  __device__ static unsigned swizzled(unsigned offset) {
    return offset ^ (((offset >> 7) & (ROW_BYTES / 16 - 1)) << 4);
  }

  // What one load brings: WIDTH adjacent positions of one channel, in whole registers.
  template <int BYTES, class = void>
  struct Loaded;
  template <class None>
  struct Loaded<2, None> {
    using Type = unsigned short;
  };
  template <class None>
  struct Loaded<4, None> {
    using Type = unsigned;
  };
  template <class None>
  struct Loaded<8, None> {
    using Type = uint2;
  };
  template <int WIDTH>
  using Samples = typename Loaded<WIDTH * SIZE>::Type;

  // Of each 32 bytes of a row, the first 16 are even channels and the other 16 odd ones, and so they are in the packed
  // weights. Where rows of x have an odd length, every other one starts between two words; but those of one unit start alike,
  // and its samples come in aligned pairs, all of which begin a row earlier.
  __device__ static constexpr int channel_of(int column, int e) { return column / 2 * STEP + column % 2 + 2 * e; }

  // Whether the matrix unit reads a column of a chunk.
  __device__ static bool in_steps(int chunk, int column) {
    return LAST_STEPS == STEPS || chunk < CHUNKS - 1 || column < 2 * LAST_STEPS;
  }

  // A producer warp has one or two columns of every chunk, a lane every ROW_STEP-th row and WIDTH - 1 after it. What a lane
  // loads of a column and row is an item. They are loaded in as few batches as the registers allow, and even ones: a batch
  // waits for memory once, and one whose loads are mixed with the stores of another waits for each. Short windows: those of
  // several chunks at once.
  template <int WIDTH>
  struct Items {
    static constexpr int ROW_STEP = 32 * WIDTH * ROW_WARPS;
    // A few rows past whole rounds, and the one that pairs may leave out before them, come sample by sample: the tail.
    static constexpr bool TAIL = !MERGES && X_ROWS % ROW_STEP <= 6;
    static constexpr int ROUNDS = TAIL ? X_ROWS / ROW_STEP : (X_ROWS + ROW_STEP - 1) / ROW_STEP;
    static constexpr int TAIL_ROW = ROUNDS * ROW_STEP - (WIDTH - 1), TAIL_ROWS = TAIL ? X_ROWS - TAIL_ROW : 0;
    static constexpr int TAIL_SAMPLES = TAIL_ROWS * CHUNK, TAIL_LOADS = (TAIL_SAMPLES + 32 * PRODUCERS - 1) / (32 * PRODUCERS);
    static constexpr int OF_CHUNK = COLUMN_STEPS * ROUNDS;
    // The sine needs registers of its own, and so do the addresses of single samples.
    static constexpr int ROOM =
        PRODUCER_REGISTERS - (WIDTH == 1 ? 88 : Layer::BEFORE == Activation::snake ? 80 : 56);
    static constexpr int REGISTERS = WIDTH * SIZE <= 4 ? UNIT : UNIT * WIDTH * SIZE / 4;  // of an item
    static constexpr int BATCHES = (OF_CHUNK * REGISTERS + ROOM - 1) / ROOM;
    static constexpr int COUNT = (OF_CHUNK + BATCHES - 1) / BATCHES;  // of a batch
    static constexpr int least(int a, int b) { return a < b ? a : b; }
    static constexpr int FIT = ROOM / (OF_CHUNK * REGISTERS + TAIL_LOADS);
    static constexpr int CHUNKS_AT_ONCE = FIT < 1 ? 1 : least(least(FIT, 4), CHUNKS / SPLITS);
    static_assert(ROW_STEP * ROW_BYTES % 1024 == 0, "a step keeps the swizzle");
  };

  template <int WIDTH>
  using Batch = Samples<WIDTH>[Items<WIDTH>::COUNT][UNIT];

  // What a tile reads of x, from some chunk on.
  template <int WIDTH>
  struct Window {
    long long tile;
    int chunk;
    const Element* from;  // its first row, of the chunk's first channel
    const float* alphas;  // of that channel
    bool shifted;         // of the lane's channels
    // A pair at an end of x may have one sample that is there. What lies beside it is another channel's, or at least between
    // others, and may be read with it, except before the first of all samples and behind the last.
    bool split, has_first, has_last;
    bool all;       // whatever is loaded of a channel that exists is there
    int low, high;  // rows that are samples of x
    // Where images share a tile, the lane's rows lie anywhere.
    bool inside[MERGES ? Items<WIDTH>::ROUNDS : 1];
    long long offset[MERGES ? Items<WIDTH>::ROUNDS : 1];  // of a sample of any channel

    __device__ bool has(int row, int round) const { return MERGES ? inside[round] : row >= low && row < high; }
  };
  // Whether the pairs of a channel begin a row earlier.
  template <int WIDTH>
  __device__ bool shifted(const Window<WIDTH>& window, int channel) const {
    const Element* const from = window.from + channel % 2 * call.x_stride_c;
    return WIDTH == 2 && reinterpret_cast<unsigned long long>(from) % (2 * SIZE) != 0;
  }
  template <int WIDTH>
  __device__ Window<WIDTH> window_at(long long index, int column, int row) const {
    Window<WIDTH> window;
    window.tile = index;
    window.chunk = first_chunk();
    const Tile tile = tile_at(index);
    const int channel = tile.group * Layer::C_IN + first_chunk() * CHUNK;
    const long long first = tile.position - SPAN;
    window.from = static_cast<const Element*>(call.x) + channel * call.x_stride_c;
    window.alphas = static_cast<const float*>(call.x_alpha) + channel;
    if constexpr (MERGES) {
#pragma unroll
      for (int r = 0; r < Items<WIDTH>::ROUNDS; ++r) {
        const int place = row + r * Items<WIDTH>::ROW_STEP, image = place / image_rows;
        const long long time = first + (place - image * image_rows);
        window.inside[r] = image < images && tile.image + image < call.batch && time >= 0 && time < call.length;
        window.offset[r] = (tile.image + image) * call.x_stride_b + time * call.x_stride_t;
      }
    } else {
      window.from += tile.image * call.x_stride_b + first * call.x_stride_t;
      window.low = first < 0 ? static_cast<int>(-first) : -1;
      window.high = call.length - first < 2 * X_ROWS ? static_cast<int>(call.length - first) : 2 * X_ROWS;
    }
    window.shifted = shifted<WIDTH>(window, column % 2);
    window.split = WIDTH == 2 && ((first < 0 && (window.low + window.shifted) % 2 != 0) ||
                                  (window.high < 2 * X_ROWS && (window.high + window.shifted) % 2 != 0));
    window.has_first = tile.group == 0 && (tile.image == 0 || call.x_stride_b <= 0);
    window.has_last = tile.group == Layer::GROUPS - 1 && (tile.image == call.batch - 1 || call.x_stride_b <= 0);
    window.all = !MERGES && first > 0 && first + X_ROWS < call.length;
    return window;
  }
  template <int WIDTH>
  __device__ void advance(Window<WIDTH>& window, int column, int row) const {
    constexpr int COUNT = Items<WIDTH>::CHUNKS_AT_ONCE;
    if (window.chunk + COUNT < end_chunk()) {
      window.chunk += COUNT;
      window.from += COUNT * CHUNK * call.x_stride_c;
      window.alphas += COUNT * CHUNK;
    } else if (window.tile + tile_step() < tiles) {
      window = window_at<WIDTH>(window.tile + tile_step(), column, row);
    } else {
      window.tile = tiles;
    }
  }

  template <int WIDTH>
  __device__ bool is_open(const Window<WIDTH>& window, int chunk) const {
    const int at = window.chunk + chunk;
    return call.x_stride_c <= 0 || (window.has_first && at == 0) || (window.has_last && at == CHUNKS - 1);
  }
  // What a load may take for granted: that its samples are there, and so are its channels; that they may be read where one is
  // there; nothing.
  enum class Ends { inside, readable, open };

  // A batch of the chunk that is `chunk` of them past the window's; `row`: of the window, the lane's in round 0. All rounds of
  // a channel's pairs have one address; single samples' would take registers each, and so a round's channels do. Of a pair at
  // an end, what is not there is anything.
  template <int WIDTH, Ends ENDS>
  __device__ void load_batch(const Window<WIDTH>& window, int chunk, int batch, int column, int row,
                             Batch<WIDTH>& values) const {
    using Of = Items<WIDTH>;
#pragma unroll
    for (int c = 0; c < COLUMN_STEPS; ++c) {
      if (!in_steps(window.chunk + chunk, column + c * PRODUCERS)) continue;
      const int channel = c * COLUMN_STEP + channel_of(column, 0);
      const int channels = Layer::C_IN - (window.chunk + chunk) * CHUNK;
      const Element* of_channel = window.from + (chunk * CHUNK + channel) * call.x_stride_c;
      if constexpr (!MERGES) of_channel += WIDTH == 1 ? row * call.x_stride_t : row;
      const auto load = [&](int e, int r, const Element* from) {
        const int item = c * Of::ROUNDS + r - batch * Of::COUNT, at = row + r * Of::ROW_STEP;
        if (item < 0 || item >= Of::COUNT) return;
        auto& value = values[item][e];
        if (ENDS == Ends::inside && (Of::TAIL || r < Of::ROUNDS - 1)) {
          value = *reinterpret_cast<const Samples<WIDTH>*>(from);
          return;
        }
        const bool real = Layer::C_IN % STEP == 0 || channel + 2 * e < channels;
        const bool first = window.has(at, r), second = WIDTH == 2 && window.has(at + 1, r);
        value = Samples<WIDTH>{};
        if constexpr (ENDS == Ends::inside)
          ptx::load_if(at < X_ROWS, from, value);
        else if constexpr (ENDS == Ends::readable)
          ptx::load_if(real && (first || second), from, value);
        else
          ptx::load_pair_if(real && first, real && second, from, value);
      };
      if constexpr (WIDTH == 1) {
#pragma unroll
        for (int r = 0; r < Of::ROUNDS; ++r) {
          const Element* from = of_channel + (MERGES ? window.offset[r] : r * Of::ROW_STEP * call.x_stride_t);
#pragma unroll
          for (int e = 0; e < UNIT; ++e) {
            load(e, r, from);
            from += 2 * call.x_stride_c;
          }
        }
      } else {
#pragma unroll
        for (int e = 0; e < UNIT; ++e) {
#pragma unroll
          for (int r = 0; r < Of::ROUNDS; ++r) load(e, r, of_channel + r * Of::ROW_STEP);
          of_channel += 2 * call.x_stride_c;
        }
      }
    }
  }

  // One sample in storage's own type, which is what the matrix unit multiplies.
  __device__ static unsigned activated(unsigned bits, float alpha) {
    if constexpr (SIZE == 4)
      return __float_as_uint(before<Layer>(__uint_as_float(bits), alpha));
    else
      return Storage::round(before<Layer>(Storage::load(static_cast<Element>(bits)), alpha));
  }
  // What is absent is zero and stays it by every formula; an alpha that is no number would not let it.
  template <int WIDTH>
  __device__ static void activate_item(Samples<WIDTH> (&item)[UNIT], const float* alphas, bool first, bool second,
                                       int channels) {
    constexpr bool SNAKE = Layer::BEFORE == Activation::snake;
    const auto one = [&](unsigned bits, float alpha, bool there) { return SNAKE && !there ? 0 : activated(bits, alpha); };
#pragma unroll
    for (int e = 0; e < UNIT; ++e) {
      if (SNAKE && 2 * e >= channels) break;
      const float alpha = alpha_before<Layer, float>(alphas, 2 * e);
      auto& v = item[e];
      if constexpr (WIDTH * SIZE == 8)
        v = make_uint2(one(v.x, alpha, first), one(v.y, alpha, second));
      else if constexpr (WIDTH == 2)
        v = one(v & 0xFFFF, alpha, first) | one(v >> 16, alpha, second) << 16;
      else
        v = static_cast<Samples<WIDTH>>(one(v, alpha, first));
    }
  }

  // One row of UNIT channels: the second of two where `second`.
  template <int WIDTH>
  __device__ static void store_row(unsigned to, const Samples<WIDTH> (&values)[UNIT], bool second) {
    unsigned word[4];
    if constexpr (SIZE == 4) {
      const auto sample = [&](int e) {
        if constexpr (WIDTH == 1)
          return __uint_as_float(values[e]);
        else
          return __uint_as_float(second ? values[e].y : values[e].x);
      };
#pragma unroll
      for (int e = 0; e < 4; ++e) word[e] = ptx::to_tf32(sample(e));
      ptx::store_shared(to, word[0], word[1], word[2], word[3]);
      if constexpr (PLANES == 2) {
#pragma unroll
        for (int e = 0; e < 4; ++e) word[e] = low_part(sample(e), word[e]);
        ptx::store_shared(to + X_PLANE, word[0], word[1], word[2], word[3]);
      }
    } else {
      // The lower or the upper halves of two channels.
      const unsigned halves = WIDTH == 2 && second ? 0x7632 : 0x5410;
#pragma unroll
      for (int e = 0; e < 4; ++e) word[e] = __byte_perm(values[2 * e], values[2 * e + 1], halves);
      ptx::store_shared(to, word[0], word[1], word[2], word[3]);
    }
  }

  // Of a pair, what is there.
  __device__ static void keep(unsigned& pair, bool first, bool second) {
    pair &= (first ? 0x0000FFFF : 0) | (second ? 0xFFFF0000 : 0);
  }
  __device__ static void keep(uint2& pair, bool first, bool second) {
    pair.x = first ? pair.x : 0;
    pair.y = second ? pair.y : 0;
  }
  __device__ static void keep(unsigned short&, bool, bool) {}  // no pair

  template <int WIDTH>
  __device__ static void store_item(const Window<WIDTH>& window, int chunk, int c, int r, int column, int row, bool swap,
                                    unsigned stage, Samples<WIDTH> (&values)[UNIT]) {
    using Of = Items<WIDTH>;
    const int at = row + r * Of::ROW_STEP;
    if (!in_steps(window.chunk + chunk, column + c * PRODUCERS)) return;
    if (WIDTH == 2 && window.split && !window.all) {
      const bool first = window.has(at, r), second = window.has(at + 1, r);
#pragma unroll
      for (int e = 0; e < UNIT; ++e) keep(values[e], first, second);
    }
    if constexpr (Layer::BEFORE != Activation::none) {
      const int channel = chunk * CHUNK + c * COLUMN_STEP + channel_of(column, 0);
      activate_item<WIDTH>(values, window.alphas + channel, window.has(at, r), WIDTH == 2 && window.has(at + 1, r),
                           Layer::C_IN - window.chunk * CHUNK - channel);
    }
    const unsigned to = stage + r * (Of::ROW_STEP * ROW_BYTES);
    const auto store = [&](bool second) {
      if (WIDTH == 2 && r == 0 && at + second < 0) return;
      if (!Of::TAIL && r == Of::ROUNDS - 1 && at + second >= X_ROWS) return;
      store_row<WIDTH>(to + (swizzled((row + second) * ROW_BYTES + column * 16) ^ c * 64), values, second);
    };
    store(swap);
    if constexpr (WIDTH == 2) store(!swap);
  }

  // The samples of a tail that a thread brings: each one's channel of the chunk, and its row.
  template <int WIDTH>
  using Tail = Samples<1>[Items<WIDTH>::TAIL_LOADS > 0 ? Items<WIDTH>::TAIL_LOADS : 1];
  template <int WIDTH, class Each>
  __device__ static void each_of_tail(int thread, Each each) {
    using Of = Items<WIDTH>;
    if constexpr (Of::TAIL_LOADS > 0) {
#pragma unroll
      for (int i = 0; i < Of::TAIL_LOADS; ++i) {
        const int sample = thread + i * 32 * PRODUCERS;
        if (sample < Of::TAIL_SAMPLES) each(i, sample / Of::TAIL_ROWS, Of::TAIL_ROW + sample % Of::TAIL_ROWS);
      }
    }
  }
  // The loads go by a predicate, or a lane without one would wait for the others' at once.
  template <int WIDTH>
  __device__ void load_tail(const Window<WIDTH>& window, int chunk, int thread, Tail<WIDTH>& values) const {
    each_of_tail<WIDTH>(thread, [&](int i, int channel, int row) {
      const bool real = channel < Layer::C_IN - (window.chunk + chunk) * CHUNK && window.has(row, 0);
      const Element* const from = window.from + (chunk * CHUNK + channel) * call.x_stride_c + row * call.x_stride_t;
      values[i] = 0;
      ptx::load_if(real, from, values[i]);
    });
  }
  template <int WIDTH>
  __device__ void store_tail(const Window<WIDTH>& window, int chunk, int thread, unsigned stage, Tail<WIDTH>& values) const {
    each_of_tail<WIDTH>(thread, [&](int i, int channel, int row) {
      if (WIDTH == 2 && row == Items<WIDTH>::TAIL_ROW && !shifted(window, channel)) return;  // a pair has it
      const int in_step = channel % STEP;
      const unsigned to = stage + swizzled(row * ROW_BYTES + channel / STEP * 32 + in_step % 2 * 16 + in_step / 2 * SIZE);
      Samples<1> bits = values[i];
      if (Layer::BEFORE != Activation::none && window.has(row, 0) &&
          channel < Layer::C_IN - (window.chunk + chunk) * CHUNK)
        bits = static_cast<Samples<1>>(activated(bits, alpha_before<Layer, float>(window.alphas, chunk * CHUNK + channel)));
      if constexpr (SIZE == 4) {
        const float sample = __uint_as_float(bits);
        bits = ptx::to_tf32(sample);
        if constexpr (PLANES == 2) ptx::store_shared(to + X_PLANE, low_part(sample, bits));
      }
      ptx::store_shared(to, bits);
    });
  }

  template <int WIDTH>
  __device__ void produce_x(int warp, int lane) const {
    using Of = Items<WIDTH>;
    const int thread = warp * 32 + lane;
    const int column = warp % COLUMNS, row = (warp / COLUMNS * 32 + lane) * WIDTH;
    // Every other four lanes store their second row first, so that eight of them never meet in a bank.
    const bool swap = WIDTH == 2 && (row >> 3 & 1) != 0;
    Batch<WIDTH> values[Of::CHUNKS_AT_ONCE];
    Tail<WIDTH> tails[Of::CHUNKS_AT_ONCE];
    Ring ring;
    Window<WIDTH> window = window_at<WIDTH>(first_tile(), column, row);
    ptx::wait_for_kernels_before();
#pragma unroll 1
    for (; window.tile < tiles; advance(window, column, row)) {
      const int lane_row = row - window.shifted;
#pragma unroll
      for (int batch = 0; batch < Of::BATCHES; ++batch) {
        const bool last = batch == Of::BATCHES - 1;
#pragma unroll
        for (int chunk = 0; chunk < Of::CHUNKS_AT_ONCE; ++chunk) {
          if (chunk > 0 && window.chunk + chunk >= end_chunk()) break;
          if constexpr (WIDTH == 1) {
            load_batch<1, Ends::readable>(window, chunk, batch, column, lane_row, values[chunk]);
          } else if (window.all && (Layer::C_IN % STEP == 0 || window.chunk + chunk < CHUNKS - 1)) {
            load_batch<2, Ends::inside>(window, chunk, batch, column, lane_row, values[chunk]);
          } else if (!window.split || !is_open(window, chunk)) {
            load_batch<2, Ends::readable>(window, chunk, batch, column, lane_row, values[chunk]);
          } else {
            load_batch<2, Ends::open>(window, chunk, batch, column, lane_row, values[chunk]);
          }
          if (last) load_tail(window, chunk, thread, tails[chunk]);
        }
#pragma unroll
        for (int chunk = 0; chunk < Of::CHUNKS_AT_ONCE; ++chunk) {
          if (chunk > 0 && window.chunk + chunk >= end_chunk()) break;
          if (batch == 0) ptx::mbarrier_wait(x_empty(ring.slot), ring.parity ^ 1);
          const unsigned stage = shared + X_AT + ring.slot * X_BYTES;
#pragma unroll
          for (int i = 0; i < Of::COUNT; ++i) {
            const int item = batch * Of::COUNT + i;
            if (item < Of::OF_CHUNK)
              store_item(window, chunk, item / Of::ROUNDS, item % Of::ROUNDS, column, lane_row, swap, stage, values[chunk][i]);
          }
          if (!last) continue;
          store_tail(window, chunk, thread, stage, tails[chunk]);
          ptx::fence_async_shared();
          __syncwarp();
          if (lane == 0) ptx::mbarrier_arrive(x_full(ring.slot));
          ring.template next<X_STAGES>();
        }
      }
    }
  }

  // --- weights' way into shared memory ----------------------------------------------------------

  __device__ const char* weights_of(const Tile& tile, int group) const {
    return static_cast<const char*>(call.w) +
           ((static_cast<long long>(tile.group) * PACKED_TILES + tile.row_tile * AT_ONCE) * CHUNKS + first_chunk()) *
               (Layer::TAPS * PACKED_ENTRY) +
           (OWN_W ? group * W_SLOT : 0);
  }
  // The second of two row tiles, from the first one on. Where the last has no other, it comes twice.
  __device__ static int second_of(const Tile& tile) {
    return PACKED_TILES % 2 == 0 || tile.row_tile < ROW_TILES - 1 ? W_ENTRIES * PACKED_ENTRY : 0;
  }
  __device__ void ask(const char* from, int second, int slot) const {
    constexpr int BYTES = W_SLOT / AT_ONCE;
    ptx::mbarrier_arrive_expect(w_full(slot), W_SLOT);
    ptx::bulk_load(w_slot(slot), from, BYTES, w_full(slot));
    if constexpr (AT_ONCE == 2) ptx::bulk_load(w_slot(slot) + BYTES, from + second, BYTES, w_full(slot));
  }

  // One thread, for all groups.
  __device__ void produce_w() const {
    ptx::wait_for_kernels_before();
    Ring ring;
    for (long long index = first_tile(); index < tiles; index += tile_step()) {
      const char* from = weights_of(tile_at(index), 0);
#pragma unroll 1
      for (int entry = first_chunk() * Layer::TAPS; entry < end_chunk() * Layer::TAPS; ++entry) {
        ptx::mbarrier_wait(w_empty(ring.slot), ring.parity ^ 1);
        ask(from, 0, ring.slot);
        from += PACKED_ENTRY;
        ring.template next<W_STAGES>();
      }
      if (RESIDENT) return;  // all are here
    }
  }

  // Of a group that asks itself: the entry that comes next, maybe of a later tile.
  struct Next {
    long long tile;
    int entry, second;
    const char* from;
  };
  __device__ Next next_of(long long index, int group) const {
    const Tile tile = tile_at(index);
    return {index, 0, second_of(tile), weights_of(tile, group)};
  }
  __device__ void ask_next(Next& next, int group, int slot, bool mine) const {
    if (next.tile >= tiles) return;
    if (mine) ask(next.from, next.second, slot);
    next.from += PACKED_ENTRY;
    if (++next.entry < W_ENTRIES) return;
    next.entry = 0;
    next.tile += tile_step();
    if constexpr (ROW_TILES * Layer::GROUPS == 1)
      next.from -= W_ENTRIES * PACKED_ENTRY;
    else if (next.tile < tiles)
      next = next_of(next.tile, group);
  }

  // --- consumers --------------------------------------------------------------------------------

  // By rows, all of a group's positions are one instruction, unless it needs more registers than the launch gives a thread.
  static constexpr int BLOCK_POSITIONS = !BY_ROWS ? 64 : OWN_W || GROUP_POSITIONS <= 192 ? GROUP_POSITIONS : 128;
  static constexpr int BLOCK_COLUMNS = BY_ROWS ? BLOCK_POSITIONS : ROWS;
  static_assert(GROUP_POSITIONS % BLOCK_POSITIONS == 0);
  using Accumulators = float[GROUP_POSITIONS / BLOCK_POSITIONS][BLOCK_COLUMNS / 2];

  // The matrix unit cuts its sums off instead of rounding them, so in three terms it sums one (chunk, tap) at a time, and
  // those sums are added up in f32, in registers beside the accumulators.
  static constexpr bool PROMOTE = Storage::TERMS == 3;
  static_assert(!PROMOTE || (!BY_ROWS && (TILES + 1) * ROWS / 2 <= 128));

  template <int COUNT, int STEPS_NOW>
  __device__ static void multiply_and_promote(Accumulators& acc, unsigned x, unsigned w) {
    using Instruction = ptx::Wgmma<Storage::OPERAND, ROWS>;
#pragma unroll
    for (int t = 0; t < COUNT; ++t) {
      float sums[ROWS / 2];
      ptx::wgmma_fence();
#pragma unroll
      for (int term = Storage::TERMS - 1; term >= 0; --term) {  // small terms first
        const unsigned a = x + (t * 64 * ROW_BYTES + (term == 1 ? X_PLANE : 0)) / 16;
        const unsigned b = w + (term == 2 ? W_PLANE : 0) / 16;
#pragma unroll
        for (int s = 0; s < STEPS_NOW; ++s)
          Instruction::issue(sums, ptx::matrix_descriptor<ROW_BYTES>(a + s * 2), ptx::matrix_descriptor<ROW_BYTES>(b + s * 2),
                             term != Storage::TERMS - 1 || s != 0);
      }
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::settled(sums);
#pragma unroll
      for (int j = 0; j < ROWS / 2; ++j) acc[t][j] += sums[j];
    }
  }

  // One (chunk, tap): STEPS_NOW products for each of COUNT blocks; the operands' addresses over 16.
  template <int COUNT, int STEPS_NOW>
  __device__ static void multiply(Accumulators& acc, unsigned x, unsigned w, bool& first) {
    if constexpr (PROMOTE) return multiply_and_promote<COUNT, STEPS_NOW>(acc, x, w);
    using Instruction = ptx::Wgmma<Storage::OPERAND, BLOCK_COLUMNS>;
    ptx::wgmma_fence();
#pragma unroll
    for (int t = 0; t < COUNT; ++t) {
#pragma unroll
      for (int s = 0; s < STEPS_NOW; ++s) {
        const auto of_x = ptx::matrix_descriptor<ROW_BYTES>(x + t * BLOCK_POSITIONS * ROW_BYTES / 16 + s * 2);
        const auto of_w = ptx::matrix_descriptor<ROW_BYTES>(w + s * 2);
        Instruction::issue(acc[t], BY_ROWS ? of_w : of_x, BY_ROWS ? of_x : of_w, !(first && s == 0));
      }
    }
    ptx::wgmma_commit();
    first = false;
  }

  struct Rings {
    Ring x, w;
  };

  // The sums of the first COUNT of a group's blocks of positions. Without any, thread 0 gives the slots back unread; the others
  // wait for it behind the loop, as a thread two phases behind a barrier would not see it move.
  template <int COUNT>
  __device__ void sum(Accumulators& acc, Rings& ring, Next& next, int group, int thread, bool w_is_here) const {
    [[maybe_unused]] bool first = true;
    if constexpr (PROMOTE && COUNT > 0) {
#pragma unroll
      for (int t = 0; t < COUNT; ++t) {
#pragma unroll
        for (int j = 0; j < ROWS / 2; ++j) acc[t][j] = 0;
      }
    }
    int x_held = -1, w_held = -1;  // slots that products still in flight read
    const auto release = [&] {
      if (thread == 0) {
        if (GROUPS_ASK && !RESIDENT && w_held >= 0)
          ask_next(next, group, w_held, OWN_W || ptx::add_shared(w_empty(w_held), 1) % 2 != 0);
        else if (!RESIDENT && w_held >= 0)
          ptx::mbarrier_arrive(w_empty(w_held));
        if (x_held >= 0) ptx::mbarrier_arrive(x_empty(x_held));
      }
      w_held = x_held = -1;
    };
    for (int chunk = first_chunk(); chunk < end_chunk(); ++chunk) {
      if (COUNT > 0 || thread == 0) ptx::mbarrier_wait(x_full(ring.x.slot), ring.x.parity);
      const unsigned x = shared + X_AT + ring.x.slot * X_BYTES + group / SLICES * (GROUP_POSITIONS * ROW_BYTES);
      const unsigned slice = w_slot(first_slot(group)) + (OWN_W ? 0 : group % SLICES * (64 * ROW_BYTES));
#pragma unroll 1
      for (int tap = 0; tap < Layer::TAPS; ++tap) {
        if (!w_is_here && (COUNT > 0 || RESIDENT || thread == 0))
          ptx::mbarrier_wait(w_full(first_slot(group) + ring.w.slot), ring.w.parity);
        // With one stage of x, the next chunk cannot come before this one is released.
        const bool drain = PROMOTE || (X_STAGES == 1 && tap == Layer::TAPS - 1);
        if constexpr (COUNT > 0) {
          // Multiples of 16 below 2^18, and above that the block's place in its cluster.
          const unsigned both = ptx::uniform(((x + (SPAN - tap * Layer::JUMP) * ROW_BYTES) / 16 & 0x3FFF) |
                                             (slice + ring.w.slot * W_SLOT) / 16 << 16);
          const unsigned x_tap = both & 0xFFFF, w = both >> 16;
          if (LAST_STEPS == STEPS || chunk < CHUNKS - 1)
            multiply<COUNT, STEPS>(acc, x_tap, w, first);
          else
            multiply<COUNT, LAST_STEPS>(acc, x_tap, w, first);
          if (drain)
            ptx::wgmma_wait<0>();
          else
            ptx::wgmma_wait<1>();
        }
        release();
        w_held = first_slot(group) + ring.w.slot;
        x_held = tap == Layer::TAPS - 1 ? ring.x.slot : -1;
        if (drain) release();
        ring.w.template next<W_STAGES>();
      }
      ring.x.template next<X_STAGES>();
    }
    if constexpr (COUNT > 0) {
      ptx::wgmma_wait<0>();
#pragma unroll
      for (int t = 0; t < COUNT; ++t) ptx::settled(acc[t]);
    }
    release();
    if constexpr (COUNT == 0) ptx::barrier(1 + group, 128);
  }

  // Two groups that have all of a tile's operands in shared memory at once multiply one after the other where a block has many
  // tiles: while one stores its outputs, the other has the matrix unit for itself. Weights that come anew would not keep up
  // with a group that multiplies alone.
  static constexpr bool IN_TURNS = CONSUMERS == 2 && RESIDENT && CHUNKS <= X_STAGES && !PROMOTE;
  static constexpr int MANY_TILES = 16;
  __device__ static int turn_of(int group) { return 1 + CONSUMERS + group; }

  __device__ void consume(int group, int thread) const {
    const bool in_turns = IN_TURNS && tiles >= MANY_TILES * tile_step();
    if (in_turns && group == 1) ptx::barrier_arrive(turn_of(0), 256);
    ptx::wait_for_kernels_before();
    Rings ring;
    Next next{};
    if (GROUPS_ASK && thread == 0) {
      next = next_of(first_tile(), group);
      for (int s = 0; s < W_STAGES; ++s) ask_next(next, group, first_slot(group) + s, OWN_W || group == 0);
    }
    unsigned turn = 0;  // of the tiles that this group stores
    for (long long index = first_tile(); index < tiles; index += tile_step()) {
      const Tile tile = tile_at(index);
      const long long position = first_position_of(tile, group);
      const bool w_is_here = RESIDENT && index != first_tile();
      Accumulators acc;  // of no value from one tile to the next
      // On its way while the products run.
      const Corner corner = corner_of(tile);
      const auto bias_of = [&](int channel) {
        return Layer::BIAS && corner.channel + channel < Layer::C_OUT
                   ? Storage::load(static_cast<const Element*>(call.bias)[corner.of_all + channel])
                   : 0.0f;
      };
      float bias = 0, of_rows[2] = {};
      if constexpr (BY_ROWS) {
        for (int half = 0; half < 2; ++half) of_rows[half] = bias_of(row_of(group, thread, half));
      } else if (thread < TILE_CHANNELS) {
        bias = bias_of(thread);
      }
      if (in_turns) ptx::barrier(turn_of(group), 256);
      // The last tile of an image may have few positions.
      constexpr int BLOCKS = GROUP_POSITIONS / BLOCK_POSITIONS;
      const long long count = (end_position - position + BLOCK_POSITIONS - 1) / BLOCK_POSITIONS;
      if (count > BLOCKS / 2)
        sum<BLOCKS>(acc, ring, next, group, thread, w_is_here);
      else if (BLOCKS > 1 && count > 0)
        sum<(BLOCKS + 1) / 2>(acc, ring, next, group, thread, w_is_here);
      else
        sum<0>(acc, ring, next, group, thread, w_is_here);
      if (in_turns && (group == 0 || index + tile_step() < tiles)) ptx::barrier_arrive(turn_of(1 - group), 256);
      if (count <= 0) continue;
      // Each of these has a barrier of the group before it reads them.
      if (Layer::BIAS && !BY_ROWS && thread < TILE_CHANNELS) biases(group, turn)[thread] = bias;
      if constexpr (BY_ROWS) {
        store_by_rows(acc, tile, group, thread, of_rows);
      } else if constexpr (DIRECT) {
        store_direct(acc, tile, group, thread, turn);
      } else if constexpr (SPLITS == 1) {
        store(acc, tile, group, thread, turn);
      } else {
        store_share(acc, tile, group, thread, turn);
      }
      turn ^= 1;
    }
    // Others still tell this block that they have read its sums.
    if constexpr (SPLITS > 1) ptx::mbarrier_wait(sums_empty(group), turn ^ 1);
  }

  // --- epilogue ---------------------------------------------------------------------------------

  // Two, one tile's being read while a faster warp writes the next one's.
  __device__ float* biases(int group, unsigned turn) const {
    return reinterpret_cast<float*>(shared_pointer(OUT_AT + group * OUT_BYTES + STAGED_BYTES)) + turn * ROWS;
  }

  // A tile's first row: its channel of the group and of all groups, and its phase.
  struct Corner {
    int channel, phase;
    long long of_all;
  };
  __device__ static Corner corner_of(const Tile& tile) {
    const int channel = (WHOLE ? tile.row_tile : tile.row_tile / PHASE_TILES) * TILE_CHANNELS;
    return {channel, WHOLE ? 0 : tile.row_tile % PHASE_TILES * TILE_PHASES,
            static_cast<long long>(tile.group) * Layer::C_OUT + channel};
  }
  // What a row of the tile is: a channel and a phase from the corner on, or only padding.
  struct Output {
    int channel, phase;
    bool real;
  };
  __device__ static Output output_of(const Corner& corner, int row) {
    const int channel = WHOLE ? row / Layer::LIVE : 0, phase = WHOLE ? row % Layer::LIVE : row;
    return {channel, phase,
            (TILE_CHANNELS * TILE_PHASES == ROWS || row < TILE_CHANNELS * TILE_PHASES) &&
                (Layer::C_OUT % TILE_CHANNELS == 0 || corner.channel + channel < Layer::C_OUT) &&
                (Layer::LIVE % TILE_PHASES == 0 || corner.phase + phase < Layer::LIVE)};
  }

  // Register j of wgmma's accumulator: row 8*(j/4) + 2*(lane%4) + j%2 of w, position 16*warp + 8*(j/2%2) + lane/4.
  __device__ void store(const Accumulators& acc, const Tile& tile, int group, int thread, unsigned turn) const {
    Element* const buffer = reinterpret_cast<Element*>(shared_pointer(OUT_AT + group * OUT_BYTES));
    const int warp = thread / 32, lane = thread % 32;
    const Corner corner = corner_of(tile);
    Out segments{call, tile.image, corner.of_all, corner.phase, first_position_of(tile, group)};
    const int base = segments.first_shift();
    const int q0 = warp * 16 + lane / 4;
    // Of a lane and block of eight rows. Where channels begin anywhere among the rows it is read anew, so that what follows
    // from it is not kept for all blocks.
    const auto first_row = [&] { return (8 % Layer::LIVE == 0 ? lane : ptx::thread()) % 4 * 2; };
    // Eight positions, and eight rows of one channel each, further, the alignment is the same.
    const auto shift = [&](int channel) {
      const int segment = !WHOLE ? lane / 4 : Layer::LIVE == 1 ? channel % 8 : channel;
      return Out::placed(segments.shift(base, segment));
    };
    constexpr int BLOCKS = ROWS / 8 / PARTS;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      ptx::barrier(1 + group, 128);
      // The bias of all blocks ahead of their stores, where the registers allow it: the compiler keeps their order.
      const auto bias_of = [&](int block, int e) {
        const int row = (part * BLOCKS + block) * 8 + first_row() + e;
        return Layer::BIAS ? biases(group, turn)[WHOLE ? row / Layer::LIVE : 0] : 0.0f;
      };
      constexpr bool AHEAD = BLOCKS <= 8;
      float b[BLOCKS][2];
#pragma unroll
      for (int i = 0; AHEAD && i < 2 * BLOCKS; ++i) b[i / 2][i % 2] = bias_of(i / 2, i % 2);
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) {
        const int row0 = first_row();
        float alpha[2];
        bool real[2];
        Element* to[2];  // of position q0
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const Output row = output_of(corner, (part * BLOCKS + block) * 8 + row0 + e);
          real[e] = row.real;
          alpha[e] = row.real ? alpha_after<Layer, float>(call.y_alpha, corner.of_all + row.channel) : 0.0f;
          if (!AHEAD) b[block][e] = bias_of(block, e);
          to[e] = buffer + shift(row.channel) + row.phase * Layer::GAP +
                  (WHOLE ? (row.channel - part * PART_CHANNELS) * PITCH + q0 * Layer::STRIDE : q0 * PITCH);
        }
        if constexpr (TURNED) {
          const int row = block * 8 + lane / 4;
          real[0] = output_of(corner, part * PART_CHANNELS + row).real;
          to[0] = buffer + shift(lane / 4) + row * PITCH + warp * 16 + row0;
        }
#pragma unroll
        for (int n = 0; n < 2 * TILES; ++n) {
          const int j = (part * BLOCKS + block) * 4 + n % 2 * 2, further = n * 8 + n / 2 * 48;
          const int at = further * (WHOLE ? Layer::STRIDE : PITCH);
          float y[2], dead[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            y[e] = after<Layer>(acc[n / 2][j + e] + b[block][e], alpha[e]);
            dead[e] = after<Layer>(b[block][e], alpha[e]);
          }
          if constexpr (TURNED) {
            const unsigned word = ptx::turned(Storage::round(y[0], y[1]));
            if (real[0]) *reinterpret_cast<unsigned*>(to[0] + at) = word;
          } else if constexpr (PAIRED && Layer::GAP == 1) {
            if (real[0]) Storage::store(to[0] + at, y[0], y[1]);
          } else {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (!real[e]) continue;
              if constexpr (PAIRED) {
                Storage::store(to[e] + at, y[e], dead[e]);
              } else {
                to[e][at] = Storage::round(y[e]);
                // Dead phases: the samples up to the next live one.
#pragma unroll
                for (int g = 1; g < Layer::GAP; ++g) to[e][at + g] = Storage::round(dead[e]);
              }
            }
          }
        }
      }
      ptx::barrier(1 + group, 128);
      int count = SEGMENTS;
      if (WHOLE && Layer::C_OUT % TILE_CHANNELS != 0) {
        const int rest = Layer::C_OUT - corner.channel - part * PART_CHANNELS;
        count = rest < count ? rest : count;
      }
      segments.write(buffer, count, thread);
      if (WHOLE) segments.channel += PART_CHANNELS;
    }
  }

  // By rows. Register j of the accumulator: row 16*warp + 8*(j/2%2) + lane/4 of the group's, position 8*(j/4) + 2*(lane%4) +
  // j%2.
  __device__ static int row_of(int group, int thread, int half) {
    return group % SLICES * 64 + thread / 32 * 16 + half * 8 + thread % 32 / 4;
  }

  // Sixteen bytes of shared memory, or, where ODD and `odd`, from one sample further on.
  template <bool ODD>
  __device__ static uint4 granule(const Element* from, bool odd) {
    unsigned word[5];
    ptx::load_shared(ptx::shared_address(from), word[0], word[1], word[2], word[3]);
    if constexpr (ODD) {
      const Element next = odd ? from[UNIT] : Element{};
      if constexpr (SIZE == 4)
        word[4] = __float_as_uint(next);
      else
        word[4] = next;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        word[i] = SIZE == 2 ? __funnelshift_r(word[i], word[i + 1], odd ? 16 : 0) : odd ? word[i + 1] : word[i];
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
  }

  // A warp's rows to y, by itself: eight rows and a part of the positions at a time go through its own shared memory, each
  // row as far past 16 bytes as it starts in y, or one sample further where that is odd, for they are laid in pairs. So they
  // leave in 16-byte stores. What a part has behind its last 16 bytes becomes the beginning of the next. EVEN: no row starts at
  // an odd sample, and all samples of the group's positions are in y. `time`: of the group's first sample.
  template <bool EVEN>
  __device__ void store_warp(const Accumulators& acc, const Tile& tile, long long time, bool inside, int group, int thread,
                             const float (&bias)[2]) const {
    constexpr int PAIR_WORDS = SIZE / 2;  // of two neighbouring samples, which a lane lays at once
    constexpr int ROW_PARTS = (GROUP_POSITIONS + PART_POSITIONS - 1) / PART_POSITIONS;
    constexpr int OF_PART = GROUP_POSITIONS / ROW_PARTS;
    static_assert(PART_POSITIONS == 32 * UNIT, "a lane has 16 bytes of a row");
    static_assert(OF_PART * ROW_PARTS == GROUP_POSITIONS && OF_PART % UNIT == 0, "parts start alike");
    const int warp = thread / 32, lane = thread % 32, mine = lane / 4;  // of eight rows, to lay, and whose ends to store
    const Corner corner = corner_of(tile);
    Element* const buffer =
        reinterpret_cast<Element*>(shared_pointer(OUT_AT + group * OUT_BYTES)) + warp * (8 * PART_PITCH);
    const auto shift_of = [](const Element* address) { return Out::misalignment(address); };
    const auto is_odd = [](int shift) { return !EVEN && shift % 2 != 0; };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row0 = row_of(group, thread, half) - mine;
      const int there = Layer::C_OUT % ROWS == 0 ? 8 : Layer::C_OUT - corner.channel - row0;
      Element* const y0 = static_cast<Element*>(call.y) + tile.image * call.y_stride_b +
                          (corner.of_all + row0) * call.y_stride_c + time;
      Element* const y_mine = y0 + mine * call.y_stride_c;
      const int shift = shift_of(y_mine);
      Element* const row_mine = buffer + mine * PART_PITCH + shift + is_odd(shift);
      // Rows begin at different words of 16 bytes, so lanes of two would meet in banks: one whose pairs lie beyond the others'
      // 16 or 32 bytes of the row stores them with those of the next eight positions.
      const bool late = lane % 4 * PAIR_WORDS + (shift + is_odd(shift)) * SIZE / 4 >= 4 * PAIR_WORDS;
      const unsigned to = ptx::shared_address(row_mine + lane % 4 * 2) - (late ? 8 * SIZE : 0);
      const float alpha = mine < there ? alpha_after<Layer, float>(call.y_alpha, corner.of_all + row0 + mine) : 0.0f;
#pragma unroll
      for (int part = 0; part < ROW_PARTS; ++part) {
        __syncwarp();
        if (part > 0) {
          if (lane < 8) {
            uint4* const row = reinterpret_cast<uint4*>(buffer + lane * PART_PITCH);
            row[0] = row[OF_PART / UNIT];
          }
          __syncwarp();
        }
        // Eight words are made before the first is stored, or each would wait for a register of the one before it.
        constexpr int TOGETHER = 16 / SIZE;  // blocks of eight positions
        unsigned kept[PAIR_WORDS] = {};      // of the block before
        const auto lay = [&](int block, const unsigned(&pair)[PAIR_WORDS]) {
          const unsigned at = to + block * (8 * SIZE);
          if constexpr (SIZE == 4)
            ptx::store_shared(at, pair[0], pair[1]);
          else
            ptx::store_shared(at, pair[0]);
        };
#pragma unroll
        for (int block0 = 0; block0 < OF_PART / 8; block0 += TOGETHER) {
          unsigned words[8] = {};
#pragma unroll
          for (int i = 0; i < TOGETHER && block0 + i < OF_PART / 8; ++i) {
            const int column = part * OF_PART + (block0 + i) * 8, j = column % BLOCK_COLUMNS / 2 + half * 2;
            const float first = after<Layer>(acc[column / BLOCK_COLUMNS][j] + bias[half], alpha);
            const float second = after<Layer>(acc[column / BLOCK_COLUMNS][j + 1] + bias[half], alpha);
            if constexpr (SIZE == 4)
              words[2 * i] = __float_as_uint(first), words[2 * i + 1] = __float_as_uint(second);
            else
              words[i] = Storage::round(first, second);
          }
          ptx::together(words);
#pragma unroll
          for (int i = 0; i < TOGETHER && block0 + i < OF_PART / 8; ++i) {
            unsigned pair[PAIR_WORDS];
#pragma unroll
            for (int w = 0; w < PAIR_WORDS; ++w) {
              const unsigned word = words[i * PAIR_WORDS + w];
              pair[w] = late ? kept[w] : word;
              kept[w] = word;
            }
            if (block0 + i > 0 || !late) lay(block0 + i, pair);
          }
        }
        if (late) lay(OF_PART / 8, kept);
        __syncwarp();
        Element* const y = y0 + part * OF_PART;
        if (!EVEN && !inside) {
          const long long low = -time - part * OF_PART, high = low + call.out_length;
#pragma unroll 1
          for (int row = 0; row < 8 && row < there; ++row) {
            Element* const of_row = y + row * call.y_stride_c;
            const Element* const from = buffer + row * PART_PITCH + shift_of(of_row) + is_odd(shift_of(of_row));
#pragma unroll 1
            for (int i = lane; i < OF_PART; i += 4 * 32) {
              Element held[4];
#pragma unroll
              for (int k = 0; k < 4; ++k) held[k] = from[i + k * 32];
#pragma unroll
              for (int k = 0; k < 4; ++k) {
                const int at = i + k * 32;
                if (at < OF_PART && at >= low && at < high) of_row[at] = held[k];
              }
            }
          }
        } else {
#pragma unroll
          for (int rows = 0; rows < 8; rows += 4) {
            uint4 held[4];
            Element* of_row[4];
            bool stores[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int row = rows + i;
              of_row[i] = y + row * call.y_stride_c;
              const int s = shift_of(of_row[i]);
              stores[i] = row < there && (OF_PART == PART_POSITIONS || lane < OF_PART / UNIT) &&
                          (part > 0 || lane > 0 || s == 0);
              of_row[i] += lane * UNIT - s;
              held[i] = granule<!EVEN>(buffer + row * PART_PITCH + lane * UNIT, is_odd(s));
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) ptx::store_if(stores[i], of_row[i], held[i]);
          }
          // Before the first 16 bytes of the group's positions, and behind the last.
          if (mine >= there) continue;
#pragma unroll
          for (int i = 0; i < UNIT; i += 4) {
            const int at = i + lane % 4;
            if (part == 0 && shift != 0 && at >= shift) y_mine[at - shift] = row_mine[at - shift];
            if (part == ROW_PARTS - 1 && at < shift)
              y_mine[GROUP_POSITIONS - shift + at] = row_mine[OF_PART - shift + at];
          }
        }
      }
    }
  }
  // A lane's row: whether there is one, its samples of the group in y, and its alpha.
  struct Row {
    bool real;
    Element* y;
    float alpha;
  };
  __device__ Row row_at(const Tile& tile, long long time, int group, int thread, int half) const {
    const Corner corner = corner_of(tile);
    const int row = row_of(group, thread, half);
    const bool real = Layer::C_OUT % ROWS == 0 || corner.channel + row < Layer::C_OUT;
    return {real,
            static_cast<Element*>(call.y) + tile.image * call.y_stride_b + (corner.of_all + row) * call.y_stride_c + time,
            real ? alpha_after<Layer, float>(call.y_alpha, corner.of_all + row) : 0.0f};
  }
  // Its output of eight positions' first or second, of the lane's two.
  __device__ static float output_at(const Accumulators& acc, int block, int half, int e, float bias, float alpha) {
    return after<Layer>(acc[block * 8 / BLOCK_COLUMNS][block * 8 % BLOCK_COLUMNS / 2 + half * 2 + e] + bias, alpha);
  }

  // Of 32 bits, from registers. Each lane has two neighbours, four lanes eight; a pair that lies beyond the others' sector of
  // 32 bytes leaves with those of the next eight positions. Rows that start at an odd sample take the second of a pair from
  // the lane after, or from the next eight positions'. EVEN: there are none.
  template <bool EVEN>
  __device__ void store_sectors(const Accumulators& acc, const Tile& tile, long long time, int group, int thread,
                                const float (&bias)[2]) const {
    constexpr int BLOCKS = GROUP_POSITIONS / 8;
    const int lane = thread % 32, place = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto [real, y, alpha] = row_at(tile, time, group, thread, half);
      const bool odd = !EVEN && reinterpret_cast<unsigned long long>(y) % 8 != 0;
      const bool late = (reinterpret_cast<unsigned long long>(y + odd) / 8 + place) % 4 < place;
      Element* const to = y + place * 2 + odd - (late ? 8 : 0);
      float kept[2] = {}, first = output_at(acc, 0, half, 0, bias[half], alpha);
      if (odd && place == 0 && real) y[0] = first;
#pragma unroll
      for (int block = 0; block <= BLOCKS; ++block) {
        float pair[2] = {};
        if (block < BLOCKS) {
          pair[0] = first, pair[1] = output_at(acc, block, half, 1, bias[half], alpha);
          if (block + 1 < BLOCKS) first = output_at(acc, block + 1, half, 0, bias[half], alpha);
          if constexpr (!EVEN) {
            const float from_next = ptx::of_lane(place == 0 ? first : pair[0], lane / 4 * 4 + (place + 1) % 4);
            if (odd) pair[0] = pair[1], pair[1] = from_next;
          }
        }
        // The last sample of an odd row has no neighbour.
        const int last = late ? block - 1 : block;
        const bool alone = odd && place == 3 && last == BLOCKS - 1;
        ptx::store_if(real && last >= 0 && last < BLOCKS && !alone, to + block * 8, late ? kept[0] : pair[0],
                      late ? kept[1] : pair[1]);
        if (block == BLOCKS - 1 && odd && place == 3 && real) y[GROUP_POSITIONS - 1] = pair[0];
        kept[0] = pair[0], kept[1] = pair[1];
      }
    }
  }
  // A group some of whose samples are not in y.
  __device__ void store_some(const Accumulators& acc, const Tile& tile, long long time, int group, int thread,
                             const float (&bias)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const long long first = time + thread % 4 * 2;
      const auto [real, y, alpha] = row_at(tile, first, group, thread, half);
#pragma unroll
      for (int j = 0; j < GROUP_POSITIONS / 4; ++j) {
        const int at = j / 2 * 8 + j % 2;
        ptx::store_if(real && first + at >= 0 && first + at < call.out_length, y + at,
                      Storage::round(output_at(acc, j / 2, half, j % 2, bias[half], alpha)));
      }
    }
  }
  __device__ void store_by_rows(const Accumulators& acc, const Tile& tile, int group, int thread,
                                const float (&bias)[2]) const {
    const long long time = first_position_of(tile, group) - Layer::PADDING;
    const bool even = reinterpret_cast<unsigned long long>(static_cast<const Element*>(call.y) + time) % (2 * SIZE) == 0 &&
                      (call.y_stride_c | call.y_stride_b) % 2 == 0;
    const bool inside = time >= 0 && time + GROUP_POSITIONS <= call.out_length;
    if constexpr (OWN_W) {
      if (!inside)
        store_some(acc, tile, time, group, thread, bias);
      else if (even)
        store_sectors<true>(acc, tile, time, group, thread, bias);
      else
        store_sectors<false>(acc, tile, time, group, thread, bias);
    } else if (inside && even)
      store_warp<true>(acc, tile, time, inside, group, thread, bias);
    else
      store_warp<false>(acc, tile, time, inside, group, thread, bias);
  }

  // From registers to y. FAST: all samples of the group's positions are in y, and pairs are aligned.
  template <bool FAST>
  __device__ void store_rows(const Accumulators& acc, const Tile& tile, int group, int thread, unsigned turn) const {
    const int warp = thread / 32, lane = thread % 32;
    const Corner corner = corner_of(tile);
    const int row0 = lane % 4 * 2, q0 = warp * 16 + lane / 4;
    const long long time = (first_position_of(tile, group) + q0) * Layer::STRIDE - Layer::PADDING;
    Element* const y =
        static_cast<Element*>(call.y) + tile.image * call.y_stride_b + corner.of_all * call.y_stride_c + time;
    // Samples from here on are in y from `low` on, `count` of them.
    constexpr int MOST = GROUP_POSITIONS * Layer::STRIDE;
    const int low = static_cast<int>(time < 0 ? -time : 0);
    const int count = static_cast<int>(larger(0, smaller(call.out_length - time, MOST) - low));
    const auto inside = [&](int at) { return static_cast<unsigned>(at - low) < static_cast<unsigned>(count); };
#pragma unroll
    for (int block = 0; block < ROWS / 8; ++block) {
      float b[2], alpha[2];
      int phase[2];
      bool real[2];
      Element* to[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const Output row = output_of(corner, block * 8 + row0 + e);
        phase[e] = row.phase;
        real[e] = row.real;
        b[e] = Layer::BIAS && row.real ? biases(group, turn)[row.channel] : 0.0f;
        alpha[e] = row.real ? alpha_after<Layer, float>(call.y_alpha, corner.of_all + row.channel) : 0.0f;
        to[e] = y + row.channel * call.y_stride_c + row.phase;
      }
#pragma unroll
      for (int n = 0; n < 2 * TILES; ++n) {
        const int j = block * 4 + n % 2 * 2, at = (n * 8 + n / 2 * 48) * Layer::STRIDE;
        float value[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) value[e] = after<Layer>(acc[n / 2][j + e] + b[e], alpha[e]);
        if constexpr (PAIRS && FAST) {
          if (real[0]) Storage::store(to[0] + at, value[0], value[1]);
        } else {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if constexpr (!FAST)
              ptx::store_if(real[e] && inside(at + phase[e]), to[e] + at, Storage::round(value[e]));
            else if (real[e])
              to[e][at] = Storage::round(value[e]);
          }
        }
      }
    }
  }
  __device__ void store_direct(const Accumulators& acc, const Tile& tile, int group, int thread, unsigned turn) const {
    if (Layer::BIAS) ptx::barrier(1 + group, 128);
    const long long time = first_position_of(tile, group) * Layer::STRIDE - Layer::PADDING;
    const bool all = time >= 0 && time + GROUP_POSITIONS * Layer::STRIDE <= call.out_length;
    const bool aligned = !PAIRS || (reinterpret_cast<unsigned long long>(call.y) % (2 * SIZE) == 0 &&
                                    (call.y_stride_c | call.y_stride_b) % 2 == 0);
    if (all && aligned)
      store_rows<true>(acc, tile, group, thread, turn);
    else
      store_rows<false>(acc, tile, group, thread, turn);
  }

  // Of a split tile: sends the other blocks of the cluster this one's sums over their shares of the positions, and stores the
  // sums of all over its own share, added in the order of the blocks.
  __device__ void store_share(const Accumulators& acc, const Tile& tile, int group, int thread, unsigned turn) const {
    constexpr int SHARE = GROUP_POSITIONS / SPLITS;
    const int warp = thread / 32, lane = thread % 32;
    const unsigned sums = shared + OUT_AT + group * OUT_BYTES;  // [block][position of the share][row]
    if (thread == 0) ptx::mbarrier_arrive_expect(sums_full(group), GROUP_POSITIONS * SUMS_ROWS * 4);
    ptx::mbarrier_wait(sums_empty(group), turn ^ 1);  // every block has read those of the tile before
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int q = t * 64 + warp * 16 + half * 8 + lane / 4;
        const unsigned to = ptx::of_block(sums + ((split() * SHARE + q % SHARE) * SUMS_PITCH + lane % 4 * 4) * 4, q / SHARE);
        const unsigned full = ptx::of_block(sums_full(group), q / SHARE);
#pragma unroll
        for (int j = 2 * half; j < ROWS / 2; j += 8) {  // registers as in store()
          const bool both = j + 4 < ROWS / 2;
          ptx::store_to_block(to + j / 8 * 64, acc[t][j], acc[t][j + 1], both ? acc[t][j + 4] : 0, both ? acc[t][j + 5] : 0,
                              full);
        }
      }
    }
    const Corner corner = corner_of(tile);
    ptx::barrier(1 + group, 128);
    ptx::mbarrier_wait_for_blocks(sums_full(group), turn);

    constexpr int SAMPLES = TILE_PHASES * Layer::GAP;  // of a position and channel
    // Neighbours take samples that are neighbours in y; what follows from a place in y is computed once for all channels.
    constexpr int RUN = SHARE * SAMPLES, LANES = RUN < 128 ? RUN : 128, CHANNEL_STEP = 128 / LANES;
    const int q0 = split() * SHARE, first_channel = thread / LANES;
    const float* const all = reinterpret_cast<const float*>(shared_pointer(OUT_AT + group * OUT_BYTES));
    const long long t0 =
        first_position_of(tile, group) * Layer::STRIDE + corner.phase * Layer::GAP - Layer::PADDING;
    const long long positions = end_position - tile.position - group * GROUP_POSITIONS;  // of an image
    Element* const y = static_cast<Element*>(call.y) + tile.image * call.y_stride_b + corner.of_all * call.y_stride_c + t0;
    const int channels = Layer::C_OUT - corner.channel < TILE_CHANNELS ? Layer::C_OUT - corner.channel : TILE_CHANNELS;
#pragma unroll 2
    for (int r = thread % LANES; r < RUN && first_channel < CHANNEL_STEP; r += LANES) {
      const int sample = r % SAMPLES, q = r / SAMPLES;
      const int image = MERGES && images > 1 ? (q0 + q) / image_rows : 0;
      const int position = q0 + q - image * image_rows;
      const long long time = static_cast<long long>(position) * Layer::STRIDE + sample;
      if (image >= images || tile.image + image >= call.batch || position >= positions || t0 + time < 0 ||
          t0 + time >= call.out_length || corner.phase + sample / Layer::GAP >= Layer::LIVE)
        continue;
      const float* const row = all + q * SUMS_PITCH;
      Element* const to = y + image * call.y_stride_b + time;
#pragma unroll 4
      for (int channel = first_channel; channel < channels; channel += CHANNEL_STEP) {
        float sum = 0;
        if (sample % Layer::GAP == 0) {  // a dead phase has none
#pragma unroll
          for (int block = 0; block < SPLITS; ++block)
            sum += row[place_of(channel * TILE_PHASES + sample / Layer::GAP) + block * SHARE * SUMS_PITCH];
        }
        const float b = Layer::BIAS ? biases(group, turn)[channel] : 0.0f;
        to[channel * call.y_stride_c] =
            Storage::round(after<Layer>(sum + b, alpha_after<Layer, float>(call.y_alpha, corner.of_all + channel)));
      }
    }
    __syncwarp();
    if (lane < SPLITS) ptx::mbarrier_arrive_of_block(ptx::of_block(sums_empty(group), lane));
  }

  __device__ char* shared_pointer(int offset) const {
    extern __shared__ char memory[];
    return memory + (shared - ptx::shared_address(memory)) + offset;
  }

  // --- the block --------------------------------------------------------------------------------

  template <int COUNT>
  __device__ static void take_registers() {
    if constexpr (MOVE_REGISTERS) ptx::registers_change<LAUNCH_REGISTERS, COUNT>();
  }

  __device__ static void run(const Call& call) {
    ptx::let_next_kernel_start();
    extern __shared__ char memory[];
    const GemmSm90 kernel(call, ptx::shared_address(memory));
    if (threadIdx.x == 0) {
      for (int s = 0; s < X_STAGES; ++s) {
        ptx::mbarrier_init(kernel.x_full(s), PRODUCERS);
        ptx::mbarrier_init(kernel.x_empty(s), CONSUMERS);
      }
      for (int s = 0; s < W_SLOTS; ++s) {
        ptx::mbarrier_init(kernel.w_full(s), 1);
        if (WIDE)
          ptx::store_shared(kernel.w_empty(s), 0u);
        else if (!OWN_W)
          ptx::mbarrier_init(kernel.w_empty(s), CONSUMERS);
      }
      if constexpr (SPLITS > 1) {
        for (int group = 0; group < CONSUMERS; ++group) {
          ptx::mbarrier_init(kernel.sums_full(group), 1);
          ptx::mbarrier_init(kernel.sums_empty(group), 4 * SPLITS);  // a warp of each block's group each
        }
      }
      ptx::mbarrier_init_fence();
    }
    if constexpr (SPLITS == 1)
      __syncthreads();
    else
      ptx::cluster_barrier();  // nobody arrives at a barrier that is not there yet
    const int warp = static_cast<int>(ptx::uniform(threadIdx.x / 32));
    if (warp < 4 * CONSUMERS) {
      take_registers<CONSUMER_REGISTERS>();
      kernel.consume(warp / 4, threadIdx.x % 128);
    } else if (warp < 4 * CONSUMERS + PRODUCERS) {
      take_registers<PRODUCER_REGISTERS>();
      if (MERGES || call.x_stride_t != 1)
        kernel.template produce_x<1>(warp - 4 * CONSUMERS, threadIdx.x % 32);
      else
        kernel.template produce_x<MERGES ? 1 : 2>(warp - 4 * CONSUMERS, threadIdx.x % 32);
    } else if constexpr (!GROUPS_ASK) {
      take_registers<LAST_REGISTERS>();
      if (warp == 4 * CONSUMERS + PRODUCERS && threadIdx.x % 32 == 0) kernel.produce_w();
    }
  }

  // --- weights ----------------------------------------------------------------------------------

  // packed[group][row tile][chunk][tap][plane][row][channel], rows swizzled, channels as channel_of has them; zero where a
  // phase lacks the tap, a channel or a phase is past the last. One thread for 16 bytes of a plane.
  static constexpr long long PACKED_BYTES = 1ll * Layer::GROUPS * PACKED_TILES * W_ENTRIES * PACKED_ENTRY;
  static constexpr long long PACK_UNITS = PACKED_BYTES / PLANES / 16;

  __device__ static void pack(const Pack& call) {
    ptx::let_next_kernel_start();
    ptx::wait_for_kernels_before();
    const long long unit = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (unit >= PACK_UNITS) return;
    constexpr int COLUMNS = ROW_BYTES / 16;
    const int column = unit % COLUMNS;
    const int row = unit / COLUMNS % PACKED_ROWS;
    const long long plane = unit / (COLUMNS * PACKED_ROWS);
    const int tap = plane % Layer::TAPS;
    const int chunk = plane / Layer::TAPS % CHUNKS;
    const int row_tile = plane / W_ENTRIES % PACKED_TILES;
    const int group = plane / W_ENTRIES / PACKED_TILES;
    const int channel = (WHOLE ? row_tile : row_tile / PHASE_TILES) * PACKED_CHANNELS + (WHOLE ? row / Layer::LIVE : 0);
    const int phase = WHOLE ? row % Layer::LIVE : row_tile % PHASE_TILES * TILE_PHASES + row;
    const bool real_row = channel < Layer::C_OUT && phase < Layer::LIVE && row < PACKED_CHANNELS * TILE_PHASES;
    const int k = kernel_index<Layer>(phase, tap);
    const Element* const w = static_cast<const Element*>(call.w);
    unsigned short half[8];
    unsigned hi[4], lo[4];
#pragma unroll
    for (int e = 0; e < UNIT; ++e) {
      const int c = chunk * CHUNK + channel_of(column, e);
      Element value = 0;
      if (real_row && k < Layer::K && c < Layer::C_IN)
        value = w[(static_cast<long long>(group) * Layer::C_IN + c) * call.stride_in + channel * call.stride_out +
                  k * call.stride_k];
      if constexpr (SIZE == 4) {
        hi[e] = ptx::to_tf32(value);
        lo[e] = low_part(value, hi[e]);
      } else {
        half[e] = value;
      }
    }
    if constexpr (SIZE == 2) {
      for (int e = 0; e < 4; ++e) hi[e] = half[2 * e] | (static_cast<unsigned>(half[2 * e + 1]) << 16);
    }
    uint4* const to = reinterpret_cast<uint4*>(static_cast<char*>(call.packed) + plane * PACKED_ENTRY +
                                               swizzled(row * ROW_BYTES + column * 16));
    *to = make_uint4(hi[0], hi[1], hi[2], hi[3]);
    if constexpr (PLANES == 2) to[PACKED_PLANE / 16] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
  }
};

}  // namespace tconv
