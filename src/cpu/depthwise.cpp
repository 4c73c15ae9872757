// One input channel a group and few phases: positions in lanes, every input read once, every output written once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/depthwise.cpp"
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "cpu/rows-inl.h"
// clang-format on

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include "cpu/solver.hpp"
#include "cpu/threads.hpp"

#ifndef TCONV_CPU_DEPTHWISE_ONCE
#define TCONV_CPU_DEPTHWISE_ONCE
namespace tconv::cpu::depthwise {

inline constexpr std::int64_t kChunk = 1024;   // positions of one row at a time
inline constexpr std::int64_t kMostRows = 32;  // of a block
inline constexpr std::int64_t kMaxStride = 8;  // phases that are woven into a row of y
inline constexpr std::int64_t kWoven = 4;      // phases that are woven in registers
inline constexpr std::int64_t kSlack = 128;    // what vectors may read or write behind a chunk
inline constexpr std::int64_t kTask = 32768;   // outputs that are worth a task

struct Tap {
  std::int64_t k, offset;  // the offset is relative to the layer's smallest
};

struct Shape {
  Layer layer;
  Window window;
  std::int64_t out = 0;                     // channels of a group
  std::vector<std::vector<Tap>> taps = {};  // by residue
  // Woven: at most kWoven residues, tap j of each at first_offset - j*offset_step; each has `common` taps and the first
  // `more` have one besides. Weights are packed tap by tap then, and in w's own order otherwise.
  bool woven = false;
  std::int64_t common = 0, more = 0;
  std::int64_t first_offset = 0, offset_step = 0;
};

// Neighbouring positions of every row: a vector at least, of which the last may take some positions again. Their sums
// go to y, or by way of a line where y crops them or holds them as another type.
struct Strip {
  std::int64_t sample = 0;  // under the first position's smallest offset
  std::int64_t n = 0;       // positions
  std::int64_t t = 0;       // of y, for the first sum that it takes
  // By way of a line: sums that y crops before that one, and those that it takes; else 0.
  std::int64_t skip = 0, outputs = 0;
};

// Which samples there are, as masks: all bits are set in an element for each. Of a long row only so much is there as
// vectors at its ends read.
template <typename T>
struct Ends {
  const T* masks;
  std::int64_t length, before, left;  // samples of x; masks before the first sample's; samples that are left out
  // Of the vectors that read from a sample on.
  [[nodiscard]] HWY_INLINE const T* at(std::int64_t sample) const {
    return masks + before + (sample < 0 ? sample : (sample < length ? sample : length) - left);
  }
};

// Rows whose sums are made together, all alike.
template <typename T>
struct Block {
  std::int64_t rows = 0;
  const T* x = nullptr;  // under a strip's first position's smallest offset
  std::int64_t x_pitch = 0;
  std::int64_t out = 1, left = 1;  // rows of a channel of x, and those of the first one
  const T* w = nullptr;
  const T* bias = nullptr;  // of each row
  const T* alpha = nullptr;
  T* to = nullptr;
  std::int64_t to_pitch = 0;
};

inline std::int64_t staged(const Shape& s) { return kChunk + s.window.span + kSlack; }
inline std::int64_t line(const Shape& s) { return (kChunk + kSlack) * s.layer.problem.stride; }
inline std::int64_t masks(const Shape& s) { return 4 * (s.window.span + kSlack); }

}  // namespace tconv::cpu::depthwise
#endif

HWY_BEFORE_NAMESPACE();
namespace tconv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace depthwise;  // NOLINT(google-build-using-namespace)

// A vector of positions of each of kPhases residues, activated and woven.
template <int kPhases, class D, class V, typename T = hn::TFromD<D>>
HWY_INLINE void StoreWoven(D d, const Layer& layer, T alpha, V v0, [[maybe_unused]] V v1, [[maybe_unused]] V v2,
                           [[maybe_unused]] V v3, T* HWY_RESTRICT to) {
  if (layer.after != Activation::none) {
    const auto parameter = static_cast<T>(layer.after_parameter);
    const auto alphas = hn::Set(d, alpha);
    v0 = Activate(d, v0, layer.after, parameter, alphas);
    if constexpr (kPhases > 1) v1 = Activate(d, v1, layer.after, parameter, alphas);
    if constexpr (kPhases > 2) v2 = Activate(d, v2, layer.after, parameter, alphas);
    if constexpr (kPhases > 3) v3 = Activate(d, v3, layer.after, parameter, alphas);
  }
  if constexpr (kPhases == 1) hn::StoreU(v0, d, to);
  if constexpr (kPhases == 2) hn::StoreInterleaved2(v0, v1, d, to);
  if constexpr (kPhases == 3) hn::StoreInterleaved3(v0, v1, v2, d, to);
  if constexpr (kPhases == 4) hn::StoreInterleaved4(v0, v1, v2, v3, d, to);
}

// A vector of samples, those that do not exist being zero.
template <bool kEdge, class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadSamples(D d, const T* x, const T* masks) {
  const auto v = hn::LoadU(d, x);
  if constexpr (kEdge) return hn::And(v, hn::LoadU(d, masks));
  return v;
}

// Woven residues: kVectors vectors of positions, which share a weight's broadcast; x is under the first one's smallest
// offset. kCommon: the common taps, where they are known to be all; else 0. kEdge: only samples that `masks` has exist.
template <int kPhases, int kCommon, int kMore, int kVectors, bool kEdge, class D, typename T = hn::TFromD<D>>
HWY_INLINE void WeaveVectors(D d, const Shape& s, const T* HWY_RESTRICT x, const T* HWY_RESTRICT masks,
                             const T* HWY_RESTRICT w, T bias, T alpha, T* HWY_RESTRICT to) {
  static_assert(kVectors == 1 || (kVectors == 2 && !kEdge));
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto first = hn::Set(d, bias);
  auto a0 = first, a1 = first, a2 = first, a3 = first, b0 = first, b1 = first, b2 = first, b3 = first;
  std::int64_t at = s.first_offset;
#define TCONV_TAP(r, residues)                                      \
  if (kPhases > (r) && (r) < (residues)) {                          \
    const auto factor = hn::Set(d, w[(r)]);                         \
    a##r = AddProduct(v, factor, a##r);                             \
    if constexpr (kVectors > 1) b##r = AddProduct(u, factor, b##r); \
  }
  const std::int64_t common = kCommon > 0 ? kCommon : s.common;
  for (std::int64_t j = 0; j < common; ++j, at -= s.offset_step, w += kPhases) {
    const auto v = LoadSamples<kEdge>(d, x + at, masks + at);
    const auto u = kVectors > 1 ? hn::LoadU(d, x + at + lanes) : v;
    TCONV_TAP(0, kPhases)
    TCONV_TAP(1, kPhases)
    TCONV_TAP(2, kPhases)
    TCONV_TAP(3, kPhases)
  }
  const std::int64_t more = kCommon > 0 ? kMore : s.more;
  if (kPhases > 1 && more > 0) {
    const auto v = LoadSamples<kEdge>(d, x + at, masks + at);
    const auto u = kVectors > 1 ? hn::LoadU(d, x + at + lanes) : v;
    TCONV_TAP(0, more)
    TCONV_TAP(1, more)
    TCONV_TAP(2, more)
  }
#undef TCONV_TAP
  StoreWoven<kPhases>(d, s.layer, alpha, a0, a1, a2, a3, to);
  if constexpr (kVectors > 1) StoreWoven<kPhases>(d, s.layer, alpha, b0, b1, b2, b3, to + kPhases * lanes);
}

template <int kPhases, int kCommon, int kMore, class D, typename T = hn::TFromD<D>>
void WeaveTaps(D d, const Shape& s, const Strip& strip, const Ends<T>& ends, const Block<T>& block) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t n = strip.n, last = n - lanes;
  // Positions [begin, end) read samples that there are.
  const std::int64_t begin = -strip.sample, end = std::min(n, ends.length - s.window.span - strip.sample);
  const std::int64_t first = std::clamp<std::int64_t>(round_up(std::max<std::int64_t>(begin, 0), lanes), 0, last);
  const T* const before = ends.at(strip.sample);
  const T* x = block.x;
  const T* w = block.w;
  T* to = block.to;
  std::int64_t left = block.left;
  for (std::int64_t row = 0; row < block.rows; ++row, w += s.layer.problem.kernel, to += block.to_pitch) {
    const T bias = block.bias[row], alpha = block.alpha[row];
    std::int64_t i = 0;
    for (; i < first; i += lanes)
      WeaveVectors<kPhases, kCommon, kMore, 1, true>(d, s, x + i, before + i, w, bias, alpha, to + kPhases * i);
    if (i >= begin) {
      for (; i + 2 * lanes <= end; i += 2 * lanes)
        WeaveVectors<kPhases, kCommon, kMore, 2, false>(d, s, x + i, x, w, bias, alpha, to + kPhases * i);
    }
    for (; i < n; i += lanes) {
      i = HWY_MIN(i, last);
      if (i >= begin && i + lanes <= end) {
        WeaveVectors<kPhases, kCommon, kMore, 1, false>(d, s, x + i, x, w, bias, alpha, to + kPhases * i);
      } else {
        WeaveVectors<kPhases, kCommon, kMore, 1, true>(d, s, x + i, ends.at(strip.sample + i), w, bias, alpha,
                                                       to + kPhases * i);
      }
    }
    if (--left == 0) left = block.out, x += block.x_pitch;
  }
}

// Kernels of two strides, or of three taps for two phases, are most there are: their weights stay in registers.
template <int kPhases, class D, typename T = hn::TFromD<D>>
HWY_INLINE void Weave(D d, const Shape& s, const Strip& strip, const Ends<T>& ends, const Block<T>& block) {
  if (s.common == 2 && s.more == 0) return WeaveTaps<kPhases, 2, 0>(d, s, strip, ends, block);
  if (kPhases == 2 && s.common == 1 && s.more == 1) return WeaveTaps<kPhases, 1, 1>(d, s, strip, ends, block);
  WeaveTaps<kPhases, 0, 0>(d, s, strip, ends, block);
}

// Any taps, a residue at a time.
template <class D, typename T = hn::TFromD<D>>
void Scatter(D d, const Shape& s, const Strip& strip, const Ends<T>& ends, const Block<T>& block) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t stride = s.layer.problem.stride;
  HWY_ALIGN T phase[hn::MaxLanes(hn::ScalableTag<T>())];
  const T* x = block.x;
  const T* w = block.w;
  T* to = block.to;
  std::int64_t left = block.left;
  for (std::int64_t row = 0; row < block.rows; ++row, w += s.layer.problem.kernel, to += block.to_pitch) {
    const T bias = block.bias[row], alpha = block.alpha[row];
    for (std::size_t r = 0; r < s.taps.size(); ++r) {
      for (std::int64_t next = 0; next < strip.n; next += lanes) {
        const std::int64_t i = HWY_MIN(next, strip.n - lanes), sample = strip.sample + i;
        auto sum = hn::Set(d, bias);
        if (sample >= 0 && sample + s.window.span + lanes <= ends.length) {
          for (const Tap& tap : s.taps[r])
            sum = AddProduct(hn::LoadU(d, x + i + tap.offset), hn::Set(d, w[tap.k]), sum);
        } else {
          const T* masks = ends.at(sample);
          for (const Tap& tap : s.taps[r])
            sum = AddProduct(hn::And(hn::LoadU(d, x + i + tap.offset), hn::LoadU(d, masks + tap.offset)),
                             hn::Set(d, w[tap.k]), sum);
        }
        sum = Activate(d, sum, s.layer.after, static_cast<T>(s.layer.after_parameter), hn::Set(d, alpha));
        hn::StoreU(sum, d, phase);
        T* out = to + i * stride + static_cast<std::int64_t>(r);
        for (std::int64_t j = 0; j < lanes; ++j) out[j * stride] = phase[j];
      }
    }
    if (--left == 0) left = block.out, x += block.x_pitch;
  }
}

// A strip of rows.
template <class D, typename T = hn::TFromD<D>>
void Sums(D d, const Shape& s, const Strip& strip, const Ends<T>& ends, const Block<T>& block) {
  switch (s.woven ? s.layer.problem.stride : 0) {
    case 1:
      return Weave<1>(d, s, strip, ends, block);
    case 2:
      return Weave<2>(d, s, strip, ends, block);
    case 3:
      return Weave<3>(d, s, strip, ends, block);
    case 4:
      return Weave<4>(d, s, strip, ends, block);
    default:
      return Scatter(d, s, strip, ends, block);
  }
}

// Blocks of rows, a chunk of positions at a time. What a step writes for one row the next reads when the others are
// written too: a processor that reads what it has just written, in other pieces, waits.
template <typename S>
class Rows {
 public:
  using T = SumOf<S>;

  Rows(const Shape& s, const Call& call, std::byte* workspace)
      : s_(s),
        call_(call),
        in_place_(std::is_same_v<S, T> && call.x_stride_t == 1 && s.layer.before == Activation::none),
        staged_(reinterpret_cast<T*>(workspace)),
        line_(staged_ + staged(s)),
        narrow_(reinterpret_cast<S*>(line_ + line(s))) {
    T* masks = line_ + 2 * line(s);
    const std::int64_t edge = s.window.span + Lanes(), there = std::min<std::int64_t>(call.length, 2 * edge);
    ends_ = {.masks = masks, .length = call.length, .before = edge, .left = call.length - there};
    std::memset(masks, 0, static_cast<std::size_t>(2 * edge + there) * sizeof(T));
    std::memset(masks + edge, 0xff, static_cast<std::size_t>(there) * sizeof(T));
  }

  // Rows of a chunk of so many positions that are a block.
  static std::int64_t most(const Shape& s, std::int64_t positions) {
    return std::clamp<std::int64_t>(staged(s) / (positions + s.window.span + 2 * Lanes()), 1, kMostRows);
  }

  // Positions [from, to), at most kChunk, of channels [channel, channel + rows), at most `most`.
  void run(std::int64_t batch, std::int64_t channel, std::int64_t rows, std::int64_t from, std::int64_t to) {
    Cut(from, to);
    const Strip& behind = strips_[count_ - 1];
    const std::int64_t sample = strips_[0].sample, end = behind.sample + behind.n + s_.window.span;
    const std::int64_t first = channel / s_.out, last = (channel + rows - 1) / s_.out;  // of x
    const S* x = static_cast<const S*>(call_.x) + batch * call_.x_stride_b + first * call_.x_stride_c;
    const T* in = nullptr;
    Block<T> block;
    block.rows = rows;
    block.x_pitch = call_.x_stride_c;
    block.out = s_.out;
    block.left = s_.out - channel % s_.out;
    block.w = static_cast<const T*>(call_.w) + channel * s_.layer.problem.kernel;
    block.bias = bias_;
    block.alpha = alpha_;
    if constexpr (std::is_same_v<S, T>) {
      if (Readable(first, last, sample, end)) in = x + sample;
    }
    if (in == nullptr) {
      Stage(x, first, last, sample, end);
      in = staged_;
      block.x_pitch = end - sample;
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      bias_[r] = BiasOf<S>(call_, channel + r);
      alpha_[r] = AlphaOf<T>(call_.y_alpha, channel + r);
    }
    S* const y = static_cast<S*>(call_.y) + batch * call_.y_stride_b + channel * call_.y_stride_c;
    for (std::int64_t i = 0; i < count_; ++i) {
      const Strip& strip = strips_[i];
      block.x = in + (strip.sample - sample);
      if constexpr (std::is_same_v<S, T>) {
        if (strip.outputs == 0) {
          block.to = y + strip.t;
          block.to_pitch = call_.y_stride_c;
          Sums(kD, s_, strip, ends_, block);
          continue;
        }
      }
      block.to = line_;
      block.to_pitch = strip.n * s_.layer.problem.stride;
      Sums(kD, s_, strip, ends_, block);
      const S* from_line = Narrow(line_, rows * block.to_pitch, narrow_) + strip.skip;
      for (std::int64_t r = 0; r < rows; ++r)
        CopyRow(from_line + r * block.to_pitch, strip.outputs, y + r * call_.y_stride_c + strip.t);
    }
  }

 private:
  static constexpr hn::ScalableTag<T> kD{};
  static std::int64_t Lanes() { return static_cast<std::int64_t>(hn::Lanes(kD)); }

  // The first output of a position, were y not cropped.
  [[nodiscard]] std::int64_t Output(std::int64_t position) const {
    return (s_.window.first_position + position) * s_.layer.problem.stride - s_.layer.problem.padding;
  }

  // Makes strips of positions [from, to): only the first and the last of a row can be cropped.
  void Cut(std::int64_t from, std::int64_t to) {
    count_ = 0;
    const std::int64_t first = from + (Output(from) < 0 ? 1 : 0), last = to - (Output(to) > call_.out_length ? 1 : 0);
    if (!std::is_same_v<S, T> || last - first < Lanes()) return AddLined(from, to);
    if (first > from) AddLined(from, first);
    strips_[count_++] = {.sample = s_.window.first_input + first, .n = last - first, .t = Output(first)};
    if (last < to) AddLined(last, to);
  }

  void AddLined(std::int64_t from, std::int64_t to) {
    const std::int64_t t = Output(from);
    Strip strip{.sample = s_.window.first_input + from, .n = round_up(to - from, Lanes())};
    strip.t = std::clamp<std::int64_t>(t, 0, call_.out_length);
    strip.skip = strip.t - t;
    strip.outputs = std::clamp<std::int64_t>(Output(to), strip.t, call_.out_length) - strip.t;
    strips_[count_++] = strip;
  }

  // Whether samples [begin, end) of some channels' rows, be there such or not, can be read where x is: rows that lie
  // behind each other are one.
  [[nodiscard]] bool Readable(std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) const {
    if (!in_place_) return false;
    if (call_.x_stride_c != call_.length) return begin >= 0 && end <= call_.length;
    return first * call_.length + begin >= 0 && last * call_.length + end <= s_.layer.problem.c_in * call_.length;
  }

  // What there is of samples [begin, end) of channels, as sums hold it, activated.
  void Stage(const S* x, std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) {
    const std::int64_t from = std::clamp<std::int64_t>(begin, 0, call_.length);
    const std::int64_t n = std::clamp<std::int64_t>(end, from, call_.length) - from;
    T* to = staged_ + (from - begin);
    x += from * call_.x_stride_t;
    for (std::int64_t channel = first; channel <= last; ++channel, x += call_.x_stride_c, to += end - begin)
      LoadRow(x, call_.x_stride_t, n, to, s_.layer.before, static_cast<T>(s_.layer.before_parameter),
              AlphaOf<T>(call_.x_alpha, channel));
  }

  const Shape& s_;
  const Call& call_;
  bool in_place_;
  T* staged_;
  T* line_;
  S* narrow_;
  Ends<T> ends_;
  T bias_[kMostRows], alpha_[kMostRows];
  Strip strips_[3];
  std::int64_t count_ = 0;
};

template <typename S>
void RunTyped(const Shape& s, const Call& call, std::int64_t positions, const Threads& threads, Workspace workspace) {
  const Problem& p = s.layer.problem;
  const std::int64_t chunks = (positions + kChunk - 1) / kChunk;
  const std::int64_t rows = Rows<S>::most(s, std::min<std::int64_t>(positions, kChunk));
  const std::int64_t blocks = (p.c_out + rows - 1) / rows;  // of a batch
  const std::int64_t units = call.batch * blocks * chunks;
  const std::int64_t outputs = std::min<std::int64_t>(positions, kChunk) * p.stride * rows;
  const std::int64_t each = std::max<std::int64_t>(1, kTask / outputs);  // units a task
  parallel_for(threads, (units + each - 1) / each, [&](std::int64_t task, int thread) {
    Rows<S> run(s, call, workspace.of(thread));
    const std::int64_t last = std::min(units, (task + 1) * each);
    for (std::int64_t unit = task * each; unit < last; ++unit) {
      const std::int64_t from = unit % chunks * kChunk, channel = unit / chunks % blocks * rows;
      run.run(unit / chunks / blocks, channel, std::min(rows, p.c_out - channel), from,
              std::min(positions, from + kChunk));
    }
  });
}

void DepthwiseRun(const Shape& s, const Call& call, const Threads& threads, Workspace workspace) {
  WithStorage(s.layer.problem.arithmetic,
              [&]<typename S>() { RunTyped<S>(s, call, s.window.positions(call.length), threads, workspace); });
}

template <typename S>
void PackTyped(const Shape& s, const Pack& call) {
  using T = SumOf<S>;
  const Problem& p = s.layer.problem;
  T* to = static_cast<T*>(call.packed);
  for (std::int64_t channel = 0; channel < p.c_out; ++channel) {
    const S* from =
        static_cast<const S*>(call.w) + channel / s.out * call.stride_in + channel % s.out * call.stride_out;
    const auto move = [&](std::int64_t k) { LoadPlain(from + k * call.stride_k, 1, to++); };
    for (std::size_t j = 0; s.woven && j < s.taps[0].size(); ++j) {
      for (const std::vector<Tap>& taps : s.taps)
        if (j < taps.size()) move(taps[j].k);
    }
    for (std::int64_t k = 0; !s.woven && k < p.kernel; ++k) move(k);
  }
}

void DepthwisePack(const Shape& s, const Pack& call) {
  WithStorage(s.layer.problem.arithmetic, [&]<typename S>() { PackTyped<S>(s, call); });
}

}  // namespace tconv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tconv::cpu {
namespace {

HWY_EXPORT(DepthwiseRun);
HWY_EXPORT(DepthwisePack);

using depthwise::Shape;

Shape shape_of(const Layer& layer) {
  const Problem& p = layer.problem;
  Shape s{.layer = layer, .window = Window(p), .out = p.c_out / p.groups};
  const Phases& phases = s.window.phases;
  for (std::int64_t r = 0; r < phases.count(); ++r) {
    const Phase phase = phases.phase(r);
    std::vector<depthwise::Tap>& taps = s.taps.emplace_back();
    for (std::int64_t j = 0; j < phase.count; ++j)
      taps.push_back({phase.tap(j).k, phase.tap(j).offset - phases.min_offset()});
  }
  const std::size_t most = s.taps[0].size(), least = s.taps.back().size();
  s.first_offset = most > 0 ? s.taps[0][0].offset : 0;
  s.offset_step = phases.phase(0).offset_step;
  s.common = static_cast<std::int64_t>(least);
  s.more = most > least ? std::ranges::count(s.taps, most, &std::vector<depthwise::Tap>::size) : 0;
  s.woven = p.stride <= depthwise::kWoven && most <= least + 1 &&
            std::ranges::is_sorted(s.taps, std::greater<>(), &std::vector<depthwise::Tap>::size) &&
            std::ranges::all_of(s.taps, [&](const std::vector<depthwise::Tap>& taps) {
              return std::ranges::equal(taps, std::span(s.taps[0]).first(taps.size()), {}, &depthwise::Tap::offset,
                                        &depthwise::Tap::offset);
            });
  return s;
}

class Depthwise final : public Kernel {
 public:
  explicit Depthwise(const Layer& layer) : shape_(shape_of(layer)) {}

  [[nodiscard]] std::int64_t packed_bytes() const override {
    return shape_.layer.problem.c_out * shape_.layer.problem.kernel * sum_bytes(shape_.layer.problem.arithmetic);
  }
  void pack(const Pack& call, const Threads&) const override { HWY_DYNAMIC_DISPATCH(DepthwisePack)(shape_, call); }
  [[nodiscard]] std::int64_t workspace_bytes(const Extent&) const override {
    return (depthwise::staged(shape_) + 2 * depthwise::line(shape_) + depthwise::masks(shape_)) *
           sum_bytes(shape_.layer.problem.arithmetic);
  }
  void run(const Call& call, const Threads& threads, Workspace workspace) const override {
    HWY_DYNAMIC_DISPATCH(DepthwiseRun)(shape_, call, threads, workspace);
  }
  [[nodiscard]] std::string explain(const Extent& extent) const override {
    return fmt::format("{} rows of {} positions, {} phases woven{}", extent.batch * shape_.layer.problem.c_out,
                       shape_.window.positions(extent.length), shape_.taps.size(),
                       shape_.woven ? " in registers" : " in memory");
  }

 private:
  Shape shape_;
};

}  // namespace

const Solver kDepthwise{
    .name = "depthwise",
    .refuse = [](const Layer& layer) -> std::optional<std::string> {
      const Problem& p = layer.problem;
      if (p.c_in != p.groups) return fmt::format("sums over {} input channels", p.c_in / p.groups);
      if (p.stride > depthwise::kMaxStride)
        return fmt::format("weaves at most {} phases, not {}", depthwise::kMaxStride, p.stride);
      return std::nullopt;
    },
    .make = [](const Layer& layer) -> std::unique_ptr<Kernel> { return std::make_unique<Depthwise>(layer); },
};

}  // namespace tconv::cpu
#endif
