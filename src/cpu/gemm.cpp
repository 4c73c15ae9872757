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

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/solver.hpp"
#include "cpu/threads.hpp"
#include "problem/phases.hpp"

#ifndef TCONV_CPU_GEMM_ONCE
#define TCONV_CPU_GEMM_ONCE
namespace tconv::cpu::gemm {

inline constexpr std::int64_t kPanel = 32;       // rows that are packed together
inline constexpr std::int64_t kChunk = 48;       // positions between two moves to y; register tiles divide it
inline constexpr std::int64_t kMaxTile = 480;    // positions of a staged tile, a multiple of kChunk
inline constexpr std::int64_t kStaged = 393216;  // bytes that a staged tile aims at: some of a core's second cache

// Phases that read the same offsets.
struct Bundle {
  std::vector<std::int64_t> residues;
  std::vector<std::int64_t> offsets;  // by tap, relative to the layer's smallest
  std::vector<std::int64_t> first_k;  // by residue: tap j reads w[first_k + j*k_step]
  std::int64_t rows = 0;              // output channels of a group times residues
  std::int64_t depth = 0;             // input channels of a group times offsets
  std::int64_t panels = 0;
  std::int64_t packed = 0;  // of its first panel in a group's weights, in elements
};

struct Shape {
  Layer layer;
  std::int64_t in = 0, out = 0;  // channels of a group
  std::int64_t k_step = 1;
  std::int64_t span = 0;         // largest offset less smallest
  std::int64_t first_input = 0;  // x's sample under the first position's smallest offset
  std::int64_t first_position = 0;
  std::vector<Bundle> bundles;
  std::vector<std::int64_t> dead;  // residues without a tap
  std::int64_t packed_group = 0;   // elements of a group's packed weights
  std::int64_t panels = 0;         // of a group
};

// One call, split: `columns` are the positions of all batches in one row, each batch with `span` more behind it that
// only separate it from the next.
struct Split {
  std::int64_t positions = 0;  // of one batch
  std::int64_t pitch = 0;      // of one batch: positions and span
  std::int64_t columns = 0;
  std::int64_t tile = 0;
  std::int64_t tiles = 0;
  std::int64_t parts = 1;  // of a group's panels
};

inline std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Rows of a staged tile are whole cache lines, and not a power of two of them: channels would share few of a cache's
// sets.
inline std::int64_t staged_pitch(const Shape& s, std::int64_t tile) {
  const std::int64_t pitch = round_up(tile + s.span + 16, 16);
  return pitch % 256 == 0 ? pitch + 16 : pitch;
}

}  // namespace tconv::cpu::gemm
#endif

HWY_BEFORE_NAMESPACE();
namespace tconv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace gemm;  // NOLINT(google-build-using-namespace)

template <class V>
HWY_INLINE V AddProduct(V a, V b, V sum) {
  if constexpr (hwy::IsFloat<hn::TFromV<V>>()) {
    return hn::MulAdd(a, b, sum);
  } else {
    return hn::Add(sum, hn::Mul(a, b));
  }
}

// A register tile: NV vectors of rows by C positions. The accumulators need names of their own, as vectors of a length
// that is known at run time only cannot stand in an array. With 32 registers 24 of them are sums, with 16 only 12.
constexpr int kColumns = HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2 ? 6 : 12;

#define TCONV_EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

// sums[c*kPanel + row] = bias[row] + sum over (channel, offset) of w[(channel*taps + j)*kPanel + row]
//                        * x[channel*pitch + offsets[j] + c], for c < C and the D's lanes times NV rows.
template <int NV, int C, class D, typename T = hn::TFromD<D>>
void Multiply(D d, const T* HWY_RESTRICT w, const T* HWY_RESTRICT x, std::int64_t pitch, std::int64_t channels,
              std::int64_t taps, const std::int64_t* HWY_RESTRICT offsets, const T* HWY_RESTRICT bias,
              T* HWY_RESTRICT sums) {
  static_assert(NV <= 2 && C <= 12);
  const std::size_t lanes = hn::Lanes(d);
  const auto bias0 = hn::LoadU(d, bias);
  const auto bias1 = NV > 1 ? hn::LoadU(d, bias + lanes) : bias0;
#define TCONV_DECLARE(c) auto a##c##_0 = bias0, a##c##_1 = bias1;
  TCONV_EACH(TCONV_DECLARE)
#undef TCONV_DECLARE
  for (std::int64_t channel = 0; channel < channels; ++channel, x += pitch) {
    for (std::int64_t j = 0; j < taps; ++j, w += kPanel) {
      const T* HWY_RESTRICT at = x + offsets[j];
      const auto w0 = hn::LoadU(d, w);
      const auto w1 = NV > 1 ? hn::LoadU(d, w + lanes) : w0;
#define TCONV_MULTIPLY(c)                                         \
  if constexpr (c < C) {                                          \
    const auto v = hn::Set(d, at[c]);                             \
    a##c##_0 = AddProduct(w0, v, a##c##_0);                       \
    if constexpr (NV > 1) a##c##_1 = AddProduct(w1, v, a##c##_1); \
  }
      TCONV_EACH(TCONV_MULTIPLY)
#undef TCONV_MULTIPLY
    }
  }
#define TCONV_STORE(c)                                                        \
  if constexpr (c < C) {                                                      \
    hn::StoreU(a##c##_0, d, sums + c * kPanel);                               \
    if constexpr (NV > 1) hn::StoreU(a##c##_1, d, sums + c * kPanel + lanes); \
  }
  TCONV_EACH(TCONV_STORE)
#undef TCONV_STORE
}
#undef TCONV_EACH

template <int NV, class D, typename T = hn::TFromD<D>>
void MultiplyColumns(D d, std::int64_t n, const T* w, const T* x, std::int64_t pitch, std::int64_t channels,
                     std::int64_t taps, const std::int64_t* offsets, const T* bias, T* sums) {
  for (; n >= kColumns; n -= kColumns, x += kColumns, sums += kColumns * kPanel)
    Multiply<NV, kColumns>(d, w, x, pitch, channels, taps, offsets, bias, sums);
  // A tail computes up to a third more than it needs; what lies behind the tile is staged as well.
  if (n > 8) {
    Multiply<NV, kColumns>(d, w, x, pitch, channels, taps, offsets, bias, sums);
  } else if (n > 6) {
    Multiply<NV, HWY_MIN(8, kColumns)>(d, w, x, pitch, channels, taps, offsets, bias, sums);
  } else if (n > 4) {
    Multiply<NV, 6>(d, w, x, pitch, channels, taps, offsets, bias, sums);
  } else if (n > 2) {
    Multiply<NV, 4>(d, w, x, pitch, channels, taps, offsets, bias, sums);
  } else if (n == 2) {
    Multiply<NV, 2>(d, w, x, pitch, channels, taps, offsets, bias, sums);
  } else if (n == 1) {
    Multiply<NV, 1>(d, w, x, pitch, channels, taps, offsets, bias, sums);
  }
}

// All rows of a panel (at most kPanel) at n <= kChunk positions.
template <typename T>
void MultiplyPanel(std::int64_t rows, std::int64_t n, const T* w, const T* x, std::int64_t pitch, std::int64_t channels,
                   std::int64_t taps, const std::int64_t* offsets, const T* bias, T* sums) {
  const hn::CappedTag<T, kPanel / 2> d;
  const hn::CappedTag<T, 8> eight;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t row = 0;
  while (row < rows) {
    if (rows - row > lanes) {
      MultiplyColumns<2>(d, n, w + row, x, pitch, channels, taps, offsets, bias + row, sums + row);
      row += 2 * lanes;
    } else if (hn::Lanes(eight) < hn::Lanes(d) && rows - row <= 8) {  // half as wide is twice as fast
      MultiplyColumns<1>(eight, n, w + row, x, pitch, channels, taps, offsets, bias + row, sums + row);
      row += 8;
    } else {
      MultiplyColumns<1>(d, n, w + row, x, pitch, channels, taps, offsets, bias + row, sums + row);
      row += lanes;
    }
  }
}

// Neighbouring phases of one channel: `n` sums from `row` on, of residues from `residue` on.
struct Run {
  std::int64_t row, channel, residue, n;
};

template <std::size_t kCount, typename S>
HWY_INLINE void MoveEach(const S* HWY_RESTRICT from, S* HWY_RESTRICT to, std::int64_t count, std::int64_t stride) {
  for (std::int64_t i = 0; i < count; ++i, from += kPanel, to += stride) std::memcpy(to, from, kCount * sizeof(S));
}

// to[i*stride .. +n) = from[i*kPanel .. +n) for i < count. Moves of a size the compiler knows are a few instructions.
template <typename S>
void MoveRuns(const S* HWY_RESTRICT from, S* HWY_RESTRICT to, std::int64_t count, std::int64_t n, std::int64_t stride) {
  static_assert(kPanel == 32, "a run has at most as many");
  switch (n) {
#define TCONV_MOVE(n) \
  case n:             \
    return MoveEach<n>(from, to, count, stride);
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
      for (std::int64_t i = 0; i < count; ++i, from += kPanel, to += stride)
        std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(S));
  }
}

template <typename S>
class Tile {
 public:
  using T = SumOf<S>;

  Tile(const Shape& shape, const Split& split, const Call& call, std::byte* workspace)
      : shape_(shape), split_(split), call_(call), pitch_(staged_pitch(shape, split.tile)) {
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

  static std::int64_t bytes(const Shape& shape, std::int64_t tile) {
    const auto size = static_cast<std::int64_t>(sizeof(T));
    return round_up(shape.in * staged_pitch(shape, tile) * size, 64) + 2 * (kChunk + 1) * kPanel * size +
           2 * kPanel * size + 4 * 64;
  }

  // Columns from `first` on of one group, through panels [from, to).
  void run(std::int64_t group, std::int64_t first, std::int64_t from, std::int64_t to) {
    const std::int64_t n = std::min(split_.tile, split_.columns - first);
    Stage(group, first, n);
    const T* packed = static_cast<const T*>(call_.w) + group * shape_.packed_group;
    std::int64_t before = 0;
    for (const Bundle& bundle : shape_.bundles) {
      for (std::int64_t panel = std::max<std::int64_t>(from - before, 0); panel < std::min(to - before, bundle.panels);
           ++panel) {
        const std::int64_t row = panel * kPanel;
        const std::int64_t rows = std::min(kPanel, bundle.rows - row);
        Rows(bundle, group, row, rows);
        const T* w = packed + bundle.packed + panel * bundle.depth * kPanel;
        for (std::int64_t c = 0; c < n; c += kChunk) {
          const std::int64_t columns = std::min(kChunk, n - c);
          MultiplyPanel(rows, columns, w, x_ + c, pitch_, shape_.in, static_cast<std::int64_t>(bundle.offsets.size()),
                        bundle.offsets.data(), bias_, sums_);
          Store(first + c, columns);
        }
      }
      before += bundle.panels;
    }
    if (from == 0 && !shape_.dead.empty()) Dead(group, first, n);
  }

 private:
  // Calls body(batch, first position, first column of the chunk, count) for the positions among n columns from `first`.
  template <typename Body>
  void EachBatch(std::int64_t first, std::int64_t n, const Body& body) {
    for (std::int64_t c = 0; c < n;) {
      const std::int64_t batch = (first + c) / split_.pitch, at = (first + c) % split_.pitch;
      const std::int64_t here = std::min(n - c, split_.pitch - at);
      if (at < split_.positions) body(batch, at, c, std::min(here, split_.positions - at));
      c += here;
    }
  }

  // x under n columns and the span behind them, zero where there is none.
  void Stage(std::int64_t group, std::int64_t first, std::int64_t n) {
    const S* x = static_cast<const S*>(call_.x);
    const std::int64_t width = n + shape_.span;
    for (std::int64_t i = 0; i < shape_.in; ++i) {
      const std::int64_t channel = group * shape_.in + i;
      T* to = x_ + i * pitch_;
      const T alpha = call_.x_alpha != nullptr ? static_cast<const T*>(call_.x_alpha)[channel] : T{0};
      for (std::int64_t c = 0; c < width;) {
        const std::int64_t batch = (first + c) / split_.pitch, at = (first + c) % split_.pitch;
        const std::int64_t here = std::min(width - c, split_.pitch - at);
        // This batch's samples [begin, end) of the `here` from `sample` on.
        const std::int64_t sample = shape_.first_input + at;
        std::int64_t begin = std::clamp<std::int64_t>(-sample, 0, here);
        std::int64_t end = std::clamp<std::int64_t>(call_.length - sample, begin, here);
        if (batch >= call_.batch) begin = end = 0;
        std::memset(to + c, 0, static_cast<std::size_t>(begin) * sizeof(T));
        if (end > begin)
          LoadRow(x + batch * call_.x_stride_b + channel * call_.x_stride_c + (sample + begin) * call_.x_stride_t,
                  call_.x_stride_t, end - begin, to + c + begin, shape_.layer.before,
                  static_cast<T>(shape_.layer.before_parameter), alpha);
        std::memset(to + c + end, 0, static_cast<std::size_t>(here - end) * sizeof(T));
        c += here;
      }
      std::memset(to + width, 0,
                  static_cast<std::size_t>(std::min<std::int64_t>(kColumns, pitch_ - width)) * sizeof(T));
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
      bias_[i] = T{0};
      if (call_.bias != nullptr) {
        const S* bias = static_cast<const S*>(call_.bias) + channel;
        LoadRow(bias, 1, 1, bias_ + i, Activation::none, T{0}, T{0});
      }
      alpha_[i] = call_.y_alpha != nullptr ? static_cast<const T*>(call_.y_alpha)[channel] : T{0};
    }
    std::fill(bias_ + rows, bias_ + kPanel, T{0});
    std::fill(alpha_ + rows, alpha_ + kPanel, T{1});
  }

  void Finish(T* sums, std::int64_t columns, const T* alpha) {
    const hn::CappedTag<T, kPanel> d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const auto parameter = static_cast<T>(shape_.layer.after_parameter);
    for (std::int64_t row = 0; row < kPanel; row += lanes) {
      const auto a = hn::LoadU(d, alpha + row);
      for (std::int64_t c = 0; c < columns; ++c) {
        T* at = sums + c * kPanel + row;
        hn::StoreU(Activate(d, hn::LoadU(d, at), shape_.layer.after, parameter, a), d, at);
      }
    }
  }

  // The sums of a chunk, to y.
  void Store(std::int64_t first, std::int64_t columns) {
    if (shape_.layer.after != Activation::none) Finish(sums_, columns, alpha_);
    const S* from;
    if constexpr (std::is_same_v<S, T>) {
      from = sums_;
    } else {
      Narrow(sums_, columns * kPanel, narrow_);
      from = narrow_;
    }
    EachBatch(first, columns, [&](std::int64_t batch, std::int64_t at, std::int64_t c, std::int64_t n) {
      for (std::int64_t r = 0; r < runs_; ++r)
        StoreRun(from + c * kPanel + run_[r].row, kPanel, run_[r], batch, shape_.first_position + at, n);
    });
  }

  // One run at n positions from `position` on, cropped to y.
  void StoreRun(const S* from, std::int64_t pitch, const Run& run, std::int64_t batch, std::int64_t position,
                std::int64_t n) {
    const std::int64_t stride = shape_.layer.problem.stride;
    S* y = static_cast<S*>(call_.y) + batch * call_.y_stride_b + run.channel * call_.y_stride_c;
    std::int64_t t = position * stride + run.residue - shape_.layer.problem.padding;
    const auto partial = [&] {
      for (std::int64_t i = 0; i < run.n; ++i) {
        if (t + i >= 0 && t + i < call_.out_length) std::memcpy(y + t + i, from + i, sizeof(S));
      }
      t += stride, from += pitch, --n;
    };
    while (n > 0 && t < 0) partial();
    const std::int64_t room = call_.out_length - t - run.n;  // whole runs end inside y
    const std::int64_t whole = n > 0 && room >= 0 ? std::min(n, room / stride + 1) : 0;
    MoveRuns(from, y + t, whole, run.n, stride);
    t += whole * stride, from += whole * pitch, n -= whole;
    while (n > 0) partial();
  }

  // Residues without a tap: the bias, activated.
  void Dead(std::int64_t group, std::int64_t first, std::int64_t n) {
    const std::int64_t stride = shape_.layer.problem.stride, padding = shape_.layer.problem.padding;
    for (std::int64_t channel = group * shape_.out; channel < (group + 1) * shape_.out; ++channel) {
      std::fill(sums_, sums_ + kPanel, T{0});
      if (call_.bias != nullptr)
        LoadRow(static_cast<const S*>(call_.bias) + channel, 1, 1, sums_, Activation::none, T{0}, T{0});
      if (shape_.layer.after != Activation::none) {
        std::fill(alpha_, alpha_ + kPanel,
                  call_.y_alpha != nullptr ? static_cast<const T*>(call_.y_alpha)[channel] : T{1});
        Finish(sums_, 1, alpha_);
      }
      S value;
      if constexpr (std::is_same_v<S, T>) {
        value = sums_[0];
      } else {
        Narrow(sums_, kPanel, narrow_);
        value = narrow_[0];
      }
      EachBatch(first, n, [&](std::int64_t batch, std::int64_t at, std::int64_t, std::int64_t count) {
        S* y = static_cast<S*>(call_.y) + batch * call_.y_stride_b + channel * call_.y_stride_c;
        for (const std::int64_t residue : shape_.dead) {
          std::int64_t t = (shape_.first_position + at) * stride + residue - padding;
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
};

template <typename S>
void RunTyped(const Shape& shape, const Split& split, const Call& call, int threads, std::byte* workspace) {
  const std::int64_t each = round_up(Tile<S>::bytes(shape, split.tile), kPackedAlign);
  parallel_for(threads, shape.layer.problem.groups * split.tiles * split.parts, [&](std::int64_t task, int thread) {
    const std::int64_t part = task % split.parts, tile = task / split.parts % split.tiles;
    Tile<S>(shape, split, call, workspace + thread * each)
        .run(task / split.parts / split.tiles, tile * split.tile, shape.panels * part / split.parts,
             shape.panels * (part + 1) / split.parts);
  });
}

template <typename S>
void PackTyped(const Shape& shape, const Pack& call, int threads) {
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
    std::int64_t from[kPanel];  // w's element of a row's first tap at the group's first input channel
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = panel * kPanel + i;
      from[i] = row / per_channel * call.stride_out +
                bundle->first_k[static_cast<std::size_t>(row % per_channel)] * call.stride_k;
    }
    for (std::int64_t in = 0; in < shape.in; ++in) {
      const S* channel = w + (group * shape.in + in) * call.stride_in;
      for (std::int64_t j = 0; j < taps; ++j, to += kPanel) {
        S row[kPanel] = {};
        const S* tap = channel + j * shape.k_step * call.stride_k;
        for (std::int64_t i = 0; i < rows; ++i) std::memcpy(&row[i], tap + from[i], sizeof(S));
        LoadRow(row, 1, kPanel, to, Activation::none, T{0}, T{0});
      }
    }
  });
}

void GemmRun(const Shape& shape, const Split& split, const Call& call, int threads, std::byte* workspace) {
  switch (shape.layer.problem.arithmetic) {
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return RunTyped<float>(shape, split, call, threads, workspace);
    case Arithmetic::f16:
      return RunTyped<hwy::float16_t>(shape, split, call, threads, workspace);
    case Arithmetic::bf16:
      return RunTyped<hwy::bfloat16_t>(shape, split, call, threads, workspace);
    case Arithmetic::f64:
      return RunTyped<double>(shape, split, call, threads, workspace);
    case Arithmetic::i32:
      return RunTyped<std::int32_t>(shape, split, call, threads, workspace);
  }
}

void GemmPack(const Shape& shape, const Pack& call, int threads) {
  switch (shape.layer.problem.arithmetic) {
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return PackTyped<float>(shape, call, threads);
    case Arithmetic::f16:
      return PackTyped<hwy::float16_t>(shape, call, threads);
    case Arithmetic::bf16:
      return PackTyped<hwy::bfloat16_t>(shape, call, threads);
    case Arithmetic::f64:
      return PackTyped<double>(shape, call, threads);
    case Arithmetic::i32:
      return PackTyped<std::int32_t>(shape, call, threads);
  }
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

std::int64_t sum_bytes(Arithmetic arithmetic) { return arithmetic == Arithmetic::f64 ? 8 : 4; }

Shape shape_of(const Layer& layer) {
  const Problem& p = layer.problem;
  const Phases phases(p);
  Shape s;
  s.layer = layer;
  s.in = p.c_in / p.groups;
  s.out = p.c_out / p.groups;
  s.first_position = phases.first_position();
  s.first_input = s.first_position + phases.min_offset();
  s.span = phases.max_offset() - phases.min_offset();
  for (std::int64_t r = 0; r < phases.count(); ++r) {
    const Phase phase = phases.phase(r);
    if (phase.dead()) {
      s.dead.push_back(r);
      continue;
    }
    s.k_step = phase.k_step;
    std::vector<std::int64_t> offsets;
    for (std::int64_t j = 0; j < phase.count; ++j) offsets.push_back(phase.tap(j).offset - phases.min_offset());
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
    s.packed_group += bundle.panels * bundle.depth * gemm::kPanel;
    s.panels += bundle.panels;
  }
  return s;
}

Split split_of(const Shape& s, const Extent& extent, int threads) {
  const Phases phases(s.layer.problem);
  Split split;
  split.positions = phases.last_position(extent.length) - s.first_position + 1;
  split.pitch = split.positions + s.span;
  split.columns = extent.batch * split.pitch - s.span;
  const std::int64_t fits = gemm::kStaged / (s.in * sum_bytes(s.layer.problem.arithmetic)) - s.span;
  split.tile = std::clamp(fits / gemm::kChunk * gemm::kChunk, gemm::kChunk, gemm::kMaxTile);
  split.tiles = (split.columns + split.tile - 1) / split.tile;
  if (threads > 1) {
    // Four tasks a thread even out what else runs on its core: smaller tiles first, then parts of the rows.
    const std::int64_t wanted = (4 * threads + s.layer.problem.groups - 1) / s.layer.problem.groups;
    while (split.tiles < wanted && split.tile > 2 * gemm::kChunk) {
      split.tile = gemm::round_up(split.tile / 2, gemm::kChunk);
      split.tiles = (split.columns + split.tile - 1) / split.tile;
    }
    split.parts = std::clamp<std::int64_t>((wanted + split.tiles - 1) / split.tiles, 1, s.panels);
  }
  return split;
}

class Gemm final : public Kernel {
 public:
  explicit Gemm(const Layer& layer) : shape_(shape_of(layer)) {}

  [[nodiscard]] std::int64_t packed_bytes() const override {
    return shape_.layer.problem.groups * shape_.packed_group * sum_bytes(shape_.layer.problem.arithmetic);
  }
  void pack(const Pack& call, int threads) const override { HWY_DYNAMIC_DISPATCH(GemmPack)(shape_, call, threads); }
  [[nodiscard]] std::int64_t workspace_bytes(const Extent& extent) const override {
    const Split split = split_of(shape_, extent, 1);
    const std::int64_t size = sum_bytes(shape_.layer.problem.arithmetic);
    return gemm::round_up(shape_.in * gemm::staged_pitch(shape_, split.tile) * size, 64) +
           2 * (gemm::kChunk + 1) * gemm::kPanel * size + 2 * gemm::kPanel * size + 4 * 64;
  }
  void run(const Call& call, int threads, std::byte* workspace) const override {
    const Split split = split_of(shape_, {.batch = call.batch, .length = call.length}, threads);
    HWY_DYNAMIC_DISPATCH(GemmRun)(shape_, split, call, threads, workspace);
  }
  [[nodiscard]] std::string explain(const Extent& extent) const override {
    const Split split = split_of(shape_, extent, 1);
    std::string out = fmt::format("{} positions in tiles of {}; {} panels of {} rows a group", split.columns,
                                  split.tile, shape_.panels, gemm::kPanel);
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
