// The kernels of direct and depthwise on the CPU, as cuda_host_sm90_test.cpp does with gemm_sm90's: integers of 32
// bits, and of 16, summed as floats, where the words of memory hold two.
#include <gtest/gtest.h>

#include "cuda_host_layers.hpp"
// Behind it.
#include "depthwise.cuh"
#include "direct.cuh"

namespace tconv {

struct Short {
  unsigned short bits;
  bool operator==(const Short&) const = default;
};
template <>
struct Element<Short> {
  using Sum = float;
  static float widen(Short value) { return static_cast<std::int16_t>(value.bits); }
  static Short narrow(float sum) { return {static_cast<unsigned short>(static_cast<std::int16_t>(sum))}; }
  static unsigned narrow(float first, float second) {
    return narrow(first).bits | static_cast<unsigned>(narrow(second).bits) << 16;
  }
};

namespace {

using host::LayerOf;

template <class Layer, int ROWS_, int POSITIONS_, int THREAD_ROWS_, int THREAD_POSITIONS_, int PHASES_, int CHANNELS_,
          int DEPTH_, int STEP_TAPS_>
struct DirectOf : Layer {
  static constexpr int PADDED_C_OUT = (Layer::C_OUT + 3) / 4 * 4, ROWS = ROWS_, POSITIONS = POSITIONS_;
  static constexpr int THREAD_ROWS = THREAD_ROWS_, THREAD_POSITIONS = THREAD_POSITIONS_;
  static constexpr int PHASES = PHASES_, CHANNELS = CHANNELS_, DEPTH = DEPTH_, STEP_TAPS = STEP_TAPS_, SPLITS = 1;
};
// SLACK: positions of a row's first vector that may be before the row, where threads write vectors.
template <class Layer, int THREADS_, int ROWS_, int REPEATS_, int COLUMNS, int SLACK>
struct DepthwiseOf : Layer {
  static constexpr int THREADS = THREADS_, ROWS = ROWS_, REPEATS = REPEATS_, POSITIONS = COLUMNS * REPEATS - SLACK;
};

constexpr auto as_stored = [](int value) { return value; };
constexpr auto as_short = [](int value) { return Short{static_cast<unsigned short>(value)}; };

template <class Layer>
void run_direct(int length) {
  host::each_size<Layer, int>(length, as_stored, [](auto& one) {
    constexpr long long kPacked = 1ll * Layer::GROUPS * Phases<Layer>::TAPS * Layer::C_IN * Phases<Layer>::LIVE *
                                  Layer::PADDED_C_OUT * sizeof(int);
    one.pack(kPacked, 7, pack_direct<Layer>);
    one.run(3, DirectTile<Layer>::THREADS, direct<Layer>);
  });
}
template <class Layer>
void run_depthwise(int length) {
  const auto run = [](auto& one) {
    one.pack(1ll * Layer::GROUPS * Layer::C_OUT * Layer::K * 4, 7, pack_depthwise<Layer>);
    one.run(3, Layer::THREADS, depthwise<Layer>);
  };
  if constexpr (sizeof(typename Layer::Storage) == 2) {
    host::each_size<Layer, Short>(length, as_short, run);
  } else {
    host::each_size<Layer, int>(length, as_stored, run);
  }
}

TEST(DirectOnTheHost, PhasesAndGroups) {
  run_direct<DirectOf<LayerOf<int, 6, 10, 7, 3, 2, 2, true, Activation::none, 2>, 32, 64, 4, 4, 3, 8, 4, 2>>(80);
  run_direct<DirectOf<LayerOf<int, 5, 9, 4, 2, 2, 1, true>, 16, 64, 4, 4, 1, 16, 8, 4>>(100);
  run_direct<DirectOf<LayerOf<int, 11, 3, 20, 8, 1, 3, false, Activation::relu>, 32, 64, 4, 4, 8, 4, 4, 2>>(70);
}
template <class Storage, int C_OUT, int K, int STRIDE, int DILATION, int PADDING, bool BIAS,
          Activation ACTIVATION = Activation::none, int GROUPS = 6>
using Depthwise = LayerOf<Storage, 1, C_OUT, K, STRIDE, DILATION, PADDING, BIAS, ACTIVATION, GROUPS>;

// Every stride whose runs are in registers, dead phases, filters that end in the middle of the phases, rows in each
// parity and residue.
TEST(DepthwiseOnTheHost, RunsInRegisters) {
  run_depthwise<DepthwiseOf<Depthwise<int, 1, 12, 2, 1, 5, true>, 32, 1, 2, 64, 2>>(300);
  run_depthwise<DepthwiseOf<Depthwise<int, 2, 5, 4, 2, 1, true, Activation::relu, 3>, 64, 1, 2, 64, 1>>(150);
  run_depthwise<DepthwiseOf<Depthwise<int, 1, 7, 1, 1, 3, false>, 32, 1, 2, 128, 3>>(300);
  run_depthwise<DepthwiseOf<Depthwise<int, 1, 7, 3, 2, 2, true>, 32, 1, 1, 128, 1>>(300);
}
TEST(DepthwiseOnTheHost, PairsOfSixteenBits) {
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 12, 2, 1, 0, true>, 32, 1, 2, 128, 4>>(300);
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 12, 2, 1, 5, false>, 32, 1, 1, 128, 4>>(301);
  run_depthwise<DepthwiseOf<Depthwise<Short, 2, 5, 4, 2, 1, true, Activation::none, 3>, 64, 1, 2, 128, 2>>(150);
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 7, 1, 1, 3, false>, 32, 1, 2, 256, 7>>(600);
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 4, 1, 2, 3, true>, 32, 1, 1, 256, 7>>(301);
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 7, 3, 2, 2, true>, 32, 1, 1, 256, 3>>(300);
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 8, 2, 3, 1, true, Activation::relu>, 32, 1, 2, 128, 4>>(301);
}
// More rows than a block's, and fewer in the last; more tiles than blocks.
TEST(DepthwiseOnTheHost, SeveralRowsOfABlock) {
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 4, 2, 1, 0, true>, 64, 4, 2, 64, 4>>(61);
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 4, 2, 1, 1, true>, 64, 32, 4, 8, 4>>(2);
  run_depthwise<DepthwiseOf<Depthwise<Short, 3, 3, 1, 1, 0, false>, 32, 4, 1, 64, 7>>(100);
  run_depthwise<DepthwiseOf<Depthwise<int, 1, 4, 2, 1, 0, true>, 64, 4, 2, 32, 2>>(40);
  run_depthwise<DepthwiseOf<Depthwise<int, 1, 3, 2, 1, 1, true, Activation::relu>, 64, 32, 4, 4, 2>>(1);
}
TEST(DepthwiseOnTheHost, WideStridesAndLongFilters) {
  run_depthwise<DepthwiseOf<Depthwise<int, 1, 20, 10, 1, 5, false, Activation::none, 4>, 64, 1, 2, 6, 0>>(60);
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 40, 3, 1, 5, true, Activation::relu, 4>, 64, 1, 2, 21, 0>>(100);
  run_depthwise<DepthwiseOf<Depthwise<Short, 1, 5, 1, 20, 5, true, Activation::none, 4>, 64, 1, 4, 64, 0>>(300);
}

}  // namespace
}  // namespace tconv
