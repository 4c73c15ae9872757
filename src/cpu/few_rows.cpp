// Few output channels times phases, summed over input channels: positions in lanes.
//
// Rows are the output channels of a group times their phases, as in gemm.cpp, but where that broadcasts inputs to
// vectors of rows, this broadcasts weights to vectors of positions: few rows would leave its vectors empty. Up to eight
// rows that read the same offsets of x are summed at a time, in three vectors of positions each. x is read in place, a
// tile of positions of all channels while the next one's lines are fetched; only the ends of a row and strided inputs
// are staged. Two-byte types and inputs to be activated would all be, which costs more than this saves: they are
// gemm's. The sums of all rows of a tile are woven into y together.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/few_rows.cpp"
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
#include <vector>

#include "cpu/solver.hpp"
#include "cpu/threads.hpp"

#ifndef TCONV_CPU_FEW_ROWS_ONCE
#define TCONV_CPU_FEW_ROWS_ONCE
namespace tconv::cpu::few_rows {

inline constexpr std::int64_t kMostRows = 16;   // of a group; gemm fills its vectors with more, and is faster
inline constexpr std::int64_t kBlock = 8;       // rows that are summed together
inline constexpr std::int64_t kTile = 48;       // positions, a multiple of three vectors
inline constexpr std::int64_t kMostTiles = 16;  // of a task
inline constexpr std::int64_t kLine = 64;       // bytes of a cache line
// With as many channels a tile's inputs are more than a core can have under way while it goes through them once.
inline constexpr std::int64_t kManyChannels = 64;

// Rows that read the same offsets, at most kBlock.
struct Block {
  std::vector<std::int64_t> offsets;  // by tap, relative to the layer's smallest
  std::vector<std::int64_t> rows;     // channel * stride + residue
  std::vector<std::int64_t> first_k;  // by row: tap j reads w[first_k + j*k_step]
  std::int64_t packed = 0;            // of its first weight in a group's, in elements
};

struct Shape {
  Layer layer;
  Window window;
  std::int64_t in = 0, out = 0;  // channels of a group
  std::int64_t k_step = 1;
  std::vector<Block> blocks = {};
  std::vector<std::int64_t> dead = {};  // rows without a tap
  std::int64_t packed_group = 0;        // elements of a group's packed weights
};

// Inputs to be fetched while others are summed: all lines under some vectors, or the first alone. Null: none.
template <typename T>
struct Ahead {
  const T* x;
  bool all;
  [[nodiscard]] Ahead at(std::int64_t position) const { return {x != nullptr ? x + position : x, all}; }
};

// Rows of a staged tile are whole cache lines, and not a power of two of them, as channels would share few of a cache's
// sets.
inline std::int64_t staged_pitch(const Shape& s) {
  const std::int64_t pitch = round_up(kTile + s.window.span, 16);
  return pitch % 256 == 0 ? pitch + 16 : pitch;
}
inline std::int64_t sums_size(const Shape& s) { return s.out * s.layer.problem.stride * kTile; }
inline std::int64_t line_size(const Shape& s) { return s.layer.problem.stride * kTile; }

}  // namespace tconv::cpu::few_rows
#endif

HWY_BEFORE_NAMESPACE();
namespace tconv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace few_rows;  // NOLINT(google-build-using-namespace)

// Rows and vectors of positions that are summed together: with 32 registers 24 of them are sums, with 16 only 12.
constexpr int kRowsAtOnce = HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2 ? 4 : 8;
constexpr int kVectors = 3;

#define TCONV_EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)

// sums[rows[r]*kTile + p] = bias[rows[r]] + sum over (channel, offset) of w[(channel*taps + j)*width + r]
//                           * x[channel*pitch + offsets[j] + p], for r < kRows and p < kCount vectors; width: the
// block's rows.
// `ahead`: as many inputs of each channel are fetched from there on.
template <int kRows, int kCount, class D, typename T = hn::TFromD<D>>
void SumRows(D d, const T* HWY_RESTRICT x, std::int64_t pitch, Ahead<T> ahead, std::int64_t channels,
             const Block& block, const std::int64_t* HWY_RESTRICT rows, const T* HWY_RESTRICT w,
             const T* HWY_RESTRICT bias, T* HWY_RESTRICT sums) {
  static_assert(kRows <= kRowsAtOnce && kCount <= kVectors);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto taps = static_cast<std::int64_t>(block.offsets.size());
  const std::int64_t* HWY_RESTRICT offsets = block.offsets.data();
  const auto width = static_cast<std::int64_t>(block.rows.size());
#define TCONV_DECLARE(r)                                           \
  auto a##r##_0 = hn::Set(d, (r) < kRows ? bias[rows[(r)]] : T{}); \
  auto a##r##_1 = a##r##_0, a##r##_2 = a##r##_0;
  TCONV_EACH(TCONV_DECLARE)
#undef TCONV_DECLARE
  const T* next = ahead.x;
  for (std::int64_t channel = 0; channel < channels; ++channel, x += pitch) {
    if (next != nullptr) {
      constexpr std::int64_t kElements = kLine / static_cast<std::int64_t>(sizeof(T));
      hwy::Prefetch(next);
      if (ahead.all) {
        for (std::int64_t i = kElements; i < kCount * lanes; i += kElements) hwy::Prefetch(next + i);
      }
      next += pitch;
    }
    for (std::int64_t j = 0; j < taps; ++j, w += width) {
      const T* HWY_RESTRICT at = x + offsets[j];
      const auto v0 = hn::LoadU(d, at);
      const auto v1 = kCount > 1 ? hn::LoadU(d, at + lanes) : v0;
      const auto v2 = kCount > 2 ? hn::LoadU(d, at + 2 * lanes) : v0;
#define TCONV_SUM(r)                                                       \
  if constexpr ((r) < kRows) {                                             \
    const auto factor = hn::Set(d, w[(r)]);                                \
    a##r##_0 = AddProduct(v0, factor, a##r##_0);                           \
    if constexpr (kCount > 1) a##r##_1 = AddProduct(v1, factor, a##r##_1); \
    if constexpr (kCount > 2) a##r##_2 = AddProduct(v2, factor, a##r##_2); \
  }
      TCONV_EACH(TCONV_SUM)
#undef TCONV_SUM
    }
  }
#define TCONV_STORE(r)                                                                       \
  if constexpr ((r) < kRows) {                                                               \
    hn::StoreU(a##r##_0, d, sums + rows[(r)] * kTile);                                       \
    if constexpr (kCount > 1) hn::StoreU(a##r##_1, d, sums + rows[(r)] * kTile + lanes);     \
    if constexpr (kCount > 2) hn::StoreU(a##r##_2, d, sums + rows[(r)] * kTile + 2 * lanes); \
  }
  TCONV_EACH(TCONV_STORE)
#undef TCONV_STORE
}
#undef TCONV_EACH

// kRows of a block's rows at n positions, whole vectors.
template <int kRows, class D, typename T = hn::TFromD<D>>
void SumPositions(D d, std::int64_t n, const T* x, std::int64_t pitch, Ahead<T> ahead, std::int64_t channels,
                  const Block& block, const std::int64_t* rows, const T* w, const T* bias, T* sums) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t p = 0; p < n;) {
    if (n - p > lanes && p + kVectors * lanes <= kTile) {
      SumRows<kRows, kVectors>(d, x + p, pitch, ahead.at(p), channels, block, rows, w, bias, sums + p);
      p += kVectors * lanes;
    } else {
      SumRows<kRows, 1>(d, x + p, pitch, ahead.at(p), channels, block, rows, w, bias, sums + p);
      p += lanes;
    }
  }
}

// to[p*stride + r] = rows[r*kTile + p] for p < n, whole vectors.
template <class D, typename T = hn::TFromD<D>>
void WeaveRows(D d, const T* HWY_RESTRICT rows, std::int64_t stride, std::int64_t n, T* HWY_RESTRICT to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto load = [&](std::int64_t r, std::int64_t p) HWY_ATTR { return hn::LoadU(d, rows + r * kTile + p); };
  switch (stride) {
    case 1:
      return CopyRow(rows, n, to);
    case 2:
      for (std::int64_t p = 0; p < n; p += lanes) hn::StoreInterleaved2(load(0, p), load(1, p), d, to + 2 * p);
      return;
    case 3:
      for (std::int64_t p = 0; p < n; p += lanes)
        hn::StoreInterleaved3(load(0, p), load(1, p), load(2, p), d, to + 3 * p);
      return;
    case 4:
      for (std::int64_t p = 0; p < n; p += lanes)
        hn::StoreInterleaved4(load(0, p), load(1, p), load(2, p), load(3, p), d, to + 4 * p);
      return;
    default:
      for (std::int64_t p = 0; p < n; ++p)
        for (std::int64_t r = 0; r < stride; ++r) *to++ = rows[r * kTile + p];
  }
}

// Tiles of one batch and group, one after the other.
template <typename T>
class Tiles {
 public:
  Tiles(const Shape& shape, const Call& call, std::int64_t batch, std::int64_t group, std::byte* workspace)
      : s_(shape), call_(call), batch_(batch), group_(group), pitch_(staged_pitch(shape)) {
    const auto take = [&](std::int64_t elements) {
      auto* at = reinterpret_cast<T*>(workspace);
      workspace += round_up(elements * static_cast<std::int64_t>(sizeof(T)), kLine);
      return at;
    };
    staged_ = take(s_.in * pitch_);
    sums_ = take(sums_size(s_));
    line_ = take(line_size(s_));
    x_ = static_cast<const T*>(call.x) + batch * call.x_stride_b + group * s_.in * call.x_stride_c;
    const std::int64_t stride = s_.layer.problem.stride;
    for (std::int64_t row = 0; row < s_.out * stride; ++row)
      bias_[row] = BiasOf<T>(call, group * s_.out + row / stride);
    for (const std::int64_t row : s_.dead) {
      std::fill_n(sums_ + row * kTile, kTile, bias_[row]);
      ActivateRow(row);
    }
  }

  // Positions [first, first + n) of a row's `positions`.
  void run(std::int64_t first, std::int64_t n, std::int64_t positions) {
    const std::int64_t whole = round_up(n, static_cast<std::int64_t>(hn::Lanes(kD)));
    const T* x = staged_;
    const T* ahead = nullptr;
    std::int64_t pitch = pitch_;
    const std::int64_t sample = s_.window.first_input + first;
    // A row of x that is summed may be read to the end of the tile's last vectors.
    if (call_.x_stride_t == 1 && sample >= 0 && sample + kTile + s_.window.span <= call_.length) {
      x = x_ + sample;
      pitch = call_.x_stride_c;
      if (first + kTile < positions) ahead = x + kTile + s_.window.span;
    } else {
      Stage(sample, kTile + s_.window.span);
    }
    FetchOut(first, n);
    const T* w = static_cast<const T*>(call_.w) + group_ * s_.packed_group;
    for (const Block& block : s_.blocks) {
      Sum(block, whole, x, pitch, ahead, w + block.packed);
      ahead = nullptr;
      if (s_.layer.after == Activation::none) continue;
      for (const std::int64_t row : block.rows) ActivateRow(row);
    }
    for (std::int64_t channel = 0; channel < s_.out; ++channel) Store(channel, first, n, whole);
  }

 private:
  static constexpr hn::CappedTag<T, 16> kD{};

  void Stage(std::int64_t sample, std::int64_t width) {
    const std::int64_t begin = std::clamp<std::int64_t>(-sample, 0, width);
    const std::int64_t end = std::clamp<std::int64_t>(call_.length - sample, begin, width);
    for (std::int64_t i = 0; i < s_.in; ++i) {
      T* to = staged_ + i * pitch_;
      std::fill(to, to + begin, T{});
      const T* from = x_ + i * call_.x_stride_c + (sample + begin) * call_.x_stride_t;
      if (end > begin) LoadRow(from, call_.x_stride_t, end - begin, to + begin, Activation::none, T{}, T{});
      std::fill(to + end, to + width, T{});
    }
  }

  void Sum(const Block& block, std::int64_t n, const T* x, std::int64_t pitch, const T* ahead, const T* w) {
    static_assert(kRowsAtOnce <= 8);
    const auto count = static_cast<std::int64_t>(block.rows.size());
    // Where a block's rows are summed in two halves and channels are many, each half fetches half of the lines.
    const bool halves = count > kRowsAtOnce && s_.in >= kManyChannels;
    for (std::int64_t row = 0; row < count; row += kRowsAtOnce) {
      const std::int64_t* rows = block.rows.data() + row;
      switch (std::min<std::int64_t>(count - row, kRowsAtOnce)) {
#define TCONV_ROWS(rows_at_once)                                                                                \
  case rows_at_once:                                                                                            \
    if constexpr ((rows_at_once) <= kRowsAtOnce)                                                                \
      SumPositions<rows_at_once>(kD, n, x, pitch, Ahead<T>{ahead, !halves}, s_.in, block, rows, w + row, bias_, \
                                 sums_);                                                                        \
    break;
        TCONV_ROWS(1)
        TCONV_ROWS(2)
        TCONV_ROWS(3)
        TCONV_ROWS(4)
        TCONV_ROWS(5)
        TCONV_ROWS(6)
        TCONV_ROWS(7)
        TCONV_ROWS(8)
#undef TCONV_ROWS
      }
      if (ahead != nullptr) ahead = halves ? ahead + kLine / static_cast<std::int64_t>(sizeof(T)) : nullptr;
    }
  }

  void ActivateRow(std::int64_t row) {
    const T alpha = AlphaOf<T>(call_.y_alpha, group_ * s_.out + row / s_.layer.problem.stride);
    for (std::int64_t p = 0; p < kTile; p += static_cast<std::int64_t>(hn::Lanes(kD))) {
      T* at = sums_ + row * kTile + p;
      hn::StoreU(
          Activate(kD, hn::LoadU(kD, at), s_.layer.after, static_cast<T>(s_.layer.after_parameter), hn::Set(kD, alpha)),
          kD, at);
    }
  }

  // Where the sums of n positions will go, so that it is there when they are.
  void FetchOut(std::int64_t first, std::int64_t n) {
    const std::int64_t stride = s_.layer.problem.stride;
    const std::int64_t t = (s_.window.first_position + first) * stride - s_.layer.problem.padding;
    const std::int64_t begin = std::clamp<std::int64_t>(t, 0, call_.out_length);
    const std::int64_t end = std::clamp<std::int64_t>(t + n * stride, begin, call_.out_length);
    const T* y = static_cast<const T*>(call_.y) + batch_ * call_.y_stride_b + group_ * s_.out * call_.y_stride_c;
    for (std::int64_t channel = 0; channel < s_.out; ++channel, y += call_.y_stride_c)
      for (std::int64_t i = begin; i < end; i += kLine / static_cast<std::int64_t>(sizeof(T))) hwy::Prefetch(y + i);
  }

  // A channel's sums at n positions, `whole` with those that only fill vectors, to y.
  void Store(std::int64_t channel, std::int64_t first, std::int64_t n, std::int64_t whole) {
    const std::int64_t stride = s_.layer.problem.stride;
    const T* rows = sums_ + channel * stride * kTile;
    T* y = static_cast<T*>(call_.y) + batch_ * call_.y_stride_b + (group_ * s_.out + channel) * call_.y_stride_c;
    const std::int64_t t = (s_.window.first_position + first) * stride - s_.layer.problem.padding;
    const std::int64_t begin = std::clamp<std::int64_t>(t, 0, call_.out_length);
    const std::int64_t end = std::clamp<std::int64_t>(t + n * stride, begin, call_.out_length);
    if (t >= 0 && t + whole * stride <= end) return WeaveRows(kD, rows, stride, whole, y + t);
    WeaveRows(kD, rows, stride, whole, line_);
    CopyRow(line_ + (begin - t), end - begin, y + begin);
  }

  const Shape& s_;
  const Call& call_;
  std::int64_t batch_, group_, pitch_;
  const T* x_;
  T* staged_;
  T* sums_;
  T* line_;
  T bias_[kMostRows];
};

template <typename T>
void RunTyped(const Shape& s, const Call& call, const Threads& threads, Workspace workspace) {
  const std::int64_t groups = s.layer.problem.groups, positions = s.window.positions(call.length);
  const std::int64_t tiles = (positions + kTile - 1) / kTile;
  // Four tasks a thread even out what else runs on its core.
  const std::int64_t each =
      std::clamp<std::int64_t>(tiles * groups * call.batch / (std::int64_t{4} * threads.count), 1, kMostTiles);
  const std::int64_t strips = (tiles + each - 1) / each;
  parallel_for(threads, call.batch * groups * strips, [&](std::int64_t task, int thread) {
    const std::int64_t strip = task % strips, group = task / strips % groups, batch = task / strips / groups;
    Tiles<T> run(s, call, batch, group, workspace.of(thread));
    const std::int64_t last = std::min(positions, (strip + 1) * each * kTile);
    for (std::int64_t first = strip * each * kTile; first < last; first += kTile)
      run.run(first, std::min(kTile, last - first), positions);
  });
}

void FewRowsRun(const Shape& s, const Call& call, const Threads& threads, Workspace workspace) {
  WithSums(s.layer.problem.arithmetic, [&]<typename T>() { RunTyped<T>(s, call, threads, workspace); });
}

template <typename T>
void PackTyped(const Shape& s, const Pack& call) {
  const std::int64_t stride = s.layer.problem.stride;
  T* to = static_cast<T*>(call.packed);
  for (std::int64_t group = 0; group < s.layer.problem.groups; ++group) {
    for (const Block& block : s.blocks) {
      for (std::int64_t in = 0; in < s.in; ++in) {
        const T* w = static_cast<const T*>(call.w) + (group * s.in + in) * call.stride_in;
        for (std::size_t j = 0; j < block.offsets.size(); ++j) {
          for (std::size_t r = 0; r < block.rows.size(); ++r) {
            const std::int64_t k = block.first_k[r] + static_cast<std::int64_t>(j) * s.k_step;
            *to++ = w[block.rows[r] / stride * call.stride_out + k * call.stride_k];
          }
        }
      }
    }
  }
}

void FewRowsPack(const Shape& s, const Pack& call) {
  WithSums(s.layer.problem.arithmetic, [&]<typename T>() { PackTyped<T>(s, call); });
}

}  // namespace tconv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tconv::cpu {
namespace {

HWY_EXPORT(FewRowsRun);
HWY_EXPORT(FewRowsPack);

using few_rows::Block;
using few_rows::Shape;

Shape shape_of(const Layer& layer) {
  const Problem& p = layer.problem;
  Shape s{.layer = layer, .window = Window(p), .in = p.c_in / p.groups, .out = p.c_out / p.groups};
  const Phases& phases = s.window.phases;
  for (std::int64_t row = 0; row < s.out * p.stride; ++row) {
    const Phase phase = phases.phase(row % p.stride);
    if (phase.dead()) {
      s.dead.push_back(row);
      continue;
    }
    s.k_step = phase.k_step;
    std::vector<std::int64_t> offsets = s.window.offsets(phase);
    auto block = std::ranges::find_if(
        s.blocks, [&](const Block& one) { return one.rows.size() < few_rows::kBlock && one.offsets == offsets; });
    if (block == s.blocks.end()) {
      s.blocks.emplace_back().offsets = std::move(offsets);
      block = s.blocks.end() - 1;
    }
    block->rows.push_back(row);
    block->first_k.push_back(phase.first_k);
  }
  for (Block& block : s.blocks) {
    block.packed = s.packed_group;
    s.packed_group += s.in * static_cast<std::int64_t>(block.offsets.size() * block.rows.size());
  }
  return s;
}

class FewRows final : public Kernel {
 public:
  explicit FewRows(const Layer& layer) : shape_(shape_of(layer)) {}

  [[nodiscard]] std::int64_t packed_bytes() const override {
    return shape_.layer.problem.groups * shape_.packed_group * sum_bytes(shape_.layer.problem.arithmetic);
  }
  void pack(const Pack& call, const Threads&) const override { HWY_DYNAMIC_DISPATCH(FewRowsPack)(shape_, call); }
  [[nodiscard]] std::int64_t workspace_bytes(const Extent&) const override {
    constexpr std::int64_t kParts = 3;
    const std::int64_t elements = shape_.in * staged_pitch(shape_) + sums_size(shape_) + line_size(shape_);
    return elements * sum_bytes(shape_.layer.problem.arithmetic) + kParts * few_rows::kLine;
  }
  void run(const Call& call, const Threads& threads, Workspace workspace) const override {
    HWY_DYNAMIC_DISPATCH(FewRowsRun)(shape_, call, threads, workspace);
  }
  [[nodiscard]] std::string explain(const Extent& extent) const override {
    const Problem& p = shape_.layer.problem;
    return fmt::format("{} positions of {} rows in {} blocks", extent.batch * shape_.window.positions(extent.length),
                       shape_.out * p.stride, shape_.blocks.size());
  }

 private:
  Shape shape_;
};

}  // namespace

const Solver kFewRows{
    .name = "few_rows",
    .refuse = [](const Layer& layer) -> std::optional<std::string> {
      const Problem& p = layer.problem;
      const std::int64_t out = p.c_out / p.groups;
      if (bytes_per_element(p.arithmetic) == 2 || layer.before != Activation::none)
        return "reads x in place, not of two bytes nor to be activated";
      if (p.stride > few_rows::kMostRows || out > few_rows::kMostRows / p.stride)
        return fmt::format("sums at most {} rows, output channels of a group times phases", few_rows::kMostRows);
      return std::nullopt;
    },
    .make = [](const Layer& layer) -> std::unique_ptr<Kernel> { return std::make_unique<FewRows>(layer); },
};

}  // namespace tconv::cpu
#endif
