// Implicit GEMM on mma.sync, for compute capability 8.0 and later: (C_out x live phases) x positions, summed over
// (taps x C_in). No bulk copies, no mbarriers, at most 99 KB of shared memory: what Ampere and Ada have.
//
// A chunk of channels of x is staged in natural time order, once for a tile: word [channel][position] (16-bit types: [pair of
// channels][position], two channels a word). The rows' pitch of 8 modulo 16 words sends the 32 lanes of an operand's load
// to 32 banks, wherever it starts; so a tap is only another first position, and all taps and phases multiply from that one
// copy. Loads of the next chunk are issued before the products of this one and stored after them. The weights were packed
// in the order of the lanes' registers: one 16-byte load a lane is a whole fragment of A. They pass through a ring of
// (chunk, tap) entries that cp.async fills. A block is one tile; several share an SM, and one's stores hide behind
// another's products. Neighbouring blocks take neighbouring positions of the same rows.
//
// Layer:    C_IN, C_OUT (of one group), GROUPS, K, STRIDE, PADDING, GAP, LIVE, STEP, TAPS, JUMP, BIAS, Storage, and its
//           activations (activation.cuh). Tap number t of every phase reads x[position - t * JUMP]; see src/cuda/gemm.hpp.
// Schedule: ROWS x POSITIONS of a tile, WARP_ROWS x WARP_POSITIONS of a warp, STEPS (of 8 words) of a chunk, X_STAGES,
//           W_STAGES; BAND rows hold BAND_CHANNELS channels with all their live phases, and rows that only pad.
#pragma once

#include "activation.cuh"
#include "call.h"
#include "copy.cuh"
#include "gemm.cuh"
#include "mma.cuh"

namespace tconv {

template <class Layer, class Schedule>
struct GemmSm80 {
  using Storage = typename Layer::Storage;
  using Element = typename Storage::Element;

  // --- the shape of a tile ----------------------------------------------------------------------

  static constexpr int SIZE = sizeof(Element);
  static constexpr int WORD_CHANNELS = 4 / SIZE;
  static constexpr int PLANES = Storage::TERMS == 3 ? 2 : 1;  // of w, hi and lo
  static constexpr int STEPS_ALL = (Layer::C_IN + 8 * WORD_CHANNELS - 1) / (8 * WORD_CHANNELS);
  static constexpr int STEPS = Schedule::STEPS;
  static constexpr int CHUNKS = (STEPS_ALL + STEPS - 1) / STEPS;
  static constexpr int CHUNK = 8 * STEPS * WORD_CHANNELS;  // channels

  static constexpr int ROWS = Schedule::ROWS, POSITIONS = Schedule::POSITIONS;
  static constexpr int WARPS_DOWN = ROWS / Schedule::WARP_ROWS, WARPS_ACROSS = POSITIONS / Schedule::WARP_POSITIONS;
  static constexpr int THREADS = 32 * WARPS_DOWN * WARPS_ACROSS;
  static constexpr int DOWN = Schedule::WARP_ROWS / 16, ACROSS = Schedule::WARP_POSITIONS / 8;  // products of a warp

  static constexpr int SPAN = (Layer::TAPS - 1) * Layer::JUMP;  // positions before the tile that it reads
  // The window starts at a multiple of four samples, which are one load where x allows it.
  static constexpr int LEAD = SPAN + ((Layer::PADDING / Layer::STRIDE - SPAN) % 4 + 4) % 4;
  static constexpr int QUADS = (POSITIONS + LEAD + 3) / 4;
  static constexpr int X_PITCH = (4 * QUADS + 7) / 16 * 16 + 8;  // words
  static constexpr int X_WORDS = 8 * STEPS * X_PITCH;
  static constexpr int X_ITEMS = 8 * STEPS * QUADS;
  static constexpr int X_ROUNDS = (X_ITEMS + THREADS - 1) / THREADS;
  // A chunk that registers can hold is on its way during products; a longer one comes in batches, after them.
  static constexpr int HELD = X_ROUNDS <= 5 ? X_ROUNDS : 4;
  static constexpr bool AHEAD = HELD == X_ROUNDS;
  static constexpr int X_STAGES = Schedule::X_STAGES;

  static constexpr bool WHOLE = ROWS % Schedule::BAND == 0;  // channels with all their phases; else some of one's phases
  static constexpr int BANDS = (Layer::C_OUT + Schedule::BAND_CHANNELS - 1) / Schedule::BAND_CHANNELS;
  static constexpr int FRAGMENTS = BANDS * (Schedule::BAND / 16);  // 16 rows each, of a group
  static constexpr int PHASE_TILES = WHOLE ? 1 : (Layer::LIVE + ROWS - 1) / ROWS;
  static constexpr int TILE_CHANNELS = WHOLE ? ROWS / Schedule::BAND * Schedule::BAND_CHANNELS : 1;
  static constexpr int ROW_TILES = (Layer::C_OUT + TILE_CHANNELS - 1) / TILE_CHANNELS * PHASE_TILES;
  static constexpr int W_STAGES = Schedule::W_STAGES;
  // In units of 16 bytes, a lane's part of a fragment.
  static constexpr int FRAGMENT_UNITS = 32 * PLANES;
  static constexpr int W_STEP_UNITS = ROWS / 16 * FRAGMENT_UNITS;
  static constexpr int W_UNITS = STEPS * W_STEP_UNITS;

  static constexpr int STAGES_BYTES = X_STAGES * X_WORDS * 4 + W_STAGES * W_UNITS * 16;

  // The sums leave through the same memory, in as many parts of the rows as that takes.
  template <int PARTS>
  struct Part {
    static constexpr int ROWS_NOW = ROWS / PARTS;
    static constexpr bool WHOLE = GemmSm80::WHOLE;
    static constexpr bool BANDS_NOW = ROWS_NOW % Schedule::BAND == 0;
    static constexpr int CHANNELS = !WHOLE       ? 1
                                    : BANDS_NOW ? ROWS_NOW / Schedule::BAND * Schedule::BAND_CHANNELS
                                                : ROWS_NOW / Layer::LIVE;
    static constexpr bool POSSIBLE =
        ROWS % (16 * PARTS) == 0 &&
        (!WHOLE || BANDS_NOW ||
         (ROWS_NOW % Layer::LIVE == 0 && Schedule::BAND == Schedule::BAND_CHANNELS * Layer::LIVE));
    static constexpr int SEGMENT = WHOLE ? POSITIONS * Layer::STRIDE : ROWS_NOW * Layer::GAP;
    static constexpr int SEGMENTS = WHOLE ? CHANNELS : POSITIONS, PITCH = segment_pitch<Element>(SEGMENT);
    static constexpr int THREADS = GemmSm80::THREADS;
    static constexpr int BATCH = 2;
    static constexpr bool PAIRED = false;
    // A function, as the segments of a part that is not possible are none.
    static constexpr int bytes() { return Segments<Layer, Part>::BYTES; }
  };
  template <int PARTS>
  static constexpr int parts_from() {
    if constexpr (Part<PARTS>::bytes() > STAGES_BYTES && Part<2 * PARTS>::POSSIBLE)
      return parts_from<2 * PARTS>();
    else
      return PARTS;
  }
  static constexpr int PARTS = parts_from<1>();
  using OutPart = Part<PARTS>;
  using Out = Segments<Layer, OutPart>;
  static constexpr int SHARED_BYTES = STAGES_BYTES > OutPart::bytes() ? STAGES_BYTES : OutPart::bytes();

  static_assert(ROWS % 16 == 0 && Schedule::WARP_ROWS % 16 == 0 && Schedule::WARP_POSITIONS % 8 == 0, "fragments");
  static constexpr unsigned banks_of_b() {
    unsigned banks = 0;
    for (int lane = 0; lane < 32; ++lane) banks |= 1u << (ptx::b_row(lane, 0) * X_PITCH + ptx::b_column(lane)) % 32;
    return banks;
  }
  static_assert(X_PITCH >= 4 * QUADS && banks_of_b() == ~0u, "the lanes of a load meet in no bank");
  static_assert(POSITIONS % 4 == 0 && WHOLE != (ROWS < Schedule::BAND), "tiles");
  static_assert(X_STAGES == 2 || CHUNKS == 1, "the next chunk is stored while others still multiply from this one");
  static_assert(W_STAGES >= 2, "an entry is awaited while the next is on its way");

  // --- a block's place --------------------------------------------------------------------------

  const Call& call;
  uint4* shared;

  // Of the block's first row and position. Asked for twice, because registers are scarce in between.
  struct Place {
    int row_tile, group, channel, phase;
    long long image, position;
  };
  __device__ Place place() const {
    const long long first = Layer::PADDING / Layer::STRIDE;
    const long long positions = (call.out_length - 1 + Layer::PADDING) / Layer::STRIDE - first + 1;
    const unsigned of_image = static_cast<unsigned>((positions + POSITIONS - 1) / POSITIONS);
    // Blocks that run together share both operands through L2: so many tiles of positions go through all rows together.
    constexpr unsigned ROWS_ALL = ROW_TILES * Layer::GROUPS, TOGETHER = ROWS_ALL > 1 ? 16 : 1;
    const unsigned block = ptx::block(), band = block / (TOGETHER * ROWS_ALL) * TOGETHER;
    const unsigned left = of_image * static_cast<unsigned>(call.batch) - band, width = left < TOGETHER ? left : TOGETHER;
    const unsigned inner = block % (TOGETHER * ROWS_ALL), tile = band + inner % width, row_tile = inner / width;
    Place at;
    at.row_tile = static_cast<int>(row_tile % ROW_TILES);
    at.group = static_cast<int>(row_tile / ROW_TILES);
    at.channel = at.row_tile / PHASE_TILES * TILE_CHANNELS;
    at.phase = at.row_tile % PHASE_TILES * ROWS;
    at.image = tile / of_image;
    at.position = first + static_cast<long long>(tile % of_image) * POSITIONS;
    return at;
  }

  // A thread's lane and its warp's first row and position.
  struct Seat {
    int lane, down, across;
  };
  __device__ static Seat seat() {
    const int thread = ptx::thread(), warp = thread / 32;
    return {thread % 32, warp / WARPS_ACROSS * Schedule::WARP_ROWS, warp % WARPS_ACROSS * Schedule::WARP_POSITIONS};
  }

  __device__ unsigned* x_stage(int stage) const { return reinterpret_cast<unsigned*>(shared) + stage * X_WORDS; }
  __device__ uint4* w_stage(int stage) const { return shared + X_STAGES * (X_WORDS / 4) + stage * W_UNITS; }

  // --- x ----------------------------------------------------------------------------------------

  // The window of x: the next chunk from `start`, columns [low, high) of it inside x.
  struct Window {
    const Element* start;
    int low, high;
    const float* alphas;  // of channel 0; snake alone reads them
  };
  __device__ Window window(const Place& at) const {
    const long long first = at.position - LEAD, left = call.length - first;  // sample of column 0, and those from it
    Window w;
    w.start = static_cast<const Element*>(call.x) + at.image * call.x_stride_b +
              static_cast<long long>(at.group) * Layer::C_IN * call.x_stride_c + first * call.x_stride_t;
    w.alphas = static_cast<const float*>(call.x_alpha) + static_cast<long long>(at.group) * Layer::C_IN;
    w.low = first < 0 ? static_cast<int>(-first < 4 * QUADS ? -first : 4 * QUADS) : 0;
    w.high = left < 4 * QUADS ? static_cast<int>(left < 0 ? 0 : left) : 4 * QUADS;
    return w;
  }

  // Four positions of a row of words, as they came: words (32-bit types) or two of each channel.
  using Quads = unsigned[HELD][4];

  // Four samples of one channel from `p`, WIDTH at a time, those of columns outside [low, high) as zeros.
  template <int WIDTH>
  __device__ void load_samples(const Element* p, int column, int low, int high, unsigned* words) const {
#pragma unroll
    for (int i = 0; i < SIZE; ++i) words[i] = 0;
#pragma unroll
    for (int i = 0; i < 4; i += WIDTH) {
      if (column + i < low || column + i >= high) continue;
      if constexpr (WIDTH * SIZE == 16) {
        const uint4 all = *reinterpret_cast<const uint4*>(p);
        words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
      } else if constexpr (WIDTH * SIZE == 8) {
        const uint2 all = *reinterpret_cast<const uint2*>(p);
        words[0] = all.x, words[1] = all.y;
      } else if constexpr (WIDTH == 2) {
        words[i / 2] = *reinterpret_cast<const unsigned*>(p + i);
      } else if constexpr (SIZE == 4) {
        words[i] = __float_as_uint(p[i * call.x_stride_t]);
      } else {
        words[i / 2] |= static_cast<unsigned>(p[i * call.x_stride_t]) << 16 * (i % 2);
      }
    }
  }

  template <int WIDTH>
  __device__ void fetch_by(const Window& from, int chunk, int batch, Quads& held) const {
    const long long stride_t = WIDTH == 1 ? call.x_stride_t : 1;
    const int thread = ptx::thread();  // read anew: addresses kept from chunk to chunk would cost registers
    // 16-bit samples one by one hold twice the registers until they are words: one round at a time.
#pragma unroll(WIDTH * SIZE < 4 ? 1 : HELD)
    for (int round = 0; round < HELD; ++round) {
      const int item = thread + (batch * HELD + round) * THREADS;
      const int row = item / QUADS, column = item % QUADS * 4;
      unsigned words[4];
#pragma unroll
      for (int part = 0; part < WORD_CHANNELS; ++part) {
        const int c = row * WORD_CHANNELS + part;
        const bool real = item < X_ITEMS && (Layer::C_IN % CHUNK == 0 || chunk * CHUNK + c < Layer::C_IN);
        load_samples<WIDTH>(from.start + c * call.x_stride_c + column * stride_t, column, from.low, real ? from.high : 0,
                            words + part * SIZE);
      }
#pragma unroll
      for (int i = 0; i < 4 * HELD; ++i)
        if (i / 4 == round) held[i / 4][i % 4] = words[i % 4];
    }
  }

  // Whether so many samples come in one load.
  __device__ bool aligned(int samples) const {
    return call.x_stride_t == 1 && reinterpret_cast<unsigned long long>(call.x) % (samples * SIZE) == 0 &&
           (call.length | call.x_stride_b | call.x_stride_c) % samples == 0;
  }
  __device__ void fetch(const Window& from, int chunk, int batch, Quads& held) const {
    if (aligned(4))
      fetch_by<4>(from, chunk, batch, held);
    else if (SIZE == 2 && aligned(2))
      fetch_by<2>(from, chunk, batch, held);
    else
      fetch_by<1>(from, chunk, batch, held);
  }

  // Each sample in storage's own type, which is what the matrix unit multiplies. What is absent is zero and stays it by every
  // formula, but for an alpha that is no number.
  __device__ static void activate(const Window& from, int chunk, int item, unsigned (&words)[4]) {
    constexpr bool SNAKE = Layer::BEFORE == Activation::snake;
    const int row = item / QUADS * WORD_CHANNELS, column = item % QUADS * 4;
#pragma unroll
    for (int part = 0; part < WORD_CHANNELS; ++part) {
      if (SNAKE && Layer::C_IN % CHUNK != 0 && chunk * CHUNK + row + part >= Layer::C_IN) continue;
      const float alpha = alpha_before<Layer, float>(from.alphas, chunk * CHUNK + row + part);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (SNAKE && (column + i < from.low || column + i >= from.high)) continue;
        if constexpr (SIZE == 4) {
          words[i] = __float_as_uint(before<Layer>(__uint_as_float(words[i]), alpha));
        } else {
          unsigned& word = words[part * 2 + i / 2];
          const unsigned sample = Storage::round(before<Layer>(Storage::load(word >> 16 * (i % 2)), alpha));
          word = i % 2 == 0 ? (word & 0xFFFF0000) | sample : (word & 0xFFFF) | sample << 16;
        }
      }
    }
  }

  __device__ void store(const Window& from, int chunk, int batch, Quads& held, unsigned* stage) const {
    const int thread = ptx::thread();
#pragma unroll
    for (int round = 0; round < HELD; ++round) {
      const int item = thread + (batch * HELD + round) * THREADS;
      if (item >= X_ITEMS) break;
      if constexpr (Layer::BEFORE != Activation::none) activate(from, chunk, item, held[round]);
      const unsigned* const in = held[round];
      uint4 out;
      if constexpr (SIZE == 2) {
        out = make_uint4(__byte_perm(in[0], in[2], 0x5410), __byte_perm(in[0], in[2], 0x7632),
                         __byte_perm(in[1], in[3], 0x5410), __byte_perm(in[1], in[3], 0x7632));
      } else if constexpr (PLANES == 2) {
        out = make_uint4(in[0], in[1], in[2], in[3]);
      } else {
        out = make_uint4(ptx::to_tf32(__uint_as_float(in[0])), ptx::to_tf32(__uint_as_float(in[1])),
                         ptx::to_tf32(__uint_as_float(in[2])), ptx::to_tf32(__uint_as_float(in[3])));
      }
      *reinterpret_cast<uint4*>(stage + item / QUADS * X_PITCH + item % QUADS * 4) = out;
    }
  }

  // --- w ----------------------------------------------------------------------------------------

  // The entry to bring next, `fragments` before the end of the packed ones.
  struct Feed {
    const uint4* from;
    int fragments, chunk, tap;
  };
  __device__ Feed first_feed(const Place& at) const {
    const int fragment = WHOLE ? at.row_tile * (ROWS / 16) : at.channel * (Schedule::BAND / 16) + at.phase / 16;
    return {static_cast<const uint4*>(call.w) +
                static_cast<long long>(at.group) * STEPS_ALL * Layer::TAPS * (FRAGMENTS * FRAGMENT_UNITS) +
                fragment * FRAGMENT_UNITS,
            FRAGMENTS - fragment, 0, 0};
  }
  // To a slot of the ring; past the last entry, an empty group of copies.
  __device__ void feed(Feed& next, int slot) const {
    constexpr long long TAP_UNITS = static_cast<long long>(FRAGMENTS) * FRAGMENT_UNITS;
    if (next.chunk < CHUNKS) {
      const int thread = ptx::thread();
      const unsigned to = ptx::shared_address(w_stage(slot));
#pragma unroll
      for (int round = 0; round < (W_UNITS + THREADS - 1) / THREADS; ++round) {
        const int unit = thread + round * THREADS;
        if (unit >= W_UNITS) break;
        const int step = unit / W_STEP_UNITS, rest = unit % W_STEP_UNITS;
        const bool present = (STEPS_ALL % STEPS == 0 || next.chunk * STEPS + step < STEPS_ALL) &&
                             ((WHOLE && FRAGMENTS % (ROWS / 16) == 0) || rest / FRAGMENT_UNITS < next.fragments);
        copy_async<16>(to + unit * 16, next.from + (present ? step * (Layer::TAPS * TAP_UNITS) + rest : 0), present);
      }
      next.from += TAP_UNITS;
      if (++next.tap == Layer::TAPS) {
        next.tap = 0, ++next.chunk;
        next.from += (STEPS - 1) * (Layer::TAPS * TAP_UNITS);
      }
    }
    commit_copies();
  }

  // --- products ---------------------------------------------------------------------------------

  using Sums = float[DOWN][ACROSS][4];

  // One (chunk, tap). x: this lane's first word of the tap's window; w: its first unit of the entry.
  __device__ void multiply(Sums& sums, const unsigned* x, const uint4* w, int chunk) const {
    using Instruction = ptx::Mma<Storage::OPERAND>;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      if (STEPS_ALL % STEPS != 0 && chunk * STEPS + step >= STEPS_ALL) break;
      uint4 a[DOWN][PLANES];
#pragma unroll
      for (int m = 0; m < DOWN; ++m) {
#pragma unroll
        for (int plane = 0; plane < PLANES; ++plane)
          a[m][plane] = w[step * W_STEP_UNITS + m * FRAGMENT_UNITS + plane * 32];
      }
#pragma unroll
      for (int n = 0; n < ACROSS; ++n) {
        unsigned b0 = x[step * 8 * X_PITCH + n * 8], b1 = x[(step * 8 + 4) * X_PITCH + n * 8];
        if constexpr (PLANES == 2) {
          const float x0 = __uint_as_float(b0), x1 = __uint_as_float(b1);
          b0 = ptx::to_tf32(x0), b1 = ptx::to_tf32(x1);
          const unsigned low0 = low_part(x0, b0), low1 = low_part(x1, b1);
          // Small terms first: they would be cut off against a large sum.
#pragma unroll
          for (int m = 0; m < DOWN; ++m) Instruction::issue(sums[m][n], a[m][1], b0, b1);
#pragma unroll
          for (int m = 0; m < DOWN; ++m) Instruction::issue(sums[m][n], a[m][0], low0, low1);
        }
#pragma unroll
        for (int m = 0; m < DOWN; ++m) Instruction::issue(sums[m][n], a[m][0], b0, b1);
      }
    }
  }

  __device__ void sum(Sums& sums) const {
    Quads held;
    const Place at = place();
    Window from = window(at);
    Feed next = first_feed(at);
    fetch(from, 0, 0, held);
#pragma unroll
    for (int stage = 0; stage < W_STAGES - 1; ++stage) feed(next, stage);
    store(from, 0, 0, held, x_stage(0));
#pragma unroll 1
    for (int batch = 1; batch * HELD < X_ROUNDS; ++batch) {
      fetch(from, 0, batch, held);
      store(from, 0, batch, held, x_stage(0));
    }
    const Seat me = seat();
    const int x_offset = ptx::b_row(me.lane, 0) * X_PITCH + LEAD + me.across + ptx::b_column(me.lane);
    const int w_offset = me.down / 16 * FRAGMENT_UNITS + me.lane;
    int slot = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      const bool more = chunk + 1 < CHUNKS;
      from.start += CHUNK * call.x_stride_c;
      if (AHEAD && more) fetch(from, chunk + 1, 0, held);
      const unsigned* x = x_stage(chunk % X_STAGES) + x_offset;
#pragma unroll 1
      for (int tap = 0; tap < Layer::TAPS; ++tap) {
        wait_groups<W_STAGES - 2>();
        __syncthreads();  // this entry and its x have arrived, and nobody reads those before any more
        feed(next, slot == 0 ? W_STAGES - 1 : slot - 1);
        multiply(sums, x, w_stage(slot) + w_offset, chunk);
        x -= Layer::JUMP;
        slot = slot == W_STAGES - 1 ? 0 : slot + 1;
      }
      if (!more) break;
      if (AHEAD) {
        store(from, chunk + 1, 0, held, x_stage((chunk + 1) % X_STAGES));
      } else {
#pragma unroll 1
        for (int batch = 0; batch * HELD < X_ROUNDS; ++batch) {
          fetch(from, chunk + 1, batch, held);
          store(from, chunk + 1, batch, held, x_stage((chunk + 1) % X_STAGES));
        }
      }
    }
  }

  // --- epilogue ---------------------------------------------------------------------------------

  // What a row of the tile is: a channel of those from at.channel, a phase of those from at.phase, or only padding.
  struct Output {
    int channel, phase;
    bool real;
  };
  __device__ static Output output_of(const Place& at, int row) {
    const int of_band = row % Schedule::BAND;
    const int channel = WHOLE ? row / Schedule::BAND * Schedule::BAND_CHANNELS + of_band / Layer::LIVE : 0;
    const int phase = WHOLE ? of_band % Layer::LIVE : row;
    return {channel, phase,
            (!WHOLE || of_band < Schedule::BAND_CHANNELS * Layer::LIVE) && at.channel + channel < Layer::C_OUT &&
                at.phase + phase < Layer::LIVE};
  }

  // Bias and activation ahead of the loop that stores, whose addresses leave no registers for a tanh.
  __device__ void finish(Sums& sums) const {
    const Place at = place();
    const Seat me = seat();
    const long long channel = static_cast<long long>(at.group) * Layer::C_OUT + at.channel;
#pragma unroll
    for (int m = 0; m < DOWN; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Output row = output_of(at, me.down + m * 16 + ptx::d_row(me.lane, 2 * half));
        if (!row.real) continue;
        const int c = row.channel;
        const float b = Layer::BIAS ? Storage::load(static_cast<const Element*>(call.bias)[channel + c]) : 0.0f;
        const float alpha = alpha_after<Layer, float>(call.y_alpha, channel + c);
#pragma unroll
        for (int n = 0; n < ACROSS; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) sums[m][n][2 * half + e] = after<Layer>(sums[m][n][2 * half + e] + b, alpha);
        }
      }
    }
  }

  __device__ void write(const Sums& sums) const {
    Element* const buffer = reinterpret_cast<Element*>(shared);
#pragma unroll 1
    for (int part = 0; part < PARTS; ++part) {
      // In the loop, or they and all addresses would be kept through it.
      const Place at = place();
      const Seat me = seat();
      const long long channel = static_cast<long long>(at.group) * Layer::C_OUT + at.channel;
      const Element* const bias = Layer::BIAS ? static_cast<const Element*>(call.bias) + channel : nullptr;
      const Out out{call, at.image, channel + (WHOLE ? part * OutPart::CHANNELS : 0),
                    at.phase + (WHOLE ? 0 : part * OutPart::ROWS_NOW), at.position};
      const int first_shift = out.first_shift();
      __syncthreads();
#pragma unroll
      for (int m = 0; m < DOWN; ++m) {
        if (PARTS > 1 && (me.down + m * 16) / OutPart::ROWS_NOW != part) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Output row = output_of(at, me.down + m * 16 + ptx::d_row(me.lane, 2 * half));
          if (!row.real) continue;
          const int c = row.channel, f = row.phase;
          const float b = Layer::BIAS ? Storage::load(bias[c]) : 0.0f;
          const float alpha = alpha_after<Layer, float>(call.y_alpha, channel + c);
          const Element silent = Layer::GAP > 1 ? Storage::round(after<Layer>(b, alpha)) : Element{};
          const int c_now = c - part * OutPart::CHANNELS;
          Element* const to =
              buffer + (WHOLE ? c_now * Out::PITCH + out.shift(first_shift, c_now) + f * Layer::GAP
                              : (f - part * OutPart::ROWS_NOW) * Layer::GAP);
#pragma unroll
          for (int n = 0; n < ACROSS; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int q = me.across + n * 8 + ptx::d_column(me.lane, e);
              Element* const at = to + (WHOLE ? q * Layer::STRIDE : q * Out::PITCH + out.shift(first_shift, q));
              *at = Storage::round(Layer::AFTER == Activation::none ? sums[m][n][2 * half + e] + b : sums[m][n][2 * half + e]);
              // Dead phases: the samples up to the next live one.
              for (int dead = 1; dead < Layer::GAP; ++dead) at[dead] = silent;
            }
          }
        }
      }
      __syncthreads();
      const int channels = Layer::C_OUT - at.channel - part * OutPart::CHANNELS;
      if (WHOLE || out.phase < Layer::LIVE)
        out.write(buffer, WHOLE && channels < OutPart::SEGMENTS ? channels : OutPart::SEGMENTS,
                  ptx::thread());
    }
  }

  __device__ static void run(const Call& call) {
    ptx::let_next_kernel_start();
    ptx::wait_for_kernels_before();
    extern __shared__ uint4 memory[];
    const GemmSm80 kernel{call, memory};
    Sums sums = {};
    kernel.sum(sums);
    if constexpr (Layer::AFTER != Activation::none) kernel.finish(sums);
    kernel.write(sums);
  }

  // --- weights ----------------------------------------------------------------------------------

  // packed[group][step][tap][fragment][plane][lane], 16 bytes each: the four words of A that the lane holds; zero where a
  // phase lacks the tap, and in channels, phases and rows that are none. The same for every tile. One thread a unit, all planes.
  static constexpr long long PACK_UNITS = 32ll * Layer::GROUPS * STEPS_ALL * Layer::TAPS * FRAGMENTS;
  static constexpr long long PACKED_BYTES = PACK_UNITS * PLANES * 16;

  __device__ static void pack(const Pack& call) {
    ptx::let_next_kernel_start();
    ptx::wait_for_kernels_before();
    const long long unit = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (unit >= PACK_UNITS) return;
    const int lane = unit % 32, tap = unit / (32ll * FRAGMENTS) % Layer::TAPS;
    const long long fragment = unit / 32 % FRAGMENTS, group_step = unit / (32ll * FRAGMENTS * Layer::TAPS);
    const int step = group_step % STEPS_ALL;
    const long long group = group_step / STEPS_ALL;
    unsigned hi[4] = {}, lo[4] = {};
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const long long row = fragment * 16 + ptx::a_row(lane, word);
      const int of_band = row % Schedule::BAND, phase = of_band % Layer::LIVE;
      const long long channel = row / Schedule::BAND * Schedule::BAND_CHANNELS + of_band / Layer::LIVE;
      const int k = kernel_index<Layer>(phase, tap);
      if (of_band >= Schedule::BAND_CHANNELS * Layer::LIVE || channel >= Layer::C_OUT || k >= Layer::K) continue;
#pragma unroll
      for (int part = 0; part < WORD_CHANNELS; ++part) {
        const int c = (step * 8 + ptx::a_column(lane, word)) * WORD_CHANNELS + part;
        if (c >= Layer::C_IN) continue;
        const Element value = static_cast<const Element*>(call.w)[(group * Layer::C_IN + c) * call.stride_in +
                                                                  channel * call.stride_out + k * call.stride_k];
        if constexpr (SIZE == 4) {
          hi[word] = ptx::to_tf32(value);
          lo[word] = low_part(value, hi[word]);
        } else {
          hi[word] |= static_cast<unsigned>(value) << 16 * part;
        }
      }
    }
    uint4* const to = static_cast<uint4*>(call.packed) + unit / 32 * FRAGMENT_UNITS + lane;
    to[0] = make_uint4(hi[0], hi[1], hi[2], hi[3]);
    if constexpr (PLANES == 2) to[32] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
  }
};

}  // namespace tconv
