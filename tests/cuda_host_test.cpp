// gemm_sm90's kernel itself, run on the CPU thread by thread against plain sums of integers, exactly: CI has no GPU.
// The headers are those of kernels/, with cuda_host/ptx.cuh and wgmma.cuh in the place of the instructions. Not here:
// blocks that share a tile, the conversions of 16-bit floats, and anything about time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

// Before the kernel, whose other headers need it.
#include "ptx.cuh"
// Behind it.
#include "gemm_sm90.cuh"

namespace tconv {
namespace {

struct AsInteger {  // in 16 bits
  using Element = unsigned short;
  static constexpr ptx::Operand OPERAND = ptx::Operand::f16;
  static constexpr int TERMS = 1;
  static float load(Element e) { return static_cast<std::int16_t>(e); }
  static Element round(float v) { return static_cast<Element>(static_cast<std::int16_t>(v)); }
  static unsigned round(float first, float second) { return round(first) | static_cast<unsigned>(round(second)) << 16; }
  static void store(Element* to, float first, float second) {
    if (reinterpret_cast<std::uintptr_t>(to) % 4 != 0) host::fail("a store of two samples is aligned");
    to[0] = round(first), to[1] = round(second);
  }
};

template <class S, int C_IN_, int C_OUT_, int K_, int STRIDE_, int DILATION, int PADDING_, bool BIAS_,
          Activation ACTIVATION = Activation::none>
struct LayerOf {
  using Storage = S;
  static constexpr int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }
  static constexpr int C_IN = C_IN_, C_OUT = C_OUT_, GROUPS = 1, K = K_, STRIDE = STRIDE_, PADDING = PADDING_;
  static constexpr int GAP = gcd(STRIDE, DILATION), LIVE = STRIDE / GAP, STEP = DILATION / GAP;
  // As src/cuda/gemm.cpp has it: of several phases, every offset of the window.
  static constexpr int TAPS = LIVE == 1 ? K : (DILATION * (K - 1)) / STRIDE + 1, JUMP = LIVE == 1 ? DILATION / GAP : 1;
  static constexpr bool BIAS = BIAS_;
  static constexpr int SPACING = DILATION;
  static constexpr Activation BEFORE = ACTIVATION, AFTER = ACTIVATION;
  static constexpr double BEFORE_PARAMETER = 0, AFTER_PARAMETER = 0;
};
template <int ROWS_, int TILES_, int CONSUMERS_, int X, int W>
struct ScheduleOf {
  static constexpr int ROWS = ROWS_, TILES = TILES_, CONSUMERS = CONSUMERS_, X_STAGES = X, W_STAGES = W, SPLITS = 1;
};

struct Size {
  int batch, length, output_padding;
  int x_start, x_step;  // elements past an alignment of 16 bytes, and between samples
  int y_start;
};

template <class Layer, class Schedule>
void run(const Size& size) {
  using Kernel = GemmSm90<Layer, Schedule>;
  using Element = typename Layer::Storage::Element;
  static_assert(Kernel::SHARED_BYTES <= SHARED_MOST);
  static std::mt19937 generator(std::random_device{}());
  const auto seed = generator();
  SCOPED_TRACE(testing::Message() << "seed " << seed << ", batch " << size.batch << ", length " << size.length);
  std::mt19937 random(seed);
  const auto draw = [&] { return static_cast<int>(random() % 9) - 4; };
  const auto as_stored = [](int value) { return Layer::Storage::round(static_cast<float>(value)); };

  const long long length = size.length;
  const long long out_length =
      (length - 1) * Layer::STRIDE - 2 * Layer::PADDING + Layer::SPACING * (Layer::K - 1) + size.output_padding + 1;
  ASSERT_GT(out_length, 0);
  const long long x_row = length * size.x_step;
  // Exactly as long as they must be, so that the address sanitizer sees whoever leaves them.
  std::vector<int> x_values(static_cast<std::size_t>(size.batch * Layer::C_IN * length));
  std::vector<int> w_values(static_cast<std::size_t>(Layer::C_IN * Layer::C_OUT * Layer::K)), bias_values(Layer::C_OUT);
  for (auto* values : {&x_values, &w_values, &bias_values}) std::ranges::generate(*values, draw);
  std::vector<Element> x(static_cast<std::size_t>(size.x_start + size.batch * Layer::C_IN * x_row - size.x_step + 1));
  for (std::size_t i = 0; i < x_values.size(); ++i)
    x[static_cast<std::size_t>(size.x_start) + i * static_cast<std::size_t>(size.x_step)] = as_stored(x_values[i]);
  std::vector<Element> w(w_values.size()), bias(bias_values.size());
  std::ranges::transform(w_values, w.begin(), as_stored);
  std::ranges::transform(bias_values, bias.begin(), as_stored);
  const Element poison = as_stored(-31000);
  std::vector<Element> y(static_cast<std::size_t>(size.y_start + size.batch * Layer::C_OUT * out_length), poison);

  struct alignas(16) Unit {
    unsigned words[4];
  };
  std::vector<Unit> packed(static_cast<std::size_t>(Kernel::PACKED_BYTES) / sizeof(Unit));
  blockDim.x = 1, threadIdx.x = 0;
  for (long long unit = 0; unit < Kernel::PACK_UNITS; ++unit) {
    blockIdx.x = static_cast<unsigned>(unit);
    Kernel::pack({w.data(), packed.data(), Layer::C_OUT * Layer::K, Layer::K, 1});
  }

  const Call call{.x = x.data() + size.x_start,
                  .w = packed.data(),
                  .bias = bias.data(),
                  .y = y.data() + size.y_start,
                  .batch = size.batch,
                  .length = length,
                  .out_length = out_length,
                  .x_stride_b = Layer::C_IN * x_row,
                  .x_stride_c = x_row,
                  .x_stride_t = size.x_step,
                  .y_stride_b = Layer::C_OUT * out_length,
                  .y_stride_c = out_length};
  gridDim.x = 2;
  for (unsigned index = 0; index < gridDim.x; ++index) {
    blockIdx.x = index;
    std::ranges::fill(memory, static_cast<char>(0x7F));
    host::Block block(Kernel::THREADS);
    host::block = &block;
    std::vector<std::jthread> threads;
    for (unsigned thread = 0; thread < Kernel::THREADS; ++thread) {
      threads.emplace_back([thread, &call] {
        threadIdx.x = thread;
        Kernel::run(call);
      });
    }
    threads.clear();
    EXPECT_TRUE(std::all_of(memory + Kernel::SHARED_BYTES, memory + SHARED_MOST, [](char c) { return c == 0x7F; }));
  }

  std::vector<int> due(static_cast<std::size_t>(size.batch * Layer::C_OUT * out_length));
  for (int b = 0; b < size.batch; ++b) {
    for (int o = 0; o < Layer::C_OUT; ++o) {
      int* const row = due.data() + (b * Layer::C_OUT + o) * out_length;
      std::fill(row, row + out_length, Layer::BIAS ? bias_values[static_cast<std::size_t>(o)] : 0);
      for (int c = 0; c < Layer::C_IN; ++c) {
        for (long long i = 0; i < length; ++i) {
          for (int k = 0; k < Layer::K; ++k) {
            const long long t = i * Layer::STRIDE - Layer::PADDING + k * Layer::SPACING;
            if (t < 0 || t >= out_length) continue;
            const int sample = x_values[static_cast<std::size_t>((b * Layer::C_IN + c) * length + i)];
            row[t] += (Layer::BEFORE == Activation::relu ? std::max(sample, 0) : sample) *
                      w_values[static_cast<std::size_t>((c * Layer::C_OUT + o) * Layer::K + k)];
          }
        }
      }
    }
  }
  if (Layer::AFTER == Activation::relu)
    std::ranges::transform(due, due.begin(), [](int sum) { return std::max(sum, 0); });
  int wrong = 0;
  for (std::size_t i = 0; i < due.size(); ++i) {
    const Element got = y[static_cast<std::size_t>(size.y_start) + i];
    if (got != as_stored(due[i]) && wrong++ < 5)
      ADD_FAILURE() << "y[" << i << "] is " << Layer::Storage::load(got) << ", due " << due[i];
  }
  EXPECT_EQ(wrong, 0);
  for (int i = 0; i < size.y_start; ++i) EXPECT_EQ(y[static_cast<std::size_t>(i)], poison);
}

// Pairs of samples; single ones, as the length is odd; and strided x, tiles at both ends of y and inside.
template <class Layer, class Schedule>
void run_sizes(int length) {
  run<Layer, Schedule>({.batch = 2, .length = length, .output_padding = 0, .x_start = 0, .x_step = 1, .y_start = 0});
  run<Layer, Schedule>(
      {.batch = 1, .length = length + 1, .output_padding = 0, .x_start = 1, .x_step = 1, .y_start = 1});
  run<Layer, Schedule>({.batch = 1, .length = 5, .output_padding = 0, .x_start = 0, .x_step = 2, .y_start = 2});
}

// A phase a row; 16-bit samples are turned on their way out.
TEST(GemmSm90OnTheHost, OnePhaseStagesItsOutputs) {
  run_sizes<LayerOf<AsInteger, 64, 128, 3, 1, 1, 0, true>, ScheduleOf<128, 2, 2, 2, 3>>(306);
  run_sizes<LayerOf<AsTf32, 32, 100, 3, 1, 1, 1, true>, ScheduleOf<128, 1, 2, 2, 2>>(300);
  run_sizes<LayerOf<AsTf32, 32, 40, 5, 1, 3, 0, false>, ScheduleOf<40, 4, 2, 1, 5>>(600);
  run_sizes<LayerOf<AsInteger, 24, 24, 3, 1, 1, 1, false>, ScheduleOf<24, 1, 1, 2, 3>>(150);
}
TEST(GemmSm90OnTheHost, DeadPhasesAreTheBias) {
  run_sizes<LayerOf<AsInteger, 32, 64, 3, 2, 2, 1, true>, ScheduleOf<64, 2, 2, 2, 3>>(300);
  run_sizes<LayerOf<AsTf32, 32, 64, 3, 2, 2, 1, true>, ScheduleOf<64, 1, 2, 2, 3>>(200);
  run_sizes<LayerOf<AsTf32, 16, 10, 4, 6, 3, 2, true>, ScheduleOf<24, 1, 1, 2, 2>>(90);
}
TEST(GemmSm90OnTheHost, SeveralPhasesStageTheirs) {
  run_sizes<LayerOf<AsInteger, 64, 64, 4, 2, 1, 1, true>, ScheduleOf<128, 1, 2, 2, 4>>(200);
  run_sizes<LayerOf<AsInteger, 64, 20, 6, 3, 1, 1, true>, ScheduleOf<64, 1, 2, 2, 4>>(150);
  run_sizes<LayerOf<AsTf32, 40, 24, 10, 5, 1, 2, true>, ScheduleOf<128, 1, 1, 2, 4>>(100);
}
TEST(GemmSm90OnTheHost, LongRunsLeaveFromRegisters) {
  using Half = LayerOf<AsInteger, 128, 20, 16, 8, 1, 4, true>;
  using HalfTile = ScheduleOf<128, 2, 2, 3, 4>;
  static_assert(GemmSm90<Half, HalfTile>::DIRECT);
  run_sizes<Half, HalfTile>(300);
  using Single = LayerOf<AsTf32, 64, 33, 8, 4, 1, 2, false>;
  using SingleTile = ScheduleOf<128, 1, 2, 3, 5>;
  static_assert(GemmSm90<Single, SingleTile>::DIRECT);
  run_sizes<Single, SingleTile>(180);
}
TEST(GemmSm90OnTheHost, ThreeTermsPromoteTheirSums) {
  run_sizes<LayerOf<AsF32, 64, 70, 3, 1, 1, 1, true>, ScheduleOf<80, 1, 2, 2, 3>>(150);
  run_sizes<LayerOf<AsF32, 48, 32, 3, 2, 2, 1, true>, ScheduleOf<32, 2, 2, 1, 2>>(200);
}
TEST(GemmSm90OnTheHost, ActivatesBothEnds) {
  run_sizes<LayerOf<AsInteger, 64, 20, 16, 8, 1, 4, true, Activation::relu>, ScheduleOf<128, 1, 2, 3, 4>>(150);
  run_sizes<LayerOf<AsTf32, 32, 64, 3, 2, 2, 1, true, Activation::relu>, ScheduleOf<64, 1, 2, 2, 3>>(150);
}
// A tile has some of a channel's phases.
TEST(GemmSm90OnTheHost, MorePhasesThanRows) {
  run_sizes<LayerOf<AsInteger, 64, 2, 300, 150, 1, 0, true>, ScheduleOf<128, 1, 1, 2, 4>>(70);
  run_sizes<LayerOf<AsTf32, 72, 1, 128, 64, 1, 5, false>, ScheduleOf<48, 1, 2, 2, 3>>(40);
}
// More than registers hold at once: a window in two batches, and several short ones together.
TEST(GemmSm90OnTheHost, WindowsInBatchesAndTogether) {
  run_sizes<LayerOf<AsTf32, 32, 64, 3, 1, 1, 1, true>, ScheduleOf<64, 4, 2, 2, 3>>(600);
  run_sizes<LayerOf<AsInteger, 448, 64, 3, 1, 1, 0, true>, ScheduleOf<64, 1, 1, 2, 8>>(70);
}

}  // namespace
}  // namespace tconv
