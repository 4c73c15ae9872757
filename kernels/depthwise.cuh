// One input channel a group: every x read once for each output channel of its group, every y written once.
//
// Packed weights: [C_out][K], in the type of the sums.
#pragma once

#include "activation.cuh"
#include "call.h"
#include "copy.cuh"
#include "element.cuh"
#include "phases.cuh"

namespace tconv {

// Layer: Storage; C_OUT of a group, GROUPS, K, STRIDE, PADDING, DILATION, GAP; its activations (activation.cuh); THREADS,
// and THREAD_POSITIONS of a thread.
//
// NARROW: a thread takes all phases of adjacent positions and the block's samples leave through shared memory in
// vectors of 16 bytes. Otherwise a thread takes one residue of several positions, and adjacent threads write adjacent
// samples.
template <class Layer>
struct DepthwiseTile {
  using P = Phases<Layer>;
  using Storage = typename Layer::Storage;
  using Sum = typename Element<Storage>::Sum;

  static constexpr bool NARROW = Layer::STRIDE <= 4;
  static constexpr int RESIDUES = Layer::STRIDE < Layer::THREADS ? Layer::STRIDE : Layer::THREADS;
  static constexpr int COLUMNS = NARROW ? Layer::THREADS : Layer::THREADS / RESIDUES;
  static constexpr int POSITIONS = COLUMNS * Layer::THREAD_POSITIONS;
  static constexpr int RESIDUE_TILES = NARROW ? 1 : (Layer::STRIDE + RESIDUES - 1) / RESIDUES;
  static_assert(!NARROW || Layer::THREAD_POSITIONS % 2 == 1, "an odd run of x a thread keeps its lanes on all banks");

  // How far behind position q its taps read.
  static constexpr int SPAN = (Layer::K - 1) * Layer::DILATION / Layer::STRIDE;
  static constexpr bool X_SHARED = SPAN * sizeof(Sum) <= 4096;
  static constexpr int WINDOW = X_SHARED ? POSITIONS + SPAN : 1;
  // Larger filters stay in the L1 cache.
  static constexpr bool W_SHARED = Layer::K * sizeof(Sum) <= 4096;
  static constexpr int W_ELEMENTS = W_SHARED ? Layer::K : 1;
  static constexpr int VECTOR = 16 / static_cast<int>(sizeof(Storage));
  static constexpr int Y_ELEMENTS = NARROW ? (POSITIONS * Layer::STRIDE / VECTOR + 2) * VECTOR : VECTOR;
  static_assert((WINDOW + W_ELEMENTS) * sizeof(Sum) + Y_ELEMENTS * sizeof(Storage) <= (48 << 10) - 64,
                "static shared memory ends at 48 KiB");
};

template <class Layer>
struct DepthwiseShared {
  using Tile = DepthwiseTile<Layer>;
  alignas(16) typename Tile::Storage y[Tile::Y_ELEMENTS];
  typename Tile::Sum x[Tile::WINDOW];
  typename Tile::Sum w[Tile::W_ELEMENTS];
};

template <class Layer>
__device__ __forceinline__ void depthwise_tile(const Call& call, long long image, int channel, int residue_tile,
                                               long long position, DepthwiseShared<Layer>& shared) {
  using Tile = DepthwiseTile<Layer>;
  using P = Phases<Layer>;
  using Storage = typename Tile::Storage;
  using Sum = typename Tile::Sum;
  constexpr int RUN = Layer::THREAD_POSITIONS;
  const int thread = static_cast<int>(threadIdx.x);
  const Storage* const x_row =
      static_cast<const Storage*>(call.x) + image * call.x_stride_b + channel / Layer::C_OUT * call.x_stride_c;
  const Sum* const w_row = static_cast<const Sum*>(call.w) + static_cast<long long>(channel) * Layer::K;
  Storage* const y_row = static_cast<Storage*>(call.y) + image * call.y_stride_b + channel * call.y_stride_c;
  const Sum bias = call.bias ? Element<Storage>::widen(static_cast<const Storage*>(call.bias)[channel]) : Sum(0);
  const Sum x_alpha = alpha_before<Layer, Sum>(call.x_alpha, channel / Layer::C_OUT);
  const Sum y_alpha = alpha_after<Layer, Sum>(call.y_alpha, channel);

  if constexpr (Tile::W_SHARED) {
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared.w));
#pragma unroll 1
    for (int e = thread; e < Layer::K; e += Layer::THREADS) {
      copy_async<sizeof(Sum)>(to + e * static_cast<int>(sizeof(Sum)), w_row + e, true);
    }
  }
  if constexpr (Tile::X_SHARED) {
    const long long first = position - Tile::SPAN;
    const int begin = static_cast<int>(smaller(larger(0, -first), Tile::WINDOW));
    const int end = static_cast<int>(larger(smaller(Tile::WINDOW, call.length - first), 0));
    const Storage* from = x_row + (first + thread) * call.x_stride_t;
    constexpr int BATCH = 8;  // loads in flight before the first is waited for
    for (int base = thread; base < Tile::WINDOW; base += BATCH * Layer::THREADS) {
      Storage batch[BATCH] = {};
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        const int e = base + i * Layer::THREADS;
        if (e >= begin && e < end) batch[i] = *from;
        from += Layer::THREADS * call.x_stride_t;
      }
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        const int e = base + i * Layer::THREADS;
        const bool present = Layer::BEFORE == Activation::none || (e >= begin && e < end);
        const Sum x = Element<Storage>::widen(batch[i]);
        if (e < Tile::WINDOW) shared.x[e] = present ? before<Layer>(x, x_alpha) : Sum(0);
      }
    }
  }
  wait_copies();
  __syncthreads();
  // By position within the tile, and by tap.
  const auto x_at = [&](int q, int behind) {
    if constexpr (Tile::X_SHARED) return shared.x[q + Tile::SPAN - behind];
    const long long i = position + q - behind;
    if (i < 0 || i >= call.length) return Sum(0);
    return before<Layer>(Element<Storage>::widen(x_row[i * call.x_stride_t]), x_alpha);
  };
  const auto w_at = [&](int k) {
    if constexpr (Tile::W_SHARED) return shared.w[k];
    return w_row[k];
  };

  const long long t0 = position * Layer::STRIDE - Layer::PADDING;
  if constexpr (Tile::NARROW) {
    // Element e of shared.y, from `skew` on, is sample t0 + e - skew: as far from 16 bytes here as in memory. The sum
    // is taken on the address as an integer, because t0 may be negative.
    const unsigned long long address = reinterpret_cast<unsigned long long>(y_row) / sizeof(Storage);
    const int skew = static_cast<int>((address + static_cast<unsigned long long>(t0)) % Tile::VECTOR);
    const int q = thread * RUN;
    Sum sums[Layer::STRIDE][RUN];
#pragma unroll
    for (int r = 0; r < Layer::STRIDE; ++r) {
#pragma unroll
      for (int i = 0; i < RUN; ++i) sums[r][i] = bias;
    }
    // Unrolled, taps one position apart share their x in registers.
#pragma unroll(P::TAPS <= 16 ? P::TAPS : 2)
    for (int j = 0; j < P::TAPS; ++j) {
#pragma unroll
      for (int r = 0; r < Layer::STRIDE; ++r) {
        const int f = P::of_residue(r);
        const int k = f + j * P::K_STEP;
        if (f < 0 || k >= Layer::K) continue;
        const Sum w = w_at(k);
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
          sums[r][i] = multiply_add(w, x_at(q + i, P::behind(f) + j * P::OFFSET_STEP), sums[r][i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
#pragma unroll
      for (int r = 0; r < Layer::STRIDE; ++r) {
        shared.y[skew + (q + i) * Layer::STRIDE + r] = Element<Storage>::narrow(after<Layer>(sums[r][i], y_alpha));
      }
    }
    __syncthreads();
    const int begin = skew + static_cast<int>(larger(0, -t0));
    const int end = skew + static_cast<int>(smaller(Tile::POSITIONS * Layer::STRIDE, call.out_length - t0));
    Storage* const y = y_row + (t0 - skew);
#pragma unroll 1
    for (int e = begin / Tile::VECTOR * Tile::VECTOR + thread * Tile::VECTOR; e < end;
         e += Layer::THREADS * Tile::VECTOR) {
      if (e >= begin && e + Tile::VECTOR <= end) {
        using V = Vector<Storage, Tile::VECTOR>;
        *reinterpret_cast<V*>(y + e) = *reinterpret_cast<const V*>(shared.y + e);
      } else {
        for (int i = e < begin ? begin : e; i < e + Tile::VECTOR && i < end; ++i) y[i] = shared.y[i];
      }
    }
  } else {
    const int r = residue_tile * Tile::RESIDUES + thread % Tile::RESIDUES;
    const int q = thread / Tile::RESIDUES;
    if (q < Tile::COLUMNS && r < Layer::STRIDE) {
      Sum sums[RUN];
#pragma unroll
      for (int i = 0; i < RUN; ++i) sums[i] = bias;
      const int f = P::of_residue(r);
      if (f >= 0) {
        int behind = P::behind(f);
#pragma unroll 4
        for (int k = f; k < Layer::K; k += P::K_STEP, behind += P::OFFSET_STEP) {
          const Sum w = w_at(k);
#pragma unroll
          for (int i = 0; i < RUN; ++i) {
            sums[i] = multiply_add(w, x_at(q + i * Tile::COLUMNS, behind), sums[i]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < RUN; ++i) {
        const long long t = t0 + static_cast<long long>(q + i * Tile::COLUMNS) * Layer::STRIDE + r;
        if (t >= 0 && t < call.out_length) y_row[t] = Element<Storage>::narrow(after<Layer>(sums[i], y_alpha));
      }
    }
  }
  __syncthreads();  // before the next tile is staged
}

template <class Layer>
__device__ __forceinline__ void depthwise(const Call& call) {
  using Tile = DepthwiseTile<Layer>;
  __shared__ DepthwiseShared<Layer> shared;
  constexpr long long first = Layer::PADDING / Layer::STRIDE;
  constexpr int CHANNELS = Layer::GROUPS * Layer::C_OUT;
  const long long positions = (call.out_length - 1 + Layer::PADDING) / Layer::STRIDE - first + 1;
  const long long position_tiles = (positions + Tile::POSITIONS - 1) / Tile::POSITIONS;
  const long long tiles = call.batch * CHANNELS * position_tiles * Tile::RESIDUE_TILES;
  // More tiles than a grid has blocks are possible.
  for (long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int residue_tile = static_cast<int>(tile % Tile::RESIDUE_TILES);
    const long long rest = tile / Tile::RESIDUE_TILES, row = rest / position_tiles;
    depthwise_tile<Layer>(call, row / CHANNELS, static_cast<int>(row % CHANNELS), residue_tile,
                          first + rest % position_tiles * Tile::POSITIONS, shared);
  }
}

template <class Layer>
__device__ __forceinline__ void pack_depthwise(const Pack& pack) {
  using Storage = typename Layer::Storage;
  using Sum = typename Element<Storage>::Sum;
  constexpr long long COUNT = static_cast<long long>(Layer::GROUPS) * Layer::C_OUT * Layer::K;
  for (long long e = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; e < COUNT;
       e += static_cast<long long>(gridDim.x) * blockDim.x) {
    const long long channel = e / Layer::K, k = e % Layer::K;
    const long long from =
        channel / Layer::C_OUT * pack.stride_in + channel % Layer::C_OUT * pack.stride_out + k * pack.stride_k;
    static_cast<Sum*>(pack.packed)[e] = Element<Storage>::widen(static_cast<const Storage*>(pack.w)[from]);
  }
}

}  // namespace tconv
