// One input channel a group: every x read once for each output channel of its group, every y written once.
//
// Packed weights: [C_out][K], in the type of the sums.
#pragma once

#include "activation.cuh"
#include "call.h"
#include "copy.cuh"
#include "element.cuh"
#include "phases.cuh"
#include "ptx.cuh"

namespace tconv {

// Layer: Storage; C_OUT of a group, GROUPS, K, STRIDE, PADDING, DILATION, GAP; its activations (activation.cuh); THREADS;
// ROWS of a block, which are output channels of one image, and REPEATS, what a thread has of one.
//
// NARROW: a thread takes runs, which are whole positions and whole vectors of 16 bytes of y. They begin where y is
// aligned, at whatever residue that is, so sums go from registers to memory as vectors; a run's x and the filter are in
// registers too. Otherwise a thread takes one residue of several positions, and adjacent threads write adjacent samples.
template <class Layer>
struct DepthwiseTile {
  using P = Phases<Layer>;
  using Storage = typename Layer::Storage;
  using Sum = typename Element<Storage>::Sum;

  // How far behind position q its taps read.
  static constexpr int SPAN = (Layer::K - 1) * Layer::DILATION / Layer::STRIDE;
  static constexpr bool NARROW = Layer::STRIDE <= 4 && SPAN * sizeof(Sum) <= 128 && Layer::K * sizeof(Sum) <= 128;
  static constexpr int ROW_THREADS = Layer::THREADS / Layer::ROWS;
  static_assert(Layer::THREADS % Layer::ROWS == 0 && (NARROW || Layer::ROWS == 1), "rows have threads of their own");

  static constexpr int VECTOR = 16 / static_cast<int>(sizeof(Storage));
  static constexpr int RUN = VECTOR / common_divisor(VECTOR, Layer::STRIDE);  // positions
  static constexpr int RESIDUES = Layer::STRIDE < Layer::THREADS ? Layer::STRIDE : Layer::THREADS;
  static constexpr int COLUMNS = NARROW ? ROW_THREADS * RUN : Layer::THREADS / RESIDUES;
  static constexpr int COVERED = COLUMNS * Layer::REPEATS;
  static constexpr int RESIDUE_TILES = NARROW ? 1 : (Layer::STRIDE + RESIDUES - 1) / RESIDUES;
  // Of a tile, as they count towards the number of tiles: a row's first vector may begin before the row.
  static constexpr int POSITIONS = NARROW ? COVERED - (VECTOR + Layer::STRIDE - 2) / Layer::STRIDE : COVERED;
  static_assert(POSITIONS == Layer::POSITIONS && POSITIONS > 0, "the host counts tiles by it");

  // What x waits as: as it is in memory, two samples of 16 bits in a word, where nothing is done to it before the sum.
  static constexpr bool AS_STORED = NARROW && Layer::BEFORE == Activation::none;
  using Staged = Either<AS_STORED, Storage, Sum>;
  static constexpr int WORD_SAMPLES = sizeof(Staged) == 2 ? 2 : 1;
  using Word = Either<WORD_SAMPLES == 2, unsigned, Staged>;
  // Words of a run, read at once: then a warp's are on all banks.
  static constexpr int PIECE_BYTES = RUN * sizeof(Staged) < 16 ? RUN * static_cast<int>(sizeof(Staged)) : 16;
  static constexpr int PIECE = NARROW ? PIECE_BYTES / static_cast<int>(sizeof(Word)) : 1;
  static_assert(PIECE > 0, "a run has a word");
  static constexpr int whole_pieces(int samples) {
    return (samples + PIECE * WORD_SAMPLES - 1) / (PIECE * WORD_SAMPLES) * (PIECE * WORD_SAMPLES);
  }
  // Samples before the first position: those it reads, and one that the first whole word may lack.
  static constexpr int LEAD = whole_pieces(SPAN + WORD_SAMPLES - 1);
  // A run that begins within a position reaches the one behind its own.
  static constexpr int REACH = Layer::STRIDE > 1 ? 1 : 0;
  static constexpr bool X_SHARED = SPAN * sizeof(Sum) <= 4096;
  static constexpr int SAMPLES = X_SHARED ? LEAD + COVERED + (NARROW ? REACH : 0) : 1;
  // Words of a row, loaded by its threads so many at once and as often: then none asks whether it is one too many.
  static constexpr int EACH = (whole_pieces(SAMPLES) / WORD_SAMPLES + ROW_THREADS - 1) / ROW_THREADS;
  static constexpr int BATCHES = (EACH + 11) / 12, BATCH = (EACH + BATCHES - 1) / BATCHES;
  static constexpr int WINDOW = X_SHARED ? BATCH * BATCHES * ROW_THREADS : 1;
  // Larger filters stay in the L1 cache.
  static constexpr bool W_SHARED = Layer::K * sizeof(Sum) <= 4096;
  static constexpr int W_ELEMENTS = W_SHARED ? Layer::K : 1;
  static_assert(Layer::ROWS * (WINDOW * sizeof(Word) + W_ELEMENTS * sizeof(Sum)) <= (48 << 10) - 64,
                "static shared memory ends at 48 KiB");
};

template <class Layer>
struct DepthwiseShared {
  using Tile = DepthwiseTile<Layer>;
  alignas(16) typename Tile::Word x[Layer::ROWS][Tile::WINDOW];
  alignas(16) typename Tile::Sum w[Layer::ROWS][Tile::W_ELEMENTS];
};

// What one output channel of one image brings.
template <class Layer>
struct DepthwiseRow {
  using Storage = typename Layer::Storage;
  using Sum = typename Element<Storage>::Sum;
  const Storage* x;
  const Sum* w;
  Storage* y;
  Sum bias, x_alpha, y_alpha;

  __device__ __forceinline__ DepthwiseRow(const Call& call, long long image, int channel)
      : x(static_cast<const Storage*>(call.x) + image * call.x_stride_b + channel / Layer::C_OUT * call.x_stride_c),
        w(static_cast<const Sum*>(call.w) + static_cast<long long>(channel) * Layer::K),
        y(static_cast<Storage*>(call.y) + image * call.y_stride_b + channel * call.y_stride_c),
        bias(call.bias ? Element<Storage>::widen(static_cast<const Storage*>(call.bias)[channel]) : Sum(0)),
        x_alpha(alpha_before<Layer, Sum>(call.x_alpha, channel / Layer::C_OUT)),
        y_alpha(alpha_after<Layer, Sum>(call.y_alpha, channel)) {}
};

// A row's filter, by thread `lane` of the row's; there behind wait_copies.
template <class Layer, class Sum>
__device__ __forceinline__ void stage_filter(const DepthwiseRow<Layer>& row, int lane, Sum (&w)[Layer::K]) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(w));
#pragma unroll 1
  for (int k = lane; k < Layer::K; k += DepthwiseTile<Layer>::ROW_THREADS)
    copy_async<sizeof(Sum)>(to + k * static_cast<int>(sizeof(Sum)), row.w + k, true);
}

// A row's samples from `first` on, by thread `lane` of the row's; those beyond its ends are zero. Returns how many
// samples the window begins behind `first`: one where it is the second of a word in memory.
template <class Layer>
__device__ __forceinline__ int stage_depthwise(const Call& call, const DepthwiseRow<Layer>& row, long long first, int lane,
                                               typename DepthwiseTile<Layer>::Word (&window)[DepthwiseTile<Layer>::WINDOW]) {
  using Tile = DepthwiseTile<Layer>;
  using Storage = typename Tile::Storage;
  using Word = typename Tile::Word;
  constexpr int SAMPLES = Tile::WORD_SAMPLES;
  constexpr int ALL = Tile::SAMPLES + SAMPLES - 1;  // with the one that is skipped
  using Loaded = Either<SAMPLES == 2, unsigned, Storage>;
  const int begin = static_cast<int>(smaller(larger(0, -first), ALL));
  const int end = static_cast<int>(larger(smaller(ALL, call.length - first), 0));
  const auto put = [&](int i, Loaded loaded) {
    if constexpr (Tile::AS_STORED) {
      window[i] = loaded;
    } else {
      const bool present = Layer::BEFORE == Activation::none || (i >= begin && i < end);
      window[i] = present ? before<Layer>(Element<Storage>::widen(loaded), row.x_alpha) : Word(0);
    }
  };

  if (call.x_stride_t != 1) {
    const Storage* const from = row.x + first * call.x_stride_t;
    const auto sample = [&](int e) { return e >= begin && e < end ? from[e * call.x_stride_t] : Storage{}; };
#pragma unroll 4
    for (int i = lane; i < Tile::WINDOW; i += Tile::ROW_THREADS) {
      if constexpr (SAMPLES == 2) {
        put(i, sample(2 * i).bits | static_cast<unsigned>(sample(2 * i + 1).bits) << 16);
      } else {
        put(i, sample(i));
      }
    }
    return 0;
  }
  const Storage* const from = row.x + first;
  const int skipped = static_cast<int>(reinterpret_cast<unsigned long long>(from) / sizeof(Storage) % SAMPLES);
  // Words [whole, whole_end) are the row's.
  const int whole = (begin - skipped + SAMPLES - 1) >> (SAMPLES - 1), whole_end = (end - skipped) >> (SAMPLES - 1);
  const unsigned count = static_cast<unsigned>(whole < whole_end ? whole_end - whole : 0);
  const Loaded* const words = reinterpret_cast<const Loaded*>(from + skipped) + lane;
#pragma unroll 1
  for (int base = 0; base < Tile::WINDOW; base += Tile::BATCH * Tile::ROW_THREADS) {
    Loaded batch[Tile::BATCH];  // in flight before the first is waited for
#pragma unroll
    for (int i = 0; i < Tile::BATCH; ++i) {
      const int word = base + i * Tile::ROW_THREADS;
      batch[i] = static_cast<unsigned>(lane - whole + word) < count ? words[word] : Loaded{};
    }
#pragma unroll
    for (int i = 0; i < Tile::BATCH; ++i) put(base + i * Tile::ROW_THREADS + lane, batch[i]);
  }
  if constexpr (SAMPLES == 2) {
    // A word across an end of the row, by the thread that has just written it.
    const auto cut = [&](int word, unsigned value) {
      if (word >= 0 && word < Tile::WINDOW && lane == word % Tile::ROW_THREADS) window[word] = value;
    };
    if (begin < whole * 2 + skipped && begin < end) cut(whole - 1, static_cast<unsigned>(from[begin].bits) << 16);
    if (end > whole_end * 2 + skipped && begin < end) cut(whole_end, from[end - 1].bits);
  }
  return skipped;
}

// COUNT samples from the one of that number on, of a window that begins `skipped` behind its first.
template <class Layer, int NUMBER, int COUNT>
__device__ __forceinline__ void read_window(const typename DepthwiseTile<Layer>::Word* window, int skipped,
                                            typename DepthwiseTile<Layer>::Sum (&x)[COUNT]) {
  using Tile = DepthwiseTile<Layer>;
  using Storage = typename Tile::Storage;
  using Word = typename Tile::Word;
  constexpr int SAMPLES = Tile::WORD_SAMPLES, PIECE = Tile::PIECE;
  constexpr int FROM = (NUMBER - SAMPLES + 1) / SAMPLES / PIECE * PIECE;
  constexpr int PIECES = ((NUMBER + COUNT - 1) / SAMPLES - FROM) / PIECE + 1;
  Word words[PIECES * PIECE];
#pragma unroll
  for (int piece = 0; piece < PIECES; ++piece) {
    const auto read = *reinterpret_cast<const Vector<Word, PIECE>*>(window + FROM + piece * PIECE);
#pragma unroll
    for (int i = 0; i < PIECE; ++i) words[piece * PIECE + i] = read.at[i];
  }
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    const int e = NUMBER + i - FROM * SAMPLES;
    if constexpr (SAMPLES == 2) {
      const unsigned word = __funnelshift_l(e < 2 ? 0 : words[e / 2 - 1], words[e / 2], 16 * skipped);
      x[i] = Element<Storage>::widen({static_cast<unsigned short>(e % 2 == 0 ? word : word >> 16)});
    } else if constexpr (Tile::AS_STORED) {
      x[i] = Element<Storage>::widen(words[e]);
    } else {
      x[i] = words[e];
    }
  }
}

// A vector of y, rounded.
template <class Storage, class Sum>
__device__ __forceinline__ uint4 vector_of(const Sum* sums) {
  if constexpr (sizeof(Storage) == 2) {
    const auto pair = [&](int i) { return Element<Storage>::narrow(sums[i], sums[i + 1]); };
    return make_uint4(pair(0), pair(2), pair(4), pair(6));
  } else {
    Vector<Storage, 16 / sizeof(Storage)> samples;
#pragma unroll
    for (int i = 0; i < 16 / static_cast<int>(sizeof(Storage)); ++i) samples.at[i] = Element<Storage>::narrow(sums[i]);
    return __builtin_bit_cast(uint4, samples);
  }
}

// The sums to `y`, of which [begin, end) are the row's.
template <class Layer, class Storage, class Sum, int COUNT>
__device__ __forceinline__ void write_run(Storage* y, int begin, int end, const Sum (&sums)[COUNT]) {
  constexpr int VECTOR = DepthwiseTile<Layer>::VECTOR;
#pragma unroll
  for (int from = 0; from < COUNT; from += VECTOR) {
    const bool whole = from >= begin && from + VECTOR <= end;
    ptx::store_if(whole, y + from, vector_of<Storage>(sums + from));
    if (whole) continue;
#pragma unroll
    for (int i = from; i < from + VECTOR; ++i) {
      if (i >= begin && i < end) y[i] = Element<Storage>::narrow(sums[i]);
    }
  }
}

// A thread's runs of a tile whose first sample of y has that residue. `y`, of which [begin, end) are the row's, and
// `window` are the tile's.
template <class Layer, int RESIDUE = 0>
__device__ __forceinline__ void depthwise_runs(int residue, const DepthwiseRow<Layer>& row,
                                               const typename DepthwiseTile<Layer>::Sum (&w)[Layer::K],
                                               const typename DepthwiseTile<Layer>::Word* window, int skipped,
                                               typename Layer::Storage* y, int begin, int end, int lane) {
  using Tile = DepthwiseTile<Layer>;
  using P = Phases<Layer>;
  using Sum = typename Tile::Sum;
  if constexpr (RESIDUE + 1 < Layer::STRIDE) {
    if (residue != RESIDUE)
      return depthwise_runs<Layer, RESIDUE + 1>(residue, row, w, window, skipped, y, begin, end, lane);
  }
  constexpr int RUN = Tile::RUN, COUNT = RUN * Layer::STRIDE, STEP = Tile::ROW_THREADS * COUNT;
  window += lane * RUN / Tile::WORD_SAMPLES;
  y += lane * COUNT, begin -= lane * COUNT, end -= lane * COUNT;
#pragma unroll 1
  for (int repeat = 0; repeat < Layer::REPEATS && end > 0; ++repeat) {
    Sum x[Tile::SPAN + RUN + (RESIDUE > 0)], sums[COUNT];
    read_window<Layer, Tile::LEAD - Tile::SPAN>(window, skipped, x);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sums[i] = row.bias;
#pragma unroll
    for (int j = 0; j < P::TAPS; ++j) {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) {
        const int f = P::of_residue((RESIDUE + i) % Layer::STRIDE), k = f + j * P::K_STEP;
        if (f < 0 || k >= Layer::K) continue;
        const int behind = P::behind(f) + j * P::OFFSET_STEP;
        sums[i] = multiply_add(w[k], x[(RESIDUE + i) / Layer::STRIDE + Tile::SPAN - behind], sums[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sums[i] = after<Layer>(sums[i], row.y_alpha);
    write_run<Layer>(y, begin, end, sums);
    window += Tile::ROW_THREADS * RUN / Tile::WORD_SAMPLES;
    y += STEP, begin -= STEP, end -= STEP;
  }
}

// Tile number `tile` of each row from `channel` on.
template <class Layer>
__device__ __forceinline__ void depthwise_narrow(const Call& call, long long image, int channel, long long tile,
                                                 DepthwiseShared<Layer>& shared) {
  using Tile = DepthwiseTile<Layer>;
  using Storage = typename Tile::Storage;
  using Sum = typename Tile::Sum;
  constexpr int CHANNELS = Layer::GROUPS * Layer::C_OUT, STRIDE = Layer::STRIDE;
  const int block_row = static_cast<int>(threadIdx.x / Tile::ROW_THREADS);
  const int lane = static_cast<int>(threadIdx.x % Tile::ROW_THREADS);
  channel += block_row;
  const bool present = Layer::ROWS == 1 || channel < CHANNELS;
  const DepthwiseRow<Layer> row(call, image, present ? channel : 0);

  // Vectors of a row are aligned from up to one less than a vector's samples before it.
  const int skew = static_cast<int>(reinterpret_cast<unsigned long long>(row.y) / sizeof(Storage) % Tile::VECTOR);
  const long long t0 = tile * (Tile::COVERED * STRIDE) - skew;
  const long long u0 = t0 + Layer::PADDING + Tile::VECTOR * STRIDE;  // not negative, by whole positions
  const long long position = u0 / STRIDE - Tile::VECTOR;
  const int residue = static_cast<int>(u0 % STRIDE);
  auto& window = shared.x[block_row];

  stage_filter(row, lane, shared.w[block_row]);
  const int skipped = stage_depthwise<Layer>(call, row, position - Tile::LEAD, lane, window);
  wait_copies();
  __syncthreads();

  constexpr int TOGETHER = common_divisor(Layer::K, 16 / static_cast<int>(sizeof(Sum)));
  Sum w[Layer::K];
#pragma unroll
  for (int k = 0; k < Layer::K; k += TOGETHER) {
    const auto read = *reinterpret_cast<const Vector<Sum, TOGETHER>*>(shared.w[block_row] + k);
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i) w[k + i] = read.at[i];
  }
  const int end = static_cast<int>(smaller(Tile::COVERED * STRIDE, call.out_length - t0));
  const int begin = static_cast<int>(larger(0, -t0));
  depthwise_runs<Layer>(residue, row, w, window, skipped, row.y + t0, begin, present ? end : 0, lane);
}

// One residue tile of the positions from `position` on.
template <class Layer>
__device__ __forceinline__ void depthwise_wide(const Call& call, long long image, int channel, int residue_tile,
                                               long long position, DepthwiseShared<Layer>& shared) {
  using Tile = DepthwiseTile<Layer>;
  using P = Phases<Layer>;
  using Storage = typename Tile::Storage;
  using Sum = typename Tile::Sum;
  constexpr int REPEATS = Layer::REPEATS;
  const int thread = static_cast<int>(threadIdx.x);
  const DepthwiseRow<Layer> row(call, image, channel);

  if constexpr (Tile::W_SHARED) stage_filter(row, thread, shared.w[0]);
  if constexpr (Tile::X_SHARED) stage_depthwise<Layer>(call, row, position - Tile::LEAD, thread, shared.x[0]);
  wait_copies();
  __syncthreads();
  // By position within the tile, and by tap.
  const auto x_at = [&](int q, int behind) {
    if constexpr (Tile::X_SHARED) return shared.x[0][q + Tile::LEAD - behind];
    const long long i = position + q - behind;
    if (i < 0 || i >= call.length) return Sum(0);
    return before<Layer>(Element<Storage>::widen(row.x[i * call.x_stride_t]), row.x_alpha);
  };
  const auto w_at = [&](int k) {
    if constexpr (Tile::W_SHARED) return shared.w[0][k];
    return row.w[k];
  };

  const int r = residue_tile * Tile::RESIDUES + thread % Tile::RESIDUES;
  const int q = thread / Tile::RESIDUES;
  if (q >= Tile::COLUMNS || r >= Layer::STRIDE) return;
  Sum sums[REPEATS];
#pragma unroll
  for (int i = 0; i < REPEATS; ++i) sums[i] = row.bias;
  const int f = P::of_residue(r);
  if (f >= 0) {
    int behind = P::behind(f);
#pragma unroll 4
    for (int k = f; k < Layer::K; k += P::K_STEP, behind += P::OFFSET_STEP) {
      const Sum w = w_at(k);
#pragma unroll
      for (int i = 0; i < REPEATS; ++i) sums[i] = multiply_add(w, x_at(q + i * Tile::COLUMNS, behind), sums[i]);
    }
  }
  const long long t0 = position * Layer::STRIDE - Layer::PADDING;
#pragma unroll
  for (int i = 0; i < REPEATS; ++i) {
    const long long t = t0 + static_cast<long long>(q + i * Tile::COLUMNS) * Layer::STRIDE + r;
    if (t >= 0 && t < call.out_length) row.y[t] = Element<Storage>::narrow(after<Layer>(sums[i], row.y_alpha));
  }
}

template <class Layer>
__device__ __forceinline__ void depthwise(const Call& call) {
  using Tile = DepthwiseTile<Layer>;
  __shared__ DepthwiseShared<Layer> shared;
  constexpr long long first = Layer::PADDING / Layer::STRIDE;
  constexpr int ROW_TILES = (Layer::GROUPS * Layer::C_OUT - 1) / Layer::ROWS + 1;  // of an image
  const long long positions = (call.out_length - 1 + Layer::PADDING) / Layer::STRIDE - first + 1;
  const long long along_tiles = (positions + Tile::POSITIONS - 1) / Tile::POSITIONS * Tile::RESIDUE_TILES;
  const long long tiles = call.batch * ROW_TILES * along_tiles;
  // A division of 64 bits would be a call: where a block's number is not below the divisor, both fit in 32.
  const auto rows_before = [&](unsigned number) {
    return number < along_tiles ? 0u : number / static_cast<unsigned>(along_tiles);
  };
  long long rows = rows_before(blockIdx.x), along = blockIdx.x - rows * along_tiles;
  ptx::wait_for_kernels_before();
  ptx::let_next_kernel_start();  // not those behind it: many small blocks would pile up
  for (long long tile = blockIdx.x; tile < tiles;) {
    const long long image = rows / ROW_TILES;
    const int channel = static_cast<int>(rows % ROW_TILES) * Layer::ROWS;
    if constexpr (Tile::NARROW) {
      depthwise_narrow<Layer>(call, image, channel, along, shared);
    } else {
      depthwise_wide<Layer>(call, image, channel, static_cast<int>(along % Tile::RESIDUE_TILES),
                            first + along / Tile::RESIDUE_TILES * Tile::POSITIONS, shared);
    }
    tile += gridDim.x;  // more tiles than a grid has blocks are possible
    if (tile >= tiles) break;
    __syncthreads();  // before the next tile is staged
    const unsigned rows_on = rows_before(gridDim.x);
    rows += rows_on, along += gridDim.x - rows_on * along_tiles;
    if (along >= along_tiles) ++rows, along -= along_tiles;
  }
}

template <class Layer>
__device__ __forceinline__ void pack_depthwise(const Pack& pack) {
  ptx::let_next_kernel_start();
  ptx::wait_for_kernels_before();
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
