// Implicit GEMM for sm_90: positions x (C_out x live phases), summed over (taps x C_in).
//
// PyTorch keeps time contiguous, wgmma wants channels contiguous. The producers transpose x on its way into shared
// memory, once for a tile: row q holds a chunk of channels of position q, swizzled. A tap then is nothing but another first
// row, so all taps and all phases multiply from that one copy. The weights were packed in the very bytes of shared
// memory, and a bulk copy brings each (chunk, tap) of them.
//
// Warps: 4 a consumer group (wgmma and the epilogue), 8 that bring x. Consumers ask for w, which bulk copies bring. Blocks are persistent.
//
// Layer:    C_IN, C_OUT (of one group), GROUPS, K, STRIDE, PADDING, GAP, LIVE, STEP, TAPS, JUMP, BIAS, Storage, and its
//           activations (activation.cuh). Tap number t of every phase reads x[position - t * JUMP]; see src/cuda/layer.hpp.
// Schedule: ROWS (wgmma's N, rows of a tile), TILES (64 positions each, of one consumer group), CONSUMERS, X_STAGES,
//           W_STAGES, SPLITS: blocks of a cluster that share a tile, each the sum over some of the chunks.
#pragma once

#include "activation.cuh"
#include "call.h"
#include "gemm.cuh"
#include "ptx.cuh"
#include "wgmma.cuh"

namespace tconv {

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
  static constexpr int CHUNKS = (Layer::C_IN + CHUNK - 1) / CHUNK;
  static constexpr int STEPS = ROW_BYTES / 32;
  static constexpr int LAST_STEPS = STEPS_ALL - (CHUNKS - 1) * STEPS;
  static constexpr int PLANES = Storage::TERMS == 3 ? 2 : 1;  // hi and lo

  static constexpr int CONSUMERS = Schedule::CONSUMERS;
  static constexpr int SPLITS = Schedule::SPLITS;
  static constexpr int GROUP_POSITIONS = 64 * Schedule::TILES;
  static constexpr int POSITIONS = GROUP_POSITIONS * CONSUMERS;
  static constexpr int SPAN = (Layer::TAPS - 1) * Layer::JUMP;  // positions before the tile that it reads
  // The window starts at an even position, so that two samples are one load where x allows it.
  static constexpr int LEAD = SPAN + (Layer::PADDING / Layer::STRIDE + SPAN) % 2;
  static constexpr int X_ROWS = (POSITIONS + LEAD + 1) / 2 * 2;
  static constexpr int X_PLANE = (X_ROWS * ROW_BYTES + 1023) / 1024 * 1024;
  static constexpr int X_BYTES = X_PLANE * PLANES;

  // Rows of a tile: whole channels with all their live phases, or some of the phases of one channel.
  static constexpr int ROWS = Schedule::ROWS;
  static constexpr bool WHOLE = Layer::LIVE <= ROWS;
  static constexpr int TILE_CHANNELS = WHOLE ? ROWS / Layer::LIVE : 1;
  static constexpr int TILE_PHASES = WHOLE ? Layer::LIVE : ROWS;
  static constexpr int PHASE_TILES = (Layer::LIVE + TILE_PHASES - 1) / TILE_PHASES;
  static constexpr int ROW_TILES = (Layer::C_OUT + TILE_CHANNELS - 1) / TILE_CHANNELS * PHASE_TILES;
  static constexpr int W_PLANE = ROWS * ROW_BYTES;
  static constexpr int W_BYTES = W_PLANE * PLANES;
  static constexpr int W_ENTRIES = CHUNKS * Layer::TAPS;  // of a row tile
  // All weights stay in shared memory when a block never needs others.
  static constexpr bool RESIDENT = ROW_TILES == 1 && Layer::GROUPS == 1 && W_ENTRIES <= Schedule::W_STAGES &&
                                   SPLITS == 1;
  static constexpr int W_STAGES = RESIDENT ? W_ENTRIES : Schedule::W_STAGES;
  static constexpr int X_STAGES = Schedule::X_STAGES;

  // Output of a consumer group: a segment of samples for each channel (WHOLE), or for each position. Long segments are what
  // DRAM writes fastest, so all positions at once, and a part of the channels at a time where shared memory is short.
  static constexpr int SEGMENT = WHOLE ? GROUP_POSITIONS * Layer::STRIDE : TILE_PHASES * Layer::GAP;
  static constexpr int PITCH = segment_pitch<Element>(SEGMENT);
  static constexpr int OUT_MOST = (PLANES == 1 ? 20 : 10) * 1024;  // two planes take the room themselves
  static constexpr int parts_from(int parts) {
    const bool splits = WHOLE && TILE_CHANNELS * Layer::LIVE == ROWS && ROWS % (16 * parts) == 0 &&
                        TILE_CHANNELS % (2 * parts) == 0;
    return splits && TILE_CHANNELS / parts * PITCH * SIZE > OUT_MOST ? parts_from(2 * parts) : parts;
  }
  static constexpr int PARTS = parts_from(1);
  static constexpr int PART_CHANNELS = TILE_CHANNELS / PARTS;
  static constexpr int SEGMENTS = WHOLE ? PART_CHANNELS : GROUP_POSITIONS;
  // Split, it holds the sums of every block over this block's share of the positions instead: a row of the tile's rows for
  // each, in whose pitch neither the writes of an accumulator's pairs nor reads along a row meet in a bank.
  static constexpr int SUMS_PITCH = ROWS + (40 - ROWS % 32) % 32;
  static constexpr int SUMS_BYTES = GROUP_POSITIONS * SUMS_PITCH * 4;  // and the bias of a tile's channels behind them
  static constexpr int OUT_BYTES = SPLITS > 1 ? SUMS_BYTES + ROWS * 4 : SEGMENTS * PITCH * SIZE;
  static constexpr bool MERGES = SPLITS > 1 && POSITIONS == 64;
  static_assert(GROUP_POSITIONS % SPLITS == 0 && SPLITS <= CHUNKS, "every block has chunks to sum and positions to store");

  static constexpr int X_AT = 0;
  static constexpr int W_AT = X_AT + X_STAGES * X_BYTES;
  static constexpr int OUT_AT = (W_AT + W_STAGES * W_BYTES + 127) / 128 * 128;
  static constexpr int BARRIERS_AT = OUT_AT + (CONSUMERS * OUT_BYTES + 127) / 128 * 128;
  static constexpr int SUMS_BARRIERS = SPLITS > 1 ? CONSUMERS : 0;
  static constexpr int REFILLS_AT = BARRIERS_AT + 8 * 2 * (X_STAGES + W_STAGES + SUMS_BARRIERS);
  static constexpr int SHARED_BYTES = REFILLS_AT + 32 * CONSUMERS + 1024;  // and room to align

  static constexpr int PRODUCERS = 8;  // warps that bring x
  static constexpr int THREADS = 128 * CONSUMERS + 32 * PRODUCERS;
  // Two consumer groups take registers from the producers. More than the launch's, and the block would wait for them forever.
  static constexpr bool MOVE_REGISTERS = CONSUMERS == 2;
  // 16-bit samples take more arithmetic on their way out than 32-bit ones; three terms need two sets of sums.
  static constexpr int CONSUMER_REGISTERS = SIZE == 2 ? 192 : PLANES == 1 ? 184 : 200;
  static constexpr int PRODUCER_REGISTERS = 256 - CONSUMER_REGISTERS;
  static_assert(CONSUMERS <= 2 && PRODUCERS == 8, "512 threads of 128 registers: half of them consumers");

  struct OutShape {
    static constexpr bool WHOLE = GemmSm90::WHOLE;
    static constexpr int SEGMENT = GemmSm90::SEGMENT, SEGMENTS = GemmSm90::SEGMENTS, THREADS = 128;
    static constexpr int UNROLL = Schedule::TILES * ROWS > (SIZE == 4 ? 128 : 112) ? 1 : 4, UNROLL_INSIDE = PITCH;
  };
  using Out = Segments<Layer, OutShape>;

  static_assert(ROWS % 8 == 0 && W_PLANE % 256 == 0, "a swizzle repeats every 8 rows");
  static_assert(W_PLANE % 1024 == 0 || ROW_BYTES < 128, "a 128-byte swizzle repeats every 1024 bytes");
  static_assert(Schedule::TILES * ROWS <= 256, "accumulators: half as many registers a thread");

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
  __device__ int* w_releases(int s) const {
    return reinterpret_cast<int*>(shared_pointer(BARRIERS_AT + 8 * (2 * X_STAGES + W_STAGES + s)));
  }
  __device__ unsigned sums_full(int group) const { return x_full(2 * (X_STAGES + W_STAGES) + group); }
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
    t.image = place / position_tiles;
    t.position = first_position + (place - t.image * position_tiles) * POSITIONS;
    if constexpr (MERGES) t.image *= images;
    return t;
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

  static constexpr int UNIT = 16 / SIZE;                 // channels of 16 bytes
  static constexpr int COLUMNS = ROW_BYTES / 16;         // units of a row
  static constexpr int ROW_WARPS = PRODUCERS / COLUMNS;  // that share a column's rows

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

  // A producer warp has one column of every chunk, a lane every ROW_STEP-th row and WIDTH - 1 after it: all addresses of a chunk
  // differ by constants. Rows are loaded in as few batches as the registers allow, and even ones: a batch waits for memory once.
  template <int WIDTH>
  struct Rows {
    static constexpr int ROW_STEP = 32 * WIDTH * ROW_WARPS;
    static constexpr int ROUNDS = (X_ROWS + ROW_STEP - 1) / ROW_STEP;
    // The sine needs registers of its own, and of three terms the consumers have more.
    static constexpr int ROOM = (Layer::BEFORE == Activation::snake && SIZE == 2) || PLANES == 2 ? 24 : 40;
    static constexpr int MOST = ROOM / (WIDTH * SIZE <= 4 ? UNIT : UNIT * WIDTH * SIZE / 4);
    static constexpr int BATCHES = (ROUNDS + MOST - 1) / MOST;
    static constexpr int COUNT = (ROUNDS + BATCHES - 1) / BATCHES;  // of a batch
    static_assert(ROW_STEP * ROW_BYTES % 1024 == 0, "a step keeps the swizzle");
  };

  // COUNT times WIDTH rows of UNIT channels, of which `channels` exist: those inside x from `from`, zeros elsewhere.
  template <int WIDTH>
  __device__ void load_batch(const Element* from, const bool (&inside)[Rows<WIDTH>::COUNT], int channels,
                             Samples<WIDTH> (&values)[Rows<WIDTH>::COUNT][UNIT]) const {
    using Of = Rows<WIDTH>;
#pragma unroll
    for (int e = 0; e < UNIT; ++e) {
      const bool real = Layer::C_IN % CHUNK == 0 || e < channels;
#pragma unroll
      for (int i = 0; i < Of::COUNT; ++i) {
        const Element* const p = from + (WIDTH == 1 ? i * Of::ROW_STEP * call.x_stride_t : i * Of::ROW_STEP);
        values[i][e] = real && inside[i] ? *reinterpret_cast<const Samples<WIDTH>*>(p) : Samples<WIDTH>{};
      }
      from += call.x_stride_c;
    }
  }

  // The rows that a lane brings of a tile that images may share, each from wherever it lies.
  struct Scattered {
    static constexpr int ROWS = MERGES ? Rows<1>::BATCHES * Rows<1>::COUNT : 1;
    long long offset[ROWS];  // of its sample of any channel
    bool inside[ROWS];
  };
  __device__ Scattered scattered(const Tile& tile, int row) const {
    Scattered rows;
#pragma unroll
    for (int i = 0; i < Scattered::ROWS; ++i) {
      const int at = row + i * Rows<1>::ROW_STEP - (LEAD - SPAN);
      const int image = at / image_rows;
      const long long time = tile.position - SPAN + (at - image * image_rows);
      rows.inside[i] = at >= 0 && image < images && tile.image + image < call.batch && time >= 0 && time < call.length;
      rows.offset[i] = (tile.image + image) * call.x_stride_b + time * call.x_stride_t;
    }
    return rows;
  }
  __device__ void load_scattered(const Element* from, const Scattered& rows, int first, int channels,
                                 Samples<1> (&values)[Rows<1>::COUNT][UNIT], bool (&inside)[Rows<1>::COUNT]) const {
#pragma unroll
    for (int i = 0; i < Rows<1>::COUNT; ++i) {
      inside[i] = rows.inside[first + i];
#pragma unroll
      for (int e = 0; e < UNIT; ++e) {
        const bool real = inside[i] && (Layer::C_IN % CHUNK == 0 || e < channels);
        const Element* const p = from + rows.offset[first + i] + e * call.x_stride_c;
        values[i][e] = real ? *reinterpret_cast<const Samples<1>*>(p) : Samples<1>{};
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
  // What is absent is zero and stays it by every formula; an alpha that is no number would not let it. The ends of x lie at even
  // rows: one load's samples are there together.
  template <int WIDTH>
  __device__ static void activate_batch(Samples<WIDTH> (&values)[Rows<WIDTH>::COUNT][UNIT], const float* alphas,
                                        const bool (&inside)[Rows<WIDTH>::COUNT], int channels) {
    constexpr bool SNAKE = Layer::BEFORE == Activation::snake;
#pragma unroll
    for (int e = 0; e < UNIT; ++e) {
      if (SNAKE && e >= channels) break;
      const float alpha = alpha_before<Layer, float>(alphas, e);
#pragma unroll
      for (int b = 0; b < Rows<WIDTH>::COUNT; ++b) {
        if (SNAKE && !inside[b]) continue;
        auto& v = values[b][e];
        if constexpr (WIDTH * SIZE == 8)
          v = make_uint2(activated(v.x, alpha), activated(v.y, alpha));
        else if constexpr (WIDTH == 2)
          v = activated(v & 0xFFFF, alpha) | activated(v >> 16, alpha) << 16;
        else
          v = static_cast<Samples<WIDTH>>(activated(v, alpha));
      }
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

  // Rows whose samples come in aligned pairs.
  __device__ bool pairs() const {
    return call.x_stride_t == 1 && reinterpret_cast<unsigned long long>(call.x) % (2 * SIZE) == 0 &&
           (call.length | call.x_stride_b | call.x_stride_c) % 2 == 0;
  }

  template <int WIDTH>
  __device__ void produce_x(int warp, int lane) const {
    using Of = Rows<WIDTH>;
    const int column = warp % COLUMNS, row = (warp / COLUMNS * 32 + lane) * WIDTH;
    // Every other four lanes store their second row first, so that eight of them never meet in a bank.
    const bool swap = WIDTH == 2 && (row >> 3 & 1) != 0;
    const unsigned first = swizzled((row + swap) * ROW_BYTES + column * 16);
    const unsigned second = swizzled((row + !swap) * ROW_BYTES + column * 16);
    Samples<WIDTH> values[Of::COUNT][UNIT];
    Ring ring;
    for (long long index = first_tile(); index < tiles; index += tile_step()) {
      const Tile tile = tile_at(index);
      const long long i = tile.position - LEAD, left = call.length - i;
      const int low = i < 0 ? static_cast<int>(-i < X_ROWS ? -i : X_ROWS) : 0;
      const int high = left < X_ROWS ? static_cast<int>(left > 0 ? left : 0) : X_ROWS;
      const int channel = tile.group * Layer::C_IN + first_chunk() * CHUNK + column * UNIT;
      const Element* from = static_cast<const Element*>(call.x) + channel * call.x_stride_c;
      [[maybe_unused]] Scattered rows;
      if constexpr (MERGES)
        rows = scattered(tile, row);
      else
        from += tile.image * call.x_stride_b + (i + row) * call.x_stride_t;
      const float* alphas = static_cast<const float*>(call.x_alpha) + channel;
      for (int chunk = first_chunk(); chunk < end_chunk(); ++chunk) {
        const bool has_column = LAST_STEPS == STEPS || chunk < CHUNKS - 1 || column < LAST_STEPS * 2;
        const int channels = has_column ? Layer::C_IN - chunk * CHUNK - column * UNIT : 0;
        const unsigned stage = shared + X_AT + ring.slot * X_BYTES;
#pragma unroll(MERGES ? Of::BATCHES : 1)
        for (int batch = 0; batch < Of::BATCHES; ++batch) {
          const int row0 = batch * (Of::COUNT * Of::ROW_STEP);
          bool inside[Of::COUNT];
          if constexpr (MERGES) {
            load_scattered(from, rows, batch * Of::COUNT, channels, values, inside);
          } else {
#pragma unroll
            for (int b = 0; b < Of::COUNT; ++b) {
              const int at = row + row0 + b * Of::ROW_STEP;
              inside[b] = at >= low && at < high;
            }
            load_batch<WIDTH>(from + (WIDTH == 1 ? row0 * call.x_stride_t : row0), inside, channels, values);
          }
          if (batch == 0) ptx::mbarrier_wait(x_empty(ring.slot), ring.parity ^ 1);
          if (has_column) {
            if constexpr (Layer::BEFORE != Activation::none)
              activate_batch<WIDTH>(values, alphas, inside, channels);
            const unsigned to = stage + row0 * ROW_BYTES;
#pragma unroll
            for (int b = 0; b < Of::COUNT; ++b) {
              const unsigned at = to + b * (Of::ROW_STEP * ROW_BYTES);
              if (row + row0 + b * Of::ROW_STEP < X_ROWS) {
                store_row<WIDTH>(at + first, values[b], swap);
                if constexpr (WIDTH == 2) store_row<WIDTH>(at + second, values[b], !swap);
              }
            }
          }
        }
        ptx::fence_async_shared();
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(x_full(ring.slot));
        ring.template next<X_STAGES>();
        from += CHUNK * call.x_stride_c;
        alphas += CHUNK;
      }
    }
  }

  // --- weights' way into shared memory ----------------------------------------------------------

  // The group that releases a slot last refills it. One thread of a group, its place in shared memory.
  struct Refill {
    long long index;   // of the tile
    const char* from;  // its first entry
    int entry;         // of this block's chunks
  };
  static_assert(sizeof(Refill) <= 32);
  __device__ Refill& refill(int group) const {
    return *reinterpret_cast<Refill*>(shared_pointer(REFILLS_AT + 32 * group));
  }
  __device__ void open(Refill& next) const {
    if (next.index >= tiles) return;
    const Tile tile = tile_at(next.index);
    next.entry = 0;
    next.from = static_cast<const char*>(call.w) +
                ((static_cast<long long>(tile.group) * ROW_TILES + tile.row_tile) * CHUNKS + first_chunk()) *
                    (Layer::TAPS * W_BYTES);
  }
  __device__ void load_w(Refill& next, int slot, bool mine) const {
    if (next.index >= tiles) return;
    if (mine) {
      ptx::mbarrier_arrive_expect(w_full(slot), W_BYTES);
      ptx::bulk_load(shared + W_AT + slot * W_BYTES, next.from + next.entry * W_BYTES, W_BYTES, w_full(slot));
    }
    if (++next.entry == (end_chunk() - first_chunk()) * Layer::TAPS) {
      next.index += tile_step();
      open(next);
    }
  }
  __device__ void release_w(int group, int slot) const {
    if (!RESIDENT) load_w(refill(group), slot, CONSUMERS == 1 || ptx::shared_increment(w_releases(slot)) % CONSUMERS == 1);
  }

  // --- consumers --------------------------------------------------------------------------------

  using Accumulators = float[Schedule::TILES][ROWS / 2];

  // The matrix unit cuts its sums off instead of rounding them, so in three terms it sums one (chunk, tap) at a time, and
  // those sums are added up in f32. Their registers come beside the accumulators: where these are many, for half the rows.
  static constexpr bool PROMOTE = Storage::TERMS == 3;
  static constexpr int PART_ROWS = (Schedule::TILES + 1) * ROWS / 2 <= 160 ? ROWS : ROWS / 2;
  static_assert(!PROMOTE || (PART_ROWS % 8 == 0 && Schedule::TILES * ROWS / 2 + PART_ROWS / 2 <= 160));

  template <int COUNT, int STEPS_NOW>
  __device__ static void multiply_and_promote(Accumulators& acc, unsigned x, unsigned w) {
    using Instruction = ptx::Wgmma<Storage::OPERAND, PART_ROWS>;
#pragma unroll
    for (int t = 0; t < COUNT; ++t) {
#pragma unroll
      for (int part = 0; part < ROWS / PART_ROWS; ++part) {
        float sums[PART_ROWS / 2];
        ptx::wgmma_fence();
#pragma unroll
        for (int term = Storage::TERMS - 1; term >= 0; --term) {  // small terms first
          const unsigned a = x + t * 64 * ROW_BYTES + (term == 1 ? X_PLANE : 0);
          const unsigned b = w + part * PART_ROWS * ROW_BYTES + (term == 2 ? W_PLANE : 0);
#pragma unroll
          for (int s = 0; s < STEPS_NOW; ++s)
            Instruction::issue(sums, ptx::matrix_descriptor<ROW_BYTES>(a + s * 32),
                               ptx::matrix_descriptor<ROW_BYTES>(b + s * 32), term != Storage::TERMS - 1 || s != 0);
        }
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
#pragma unroll
        for (int j = 0; j < PART_ROWS / 2; ++j) acc[t][part * (PART_ROWS / 2) + j] += sums[j];
      }
    }
  }

  // One (chunk, tap): STEPS_NOW products for each of COUNT tiles.
  template <int COUNT, int STEPS_NOW>
  __device__ static void multiply(Accumulators& acc, unsigned x, unsigned w, bool& first) {
    if constexpr (PROMOTE) return multiply_and_promote<COUNT, STEPS_NOW>(acc, x, w);
    using Instruction = ptx::Wgmma<Storage::OPERAND, ROWS>;
    ptx::wgmma_fence();
#pragma unroll
    for (int t = 0; t < COUNT; ++t) {
#pragma unroll
      for (int s = 0; s < STEPS_NOW; ++s)
        Instruction::issue(acc[t], ptx::matrix_descriptor<ROW_BYTES>(x + t * 64 * ROW_BYTES + s * 32),
                           ptx::matrix_descriptor<ROW_BYTES>(w + s * 32), !(first && s == 0));
    }
    ptx::wgmma_commit();
    first = false;
  }

  struct Rings {
    Ring x, w;
  };

  // The sums of the first COUNT of a group's 64-position tiles. Without any, thread 0 gives the slots back unread; the others
  // wait for it behind the loop, as a thread two phases behind a barrier would not see it move.
  template <int COUNT>
  __device__ void sum(Accumulators& acc, Rings& ring, int group, int thread, bool w_is_here) const {
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
        if (w_held >= 0) release_w(group, w_held);
        if (x_held >= 0) ptx::mbarrier_arrive(x_empty(x_held));
      }
      w_held = x_held = -1;
    };
    for (int chunk = first_chunk(); chunk < end_chunk(); ++chunk) {
      if (COUNT > 0 || thread == 0) ptx::mbarrier_wait(x_full(ring.x.slot), ring.x.parity);
      const unsigned x = shared + X_AT + ring.x.slot * X_BYTES + group * GROUP_POSITIONS * ROW_BYTES;
#pragma unroll 1
      for (int tap = 0; tap < Layer::TAPS; ++tap) {
        if (!w_is_here && (COUNT > 0 || RESIDENT || thread == 0)) ptx::mbarrier_wait(w_full(ring.w.slot), ring.w.parity);
        // With one stage of x, the next chunk cannot come before this one is released.
        const bool drain = PROMOTE || (X_STAGES == 1 && tap == Layer::TAPS - 1);
        if constexpr (COUNT > 0) {
          const unsigned w = shared + W_AT + ring.w.slot * W_BYTES;
          const unsigned x_tap = x + (LEAD - tap * Layer::JUMP) * ROW_BYTES;
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
        w_held = ring.w.slot;
        x_held = tap == Layer::TAPS - 1 ? ring.x.slot : -1;
        if (drain) release();
        ring.w.template next<W_STAGES>();
      }
      ring.x.template next<X_STAGES>();
    }
    if constexpr (COUNT > 0) ptx::wgmma_wait<0>();
    release();
    if constexpr (COUNT == 0) ptx::barrier(1 + group, 128);
  }

  __device__ void consume(int group, int thread) const {
    if (thread == 0) {
      Refill& next = refill(group);
      next.index = first_tile();
      open(next);
      for (int slot = 0; slot < W_STAGES; ++slot) load_w(next, slot, group == 0);
    }
    Rings ring;
    Accumulators acc;
    [[maybe_unused]] unsigned sums_parity = 0;
    for (long long index = first_tile(); index < tiles; index += tile_step()) {
      const Tile tile = tile_at(index);
      const long long position = tile.position + group * GROUP_POSITIONS;
      const bool w_is_here = RESIDENT && index != first_tile();
      // The last tile of an image may have few positions.
      const long long count = (end_position - position + 63) / 64;
      if (count > Schedule::TILES / 2)
        sum<Schedule::TILES>(acc, ring, group, thread, w_is_here);
      else if (Schedule::TILES > 1 && count > 0)
        sum<(Schedule::TILES + 1) / 2>(acc, ring, group, thread, w_is_here);
      else
        sum<0>(acc, ring, group, thread, w_is_here);
      if (count <= 0) continue;
      if constexpr (SPLITS == 1) {
        store(acc, tile, group, thread);
      } else {
        store_share(acc, tile, group, thread, sums_parity);
        sums_parity ^= 1;
      }
    }
    // Others still tell this block that they have read its sums.
    if constexpr (SPLITS > 1) ptx::mbarrier_wait(sums_empty(group), sums_parity ^ 1);
  }

  // --- epilogue ---------------------------------------------------------------------------------

  __device__ void store(const Accumulators& acc, const Tile& tile, int group, int thread) const {
    char* const out = shared_pointer(OUT_AT + group * OUT_BYTES);
    Element* const buffer = reinterpret_cast<Element*>(out);
    const int warp = thread / 32, lane = thread % 32;
    const int channel_tile = WHOLE ? tile.row_tile : tile.row_tile / PHASE_TILES;
    const int channel0 = channel_tile * TILE_CHANNELS;
    const int phase0 = WHOLE ? 0 : tile.row_tile % PHASE_TILES * TILE_PHASES;
    const Element* const bias =
        Layer::BIAS ? static_cast<const Element*>(call.bias) + tile.group * Layer::C_OUT + channel0 : nullptr;
    const long long position = tile.position + group * GROUP_POSITIONS;
    Out segments{call, tile.image, static_cast<long long>(tile.group) * Layer::C_OUT + channel0, phase0, position};
    const int base = segments.first_shift();
    // Where one channel is one row, the eight rows of a block of registers start alike from block to block.
    const int row0 = lane % 4 * 2;
    const int shift0 = segments.shift(base, row0), shift1 = segments.shift(base, row0 + 1);
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      ptx::barrier(1 + group, 128);
#pragma unroll
      for (int j = part * (ROWS / 2 / PARTS); j < (part + 1) * (ROWS / 2 / PARTS); ++j) {
        // Register j of wgmma's accumulator: column 8*(j/4) + 2*(lane%4) + j%2, row 16*warp + 8*(j/2%2) + lane/4.
        const int row = j / 4 * 8 + row0 + j % 2;
        const int channel = WHOLE ? row / Layer::LIVE : 0;
        const int phase = WHOLE ? row % Layer::LIVE : row;
        if ((TILE_CHANNELS * TILE_PHASES < ROWS && row >= TILE_CHANNELS * TILE_PHASES) ||
            (Layer::C_OUT % TILE_CHANNELS != 0 && channel0 + channel >= Layer::C_OUT) ||
            (Layer::LIVE % TILE_PHASES != 0 && phase0 + phase >= Layer::LIVE))
          continue;
        const float b = Layer::BIAS ? Storage::load(bias[channel]) : 0.0f;
        const float alpha = alpha_after<Layer, float>(call.y_alpha, tile.group * Layer::C_OUT + channel0 + channel);
        const Element dead = Storage::round(after<Layer>(b, alpha));
#pragma unroll
        for (int t = 0; t < Schedule::TILES; ++t) {
          const int q = t * 64 + warp * 16 + j / 2 % 2 * 8 + lane / 4;
          const int shift = Layer::LIVE == 1 && WHOLE ? (j % 2 == 0 ? shift0 : shift1) : segments.shift(base, WHOLE ? channel : q);
          Element* const to = buffer + shift + phase * Layer::GAP +
                              (WHOLE ? (channel - part * PART_CHANNELS) * PITCH + q * Layer::STRIDE : q * PITCH);
          *to = Storage::round(after<Layer>(acc[t][j] + b, alpha));
          // Dead phases: the samples up to the next live one.
#pragma unroll
          for (int e = 1; e < Layer::GAP; ++e) to[e] = dead;
        }
      }
      ptx::barrier(1 + group, 128);
      int count = SEGMENTS;
      if (WHOLE && Layer::C_OUT % TILE_CHANNELS != 0) {
        const int rest = Layer::C_OUT - channel0 - part * PART_CHANNELS;
        count = rest < count ? rest : count;
      }
      segments.write(buffer, count, thread);
      if (WHOLE) segments.channel += PART_CHANNELS;
    }
  }

  // Of a split tile: sends the other blocks of the cluster this one's sums over their shares of the positions, and stores the
  // sums of all over its own share, added in the order of the blocks.
  __device__ void store_share(const Accumulators& acc, const Tile& tile, int group, int thread, unsigned parity) const {
    constexpr int SHARE = GROUP_POSITIONS / SPLITS;
    const int warp = thread / 32, lane = thread % 32;
    const unsigned sums = shared + OUT_AT + group * OUT_BYTES;  // [block][position of the share][row]
    if (thread == 0) ptx::mbarrier_arrive_expect(sums_full(group), GROUP_POSITIONS * ROWS * 4);
    ptx::mbarrier_wait(sums_empty(group), parity ^ 1);  // every block has read those of the tile before
#pragma unroll
    for (int t = 0; t < Schedule::TILES; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int q = t * 64 + warp * 16 + half * 8 + lane / 4;
        const unsigned to = ptx::of_block(sums + ((split() * SHARE + q % SHARE) * SUMS_PITCH + lane % 4 * 2) * 4, q / SHARE);
        const unsigned full = ptx::of_block(sums_full(group), q / SHARE);
#pragma unroll
        for (int j = 2 * half; j < ROWS / 2; j += 4)  // registers as in store()
          ptx::store_to_block(to + j / 4 * 32, acc[t][j], acc[t][j + 1], full);
      }
    }
    const int channel0 = (WHOLE ? tile.row_tile : tile.row_tile / PHASE_TILES) * TILE_CHANNELS;
    const int phase0 = WHOLE ? 0 : tile.row_tile % PHASE_TILES * TILE_PHASES;
    const long long first_channel = static_cast<long long>(tile.group) * Layer::C_OUT + channel0;
    float* const biases = reinterpret_cast<float*>(shared_pointer(OUT_AT + group * OUT_BYTES + SUMS_BYTES));
    if (Layer::BIAS && thread < TILE_CHANNELS && channel0 + thread < Layer::C_OUT)
      biases[thread] = Storage::load(static_cast<const Element*>(call.bias)[first_channel + thread]);
    ptx::barrier(1 + group, 128);
    ptx::mbarrier_wait_for_blocks(sums_full(group), parity);

    constexpr int SAMPLES = TILE_PHASES * Layer::GAP;  // of a position and channel
    constexpr int COUNT = TILE_CHANNELS * SHARE * SAMPLES;
    const int q0 = split() * SHARE;
    const float* const all = reinterpret_cast<const float*>(shared_pointer(OUT_AT + group * OUT_BYTES));
    const long long t0 =
        (tile.position + group * GROUP_POSITIONS) * Layer::STRIDE + phase0 * Layer::GAP - Layer::PADDING;
    const long long positions = end_position - tile.position - group * GROUP_POSITIONS;  // of an image
    Element* const y = static_cast<Element*>(call.y) + tile.image * call.y_stride_b + first_channel * call.y_stride_c + t0;
    // Neighbours take samples that are neighbours in y.
#pragma unroll 4
    for (int e = thread; e < COUNT; e += 128) {
      const int sample = e % SAMPLES, q = e / SAMPLES % SHARE, channel = e / (SAMPLES * SHARE);
      const int image = MERGES ? (q0 + q) / image_rows : 0;
      const int position = q0 + q - image * image_rows;
      const long long time = static_cast<long long>(position) * Layer::STRIDE + sample;
      if (image >= images || tile.image + image >= call.batch || position >= positions || t0 + time < 0 ||
          t0 + time >= call.out_length || channel0 + channel >= Layer::C_OUT || phase0 + sample / Layer::GAP >= Layer::LIVE)
        continue;
      float sum = 0;
      if (sample % Layer::GAP == 0) {  // a dead phase has none
        const float* const row = all + q * SUMS_PITCH + channel * TILE_PHASES + sample / Layer::GAP;
#pragma unroll
        for (int block = 0; block < SPLITS; ++block) sum += row[block * SHARE * SUMS_PITCH];
      }
      const float b = Layer::BIAS ? biases[channel] : 0.0f;
      y[image * call.y_stride_b + channel * call.y_stride_c + time] =
          Storage::round(after<Layer>(sum + b, alpha_after<Layer, float>(call.y_alpha, first_channel + channel)));
    }
    __syncwarp();
    if (lane < SPLITS) ptx::mbarrier_arrive_of_block(ptx::of_block(sums_empty(group), lane));
  }

  __device__ char* shared_pointer(int offset) const {
    extern __shared__ char memory[];
    return memory + (shared - ptx::shared_address(memory)) + offset;
  }

  // --- the block --------------------------------------------------------------------------------

  __device__ static void run(const Call& call) {
    extern __shared__ char memory[];
    const GemmSm90 kernel(call, ptx::shared_address(memory));
    if (threadIdx.x == 0) {
      for (int s = 0; s < X_STAGES; ++s) {
        ptx::mbarrier_init(kernel.x_full(s), PRODUCERS);
        ptx::mbarrier_init(kernel.x_empty(s), CONSUMERS);
      }
      for (int s = 0; s < W_STAGES; ++s) {
        ptx::mbarrier_init(kernel.w_full(s), 1);
        *kernel.w_releases(s) = 0;
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
    const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
    if (warp < 4 * CONSUMERS) {
      if constexpr (MOVE_REGISTERS) ptx::registers_raise<CONSUMER_REGISTERS>();
      kernel.consume(warp / 4, threadIdx.x % 128);
    } else {
      if constexpr (MOVE_REGISTERS) ptx::registers_lower<PRODUCER_REGISTERS>();
      if (MERGES || !kernel.pairs())
        kernel.template produce_x<1>(warp - 4 * CONSUMERS, threadIdx.x % 32);
      else
        kernel.template produce_x<MERGES ? 1 : 2>(warp - 4 * CONSUMERS, threadIdx.x % 32);
    }
  }

  // --- weights ----------------------------------------------------------------------------------

  // packed[group][row tile][chunk][tap][plane][row][channel], rows swizzled; zero where a phase lacks the tap, a channel or a
  // phase is past the last. One thread for 16 bytes of a plane.
  static constexpr long long PACKED_BYTES = 1ll * Layer::GROUPS * ROW_TILES * W_ENTRIES * W_BYTES;
  static constexpr long long PACK_UNITS = PACKED_BYTES / PLANES / 16;

  __device__ static void pack(const Pack& call) {
    const long long unit = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (unit >= PACK_UNITS) return;
    constexpr int COLUMNS = ROW_BYTES / 16;
    const int column = unit % COLUMNS;
    const int row = unit / COLUMNS % ROWS;
    const long long plane = unit / (COLUMNS * ROWS);
    const int tap = plane % Layer::TAPS;
    const int chunk = plane / Layer::TAPS % CHUNKS;
    const int row_tile = plane / W_ENTRIES % ROW_TILES;
    const int group = plane / W_ENTRIES / ROW_TILES;
    const int channel = (WHOLE ? row_tile : row_tile / PHASE_TILES) * TILE_CHANNELS + (WHOLE ? row / Layer::LIVE : 0);
    const int phase = WHOLE ? row % Layer::LIVE : row_tile % PHASE_TILES * TILE_PHASES + row;
    const bool real_row = channel < Layer::C_OUT && phase < Layer::LIVE && row < TILE_CHANNELS * TILE_PHASES;
    const int k = kernel_index<Layer>(phase, tap);
    const Element* const w = static_cast<const Element*>(call.w);
    unsigned short half[8];
    unsigned hi[4], lo[4];
#pragma unroll
    for (int e = 0; e < UNIT; ++e) {
      const int c = chunk * CHUNK + column * UNIT + e;
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
    uint4* const to =
        reinterpret_cast<uint4*>(static_cast<char*>(call.packed) + plane * W_BYTES + swizzled(row * ROW_BYTES + column * 16));
    *to = make_uint4(hi[0], hi[1], hi[2], hi[3]);
    if constexpr (PLANES == 2) to[W_PLANE / 16] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
  }
};

}  // namespace tconv
