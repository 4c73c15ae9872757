// Anything: output channels and phases in lanes, positions broadcast.
//
// Rows are the output channels of a group times the phases that read the same offsets (a bundle; a layer with dilation
// 1 and a kernel of whole strides has one). One output position of all rows is a matrix-vector product over (channel,
// offset), a dozen neighbouring positions a register tile: two vectors of packed weights, each used for twelve inputs.
// x is staged once a tile, as sums hold it, with zeros where it ends; the tile's positions run through all rows then.
// Phases of a channel are neighbours in a row of y, so what a register tile leaves is moved in runs of phases.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gemm.cpp"
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "cpu/rows-inl.h"
// clang-format on

#include <fmt/format.h>
#include <hwy/cache_control.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/solver.hpp"
#include "cpu/threads.hpp"

#ifndef TCONV_CPU_GEMM_ONCE
#define TCONV_CPU_GEMM_ONCE
namespace tconv::cpu::gemm {

inline constexpr std::int64_t kPanel = 32;       // rows that are packed together
inline constexpr std::int64_t kUnit = 48;        // positions that register tiles of every size divide
inline constexpr std::int64_t kImages = 12;      // images likewise, of which each position of a short input is a column
inline constexpr std::int64_t kLeastImages = 4;  // of a tile: fewer leave register tiles narrow
inline constexpr std::int64_t kChunk = 144;      // positions between two moves to y, whole units
inline constexpr std::int64_t kMaxTile = 480;    // positions of a staged tile, whole units
inline constexpr std::int64_t kDepth = 128;  // products of a row at a time: as many of a panel fill half a first cache
inline constexpr std::int64_t kLine = 64;    // bytes of a cache line, where fetching ahead counts them
inline constexpr std::int64_t kPage = 4096;
// Multiply-adds that take as long as staging an element of an image alone.
inline constexpr double kStagedProducts = 64;
inline constexpr std::int64_t kFetchEvery = 16;  // channels between two times of fetching ahead, a power of two
inline constexpr std::int64_t kStaged = 393216;  // bytes that a staged tile aims at: some of a core's second cache
// With many channels that is few positions, and all weights are read for each tile; so it has this many in any case
// that takes no more than these bytes.
inline constexpr std::int64_t kLeastTile = 144;
inline constexpr std::int64_t kMostStaged = 917504;
inline constexpr std::int64_t kMostInPlace = 48;  // channels that x is read in place for: each is on a page of its own

// Phases that read the same offsets.
struct Bundle {
  std::vector<std::int64_t> residues;
  std::vector<std::int64_t> offsets;  // by tap, relative to the layer's smallest, falling by the same from tap to tap
  std::vector<std::int64_t> first_k;  // by residue: tap j reads w[first_k + j*k_step]
  std::int64_t rows = 0;              // output channels of a group times residues
  std::int64_t depth = 0;             // input channels of a group times offsets
  std::int64_t panels = 0;
  std::int64_t packed = 0;  // of its first panel in a group's weights, in elements
};

struct Shape {
  Layer layer;
  Window window;
  std::int64_t in = 0, out = 0;  // channels of a group
  std::int64_t k_step = 1, offset_step = 1;
  std::vector<Bundle> bundles = {};
  std::vector<std::int64_t> dead = {};  // residues without a tap
  std::int64_t packed_group = 0;        // elements of a group's packed weights
  std::int64_t panels = 0;              // of a group
};

// One call, split into tiles of columns. Images lie behind each other in one row of columns, their positions, each with
// `span` columns more behind it that only separate it from the next. Or they lie beside each other: a tile is some
// images, its columns all of them at the first position, then at the next. Products with samples that there are not are
// left out then, and nothing separates.
struct Split {
  bool beside = false;
  std::int64_t length = 0;     // of x
  std::int64_t positions = 0;  // of an image
  std::int64_t pitch = 0;      // columns of an image, unless beside
  std::int64_t columns = 0;    // of the call; beside: images
  std::int64_t tile = 0;       // likewise
  std::int64_t tiles = 0;
  std::int64_t parts = 1;  // of a group's panels
};

// Weights that are fetched while others are multiplied: the next from `at` on, so many bytes at a product.
struct Ahead {
  const char* at;
  std::int64_t step;
};

// Some of a bundle's taps: what lies between them in x, and between the last one's weights and the next channel's.
struct Taps {
  std::int64_t count, step, skip;
};

// The last panel of a bundle may have few rows, and is packed narrower then.
inline std::int64_t panel_width(std::int64_t rows) { return rows > 16 ? kPanel : rows > 8 ? 16 : 8; }

// Of channels in a staged tile: whole cache lines, and not a power of two of them, as they would share few of a cache's
// sets.
inline std::int64_t staged_pitch(const Shape& s, const Split& split) {
  const std::int64_t pitch = round_up(split.beside ? split.tile * split.length : split.tile + s.window.span, 16);
  return pitch % 256 == 0 ? pitch + 16 : pitch;
}

// A thread's memory: x staged, sums as they are and as storage holds them, biases and alphas.
inline std::int64_t tile_bytes(const Shape& s, const Split& split, std::int64_t sum_bytes) {
  constexpr std::int64_t kParts = 5, kAlign = 64;
  return (s.in * staged_pitch(s, split) + 2 * (kChunk + 1) * kPanel + 2 * kPanel) * sum_bytes + kParts * kAlign;
}

}  // namespace tconv::cpu::gemm
#endif

HWY_BEFORE_NAMESPACE();
namespace tconv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace gemm;  // NOLINT(google-build-using-namespace)

// Lines of some rows of a tensor, in order.
class Lines {
 public:
  Lines() = default;
  // Rows of so many bytes, `pitch` apart.
  Lines(const void* row, std::int64_t pitch, std::int64_t rows, std::int64_t bytes)
      : row_(static_cast<const char*>(row)), pitch_(pitch), rows_(bytes > 0 ? rows : 0), bytes_(bytes) {}
  // A processor may drop the fetch of a line whose page it does not know, so this reads one byte of each new page.
  void touch() const {
    const auto page = [](const char* at) { return reinterpret_cast<std::uintptr_t>(at) / kPage; };
    for (std::int64_t i = 0; i < rows_; ++i) {
      const char* last = row_ + i * pitch_ + bytes_ - 1;
      if (page(last) != page(last - bytes_)) (void)*static_cast<const volatile char*>(last);
    }
  }
  [[nodiscard]] std::int64_t count() const { return rows_ * (bytes_ / kLine + 1); }
  // Fetches the next `most`, or those left.
  HWY_INLINE void fetch(std::int64_t most) {
    for (; most > 0 && rows_ > 0; --most) {
      hwy::Prefetch(row_ + at_);
      at_ += kLine;
      if (at_ < bytes_) continue;
      at_ = 0;
      row_ += pitch_;
      --rows_;
    }
  }

 private:
  const char* row_ = nullptr;
  std::int64_t pitch_ = 0;
  std::int64_t rows_ = 0;
  std::int64_t bytes_ = 0;
  std::int64_t at_ = 0;
};

// Lines to be fetched while a chunk is multiplied: what the next tile will read, and where the sums will go. A few at a
// time, as more at once would hold up the loads of the multiplication.
class Fetches {
 public:
  void next_tile(Lines x, std::int64_t chunks) {
    x.touch();
    x_ = x;
    of_x_ = (x.count() + chunks - 1) / chunks;
  }
  // For a chunk, in so many steps.
  void plan(Lines y, std::int64_t steps) {
    y_ = y;
    each_x_ = (of_x_ + steps - 1) / steps;
    each_y_ = (y.count() + steps - 1) / steps;
  }
  HWY_INLINE void few() {
    y_.fetch(each_y_);
    x_.fetch(each_x_);
  }

 private:
  Lines x_, y_;
  std::int64_t of_x_ = 0;  // a chunk
  std::int64_t each_x_ = 0, each_y_ = 0;
};

// Sums of a panel's rows, those of neighbouring positions `between` apart; 0: the same at each, as biases are.
template <typename T>
struct Sums {
  T* first;
  std::int64_t between;
  [[nodiscard]] Sums row(std::int64_t n) const { return {first + n, between}; }
  [[nodiscard]] T* column(std::int64_t n) const { return first + n * between; }
};

// A register tile: NV vectors of rows by C positions. The accumulators need names of their own, as vectors of a length
// that is known at run time only cannot stand in an array. With 32 registers 24 of them are sums, with 16 only 12.
constexpr int kColumns = HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2 ? 6 : 12;

#define TCONV_EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

// to.column(c)[row] = from.column(c)[row] + sum over (channel, tap j) of w[channel*(taps*width + skip) + j*width + row]
//                     * x[channel*pitch - j*step + c], for c < C and the D's lanes times NV rows.
template <int NV, int C, class D, typename T = hn::TFromD<D>>
void Multiply(D d, Fetches& fetches, const T* HWY_RESTRICT w, std::int64_t width, const T* HWY_RESTRICT x,
              std::int64_t pitch, std::int64_t channels, Taps taps, Ahead& ahead, Sums<const T> from, Sums<T> to) {
  static_assert(NV <= 2 && C <= 12);
  const std::size_t lanes = hn::Lanes(d);
  const auto from0 = hn::LoadU(d, from.first);
  const auto from1 = NV > 1 ? hn::LoadU(d, from.first + lanes) : from0;
#define TCONV_DECLARE(c) auto a##c##_0 = from0, a##c##_1 = from1;
  TCONV_EACH(TCONV_DECLARE)
#undef TCONV_DECLARE
  if (from.between != 0) {
#define TCONV_LOAD(c)                                                      \
  if constexpr ((c) > 0 && (c) < C) {                                      \
    a##c##_0 = hn::LoadU(d, from.column(c));                               \
    if constexpr (NV > 1) a##c##_1 = hn::LoadU(d, from.column(c) + lanes); \
  }
    TCONV_EACH(TCONV_LOAD)
#undef TCONV_LOAD
  }
  const char* next = ahead.at;
  for (std::int64_t channel = 0; channel < channels; ++channel, x += pitch, w += taps.skip) {
    if (channel % kFetchEvery == 0) fetches.few();
    const T* HWY_RESTRICT at = x;
    for (std::int64_t j = 0; j < taps.count; ++j, w += width, at -= taps.step) {
      hwy::Prefetch(next);
      if constexpr (NV * hn::MaxLanes(d) * sizeof(T) > kLine) hwy::Prefetch(next + kLine);
      next += ahead.step;
      const auto w0 = hn::LoadU(d, w);
      const auto w1 = NV > 1 ? hn::LoadU(d, w + lanes) : w0;
#define TCONV_MULTIPLY(c)                                         \
  if constexpr ((c) < C) {                                        \
    const auto v = hn::Set(d, at[(c)]);                           \
    a##c##_0 = AddProduct(w0, v, a##c##_0);                       \
    if constexpr (NV > 1) a##c##_1 = AddProduct(w1, v, a##c##_1); \
  }
      TCONV_EACH(TCONV_MULTIPLY)
#undef TCONV_MULTIPLY
    }
  }
  ahead.at = next;
#define TCONV_STORE(c)                                                   \
  if constexpr ((c) < C) {                                               \
    hn::StoreU(a##c##_0, d, to.column(c));                               \
    if constexpr (NV > 1) hn::StoreU(a##c##_1, d, to.column(c) + lanes); \
  }
  TCONV_EACH(TCONV_STORE)
#undef TCONV_STORE
}
#undef TCONV_EACH

template <int NV, class D, typename T = hn::TFromD<D>>
void MultiplyColumns(D d, Fetches& fetches, std::int64_t n, const T* w, std::int64_t width, const T* x,
                     std::int64_t pitch, std::int64_t channels, Taps taps, Ahead& ahead, Sums<const T> from,
                     Sums<T> to) {
  for (; n >= kColumns; n -= kColumns, x += kColumns) {
    Multiply<NV, kColumns>(d, fetches, w, width, x, pitch, channels, taps, ahead, from, to);
    from.first = from.column(kColumns), to.first = to.column(kColumns);
  }
  switch (n) {
#define TCONV_TAIL(c)                                                                          \
  case c:                                                                                      \
    if constexpr ((c) < kColumns)                                                              \
      return Multiply<NV, c>(d, fetches, w, width, x, pitch, channels, taps, ahead, from, to); \
    break;
    TCONV_TAIL(1)
    TCONV_TAIL(2)
    TCONV_TAIL(3)
    TCONV_TAIL(4)
    TCONV_TAIL(5)
    TCONV_TAIL(6)
    TCONV_TAIL(7)
    TCONV_TAIL(8)
    TCONV_TAIL(9)
    TCONV_TAIL(10)
    TCONV_TAIL(11)
#undef TCONV_TAIL
    default:
      break;
  }
}

// How often MultiplyPanel goes through the inputs.
template <typename T>
std::int64_t PassesOver(std::int64_t rows) {
  const auto at_once = 2 * static_cast<std::int64_t>(hn::Lanes(hn::CappedTag<T, kPanel / 2>()));
  return (rows + at_once - 1) / at_once;
}

// All rows of a panel (at most kPanel) at n <= kChunk positions.
template <typename T>
void MultiplyPanel(Fetches& fetches, std::int64_t rows, std::int64_t n, const T* w, std::int64_t width, const T* x,
                   std::int64_t pitch, std::int64_t channels, Taps taps, Ahead& ahead, Sums<const T> from, Sums<T> to) {
  const hn::CappedTag<T, kPanel / 2> d;
  const hn::CappedTag<T, 8> eight;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t row = 0;
  while (row < rows) {
    if (rows - row > lanes) {
      MultiplyColumns<2>(d, fetches, n, w + row, width, x, pitch, channels, taps, ahead, from.row(row), to.row(row));
      row += 2 * lanes;
    } else if (hn::Lanes(eight) < hn::Lanes(d) && rows - row <= 8) {  // half as wide is twice as fast
      MultiplyColumns<1>(eight, fetches, n, w + row, width, x, pitch, channels, taps, ahead, from.row(row),
                         to.row(row));
      row += 8;
    } else {
      MultiplyColumns<1>(d, fetches, n, w + row, width, x, pitch, channels, taps, ahead, from.row(row), to.row(row));
      row += lanes;
    }
  }
}

// Neighbouring phases of one channel: `n` sums from `row` on, of residues from `residue` on.
struct Run {
  std::int64_t row, channel, residue, n;
};

template <std::size_t kCount, typename S>
HWY_INLINE void MoveEach(const S* HWY_RESTRICT from, std::int64_t between, S* HWY_RESTRICT to, std::int64_t count,
                         std::int64_t stride) {
  for (std::int64_t i = 0; i < count; ++i, from += between, to += stride) std::memcpy(to, from, kCount * sizeof(S));
}

// to[i*stride .. +n) = from[i*between .. +n) for i < count. Moves of a size the compiler knows are a few instructions.
template <typename S>
void MoveRuns(const S* HWY_RESTRICT from, std::int64_t between, S* HWY_RESTRICT to, std::int64_t count, std::int64_t n,
              std::int64_t stride) {
  static_assert(kPanel == 32, "a run has at most as many");
  switch (n) {
#define TCONV_MOVE(n) \
  case n:             \
    return MoveEach<n>(from, between, to, count, stride);
    TCONV_MOVE(1)
    TCONV_MOVE(2)
    TCONV_MOVE(3)
    TCONV_MOVE(4)
    TCONV_MOVE(5)
    TCONV_MOVE(6)
    TCONV_MOVE(7)
    TCONV_MOVE(8)
    TCONV_MOVE(10)
    TCONV_MOVE(12)
    TCONV_MOVE(16)
    TCONV_MOVE(32)
#undef TCONV_MOVE
    default:
      for (std::int64_t i = 0; i < count; ++i, from += between, to += stride)
        std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(S));
  }
}

// Runs of this many bytes that fill their channel's row are moved several channels at a time, transposed in registers.
// 1: alone, as it is not worth it or not done here.
template <typename S>
constexpr std::int64_t Together(std::int64_t n) {
  const std::int64_t bytes = n * static_cast<std::int64_t>(sizeof(S));
  if (HWY_TARGET == HWY_SCALAR) return 1;
  return bytes == 4 ? 4 : bytes == 8 ? (HWY_MAX_BYTES >= 32 ? 4 : 2) : 1;
}

#if HWY_TARGET != HWY_SCALAR
// to[g*pitch + i] = from[i*between + g*n ..] for Together channels g and count positions i (a multiple of as many), in
// runs of n elements.
template <typename S>
void MoveTransposed(const S* HWY_RESTRICT from, std::int64_t between, S* HWY_RESTRICT to, std::int64_t pitch,
                    std::int64_t count, std::int64_t n) {
  if (n * sizeof(S) == 4) {
    const hn::Full128<std::uint32_t> d;
    const hn::Full128<std::uint64_t> pairs;
    const auto load = [&](std::int64_t i) {
      return hn::LoadU(d, reinterpret_cast<const std::uint32_t*>(from + i * between));
    };
    const auto store = [&](auto v, std::int64_t g, std::int64_t i) {
      hn::StoreU(v, pairs, reinterpret_cast<std::uint64_t*>(to + g * pitch + i * n));
    };
    for (std::int64_t i = 0; i < count; i += 4) {
      const auto c0 = load(i), c1 = load(i + 1), c2 = load(i + 2), c3 = load(i + 3);
      const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, c0, c1));
      const auto low23 = hn::BitCast(pairs, hn::InterleaveLower(d, c2, c3));
      const auto up01 = hn::BitCast(pairs, hn::InterleaveUpper(d, c0, c1));
      const auto up23 = hn::BitCast(pairs, hn::InterleaveUpper(d, c2, c3));
      store(hn::InterleaveLower(pairs, low01, low23), 0, i);
      store(hn::InterleaveUpper(pairs, low01, low23), 1, i);
      store(hn::InterleaveLower(pairs, up01, up23), 2, i);
      store(hn::InterleaveUpper(pairs, up01, up23), 3, i);
    }
    return;
  }
  const hn::CappedTag<std::uint64_t, 4> d;
  const auto load = [&](std::int64_t i) {
    return hn::LoadU(d, reinterpret_cast<const std::uint64_t*>(from + i * between));
  };
  const auto store = [&](auto v, std::int64_t g, std::int64_t i) {
    hn::StoreU(v, d, reinterpret_cast<std::uint64_t*>(to + g * pitch + i * n));
  };
#if HWY_MAX_BYTES >= 32
  for (std::int64_t i = 0; i < count; i += 4) {
    const auto c0 = load(i), c1 = load(i + 1), c2 = load(i + 2), c3 = load(i + 3);
    const auto even01 = hn::InterleaveLower(d, c0, c1), odd01 = hn::InterleaveUpper(d, c0, c1);
    const auto even23 = hn::InterleaveLower(d, c2, c3), odd23 = hn::InterleaveUpper(d, c2, c3);
    store(hn::ConcatLowerLower(d, even23, even01), 0, i);
    store(hn::ConcatLowerLower(d, odd23, odd01), 1, i);
    store(hn::ConcatUpperUpper(d, even23, even01), 2, i);
    store(hn::ConcatUpperUpper(d, odd23, odd01), 3, i);
  }
#else
  for (std::int64_t i = 0; i < count; i += 2) {
    const auto c0 = load(i), c1 = load(i + 1);
    store(hn::InterleaveLower(d, c0, c1), 0, i);
    store(hn::InterleaveUpper(d, c0, c1), 1, i);
  }
#endif
}
#endif

template <typename S>
class Tile {
 public:
  using T = SumOf<S>;

  Tile(const Shape& shape, const Split& split, const Call& call, std::byte* workspace)
      : shape_(shape), split_(split), call_(call), pitch_(staged_pitch(shape, split)) {
    const auto take = [&](std::int64_t elements) {
      auto* at = reinterpret_cast<T*>(workspace);
      workspace += round_up(elements * static_cast<std::int64_t>(sizeof(T)), 64);
      return at;
    };
    x_ = take(shape.in * pitch_);
    sums_ = take((kChunk + 1) * kPanel);
    narrow_ = reinterpret_cast<S*>(take((kChunk + 1) * kPanel));
    bias_ = take(kPanel);
    alpha_ = take(kPanel);
  }

  // Columns from `first` on of one group, through panels [from, to). `next`: a tile that may come after it.
  void run(std::int64_t group, std::int64_t first, std::int64_t from, std::int64_t to, std::int64_t next) {
    const std::int64_t n = std::min(split_.tile, split_.columns - first);
    const T* x = XInPlace(group, first, n, to - from);
    const std::int64_t pitch = x != nullptr ? call_.x_stride_c : pitch_;
    if (x == nullptr) {
      Stage(group, first, n);
      x = x_;
    }
    const T* packed = static_cast<const T*>(call_.w) + group * shape_.packed_group;
    const std::int64_t steps = (kChunk / kColumns) * ((shape_.in + kFetchEvery - 1) / kFetchEvery);  // of a chunk
    fetches_.next_tile(LinesIn(group, next), (to - from) * ((n + kChunk - 1) / kChunk));
    std::int64_t before = 0;
    for (const Bundle& bundle : shape_.bundles) {
      for (std::int64_t panel = std::max<std::int64_t>(from - before, 0); panel < std::min(to - before, bundle.panels);
           ++panel) {
        const std::int64_t row = panel * kPanel;
        const std::int64_t rows = std::min(kPanel, bundle.rows - row);
        Rows(bundle, group, row, rows);
        const T* w = packed + bundle.packed + panel * bundle.depth * kPanel;
        const std::int64_t width = panel_width(rows);
        EachPart(bundle, n,
                 [&](std::int64_t begin, std::int64_t end, std::int64_t sample, std::int64_t tap, Taps taps) {
                   taps.skip *= width;
                   for (std::int64_t c = begin; c < end; c += kChunk) {
                     const std::int64_t columns = std::min(kChunk, end - c);
                     fetches_.plan(LinesOut(first + c, columns), steps * PassesOver<T>(rows));
                     T* const y = YInPlace(first + c, columns);
                     SumChunk(rows, columns, w + tap * width, width, x + sample + c - begin, pitch, taps,
                              y != nullptr ? Sums<T>{y, shape_.layer.problem.stride} : Sums<T>{sums_, kPanel});
                     if (y == nullptr) Store(first, n, c, columns);
                   }
                 });
      }
      before += bundle.panels;
    }
    if (from == 0 && !shape_.dead.empty()) Dead(group, first, n, split_.beside ? n * split_.positions : n);
  }

 private:
  // A panel's rows at the columns of a chunk. Some channels at a time: their weights stay in the first cache until all
  // columns are multiplied with them, and the sums so far wait in sums_.
  void SumChunk(std::int64_t rows, std::int64_t columns, const T* w, std::int64_t width, const T* x, std::int64_t pitch,
                Taps taps, Sums<T> to) {
    const std::int64_t most =
        round_up(std::max<std::int64_t>(kDepth / std::max<std::int64_t>(taps.count, 1), 1), kFetchEvery);
    const std::int64_t each = taps.count * width + taps.skip;  // weights of a channel
    // All weights that come next are fetched once while these are multiplied with all columns.
    const std::int64_t times = PassesOver<T>(rows) * ((columns + kColumns - 1) / kColumns);
    const std::int64_t products = std::max<std::int64_t>(taps.count, 1) * times;
    Ahead ahead{nullptr, (each * static_cast<std::int64_t>(sizeof(T)) + products - 1) / products};
    Sums<const T> from{bias_, 0};
    for (std::int64_t in = 0; in < shape_.in; in += most, w += most * each, x += most * pitch) {
      const std::int64_t channels = std::min(most, shape_.in - in);
      ahead.at = reinterpret_cast<const char*>(w + most * each);
      MultiplyPanel(fetches_, rows, columns, w, width, x, pitch, channels, taps, ahead, from,
                    in + channels < shape_.in ? Sums<T>{sums_, kPanel} : to);
      from = {sums_, kPanel};
    }
  }

  // Calls body(first column, behind the last, sample under the first tap, first tap, taps) for the columns of a tile
  // that take the same taps: all of a bundle's, unless images lie beside each other. Their `skip` is in rows of
  // weights.
  template <typename Body>
  void EachPart(const Bundle& bundle, std::int64_t n, const Body& body) const {
    const auto count = static_cast<std::int64_t>(bundle.offsets.size());
    if (!split_.beside) return body(0, n, bundle.offsets.front(), 0, Taps{count, shape_.offset_step, 0});
    // Of the taps at a position, that of the first which reads a sample before `end`.
    const auto first_below = [&](std::int64_t position, std::int64_t end) {
      const auto below = [&](std::int64_t offset) { return shape_.window.first_input + position + offset >= end; };
      return std::ranges::partition_point(bundle.offsets, below) - bundle.offsets.begin();
    };
    for (std::int64_t position = 0, next = 0; position < split_.positions; position = next) {
      const std::int64_t from = first_below(position, split_.length), to = first_below(position, 0);
      for (next = position + 1;
           next < split_.positions && first_below(next, split_.length) == from && first_below(next, 0) == to;)
        ++next;
      const std::int64_t sample =
          from < to ? shape_.window.first_input + position + bundle.offsets[static_cast<std::size_t>(from)] : 0;
      body(position * n, next * n, sample * n, from, Taps{to - from, shape_.offset_step * n, count - (to - from)});
    }
  }

  // Calls body(batch, first position, its column of those from `begin` on, columns between positions, positions) for
  // `count` columns of a tile from `begin` on.
  template <typename Body>
  void EachBatch(std::int64_t first, std::int64_t n, std::int64_t begin, std::int64_t count, const Body& body) {
    if (split_.beside) {
      for (std::int64_t image = 0; image < std::min(n, count); ++image) {
        const std::int64_t column = begin + image, batch = column % n;
        body(first + batch, column / n, image, n, (count - image + n - 1) / n);
      }
      return;
    }
    for (std::int64_t c = 0; c < count;) {
      const std::int64_t batch = (first + begin + c) / split_.pitch, at = (first + begin + c) % split_.pitch;
      const std::int64_t here = std::min(count - c, split_.pitch - at);
      if (at < split_.positions) body(batch, at, c, 1, std::min(here, split_.positions - at));
      c += here;
    }
  }

  // x under the tile from column `first` on, as far as one batch has it.
  Lines LinesIn(std::int64_t group, std::int64_t first) {
    if (first >= split_.columns || call_.x_stride_t != 1 || split_.beside) return {};
    const std::int64_t sample = std::max<std::int64_t>(shape_.window.first_input + first % split_.pitch, 0);
    const auto size = static_cast<std::int64_t>(sizeof(S));
    const S* x = static_cast<const S*>(call_.x) + first / split_.pitch * call_.x_stride_b +
                 group * shape_.in * call_.x_stride_c + sample;
    return {x, call_.x_stride_c * size, shape_.in, std::min<std::int64_t>(split_.tile, call_.length - sample) * size};
  }

  // The first output of a column, were y not cropped.
  [[nodiscard]] std::int64_t output(std::int64_t column) const {
    return (shape_.window.first_position + column % split_.pitch) * shape_.layer.problem.stride -
           shape_.layer.problem.padding;
  }

  // Of the first channel of the panel's rows, in the batch of a column.
  [[nodiscard]] S* RowOfY(std::int64_t column) const {
    return static_cast<S*>(call_.y) + column / split_.pitch * call_.y_stride_b + run_[0].channel * call_.y_stride_c;
  }

  // Likewise y where the sums of a chunk go: runs that take most of a row, or long ones.
  Lines LinesOut(std::int64_t first, std::int64_t columns) {
    if (split_.beside) return {};
    const std::int64_t stride = shape_.layer.problem.stride, at = first % split_.pitch;
    if (at >= split_.positions) return {};
    columns = std::min(columns, split_.positions - at);
    const std::int64_t t = output(first);
    const std::int64_t begin = std::clamp<std::int64_t>(t, 0, call_.out_length);
    const std::int64_t end = std::clamp<std::int64_t>(t + columns * stride, begin, call_.out_length);
    const auto size = static_cast<std::int64_t>(sizeof(S));
    if (stride > kPanel)
      return {RowOfY(first) + begin + run_[0].residue, stride * size, (end - begin) / stride - 1, run_[0].n * size};
    return {RowOfY(first) + begin, call_.y_stride_c * size, run_[runs_ - 1].channel - run_[0].channel + 1,
            (end - begin) * size};
  }

  // Where in y the sums of a chunk can go as they are: all rows are one run, and none is cropped. Else null.
  T* YInPlace([[maybe_unused]] std::int64_t first, [[maybe_unused]] std::int64_t columns) const {
    if constexpr (std::is_same_v<S, T>) {
      if (split_.beside) return nullptr;
      const std::int64_t stride = shape_.layer.problem.stride, t = output(first) + run_[0].residue;
      if (runs_ == 1 && run_[0].n == kPanel && shape_.layer.after == Activation::none &&
          first % split_.pitch + columns <= split_.positions && t >= 0 &&
          t + (columns - 1) * stride + kPanel <= call_.out_length)
        return RowOfY(first) + t;
    }
    return nullptr;
  }

  // x under n columns where it can be read as it is, and is not read often enough to be worth a copy. Else null.
  const T* XInPlace([[maybe_unused]] std::int64_t group, [[maybe_unused]] std::int64_t first,
                    [[maybe_unused]] std::int64_t n, [[maybe_unused]] std::int64_t panels) const {
    if constexpr (std::is_same_v<S, T>) {
      if (split_.beside) return nullptr;
      const std::int64_t at = first % split_.pitch, sample = shape_.window.first_input + at;
      if (panels == 1 && shape_.in <= kMostInPlace && call_.x_stride_t == 1 &&
          shape_.layer.before == Activation::none && at + n <= split_.positions && sample >= 0 &&
          sample + n + shape_.window.span <= call_.length)
        return static_cast<const T*>(call_.x) + first / split_.pitch * call_.x_stride_b +
               group * shape_.in * call_.x_stride_c + sample;
    }
    return nullptr;
  }

  // x under n columns and the span behind them, zero where there is none; or all of n images.
  void Stage(std::int64_t group, std::int64_t first, std::int64_t n) {
    for (std::int64_t i = 0; i < shape_.in; ++i) {
      if (split_.beside) {
        StageBeside(group * shape_.in + i, first, n, x_ + i * pitch_);
      } else {
        StageRow(group * shape_.in + i, first, n + shape_.window.span, x_ + i * pitch_);
      }
    }
  }

  // A channel of n images, sample by sample.
  void StageBeside(std::int64_t channel, std::int64_t first, std::int64_t n, T* to) {
    constexpr std::int64_t kSome = 64;
    T some[kSome];
    const T alpha = AlphaOf<T>(call_.x_alpha, channel);
    for (std::int64_t image = 0; image < n; ++image) {
      const S* x = static_cast<const S*>(call_.x) + (first + image) * call_.x_stride_b + channel * call_.x_stride_c;
      for (std::int64_t sample = 0; sample < call_.length; sample += kSome) {
        const std::int64_t here = std::min<std::int64_t>(kSome, call_.length - sample);
        LoadRow(x + sample * call_.x_stride_t, call_.x_stride_t, here, some, shape_.layer.before,
                static_cast<T>(shape_.layer.before_parameter), alpha);
        for (std::int64_t i = 0; i < here; ++i) to[(sample + i) * n + image] = some[i];
      }
    }
  }

  // n columns of a channel, from `first` on, zero where there is no sample.
  void StageRow(std::int64_t channel, std::int64_t first, std::int64_t n, T* to) {
    const S* x = static_cast<const S*>(call_.x) + channel * call_.x_stride_c;
    const T alpha = AlphaOf<T>(call_.x_alpha, channel);
    std::int64_t batch = first / split_.pitch, at = first % split_.pitch;
    for (std::int64_t c = 0; c < n; ++batch, at = 0) {
      const std::int64_t here = std::min(n - c, split_.pitch - at);
      // This batch's samples [begin, end) of the `here` from `sample` on.
      const std::int64_t sample = shape_.window.first_input + at;
      const std::int64_t begin = std::clamp<std::int64_t>(-sample, 0, here);
      const std::int64_t end = std::clamp<std::int64_t>(call_.length - sample, begin, here);
      for (std::int64_t z = 0; z < begin; ++z) to[c + z] = T{0};
      if (end > begin)
        LoadRow(x + batch * call_.x_stride_b + (sample + begin) * call_.x_stride_t, call_.x_stride_t, end - begin,
                to + c + begin, shape_.layer.before, static_cast<T>(shape_.layer.before_parameter), alpha);
      for (std::int64_t z = end; z < here; ++z) to[c + z] = T{0};
      c += here;
    }
  }

  // What the rows of a panel are: their runs, biases and alphas.
  void Rows(const Bundle& bundle, std::int64_t group, std::int64_t row, std::int64_t rows) {
    const auto per_channel = static_cast<std::int64_t>(bundle.residues.size());
    runs_ = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t channel = group * shape_.out + (row + i) / per_channel;
      const std::int64_t residue = bundle.residues[static_cast<std::size_t>((row + i) % per_channel)];
      Run* last = runs_ > 0 ? &run_[runs_ - 1] : nullptr;
      if (last != nullptr && last->channel == channel && last->residue + last->n == residue) {
        ++last->n;
      } else {
        run_[runs_++] = {i, channel, residue, 1};
      }
      bias_[i] = BiasOf<S>(call_, channel);
      alpha_[i] = AlphaOf<T>(call_.y_alpha, channel);
    }
    std::fill(bias_ + rows, bias_ + kPanel, T{0});
    std::fill(alpha_ + rows, alpha_ + kPanel, T{1});
  }

  // The sums of a chunk, activated and as storage holds them.
  const S* Finish(std::int64_t columns) {
    if (shape_.layer.after != Activation::none) ActivateSums(columns);
    return Narrow(sums_, columns * kPanel, narrow_);
  }

  void ActivateSums(std::int64_t columns) {
    const hn::CappedTag<T, kPanel> d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const auto parameter = static_cast<T>(shape_.layer.after_parameter);
    for (std::int64_t row = 0; row < kPanel; row += lanes) {
      const auto a = hn::LoadU(d, alpha_ + row);
      for (std::int64_t c = 0; c < columns; ++c) {
        T* at = sums_ + c * kPanel + row;
        hn::StoreU(Activate(d, hn::LoadU(d, at), shape_.layer.after, parameter, a), d, at);
      }
    }
  }

  // The sums of some columns of a tile, to y.
  void Store(std::int64_t first, std::int64_t n, std::int64_t begin, std::int64_t columns) {
    const S* from = Finish(columns);
    const auto store = [&](std::int64_t batch, std::int64_t at, std::int64_t c, std::int64_t between,
                           std::int64_t count) {
      for (std::int64_t r = 0; r < runs_;) {
        std::int64_t together = run_[r].n == shape_.layer.problem.stride ? Together<S>(run_[r].n) : 1;
        if (r + together > runs_ || run_[r + together - 1].n != run_[r].n) together = 1;
        StoreRuns(from + c * kPanel + run_[r].row, between * kPanel, run_[r], together, batch,
                  shape_.window.first_position + at, count);
        r += together;
      }
    };
    EachBatch(first, n, begin, columns, store);
  }

  // The runs of `together` channels from `run`'s on at n positions from `position` on, cropped to y.
  void StoreRuns(const S* from, std::int64_t between, const Run& run, std::int64_t together, std::int64_t batch,
                 std::int64_t position, std::int64_t n) {
    const std::int64_t stride = shape_.layer.problem.stride;
    S* y = static_cast<S*>(call_.y) + batch * call_.y_stride_b + run.channel * call_.y_stride_c;
    std::int64_t t = position * stride + run.residue - shape_.layer.problem.padding;
    const auto next = [&](std::int64_t positions) {
      t += positions * stride, from += positions * between, n -= positions;
    };
    const auto partial = [&](std::int64_t positions) {
      for (std::int64_t p = 0; p < positions; ++p, next(1)) {
        for (std::int64_t g = 0; g < together; ++g) {
          for (std::int64_t i = 0; i < run.n; ++i) {
            if (t + i >= 0 && t + i < call_.out_length)
              std::memcpy(y + g * call_.y_stride_c + t + i, from + g * run.n + i, sizeof(S));
          }
        }
      }
    };
    if (t < 0) partial(std::min(n, (-t + stride - 1) / stride));
    const std::int64_t room = call_.out_length - t - run.n;  // whole runs end inside y
    std::int64_t whole = room >= 0 ? std::min(n, room / stride + 1) : 0;
#if HWY_TARGET != HWY_SCALAR
    if (together > 1) {
      const std::int64_t square = whole / together * together;
      MoveTransposed(from, between, y + t, call_.y_stride_c, square, run.n);
      next(square);
      whole -= square;
    }
#endif
    for (std::int64_t g = 0; g < together; ++g)
      MoveRuns(from + g * run.n, between, y + g * call_.y_stride_c + t, whole, run.n, stride);
    next(whole);
    partial(n);
  }

  // Residues without a tap: the bias, activated.
  void Dead(std::int64_t group, std::int64_t first, std::int64_t n, std::int64_t columns) {
    const std::int64_t stride = shape_.layer.problem.stride, padding = shape_.layer.problem.padding;
    for (std::int64_t channel = group * shape_.out; channel < (group + 1) * shape_.out; ++channel) {
      std::fill(sums_, sums_ + kPanel, BiasOf<S>(call_, channel));
      std::fill(alpha_, alpha_ + kPanel, AlphaOf<T>(call_.y_alpha, channel));
      const S value = *Finish(1);
      EachBatch(first, n, 0, columns,
                [&](std::int64_t batch, std::int64_t at, std::int64_t, std::int64_t, std::int64_t count) {
                  S* y = static_cast<S*>(call_.y) + batch * call_.y_stride_b + channel * call_.y_stride_c;
                  for (const std::int64_t residue : shape_.dead) {
                    std::int64_t t = (shape_.window.first_position + at) * stride + residue - padding;
                    for (std::int64_t i = 0; i < count; ++i, t += stride) {
                      if (t >= 0 && t < call_.out_length) std::memcpy(y + t, &value, sizeof(S));
                    }
                  }
                });
    }
  }

  const Shape& shape_;
  const Split& split_;
  const Call& call_;
  std::int64_t pitch_;
  T* x_;
  T* sums_;
  S* narrow_;
  T* bias_;
  T* alpha_;
  Run run_[kPanel];
  std::int64_t runs_ = 0;
  Fetches fetches_;
};

template <typename S>
void RunTyped(const Shape& shape, const Split& split, const Call& call, const Threads& threads, Workspace workspace) {
  parallel_for(threads, shape.layer.problem.groups * split.tiles * split.parts, [&](std::int64_t task, int thread) {
    const std::int64_t part = task % split.parts, tile = task / split.parts % split.tiles;
    Tile<S>(shape, split, call, workspace.of(thread))
        .run(task / split.parts / split.tiles, tile * split.tile, shape.panels * part / split.parts,
             shape.panels * (part + 1) / split.parts, (tile + 1) * split.tile);
  });
}

template <typename S>
void PackTyped(const Shape& shape, const Pack& call, const Threads& threads) {
  using T = SumOf<S>;
  T* packed = static_cast<T*>(call.packed);
  const S* w = static_cast<const S*>(call.w);
  parallel_for(threads, shape.layer.problem.groups * shape.panels, [&](std::int64_t task, int) {
    const std::int64_t group = task / shape.panels;
    std::int64_t panel = task % shape.panels;
    const Bundle* bundle = shape.bundles.data();
    for (; panel >= bundle->panels; ++bundle) panel -= bundle->panels;
    const auto taps = static_cast<std::int64_t>(bundle->offsets.size());
    const auto per_channel = static_cast<std::int64_t>(bundle->residues.size());
    T* to = packed + group * shape.packed_group + bundle->packed + panel * bundle->depth * kPanel;
    const std::int64_t rows = std::min(kPanel, bundle->rows - panel * kPanel);
    const std::int64_t width = panel_width(rows);
    // Rows whose first taps are neighbours in w are copied together: the phases of a channel, mostly.
    struct Piece {
      std::int64_t row, from, n;
    } piece[kPanel];
    std::int64_t pieces = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = panel * kPanel + i;
      const std::int64_t from = row / per_channel * call.stride_out +
                                bundle->first_k[static_cast<std::size_t>(row % per_channel)] * call.stride_k;
      if (pieces > 0 && piece[pieces - 1].from + piece[pieces - 1].n == from) {
        ++piece[pieces - 1].n;
      } else {
        piece[pieces++] = {i, from, 1};
      }
    }
    S row[kPanel] = {};
    for (std::int64_t in = 0; in < shape.in; ++in) {
      const S* tap = w + (group * shape.in + in) * call.stride_in;
      for (std::int64_t j = 0; j < taps; ++j, to += width, tap += shape.k_step * call.stride_k) {
        for (std::int64_t i = 0; i < pieces; ++i)
          MoveRuns(tap + piece[i].from, 0, row + piece[i].row, 1, piece[i].n, 0);
        LoadPlain(row, width, to);
      }
    }
  });
}

void GemmRun(const Shape& shape, const Split& split, const Call& call, const Threads& threads, Workspace workspace) {
  WithStorage(shape.layer.problem.arithmetic,
              [&]<typename S>() { RunTyped<S>(shape, split, call, threads, workspace); });
}

void GemmPack(const Shape& shape, const Pack& call, const Threads& threads) {
  WithStorage(shape.layer.problem.arithmetic, [&]<typename S>() { PackTyped<S>(shape, call, threads); });
}

}  // namespace tconv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tconv::cpu {
namespace {

HWY_EXPORT(GemmRun);
HWY_EXPORT(GemmPack);

using gemm::Bundle;
using gemm::Shape;
using gemm::Split;

Shape shape_of(const Layer& layer) {
  const Problem& p = layer.problem;
  Shape s{.layer = layer, .window = Window(p), .in = p.c_in / p.groups, .out = p.c_out / p.groups};
  const Phases& phases = s.window.phases;
  for (std::int64_t r = 0; r < phases.count(); ++r) {
    const Phase phase = phases.phase(r);
    if (phase.dead()) {
      s.dead.push_back(r);
      continue;
    }
    s.k_step = phase.k_step;
    s.offset_step = phase.offset_step;
    std::vector<std::int64_t> offsets = s.window.offsets(phase);
    auto bundle = std::ranges::find(s.bundles, offsets, &Bundle::offsets);
    if (bundle == s.bundles.end()) {
      s.bundles.emplace_back().offsets = std::move(offsets);
      bundle = s.bundles.end() - 1;
    }
    bundle->residues.push_back(r);
    bundle->first_k.push_back(phase.first_k);
  }
  for (Bundle& bundle : s.bundles) {
    bundle.rows = s.out * static_cast<std::int64_t>(bundle.residues.size());
    bundle.depth = s.in * static_cast<std::int64_t>(bundle.offsets.size());
    bundle.panels = (bundle.rows + gemm::kPanel - 1) / gemm::kPanel;
    bundle.packed = s.packed_group;
    const std::int64_t last = bundle.rows - (bundle.panels - 1) * gemm::kPanel;
    s.packed_group += bundle.depth * ((bundle.panels - 1) * gemm::kPanel + gemm::panel_width(last));
    s.panels += bundle.panels;
  }
  return s;
}

// Whether images beside each other take less time, by the products of a channel of x with a row of weights and phase.
bool beside(const Shape& s, const Split& split, std::int64_t batch) {
  const std::int64_t image = split.length * s.in * sum_bytes(s.layer.problem.arithmetic);
  if (batch < gemm::kLeastImages || gemm::kLeastImages * image > gemm::kMostStaged) return false;
  std::int64_t all = 0, there = 0;
  for (const Bundle& bundle : s.bundles) {
    all += bundle.rows * static_cast<std::int64_t>(bundle.offsets.size()) * split.pitch;
    for (const std::int64_t offset : bundle.offsets) {
      const std::int64_t first = s.window.first_input + offset;
      const std::int64_t end = std::clamp<std::int64_t>(split.length - first, 0, split.positions);
      there += bundle.rows * std::max<std::int64_t>(end - std::clamp<std::int64_t>(-first, 0, end), 0);
    }
  }
  return static_cast<double>(there) + gemm::kStagedProducts * static_cast<double>(split.length) <
         static_cast<double>(all);
}

Split split_of(const Shape& s, const Extent& extent, int threads) {
  Split split;
  split.length = extent.length;
  split.positions = s.window.positions(extent.length);
  split.pitch = split.positions + s.window.span;
  split.beside = beside(s, split, extent.batch);
  split.columns = split.beside ? extent.batch : extent.batch * split.pitch - s.window.span;
  // Columns of a tile, or images.
  const std::int64_t unit = split.beside ? gemm::kImages : gemm::kUnit;
  const std::int64_t each = split.beside ? split.positions : 1;  // columns of one
  const std::int64_t bytes = s.in * sum_bytes(s.layer.problem.arithmetic) * (split.beside ? split.length : 1);
  const auto fit = [&](std::int64_t all) {
    const std::int64_t n = all / bytes - (split.beside ? 0 : s.window.span);
    return n >= unit ? n / unit * unit : split.beside ? n : 0;
  };
  split.tile = std::max(fit(gemm::kStaged), std::min(fit(gemm::kMostStaged), round_up(gemm::kLeastTile / each, unit)));
  split.tile = std::clamp(split.tile, split.beside ? gemm::kLeastImages : unit,
                          std::max(gemm::kMaxTile / each / unit * unit, unit));
  split.tiles = (split.columns + split.tile - 1) / split.tile;
  if (threads > 1) {
    // Four tasks a thread even out what else runs on its core: smaller tiles first, then parts of the rows.
    const std::int64_t wanted = (std::int64_t{4} * threads + s.layer.problem.groups - 1) / s.layer.problem.groups;
    // Parts stage the same inputs, each for itself.
    const std::int64_t least = split.beside ? unit : 2 * unit;
    while (split.tiles < wanted && split.tile > least) {
      split.tile = round_up(split.tile / 2, unit);
      split.tiles = (split.columns + split.tile - 1) / split.tile;
    }
    split.parts = std::clamp<std::int64_t>((wanted + split.tiles - 1) / split.tiles, 1, s.panels);
  }
  // Memory that a first call would touch for columns that there are not.
  split.tile = std::min(split.tile, split.columns);
  return split;
}

class Gemm final : public Kernel {
 public:
  explicit Gemm(const Layer& layer) : shape_(shape_of(layer)) {}

  [[nodiscard]] std::int64_t packed_bytes() const override {
    return shape_.layer.problem.groups * shape_.packed_group * sum_bytes(shape_.layer.problem.arithmetic);
  }
  void pack(const Pack& call, const Threads& threads) const override {
    HWY_DYNAMIC_DISPATCH(GemmPack)(shape_, call, threads);
  }
  [[nodiscard]] std::int64_t workspace_bytes(const Extent& extent) const override {
    const Split split = split_of(shape_, extent, 1);
    return gemm::tile_bytes(shape_, split, sum_bytes(shape_.layer.problem.arithmetic));
  }
  void run(const Call& call, const Threads& threads, Workspace workspace) const override {
    const Split split = split_of(shape_, {.batch = call.batch, .length = call.length}, threads.count);
    HWY_DYNAMIC_DISPATCH(GemmRun)(shape_, split, call, threads, workspace);
  }
  [[nodiscard]] std::string explain(const Extent& extent) const override {
    const Split split = split_of(shape_, extent, 1);
    std::string out =
        fmt::format("{} {} in tiles of {}; {} panels of {} rows a group", split.columns,
                    split.beside ? "images beside each other" : "positions", split.tile, shape_.panels, gemm::kPanel);
    for (const Bundle& bundle : shape_.bundles)
      out += fmt::format("; {} phases of {} taps: {} rows of {} products", bundle.residues.size(),
                         bundle.offsets.size(), bundle.rows, bundle.depth);
    return out;
  }

 private:
  Shape shape_;
};

}  // namespace

const Solver kGemm{
    .name = "gemm",
    .refuse = [](const Layer&) -> std::optional<std::string> { return std::nullopt; },
    .make = [](const Layer& layer) -> std::unique_ptr<Kernel> { return std::make_unique<Gemm>(layer); },
};

}  // namespace tconv::cpu
#endif
