// Implicit GEMM for sm_90: positions x (C_out x live phases), summed over (taps x C_in).
//
// PyTorch keeps time contiguous, wgmma wants channels contiguous. The producers transpose x on its way into shared
// memory, once for a tile: row q holds a chunk of channels of position q, swizzled. A tap then is nothing but another first
// row, so all taps and all phases multiply from that one copy. The weights were packed in the very bytes of shared
// memory, and a bulk copy brings each (chunk, tap) of them.
//
// Warps: 4 a consumer group (wgmma and the epilogue), producers of x, one producer of w. Blocks are persistent.
//
// Layer:    C_IN, C_OUT (of one group), GROUPS, K, STRIDE, PADDING, GAP, LIVE, STEP, TAPS, JUMP, BIAS, Storage. Tap number t
//           of every phase reads x[position - t * JUMP]; see src/cuda/layer.hpp.
// Schedule: ROWS (wgmma's N, rows of a tile), TILES (64 positions each, of one consumer group), CONSUMERS, X_STAGES,
//           W_STAGES.
#pragma once

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
  static constexpr bool RESIDENT = ROW_TILES == 1 && Layer::GROUPS == 1 && W_ENTRIES <= Schedule::W_STAGES;
  static constexpr int W_STAGES = RESIDENT ? W_ENTRIES : Schedule::W_STAGES;
  static constexpr int X_STAGES = Schedule::X_STAGES;

  // Output of a consumer group: a segment of samples for each channel (WHOLE), or for each position. Long segments are what
  // DRAM writes fastest, so all positions at once, and a part of the channels at a time where shared memory is short.
  static constexpr int SEGMENT = WHOLE ? GROUP_POSITIONS * Layer::STRIDE : TILE_PHASES * Layer::GAP;
  static constexpr int PITCH = segment_pitch<Element>(SEGMENT);
  static constexpr int parts_from(int parts) {
    const bool splits = WHOLE && TILE_CHANNELS * Layer::LIVE == ROWS && ROWS % (16 * parts) == 0 &&
                        TILE_CHANNELS % (2 * parts) == 0;
    return splits && TILE_CHANNELS / parts * PITCH * SIZE > 20 * 1024 ? parts_from(2 * parts) : parts;
  }
  static constexpr int PARTS = parts_from(1);
  static constexpr int PART_CHANNELS = TILE_CHANNELS / PARTS;
  static constexpr int SEGMENTS = WHOLE ? PART_CHANNELS : GROUP_POSITIONS;
  static constexpr int OUT_BYTES = SEGMENTS * PITCH * SIZE;

  static constexpr int X_AT = 0;
  static constexpr int W_AT = X_AT + X_STAGES * X_BYTES;
  static constexpr int OUT_AT = (W_AT + W_STAGES * W_BYTES + 127) / 128 * 128;
  static constexpr int BARRIERS_AT = OUT_AT + (CONSUMERS * OUT_BYTES + 127) / 128 * 128;
  static constexpr int SHARED_BYTES = BARRIERS_AT + 8 * 2 * (X_STAGES + W_STAGES) + 1024;  // and room to align

  // Seven producers of x and the one of w are two groups of four warps, which give registers up where the accumulators need
  // more than an even share.
  static constexpr int PRODUCERS = 7;
  static constexpr int THREADS = 128 * CONSUMERS + 32 * PRODUCERS + 32;
  // 16-bit samples take more arithmetic on their way out than 32-bit ones, and so more registers.
  static constexpr bool MOVE_REGISTERS = CONSUMERS == 2 && Schedule::TILES * ROWS > (SIZE == 4 ? 128 : 112);

  struct OutShape {
    static constexpr bool WHOLE = GemmSm90::WHOLE;
    static constexpr int SEGMENT = GemmSm90::SEGMENT, SEGMENTS = GemmSm90::SEGMENTS, THREADS = 128;
    static constexpr int UNROLL = Schedule::TILES * ROWS > (SIZE == 4 ? 128 : 112) ? 1 : 4, UNROLL_INSIDE = PITCH;
  };
  using Out = Segments<Layer, OutShape>;

  static_assert(ROWS % 8 == 0 && W_PLANE % 256 == 0, "a swizzle repeats every 8 rows");
  static_assert(W_PLANE % 1024 == 0 || ROW_BYTES < 128, "a 128-byte swizzle repeats every 1024 bytes");
  static_assert(CONSUMERS <= 2, "256 x 184 + 256 x 72 registers are the 512 x 128 of the launch");
  static_assert(Schedule::TILES * ROWS <= 256, "accumulators: half as many registers a thread");

  unsigned shared;  // aligned to 1024 bytes
  const Call& call;
  long long first_position;
  long long position_tiles;
  long long tiles;

  __device__ explicit GemmSm90(const Call& c, unsigned base) : shared((base + 1023) & ~1023u), call(c) {
    first_position = Layer::PADDING / Layer::STRIDE;
    const long long last = (call.out_length - 1 + Layer::PADDING) / Layer::STRIDE;
    position_tiles = (last - first_position + POSITIONS) / POSITIONS;
    tiles = position_tiles * call.batch * (Layer::GROUPS * ROW_TILES);
  }

  __device__ unsigned x_full(int s) const { return shared + BARRIERS_AT + 8 * s; }
  __device__ unsigned x_empty(int s) const { return x_full(X_STAGES + s); }
  __device__ unsigned w_full(int s) const { return x_full(2 * X_STAGES + s); }
  __device__ unsigned w_empty(int s) const { return x_full(2 * X_STAGES + W_STAGES + s); }

  struct Tile {
    int row_tile, group;
    long long image, position;  // of its first output
  };
  // Row tiles of the same positions are neighbours: x comes from DRAM once.
  __device__ Tile tile_at(long long index) const {
    Tile t;
    if (ROW_TILES * Layer::GROUPS == 1) {
      t.row_tile = t.group = 0;
    } else {
      const int inner = static_cast<int>(index % (ROW_TILES * Layer::GROUPS));
      index /= ROW_TILES * Layer::GROUPS;
      t.row_tile = inner % ROW_TILES;
      t.group = inner / ROW_TILES;
    }
    t.image = index / position_tiles;
    t.position = first_position + (index - t.image * position_tiles) * POSITIONS;
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

  static constexpr int UNIT = 16 / SIZE;  // channels of 16 bytes
  static constexpr int PRODUCER_THREADS = 32 * PRODUCERS;

  __device__ static unsigned swizzled(unsigned offset) {
    return offset ^ (((offset >> 7) & (ROW_BYTES / 16 - 1)) << 4);
  }

  struct Source {
    const Element* start;  // of the first row and channel of this chunk; never read where i is outside of x
    long long i;           // index into x of the first row
    int channels;          // of this chunk that exist
  };

  // Samples of one load: adjacent positions of one channel.
  template <int WIDTH>
  struct alignas(WIDTH * SIZE) Samples {
    Element at[WIDTH];
  };

  // UNIT channels of WIDTH rows from `row`.
  template <int WIDTH>
  __device__ void load_units(const Source& from, int row, int column, bool wanted, Samples<WIDTH> (&values)[UNIT]) const {
    const long long i = from.i + row;
    const bool inside = wanted && i >= 0 && i < call.length;
    const Element* p = from.start + (WIDTH == 1 ? row * call.x_stride_t : row) + column * UNIT * call.x_stride_c;
#pragma unroll
    for (int e = 0; e < UNIT; ++e) {
      const bool real = inside && (Layer::C_IN % CHUNK == 0 || column * UNIT + e < from.channels);
      values[e] = real ? *reinterpret_cast<const Samples<WIDTH>*>(p) : Samples<WIDTH>{};
      p += call.x_stride_c;
    }
  }

  template <int WIDTH>
  __device__ static void store_units(unsigned stage, int row, int column, const Samples<WIDTH> (&values)[UNIT]) {
    // Every other four threads store their second row first, so that eight of them never meet in a bank.
    const bool swap = WIDTH == 2 && (row >> 3 & 1) != 0;
#pragma unroll
    for (int turn = 0; turn < WIDTH; ++turn) {
      const auto sample = [&](int e) {
        if constexpr (WIDTH == 1)
          return values[e].at[0];
        else
          return (turn == 1) != swap ? values[e].at[1] : values[e].at[0];
      };
      const int v = WIDTH == 1 ? 0 : (turn == 1) != swap;
      const unsigned to = stage + swizzled((row + v) * ROW_BYTES + column * 16);
      unsigned word[4];
      if constexpr (SIZE == 4) {
#pragma unroll
        for (int e = 0; e < 4; ++e) word[e] = ptx::to_tf32(sample(e));
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e)
          word[e] = sample(2 * e) | (static_cast<unsigned>(sample(2 * e + 1)) << 16);
      }
      ptx::store_shared(to, word[0], word[1], word[2], word[3]);
      if constexpr (PLANES == 2) {
#pragma unroll
        for (int e = 0; e < 4; ++e) word[e] = low_part(sample(e), word[e]);
        ptx::store_shared(to + X_PLANE, word[0], word[1], word[2], word[3]);
      }
    }
  }

  template <int UNITS, int WIDTH>  // 16-byte columns of this chunk
  __device__ void produce_chunk(const Source& from, unsigned stage, int thread) const {
    // Work items: WIDTH rows of one column. A thread takes every PRODUCER_THREADS-th, adjacent threads adjacent rows.
    constexpr int ROW_ITEMS = X_ROWS / WIDTH;
    constexpr int ITEMS = ROW_ITEMS * UNITS;
    // In as few batches as the registers allow, and even ones: every batch waits for memory once.
    constexpr int ROUNDS = (ITEMS + PRODUCER_THREADS - 1) / PRODUCER_THREADS;
    constexpr int MOST = (SIZE == 4 ? 40 : 24) / (WIDTH * SIZE <= 4 ? UNIT : UNIT * WIDTH * SIZE / 4);
    constexpr int BATCHES = (ROUNDS + MOST - 1) / MOST;
    constexpr int IN_FLIGHT = (ROUNDS + BATCHES - 1) / BATCHES;
#pragma unroll 1
    for (int item0 = thread; item0 < ITEMS; item0 += IN_FLIGHT * PRODUCER_THREADS) {
      Samples<WIDTH> values[IN_FLIGHT][UNIT];
#pragma unroll
      for (int b = 0; b < IN_FLIGHT; ++b) {
        const int item = item0 + b * PRODUCER_THREADS;
        load_units<WIDTH>(from, item % ROW_ITEMS * WIDTH, item / ROW_ITEMS, item < ITEMS, values[b]);
      }
#pragma unroll
      for (int b = 0; b < IN_FLIGHT; ++b) {
        const int item = item0 + b * PRODUCER_THREADS;
        if (item < ITEMS) store_units<WIDTH>(stage, item % ROW_ITEMS * WIDTH, item / ROW_ITEMS, values[b]);
      }
    }
  }

  // Rows whose samples come in aligned pairs.
  __device__ bool pairs() const {
    return call.x_stride_t == 1 && reinterpret_cast<unsigned long long>(call.x) % (2 * SIZE) == 0 &&
           (call.length | call.x_stride_b | call.x_stride_c) % 2 == 0;
  }

  template <int WIDTH>
  __device__ void produce_x(int thread) const {
    Ring ring;
    for (long long index = blockIdx.x; index < tiles; index += gridDim.x) {
      const Tile tile = tile_at(index);
      for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        ptx::mbarrier_wait(x_empty(ring.slot), ring.parity ^ 1);
        const unsigned stage = shared + X_AT + ring.slot * X_BYTES;
        Source from;
        from.i = tile.position - LEAD;
        from.channels = Layer::C_IN - chunk * CHUNK;
        from.start = static_cast<const Element*>(call.x) + tile.image * call.x_stride_b + from.i * call.x_stride_t +
                     (static_cast<long long>(tile.group) * Layer::C_IN + chunk * CHUNK) * call.x_stride_c;
        if (LAST_STEPS == STEPS || chunk < CHUNKS - 1)
          produce_chunk<STEPS * 2, WIDTH>(from, stage, thread);
        else
          produce_chunk<LAST_STEPS * 2, WIDTH>(from, stage, thread);
        ptx::fence_async_shared();
        __syncwarp();
        if (thread % 32 == 0) ptx::mbarrier_arrive(x_full(ring.slot));
        ring.template next<X_STAGES>();
      }
    }
  }

  // One thread.
  __device__ void produce_w() const {
    Ring ring;
    for (long long index = blockIdx.x; index < tiles; index += gridDim.x) {
      const Tile tile = tile_at(index);
      const char* from = static_cast<const char*>(call.w) +
                         (static_cast<long long>(tile.group) * ROW_TILES + tile.row_tile) * (W_ENTRIES * W_BYTES);
      for (int entry = 0; entry < W_ENTRIES; ++entry) {
        ptx::mbarrier_wait(w_empty(ring.slot), ring.parity ^ 1);
        ptx::mbarrier_arrive_expect(w_full(ring.slot), W_BYTES);
        ptx::bulk_load(shared + W_AT + ring.slot * W_BYTES, from + entry * W_BYTES, W_BYTES, w_full(ring.slot));
        ring.template next<W_STAGES>();
      }
      if (RESIDENT) break;
    }
  }

  // --- consumers --------------------------------------------------------------------------------

  using Accumulators = float[Schedule::TILES][ROWS / 2];

  // One (chunk, tap): STEPS_NOW products for each tile and term.
  template <int STEPS_NOW>
  __device__ static void multiply(Accumulators& acc, unsigned x, unsigned w, bool& first) {
    using Instruction = ptx::Wgmma<Storage::OPERAND, ROWS>;
#pragma unroll
    for (int t = 0; t < Schedule::TILES; ++t) {
#pragma unroll
      for (int term = Storage::TERMS - 1; term >= 0; --term) {
        // Small terms first: they would be cut off against a large sum.
        const unsigned a = x + t * 64 * ROW_BYTES + (term == 1 ? X_PLANE : 0);
        const unsigned b = w + (term == 2 ? W_PLANE : 0);
#pragma unroll
        for (int s = 0; s < STEPS_NOW; ++s)
          Instruction::issue(acc[t], ptx::matrix_descriptor<ROW_BYTES>(a + s * 32),
                             ptx::matrix_descriptor<ROW_BYTES>(b + s * 32),
                             !(first && s == 0 && term == Storage::TERMS - 1));
      }
    }
    first = false;
  }

  __device__ void consume(int group, int thread) const {
    Ring x_ring, w_ring;
    Accumulators acc;
    for (long long index = blockIdx.x; index < tiles; index += gridDim.x) {
      const Tile tile = tile_at(index);
      bool first = true;
      int x_held = -1, w_held = -1;  // slots that products still in flight read
      for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        ptx::mbarrier_wait(x_full(x_ring.slot), x_ring.parity);
        const unsigned x = shared + X_AT + x_ring.slot * X_BYTES + group * GROUP_POSITIONS * ROW_BYTES;
#pragma unroll 1
        for (int tap = 0; tap < Layer::TAPS; ++tap) {
          if (!RESIDENT || index == blockIdx.x) ptx::mbarrier_wait(w_full(w_ring.slot), w_ring.parity);
          const unsigned w = shared + W_AT + w_ring.slot * W_BYTES;
          const unsigned x_tap = x + (LEAD - tap * Layer::JUMP) * ROW_BYTES;
          ptx::wgmma_fence();
          if (LAST_STEPS == STEPS || chunk < CHUNKS - 1)
            multiply<STEPS>(acc, x_tap, w, first);
          else
            multiply<LAST_STEPS>(acc, x_tap, w, first);
          ptx::wgmma_commit();
          // With one stage of x, the next chunk cannot come before this one is released.
          if (X_STAGES == 1 && tap == Layer::TAPS - 1)
            ptx::wgmma_wait<0>();
          else
            ptx::wgmma_wait<1>();
          if (thread == 0) {
            if (!RESIDENT && w_held >= 0) ptx::mbarrier_arrive(w_empty(w_held));
            if (x_held >= 0) ptx::mbarrier_arrive(x_empty(x_held));
          }
          w_held = w_ring.slot;
          x_held = tap == Layer::TAPS - 1 ? x_ring.slot : -1;
          if (X_STAGES == 1 && x_held >= 0) {
            if (thread == 0) ptx::mbarrier_arrive(x_empty(x_held));
            x_held = -1;
          }
          w_ring.template next<W_STAGES>();
        }
        x_ring.template next<X_STAGES>();
      }
      ptx::wgmma_wait<0>();
      if (thread == 0) {
        if (!RESIDENT) ptx::mbarrier_arrive(w_empty(w_held));
        if (x_held >= 0) ptx::mbarrier_arrive(x_empty(x_held));
      }
      store(acc, tile, group, thread);
    }
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
#pragma unroll
        for (int t = 0; t < Schedule::TILES; ++t) {
          const int q = t * 64 + warp * 16 + j / 2 % 2 * 8 + lane / 4;
          const int shift = Layer::LIVE == 1 && WHOLE ? (j % 2 == 0 ? shift0 : shift1) : segments.shift(base, WHOLE ? channel : q);
          Element* const to = buffer + shift + phase * Layer::GAP +
                              (WHOLE ? (channel - part * PART_CHANNELS) * PITCH + q * Layer::STRIDE : q * PITCH);
          *to = Storage::round(acc[t][j] + b);
          // Dead phases: the samples up to the next live one.
#pragma unroll
          for (int e = 1; e < Layer::GAP; ++e) to[e] = Storage::round(b);
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
        ptx::mbarrier_init(kernel.w_empty(s), CONSUMERS);
      }
      ptx::mbarrier_init_fence();
    }
    __syncthreads();
    const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
    if (warp < 4 * CONSUMERS) {
      if constexpr (MOVE_REGISTERS) ptx::registers_raise<184>();
      kernel.consume(warp / 4, threadIdx.x % 128);
    } else {
      if constexpr (MOVE_REGISTERS) ptx::registers_lower<72>();
      if (warp < 4 * CONSUMERS + PRODUCERS) {
        if (kernel.pairs())
          kernel.template produce_x<2>(threadIdx.x - 128 * CONSUMERS);
        else
          kernel.template produce_x<1>(threadIdx.x - 128 * CONSUMERS);
      } else if (threadIdx.x % 32 == 0) {
        kernel.produce_w();
      }
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
