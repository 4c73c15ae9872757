// Any transposed convolution, in IEEE arithmetic of the data's own type: a register-tiled implicit matrix product.
//
// Rows are live phases times output channels of a group, columns are positions q, and the sum runs over input channels
// and taps. x beyond its ends and taps that a phase lacks count as zeros. The order of every sum is fixed by the layer.
//
// Packed weights: [group][tap j][C_IN][live phase][PADDED_C_OUT], in the type of the sums.
#pragma once

#include "activation.cuh"
#include "call.h"
#include "copy.cuh"
#include "element.cuh"
#include "phases.cuh"
#include "ptx.cuh"

namespace tconv {

// Layer: Storage; C_IN and C_OUT of a group, PADDED_C_OUT, GROUPS, K, STRIDE, PADDING, DILATION, GAP; its activations
// (activation.cuh); SPLITS, the blocks of a cluster that share a tile, each the sum over some of its steps; and the tile: PHASES times CHANNELS rows padded to ROWS, POSITIONS, THREAD_ROWS x THREAD_POSITIONS of them a thread, and a step of
// DEPTH input channels and STEP_TAPS taps.
template <class Layer>
struct DirectTile {
  using P = Phases<Layer>;
  using Storage = typename Layer::Storage;
  using Sum = typename Element<Storage>::Sum;

  static constexpr int TM = Layer::THREAD_ROWS, TN = Layer::THREAD_POSITIONS;
  static constexpr int THREADS_Y = Layer::ROWS / TM, THREADS_X = Layer::POSITIONS / TN;
  static constexpr int THREADS = THREADS_X * THREADS_Y;
  // A warp is as square as possible, because it then reads the least from shared memory.
  static constexpr int WARP_Y = THREADS_Y < 4 ? THREADS_Y : 4, WARP_X = 32 / WARP_Y;
  static_assert(Layer::ROWS % TM == 0 && Layer::POSITIONS % TN == 0, "threads tile the block");
  static_assert(THREADS_Y % WARP_Y == 0 && THREADS_X % WARP_X == 0, "warps tile the block");
  static_assert(Layer::PHASES * Layer::CHANNELS <= Layer::ROWS, "rows of the tile");

  // How much further back the last phase of a tile reads than its first.
  static constexpr int SPREAD =
      P::behind(P::LIVE - 1) == 0 || Layer::PHASES == 1 ? 0 : (Layer::PHASES - 1) * Layer::DILATION / Layer::STRIDE + 1;
  static_assert(SPREAD == 0 || Layer::CHANNELS % TM == 0, "all rows of a thread read the same x");
  static constexpr int SPAN = (Layer::STEP_TAPS - 1) * P::OFFSET_STEP + SPREAD;
  static constexpr int WINDOW = Layer::POSITIONS + SPAN;

  static constexpr int CHANNEL_TILES = (Layer::C_OUT + Layer::CHANNELS - 1) / Layer::CHANNELS;
  static constexpr int PHASE_TILES = (P::LIVE + Layer::PHASES - 1) / Layer::PHASES;
  // A tile of all phases writes the dead ones on the way; of several tiles, the first adds them afterwards. Above this
  // stride so few samples of a run are live that going through all of them would not fit an int.
  static constexpr bool WHOLE = PHASE_TILES == 1 && Layer::STRIDE <= 4096;
  static constexpr int TAP_STEPS = (P::TAPS + Layer::STEP_TAPS - 1) / Layer::STEP_TAPS;
  static constexpr int STEPS = (Layer::C_IN + Layer::DEPTH - 1) / Layer::DEPTH * TAP_STEPS;
  static_assert(Layer::SPLITS <= STEPS, "every block has a step");

  static constexpr int W_VECTOR =
      Layer::CHANNELS % 4 == 0 && Layer::PADDED_C_OUT % 4 == 0 ? 16 / static_cast<int>(sizeof(Sum)) : 1;
  static constexpr int W_ELEMENTS = Layer::STEP_TAPS * Layer::DEPTH * Layer::ROWS;
  static constexpr int X_ELEMENTS = (Layer::DEPTH * WINDOW + 3) / 4 * 4;  // keeps the second stage on 16 bytes
  static constexpr int STAGE = W_ELEMENTS + X_ELEMENTS;

  // The epilogue passes through the same memory, some of each thread's positions at a time.
  __host__ __device__ static constexpr int pass_elements(int positions) {
    return Layer::ROWS * (positions * THREADS_X + 1);
  }
  static constexpr int PASS = pass_elements(TN) <= 2 * STAGE                      ? TN
                              : TN % 2 == 0 && pass_elements(TN / 2) <= 2 * STAGE ? TN / 2
                              : TN % 4 == 0 && pass_elements(TN / 4) <= 2 * STAGE ? TN / 4
                                                                                  : 1;
  static constexpr int ELEMENTS = 2 * STAGE > pass_elements(PASS) ? 2 * STAGE : pass_elements(PASS);
  static_assert(ELEMENTS * sizeof(Sum) <= (48 << 10), "static shared memory ends at 48 KiB");
};

// Until all blocks that share a tile are here.
template <class Layer>
__device__ __forceinline__ void wait_for_blocks() {
  if constexpr (Layer::SPLITS == 1) {
    __syncthreads();
  } else {
    ptx::cluster_barrier();
  }
}

// Where a block's tile lies.
struct DirectPlace {
  long long image;
  int group;
  int channel;  // of the group
  int phase;
  long long position;  // q of column 0
};

// The index into x of a step's first column.
template <class Layer>
__device__ __forceinline__ long long first_sample(const DirectPlace& place, int step) {
  using Tile = DirectTile<Layer>;
  using P = Phases<Layer>;
  const int tap = step % Tile::TAP_STEPS * Layer::STEP_TAPS;
  return place.position - P::behind(place.phase) - tap * P::OFFSET_STEP - Tile::SPAN;
}

template <class Layer>
__device__ __forceinline__ void stage_step(const Call& call, const DirectPlace& place, int step,
                                           typename DirectTile<Layer>::Sum* stage) {
  using Tile = DirectTile<Layer>;
  using P = Phases<Layer>;
  using Storage = typename Tile::Storage;
  using Sum = typename Tile::Sum;
  const int channel = step / Tile::TAP_STEPS * Layer::DEPTH;
  const int tap = step % Tile::TAP_STEPS * Layer::STEP_TAPS;
  const unsigned base = static_cast<unsigned>(__cvta_generic_to_shared(stage));

  constexpr int PER_PHASE = Layer::CHANNELS / Tile::W_VECTOR;
  constexpr int PER_CHANNEL = PER_PHASE * Layer::PHASES;
  const Sum* const w = static_cast<const Sum*>(call.w);
// Unrolling buys nothing where nothing waits, and the sums already take most registers.
#pragma unroll 1
  for (int e = static_cast<int>(threadIdx.x); e < Layer::STEP_TAPS * Layer::DEPTH * PER_CHANNEL; e += Tile::THREADS) {
    const int line = e / PER_CHANNEL, rest = e % PER_CHANNEL;
    const int j = tap + line / Layer::DEPTH, ci = channel + line % Layer::DEPTH;
    const int f = place.phase + rest / PER_PHASE, column = rest % PER_PHASE * Tile::W_VECTOR;
    const int co = place.channel + column;
    const bool present = j < P::TAPS && ci < Layer::C_IN && f < P::LIVE && co < Layer::PADDED_C_OUT;
    const long long from =
        (((static_cast<long long>(place.group) * P::TAPS + j) * Layer::C_IN + ci) * P::LIVE + f) * Layer::PADDED_C_OUT +
        co;
    const int to = line * Layer::ROWS + rest / PER_PHASE * Layer::CHANNELS + column;
    copy_async<Tile::W_VECTOR* static_cast<int>(sizeof(Sum))>(base + to * static_cast<int>(sizeof(Sum)),
                                                              w + (present ? from : 0), present);
  }

  const long long first = first_sample<Layer>(place, step);
  const Storage* const x = static_cast<const Storage*>(call.x) + place.image * call.x_stride_b +
                           (static_cast<long long>(place.group) * Layer::C_IN + channel) * call.x_stride_c;
#pragma unroll(sizeof(Storage) >= 4 ? 1 : 2)
  for (int e = static_cast<int>(threadIdx.x); e < Layer::DEPTH * Tile::WINDOW; e += Tile::THREADS) {
    const int ci = e / Tile::WINDOW;
    const long long i = first + e % Tile::WINDOW;
    const bool present = channel + ci < Layer::C_IN && i >= 0 && i < call.length;
    const long long from = ci * call.x_stride_c + i * call.x_stride_t;
    if constexpr (sizeof(Storage) >= 4) {
      copy_async<sizeof(Storage)>(base + (Tile::W_ELEMENTS + e) * static_cast<int>(sizeof(Sum)),
                                  present ? x + from : static_cast<const Storage*>(call.x), present);
    } else {
      // Two bytes are too few for an asynchronous copy, and here the sums' type is wider.
      const Sum alpha = present ? alpha_before<Layer, Sum>(call.x_alpha, place.group * Layer::C_IN + channel + ci) : Sum(0);
      stage[Tile::W_ELEMENTS + e] = present ? before<Layer>(Element<Storage>::widen(x[from]), alpha) : Sum(0);
    }
  }
}

// What the thread itself copied of a step's x, for which it need not wait for others.
template <class Layer>
__device__ __forceinline__ void activate_step(const Call& call, const DirectPlace& place, int step,
                                              typename DirectTile<Layer>::Sum* stage) {
  using Tile = DirectTile<Layer>;
  using Sum = typename Tile::Sum;
  if constexpr (Layer::BEFORE == Activation::none || sizeof(typename Tile::Storage) < 4) return;
  const int channel = step / Tile::TAP_STEPS * Layer::DEPTH;
  const long long first = first_sample<Layer>(place, step);
#pragma unroll 1
  for (int e = static_cast<int>(threadIdx.x); e < Layer::DEPTH * Tile::WINDOW; e += Tile::THREADS) {
    const int ci = channel + e / Tile::WINDOW;
    const long long i = first + e % Tile::WINDOW;
    if (ci >= Layer::C_IN || i < 0 || i >= call.length) continue;
    Sum& x = stage[Tile::W_ELEMENTS + e];
    x = before<Layer>(x, alpha_before<Layer, Sum>(call.x_alpha, place.group * Layer::C_IN + ci));
  }
}

template <class Layer>
__device__ __forceinline__ void direct_tile(const Call& call, const DirectPlace& place,
                                            typename DirectTile<Layer>::Sum* shared) {
  using Tile = DirectTile<Layer>;
  using P = Phases<Layer>;
  using Storage = typename Tile::Storage;
  using Sum = typename Tile::Sum;
  constexpr int TM = Tile::TM, TN = Tile::TN;
  constexpr int WARPS_X = Tile::THREADS_X / Tile::WARP_X;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int thread_x = warp % WARPS_X * Tile::WARP_X + lane % Tile::WARP_X;
  const int thread_y = warp / WARPS_X * Tile::WARP_Y + lane / Tile::WARP_X;
  const int row = thread_y * TM;

  // Column i of the thread is thread_x + i*THREADS_X: neighbours read neighbours, whatever the offset of the tap.
  int column = thread_x + Tile::SPAN;
  if constexpr (Tile::SPREAD > 0) {
    // Rows that only pad the tile stay inside the window.
    const int f = row / Layer::CHANNELS < Layer::PHASES ? row / Layer::CHANNELS : Layer::PHASES - 1;
    column -= P::behind(place.phase + f) - P::behind(place.phase);
  }

  const int split = Layer::SPLITS == 1 ? 0 : static_cast<int>(ptx::cluster_rank());
  const int first_step = static_cast<int>(1ll * split * Tile::STEPS / Layer::SPLITS);
  const int end_step = static_cast<int>((split + 1ll) * Tile::STEPS / Layer::SPLITS);
  Sum sums[TM][TN] = {};
  stage_step<Layer>(call, place, first_step, shared + first_step % 2 * Tile::STAGE);
#pragma unroll 1
  for (int step = first_step; step < end_step; ++step) {
    wait_copies();
    activate_step<Layer>(call, place, step, shared + step % 2 * Tile::STAGE);
    __syncthreads();  // this step has arrived, and nobody reads the other stage any more
    if (step + 1 < end_step) stage_step<Layer>(call, place, step + 1, shared + (step + 1) % 2 * Tile::STAGE);
    const Sum* const w = shared + step % 2 * Tile::STAGE + row;
    const Sum* const x = shared + step % 2 * Tile::STAGE + Tile::W_ELEMENTS + column;
#pragma unroll 1
    for (int j = 0; j < Layer::STEP_TAPS; ++j) {
      if (P::TAPS % Layer::STEP_TAPS != 0 && step % Tile::TAP_STEPS * Layer::STEP_TAPS + j >= P::TAPS) break;
#pragma unroll(TM* TN >= 32 ? 2 : 4)
      for (int ci = 0; ci < Layer::DEPTH; ++ci) {
        constexpr int LOAD = TM * static_cast<int>(sizeof(Sum)) <= 16 ? TM : 16 / static_cast<int>(sizeof(Sum));
        Vector<Sum, LOAD> a[TM / LOAD];
        Sum b[TN];
#pragma unroll
        for (int m = 0; m < TM / LOAD; ++m) {
          a[m] = *reinterpret_cast<const Vector<Sum, LOAD>*>(w + (j * Layer::DEPTH + ci) * Layer::ROWS + m * LOAD);
        }
#pragma unroll
        for (int n = 0; n < TN; ++n) b[n] = x[ci * Tile::WINDOW - j * P::OFFSET_STEP + n * Tile::THREADS_X];
#pragma unroll
        for (int m = 0; m < TM; ++m) {
#pragma unroll
          for (int n = 0; n < TN; ++n) sums[m][n] = multiply_add(a[m / LOAD].at[m % LOAD], b[n], sums[m][n]);
        }
      }
    }
  }

  // Out through shared memory, so that neighbouring threads write neighbouring samples whatever the stride.
  const Storage* const bias = static_cast<const Storage*>(call.bias);
  const long long channel = static_cast<long long>(place.group) * Layer::C_OUT + place.channel;
  Storage* const y = static_cast<Storage*>(call.y) + place.image * call.y_stride_b + channel * call.y_stride_c;
  constexpr int COLUMNS = Tile::PASS * Tile::THREADS_X;
  constexpr int PITCH = COLUMNS + 1;  // odd, against bank conflicts between rows
#pragma unroll
  for (int part = 0; part < TN / Tile::PASS; ++part) {
    if (part == 0) {
      __syncthreads();
    } else {
      wait_for_blocks<Layer>();  // they have read the pass before
    }
#pragma unroll
    for (int m = 0; m < TM; ++m) {
#pragma unroll
      for (int n = 0; n < Tile::PASS; ++n) {
        shared[(row + m) * PITCH + thread_x + n * Tile::THREADS_X] = sums[m][part * Tile::PASS + n];
      }
    }
    wait_for_blocks<Layer>();
    const long long t0 = (place.position + part * COLUMNS) * Layer::STRIDE - Layer::PADDING;
    constexpr int SAMPLES = Tile::WHOLE ? Layer::STRIDE : Layer::PHASES;
    static_assert(static_cast<long long>(Layer::CHANNELS) * COLUMNS * SAMPLES < (1 << 30),
                  "samples are counted in int");
#pragma unroll 2
    for (int e = split * Tile::THREADS + static_cast<int>(threadIdx.x); e < Layer::CHANNELS * COLUMNS * SAMPLES;
         e += Layer::SPLITS * Tile::THREADS) {
      const int c = e / (COLUMNS * SAMPLES), q = e / SAMPLES % COLUMNS, s = e % SAMPLES;
      const int f = Tile::WHOLE ? P::of_residue(s) : place.phase + s;
      const int residue = Tile::WHOLE ? s : P::residue(f);
      const long long t = t0 + static_cast<long long>(q) * Layer::STRIDE + residue;
      if (place.channel + c >= Layer::C_OUT || f >= P::LIVE || t < 0 || t >= call.out_length) continue;
      Sum sum = bias ? Element<Storage>::widen(bias[channel + c]) : Sum(0);
      if (f >= 0) {
        const Sum* const at = shared + ((f - place.phase) * Layer::CHANNELS + c) * PITCH + q;
        if constexpr (Layer::SPLITS == 1) {
          sum += *at;
        } else {
          sum += ptx::sum_of_blocks<Sum, Layer::SPLITS>(ptx::shared_address(at));
        }
      }
      const Sum alpha = alpha_after<Layer, Sum>(call.y_alpha, channel + c);
      y[c * call.y_stride_c + t] = Element<Storage>::narrow(after<Layer>(sum, alpha));
    }
    if constexpr (!Tile::WHOLE && P::LIVE < Layer::STRIDE) {
      if (place.phase != 0 || split != 0) continue;
      for (int c = 0; c < Layer::CHANNELS && place.channel + c < Layer::C_OUT; ++c) {
        const Sum sum = bias ? Element<Storage>::widen(bias[channel + c]) : Sum(0);
        const Storage dead =
            Element<Storage>::narrow(after<Layer>(sum, alpha_after<Layer, Sum>(call.y_alpha, channel + c)));
        for (long long e = threadIdx.x; e < static_cast<long long>(COLUMNS) * Layer::STRIDE; e += Tile::THREADS) {
          const long long t = t0 + e;
          if (t < 0 || t >= call.out_length || P::of_residue(static_cast<int>(e % Layer::STRIDE)) >= 0) continue;
          y[c * call.y_stride_c + t] = dead;
        }
      }
    }
  }
  wait_for_blocks<Layer>();  // before the next tile is staged
}

template <class Layer>
__device__ __forceinline__ void direct(const Call& call) {
  using Tile = DirectTile<Layer>;
  using Sum = typename Tile::Sum;
  alignas(16) __shared__ Sum shared[Tile::ELEMENTS];
  constexpr long long first = Layer::PADDING / Layer::STRIDE;
  const long long positions = (call.out_length - 1 + Layer::PADDING) / Layer::STRIDE - first + 1;
  const long long position_tiles = (positions + Layer::POSITIONS - 1) / Layer::POSITIONS;
  constexpr int ROW_TILES = Tile::CHANNEL_TILES * Tile::PHASE_TILES;
  const long long tiles = call.batch * Layer::GROUPS * position_tiles * ROW_TILES;
  ptx::wait_for_kernels_before();
  ptx::let_next_kernel_start();  // not those behind it: many small blocks would pile up
  // More tiles than a grid has blocks are possible.
  for (long long tile = blockIdx.x / Layer::SPLITS; tile < tiles; tile += gridDim.x / Layer::SPLITS) {
    // Tiles of the same x run side by side.
    const int rows = static_cast<int>(tile % ROW_TILES);
    const long long rest = tile / ROW_TILES, plane = rest / position_tiles;
    DirectPlace place;
    place.image = plane / Layer::GROUPS;
    place.group = static_cast<int>(plane % Layer::GROUPS);
    place.channel = rows / Tile::PHASE_TILES * Layer::CHANNELS;
    place.phase = rows % Tile::PHASE_TILES * Layer::PHASES;
    place.position = first + rest % position_tiles * Layer::POSITIONS;
    direct_tile<Layer>(call, place, shared);
  }
}

template <class Layer>
__device__ __forceinline__ void pack_direct(const Pack& pack) {
  ptx::let_next_kernel_start();
  ptx::wait_for_kernels_before();
  using P = Phases<Layer>;
  using Storage = typename Layer::Storage;
  using Sum = typename Element<Storage>::Sum;
  const Storage* const w = static_cast<const Storage*>(pack.w);
  constexpr long long COUNT =
      static_cast<long long>(Layer::GROUPS) * P::TAPS * Layer::C_IN * P::LIVE * Layer::PADDED_C_OUT;
  for (long long e = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; e < COUNT;
       e += static_cast<long long>(gridDim.x) * blockDim.x) {
    long long rest = e / Layer::PADDED_C_OUT;
    const int co = static_cast<int>(e % Layer::PADDED_C_OUT);
    const int f = static_cast<int>(rest % P::LIVE);
    rest /= P::LIVE;
    const long long ci = rest % Layer::C_IN;
    rest /= Layer::C_IN;
    const long long k = f + rest % P::TAPS * P::K_STEP, group = rest / P::TAPS;
    const bool present = k < Layer::K && co < Layer::C_OUT;
    const long long from = (group * Layer::C_IN + ci) * pack.stride_in + co * pack.stride_out + k * pack.stride_k;
    static_cast<Sum*>(pack.packed)[e] = present ? Element<Storage>::widen(w[from]) : Sum(0);
  }
}

}  // namespace tconv
