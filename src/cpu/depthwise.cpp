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
#include <vector>

#include "cpu/solver.hpp"
#include "cpu/threads.hpp"

#ifndef TCONV_CPU_DEPTHWISE_ONCE
#define TCONV_CPU_DEPTHWISE_ONCE
namespace tconv::cpu::depthwise {

inline constexpr std::int64_t kChunk = 1024;   // positions of one row at a time
inline constexpr std::int64_t kMaxStride = 8;  // phases that are woven into a row of y
inline constexpr std::int64_t kWoven = 4;      // phases that are woven in registers
inline constexpr std::int64_t kSlack = 64;     // what vectors may read or write behind a chunk
inline constexpr std::int64_t kTask = 32768;   // outputs that are worth a task

struct Tap {
  std::int64_t k, offset;  // the offset is relative to the layer's smallest
};

struct Shape {
  Layer layer;
  Window window;
  std::int64_t out = 0;                     // channels of a group
  std::vector<std::vector<Tap>> taps = {};  // by residue
  // Where all residues read the same offsets, at most kWoven of them: so many taps, the first at this offset, each next
  // one a step lower; weights are packed tap by tap then, and in w's own order otherwise. 0 taps: they do not.
  std::int64_t taps_alike = 0;
  std::int64_t first_offset = 0, offset_step = 0;
};

inline std::int64_t staged(const Shape& s) { return kChunk + s.window.span + kSlack; }
inline std::int64_t line(const Shape& s) { return (kChunk + kSlack) * s.layer.problem.stride; }

}  // namespace tconv::cpu::depthwise
#endif

HWY_BEFORE_NAMESPACE();
namespace tconv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace depthwise;  // NOLINT(google-build-using-namespace)

// kPhases residues that read the same offsets, woven: n positions, whole pairs of vectors of them, which share a
// weight's broadcast.
template <int kPhases, class D, typename T = hn::TFromD<D>>
void Weave(D d, const Shape& s, const T* HWY_RESTRICT x, const T* HWY_RESTRICT w, T bias, T alpha, std::int64_t n,
           T* HWY_RESTRICT to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t taps = s.taps_alike;
  const Activation after = s.layer.after;
  const auto parameter = static_cast<T>(s.layer.after_parameter);
  const auto first = hn::Set(d, bias);
  const auto alphas = hn::Set(d, alpha);
  const auto store = [&](auto a0, [[maybe_unused]] auto a1, [[maybe_unused]] auto a2, [[maybe_unused]] auto a3,
                         T* HWY_RESTRICT at) {
    if (after != Activation::none) {
      a0 = Activate(d, a0, after, parameter, alphas);
      if constexpr (kPhases > 1) a1 = Activate(d, a1, after, parameter, alphas);
      if constexpr (kPhases > 2) a2 = Activate(d, a2, after, parameter, alphas);
      if constexpr (kPhases > 3) a3 = Activate(d, a3, after, parameter, alphas);
    }
    if constexpr (kPhases == 1) hn::StoreU(a0, d, at);
    if constexpr (kPhases == 2) hn::StoreInterleaved2(a0, a1, d, at);
    if constexpr (kPhases == 3) hn::StoreInterleaved3(a0, a1, a2, d, at);
    if constexpr (kPhases == 4) hn::StoreInterleaved4(a0, a1, a2, a3, d, at);
  };
  for (std::int64_t i = 0; i < n; i += 2 * lanes) {
    auto a0 = first, a1 = first, a2 = first, a3 = first, b0 = first, b1 = first, b2 = first, b3 = first;
    const T* HWY_RESTRICT from = x + i + s.first_offset;
    const T* HWY_RESTRICT weight = w;
    for (std::int64_t j = 0; j < taps; ++j, from -= s.offset_step, weight += kPhases) {
      const auto v = hn::LoadU(d, from), u = hn::LoadU(d, from + lanes);
#define TCONV_TAP(r)                             \
  if constexpr (kPhases > (r)) {                 \
    const auto factor = hn::Set(d, weight[(r)]); \
    a##r = AddProduct(v, factor, a##r);          \
    b##r = AddProduct(u, factor, b##r);          \
  }
      TCONV_TAP(0)
      TCONV_TAP(1)
      TCONV_TAP(2)
      TCONV_TAP(3)
#undef TCONV_TAP
    }
    store(a0, a1, a2, a3, to + kPhases * i);
    store(b0, b1, b2, b3, to + kPhases * (i + lanes));
  }
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

template <typename S>
void ChunkOf(const Shape& s, const Call& call, std::int64_t batch, std::int64_t channel, std::int64_t from,
             std::int64_t positions, std::byte* workspace) {
  using T = SumOf<S>;
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const Problem& p = s.layer.problem;
  T* x_staged = reinterpret_cast<T*>(workspace);
  T* line_buffer = x_staged + staged(s);
  S* narrow = reinterpret_cast<S*>(line_buffer + line(s));

  // x under the chunk, read in place where nothing has to be done to it.
  const std::int64_t in_channel = channel / s.out;
  const S* row = static_cast<const S*>(call.x) + batch * call.x_stride_b + in_channel * call.x_stride_c;
  const std::int64_t whole = round_up(positions, 2 * lanes);  // what pairs of vectors compute
  const std::int64_t sample = s.window.first_input + from;
  const std::int64_t width = whole + s.window.span;
  const T* x = x_staged;
  bool in_place = false;
  if constexpr (std::is_same_v<S, T>) {
    if (call.x_stride_t == 1 && s.layer.before == Activation::none && sample >= 0 && sample + width <= call.length) {
      x = row + sample;
      in_place = true;
    }
  }
  if (!in_place) {
    const std::int64_t begin = std::clamp<std::int64_t>(-sample, 0, width);
    const std::int64_t end = std::clamp<std::int64_t>(call.length - sample, begin, width);
    std::memset(x_staged, 0, static_cast<std::size_t>(begin) * sizeof(T));
    if (end > begin)
      LoadRow(row + (sample + begin) * call.x_stride_t, call.x_stride_t, end - begin, x_staged + begin, s.layer.before,
              static_cast<T>(s.layer.before_parameter), AlphaOf<T>(call.x_alpha, in_channel));
    std::memset(x_staged + end, 0, static_cast<std::size_t>(width - end) * sizeof(T));
  }

  // Where the outputs [first, last) of these positions go; in place where vectors end inside them.
  S* y = static_cast<S*>(call.y) + batch * call.y_stride_b + channel * call.y_stride_c;
  const std::int64_t t = (s.window.first_position + from) * p.stride - p.padding;
  const std::int64_t first = std::clamp<std::int64_t>(t, 0, call.out_length);
  const std::int64_t last = std::clamp<std::int64_t>(t + positions * p.stride, first, call.out_length);
  T* to = line_buffer;
  bool direct = false;
  if constexpr (std::is_same_v<S, T>) {
    if (whole == positions && t >= 0 && t + positions * p.stride <= call.out_length) {
      to = y + t;
      direct = true;
    }
  }

  const T bias = BiasOf<S>(call, channel);
  const T alpha = AlphaOf<T>(call.y_alpha, channel);
  const T* w = static_cast<const T*>(call.w) + channel * p.kernel;
  if (s.taps_alike > 0 && p.stride == 1) {
    Weave<1>(d, s, x, w, bias, alpha, whole, to);
  } else if (s.taps_alike > 0 && p.stride == 2) {
    Weave<2>(d, s, x, w, bias, alpha, whole, to);
  } else if (s.taps_alike > 0 && p.stride == 3) {
    Weave<3>(d, s, x, w, bias, alpha, whole, to);
  } else if (s.taps_alike > 0 && p.stride == 4) {
    Weave<4>(d, s, x, w, bias, alpha, whole, to);
  } else {
    Scatter(d, s, x, w, bias, alpha, whole, to);
  }
  if (direct) return;
  const S* from_line = Narrow(line_buffer, whole * p.stride, narrow);
  std::memcpy(y + first, from_line + (first - t), static_cast<std::size_t>(last - first) * sizeof(S));
}

template <typename S>
void RunTyped(const Shape& s, const Call& call, std::int64_t positions, const Threads& threads, Workspace workspace) {
  const std::int64_t chunks = (positions + kChunk - 1) / kChunk;
  const std::int64_t units = call.batch * s.layer.problem.c_out * chunks;
  const std::int64_t outputs = std::min(positions, kChunk) * s.layer.problem.stride;
  const std::int64_t each = std::max<std::int64_t>(1, kTask / outputs);  // units a task
  parallel_for(threads, (units + each - 1) / each, [&](std::int64_t task, int thread) {
    for (std::int64_t unit = task * each; unit < std::min(units, (task + 1) * each); ++unit) {
      const std::int64_t from = unit % chunks * kChunk, row = unit / chunks;
      ChunkOf<S>(s, call, row / s.layer.problem.c_out, row % s.layer.problem.c_out, from,
                 std::min(kChunk, positions - from), workspace.of(thread));
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
    for (std::int64_t j = 0; j < s.taps_alike; ++j) {
      for (const std::vector<Tap>& taps : s.taps) move(taps[static_cast<std::size_t>(j)].k);
    }
    for (std::int64_t k = 0; s.taps_alike == 0 && k < p.kernel; ++k) move(k);
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
  const bool alike = p.stride <= depthwise::kWoven && std::ranges::all_of(s.taps, [&](const auto& taps) {
                       return std::ranges::equal(taps, s.taps[0], {}, &depthwise::Tap::offset, &depthwise::Tap::offset);
                     });
  if (alike && !s.taps[0].empty()) {
    s.taps_alike = static_cast<std::int64_t>(s.taps[0].size());
    s.first_offset = s.taps[0][0].offset;
    s.offset_step = phases.phase(0).offset_step;
  }
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
                       shape_.taps_alike > 0 ? " in registers" : " in memory");
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
