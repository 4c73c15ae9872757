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
#include <functional>
#include <span>
#include <vector>

#include "cpu/solver.hpp"
#include "cpu/threads.hpp"

#ifndef TCONV_CPU_DEPTHWISE_ONCE
#define TCONV_CPU_DEPTHWISE_ONCE
namespace tconv::cpu::depthwise {

inline constexpr std::int64_t kChunk = 1024;     // positions of one row at a time
inline constexpr std::int64_t kMaxStride = 8;    // phases that are woven into a row of y
inline constexpr std::int64_t kWoven = 4;        // phases that are woven in registers
inline constexpr std::int64_t kSlack = 128;      // what vectors may read or write behind a chunk
inline constexpr std::int64_t kLeastInside = 4;  // vectors of positions that are worth ends of their own
inline constexpr std::int64_t kTask = 32768;     // outputs that are worth a task

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

// Some neighbouring positions of any row, by copies of x and y.
struct Piece {
  std::int64_t whole = 0;                      // positions, whole vectors; 0: none
  std::int64_t width = 0, begin = 0, end = 0;  // of x under them: elements, of which [begin, end) exist
  std::int64_t sample = 0;                     // of x at `begin`
  std::int64_t skip = 0, outputs = 0, t = 0;   // sums that y crops; that it takes, from t on
};

// A part of any row: positions that need copies, those whose inputs and outputs all exist, and such that need copies.
struct Chunk {
  Piece head, tail;
  std::int64_t positions = 0;      // between them, whole vectors
  std::int64_t sample = 0, t = 0;  // of x under the first of these; the first's first output
};

inline std::int64_t staged(const Shape& s) { return kChunk + s.window.span + kSlack; }
inline std::int64_t line(const Shape& s) { return (kChunk + kSlack) * s.layer.problem.stride; }

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

// Woven residues: kVectors vectors of positions, which share a weight's broadcast. kCommon: the common taps, where they
// are known to be all; else 0.
template <int kPhases, int kCommon, int kVectors, class D, typename T = hn::TFromD<D>>
HWY_INLINE void WeaveVectors(D d, const Shape& s, const T* HWY_RESTRICT x, const T* HWY_RESTRICT w, T bias, T alpha,
                             T* HWY_RESTRICT to) {
  static_assert(kVectors == 1 || kVectors == 2);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto first = hn::Set(d, bias);
  auto a0 = first, a1 = first, a2 = first, a3 = first, b0 = first, b1 = first, b2 = first, b3 = first;
  x += s.first_offset;
#define TCONV_TAP(r, residues)                                      \
  if (kPhases > (r) && (r) < (residues)) {                          \
    const auto factor = hn::Set(d, w[(r)]);                         \
    a##r = AddProduct(v, factor, a##r);                             \
    if constexpr (kVectors > 1) b##r = AddProduct(u, factor, b##r); \
  }
  const std::int64_t common = kCommon > 0 ? kCommon : s.common;
  for (std::int64_t j = 0; j < common; ++j, x -= s.offset_step, w += kPhases) {
    const auto v = hn::LoadU(d, x), u = kVectors > 1 ? hn::LoadU(d, x + lanes) : v;
    TCONV_TAP(0, kPhases)
    TCONV_TAP(1, kPhases)
    TCONV_TAP(2, kPhases)
    TCONV_TAP(3, kPhases)
  }
  if (kCommon == 0 && kPhases > 1 && s.more > 0) {
    const auto v = hn::LoadU(d, x), u = kVectors > 1 ? hn::LoadU(d, x + lanes) : v;
    TCONV_TAP(0, s.more)
    TCONV_TAP(1, s.more)
    TCONV_TAP(2, s.more)
  }
#undef TCONV_TAP
  StoreWoven<kPhases>(d, s.layer, alpha, a0, a1, a2, a3, to);
  if constexpr (kVectors > 1) StoreWoven<kPhases>(d, s.layer, alpha, b0, b1, b2, b3, to + kPhases * lanes);
}

template <int kPhases, int kCommon, class D, typename T = hn::TFromD<D>>
HWY_INLINE void WeaveTaps(D d, const Shape& s, const T* HWY_RESTRICT x, const T* HWY_RESTRICT w, T bias, T alpha,
                          std::int64_t n, T* HWY_RESTRICT to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes)
    WeaveVectors<kPhases, kCommon, 2>(d, s, x + i, w, bias, alpha, to + kPhases * i);
  if (i < n) WeaveVectors<kPhases, kCommon, 1>(d, s, x + i, w, bias, alpha, to + kPhases * i);
}

// Whole vectors of positions, n of them. Kernels of two strides are most there are: their weights stay in registers.
template <int kPhases, class D, typename T = hn::TFromD<D>>
void Weave(D d, const Shape& s, const T* HWY_RESTRICT x, const T* HWY_RESTRICT w, T bias, T alpha, std::int64_t n,
           T* HWY_RESTRICT to) {
  if (s.common == 2 && s.more == 0) return WeaveTaps<kPhases, 2>(d, s, x, w, bias, alpha, n, to);
  WeaveTaps<kPhases, 0>(d, s, x, w, bias, alpha, n, to);
}

// Any taps, a residue at a time.
template <class D, typename T = hn::TFromD<D>>
void Scatter(D d, const Shape& s, const T* HWY_RESTRICT x, const T* HWY_RESTRICT w, T bias, T alpha, std::int64_t n,
             T* HWY_RESTRICT to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t stride = s.layer.problem.stride;
  HWY_ALIGN T phase[hn::MaxLanes(hn::ScalableTag<T>())];
  for (std::size_t r = 0; r < s.taps.size(); ++r) {
    for (std::int64_t i = 0; i < n; i += lanes) {
      auto sum = hn::Set(d, bias);
      for (const Tap& tap : s.taps[r]) sum = AddProduct(hn::LoadU(d, x + i + tap.offset), hn::Set(d, w[tap.k]), sum);
      sum = Activate(d, sum, s.layer.after, static_cast<T>(s.layer.after_parameter), hn::Set(d, alpha));
      hn::StoreU(sum, d, phase);
      T* at = to + i * stride + static_cast<std::int64_t>(r);
      for (std::int64_t j = 0; j < lanes; ++j) at[j * stride] = phase[j];
    }
  }
}

// n positions of a row, whole vectors of them.
template <class D, typename T = hn::TFromD<D>>
void Sums(D d, const Shape& s, const T* HWY_RESTRICT x, const T* HWY_RESTRICT w, T bias, T alpha, std::int64_t n,
          T* HWY_RESTRICT to) {
  switch (s.woven ? s.layer.problem.stride : 0) {
    case 1:
      return Weave<1>(d, s, x, w, bias, alpha, n, to);
    case 2:
      return Weave<2>(d, s, x, w, bias, alpha, n, to);
    case 3:
      return Weave<3>(d, s, x, w, bias, alpha, n, to);
    case 4:
      return Weave<4>(d, s, x, w, bias, alpha, n, to);
    default:
      return Scatter(d, s, x, w, bias, alpha, n, to);
  }
}

// A call's rows, all alike, in chunks.
class Chunks {
 public:
  // `in_place`: rows of x and y can be read and written as they are.
  Chunks(const Shape& s, const Call& call, std::int64_t positions, std::int64_t lanes, bool in_place)
      : s_(s), call_(call), positions_(positions), lanes_(lanes) {
    const std::int64_t q = s.window.first_position, stride = s.layer.problem.stride, padding = s.layer.problem.padding;
    const std::int64_t first = std::max<std::int64_t>({0, -s.window.first_input, (padding + stride - 1) / stride - q});
    const std::int64_t last =
        std::min(call.length - s.window.span - s.window.first_input, (call.out_length + padding) / stride - q);
    if (in_place && first < kChunk && last - first >= kLeastInside * lanes) first_ = first, last_ = last;
  }

  [[nodiscard]] std::int64_t count() const {
    return std::max<std::int64_t>(1, (positions_ - first_ + kChunk - 1) / kChunk);
  }

  [[nodiscard]] Chunk chunk(std::int64_t number) const {
    const std::int64_t from = number == 0 ? 0 : first_ + number * kChunk;
    const std::int64_t to = std::min(positions_, first_ + (number + 1) * kChunk);
    const std::int64_t first = std::clamp(first_, from, to);
    const std::int64_t inside = std::max<std::int64_t>(std::min(last_, to) - first, 0) / lanes_ * lanes_;
    if (inside == 0) return {.head = piece(from, to), .tail = {}};
    return {.head = piece(from, first),
            .tail = piece(first + inside, to),
            .positions = inside,
            .sample = s_.window.first_input + first,
            .t = output(first)};
  }

 private:
  // The first output of a position, were y not cropped.
  [[nodiscard]] std::int64_t output(std::int64_t position) const {
    return (s_.window.first_position + position) * s_.layer.problem.stride - s_.layer.problem.padding;
  }

  [[nodiscard]] Piece piece(std::int64_t from, std::int64_t to) const {
    if (from == to) return {};
    Piece p{.whole = round_up(to - from, lanes_)};
    p.width = p.whole + s_.window.span;
    const std::int64_t sample = s_.window.first_input + from, t = output(from);
    p.begin = std::clamp<std::int64_t>(-sample, 0, p.width);
    p.end = std::clamp<std::int64_t>(call_.length - sample, p.begin, p.width);
    p.sample = sample + p.begin;
    p.t = std::clamp<std::int64_t>(t, 0, call_.out_length);
    p.skip = p.t - t;
    p.outputs = std::clamp<std::int64_t>(output(to), p.t, call_.out_length) - p.t;
    return p;
  }

  const Shape& s_;
  const Call& call_;
  std::int64_t positions_, lanes_;
  std::int64_t first_ = 0, last_ = 0;  // positions that may be computed in place
};

// Rows of x and y, one after the other. What needs copies is staged at once, but summed and moved to y only when some
// of it has come together: a processor that reads what it has just written, in other pieces, waits.
template <typename S>
class Rows {
 public:
  using T = SumOf<S>;

  Rows(const Shape& s, const Call& call, std::byte* workspace)
      : s_(s),
        call_(call),
        staged_(reinterpret_cast<T*>(workspace)),
        line_(staged_ + staged(s)),
        narrow_(reinterpret_cast<S*>(line_ + line(s))) {}

  // One chunk of a row; what it needs copies for is written by flush() only.
  void run(std::int64_t batch, std::int64_t channel, const Chunk& chunk) {
    const std::int64_t in_channel = channel / s_.out;
    const S* x = static_cast<const S*>(call_.x) + batch * call_.x_stride_b + in_channel * call_.x_stride_c;
    const Row row{.y = static_cast<S*>(call_.y) + batch * call_.y_stride_b + channel * call_.y_stride_c,
                  .w = static_cast<const T*>(call_.w) + channel * s_.layer.problem.kernel,
                  .bias = BiasOf<S>(call_, channel),
                  .alpha = AlphaOf<T>(call_.y_alpha, channel)};
    if (chunk.head.whole > 0) stage(x, in_channel, chunk.head, row);
    if constexpr (std::is_same_v<S, T>) {
      if (chunk.positions > 0)
        Sums(kD, s_, x + chunk.sample, row.w, row.bias, row.alpha, chunk.positions, row.y + chunk.t);
    }
    if (chunk.tail.whole > 0) stage(x, in_channel, chunk.tail, row);
  }

  void flush() {
    for (std::int64_t i = 0; i < count_; ++i) {
      const Copy& c = copy_[i];
      Sums(kD, s_, c.staged, c.row.w, c.row.bias, c.row.alpha, c.piece->whole, c.line);
    }
    for (std::int64_t i = 0; i < count_; ++i) {
      const Copy& c = copy_[i];
      const S* sums = Narrow(c.line, c.piece->whole * s_.layer.problem.stride, narrow_);
      CopyRow(sums + c.piece->skip, c.piece->outputs, c.row.y + c.piece->t);
    }
    count_ = staged_used_ = line_used_ = 0;
  }

 private:
  struct Row {
    S* y;
    const T* w;
    T bias, alpha;
  };
  struct Copy {
    const Piece* piece;
    Row row;
    const T* staged;
    T* line;
  };
  static constexpr std::int64_t kCopies = 16;
  static constexpr hn::ScalableTag<T> kD{};

  // x under a piece with zeros where there is none; writes whole vectors, at most two behind them.
  void stage(const S* x, std::int64_t in_channel, const Piece& piece, const Row& row) {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(kD));
    const std::int64_t outputs = piece.whole * s_.layer.problem.stride;
    if (count_ == kCopies || staged_used_ + piece.width + 2 * lanes > staged(s_) || line_used_ + outputs > line(s_))
      flush();
    T* to = staged_ + staged_used_;
    for (std::int64_t i = 0; i < piece.begin; i += lanes) hn::StoreU(hn::Zero(kD), kD, to + i);
    for (std::int64_t i = piece.end; i < piece.width; i += lanes) hn::StoreU(hn::Zero(kD), kD, to + i);
    if (piece.end > piece.begin)
      LoadRow(x + piece.sample * call_.x_stride_t, call_.x_stride_t, piece.end - piece.begin, to + piece.begin,
              s_.layer.before, static_cast<T>(s_.layer.before_parameter), AlphaOf<T>(call_.x_alpha, in_channel));
    copy_[count_++] = {.piece = &piece, .row = row, .staged = to, .line = line_ + line_used_};
    staged_used_ += piece.width + 2 * lanes;
    line_used_ += outputs;
  }

  const Shape& s_;
  const Call& call_;
  T* staged_;
  T* line_;
  S* narrow_;
  Copy copy_[kCopies];
  std::int64_t count_ = 0, staged_used_ = 0, line_used_ = 0;
};

template <typename S>
void RunTyped(const Shape& s, const Call& call, std::int64_t positions, const Threads& threads, Workspace workspace) {
  const Problem& p = s.layer.problem;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(hn::ScalableTag<SumOf<S>>()));
  const Chunks chunks(s, call, positions, lanes,
                      std::is_same_v<S, SumOf<S>> && call.x_stride_t == 1 && s.layer.before == Activation::none);
  const std::int64_t count = chunks.count();
  const std::int64_t units = call.batch * p.c_out * count;
  const std::int64_t outputs = std::min(positions, kChunk) * p.stride;
  const std::int64_t each = std::max<std::int64_t>(1, kTask / outputs);  // units a task
  parallel_for(threads, (units + each - 1) / each, [&](std::int64_t task, int thread) {
    Rows<S> rows(s, call, workspace.of(thread));
    const std::int64_t first = task * each, last = std::min(units, first + each);
    std::int64_t number = first % count, channel = first / count % p.c_out, batch = first / count / p.c_out;
    Chunk chunk = chunks.chunk(number);
    for (std::int64_t unit = first; unit < last; ++unit) {
      rows.run(batch, channel, chunk);
      if (++number == count) {
        number = 0;
        if (++channel == p.c_out) channel = 0, ++batch;
      }
      if (count == 1) continue;
      rows.flush();
      chunk = chunks.chunk(number);
    }
    rows.flush();
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
    return (depthwise::staged(shape_) + 2 * depthwise::line(shape_)) * sum_bytes(shape_.layer.problem.arithmetic);
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
