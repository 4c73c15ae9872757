// The kernels of direct and depthwise on the CPU, as cuda_host_sm90_test.cpp does with gemm_sm90's: 32-bit integers.
#include <gtest/gtest.h>

#include "cuda_host_layers.hpp"
// Behind it.
#include "depthwise.cuh"
#include "direct.cuh"

namespace tconv {
namespace {

using host::LayerOf;

template <class Layer, int ROWS_, int POSITIONS_, int THREAD_ROWS_, int THREAD_POSITIONS_, int PHASES_, int CHANNELS_,
          int DEPTH_, int STEP_TAPS_>
struct DirectOf : Layer {
  static constexpr int PADDED_C_OUT = (Layer::C_OUT + 3) / 4 * 4, ROWS = ROWS_, POSITIONS = POSITIONS_;
  static constexpr int THREAD_ROWS = THREAD_ROWS_, THREAD_POSITIONS = THREAD_POSITIONS_;
  static constexpr int PHASES = PHASES_, CHANNELS = CHANNELS_, DEPTH = DEPTH_, STEP_TAPS = STEP_TAPS_, SPLITS = 1;
};
template <class Layer, int THREADS_, int THREAD_POSITIONS_>
struct DepthwiseOf : Layer {
  static constexpr int THREADS = THREADS_, THREAD_POSITIONS = THREAD_POSITIONS_;
};

constexpr auto as_stored = [](int value) { return value; };

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
  host::each_size<Layer, int>(length, as_stored, [](auto& one) {
    one.pack(1ll * Layer::GROUPS * Layer::C_OUT * Layer::K * sizeof(int), 7, pack_depthwise<Layer>);
    one.run(3, Layer::THREADS, depthwise<Layer>);
  });
}

TEST(DirectOnTheHost, PhasesAndGroups) {
  run_direct<DirectOf<LayerOf<int, 6, 10, 7, 3, 2, 2, true, Activation::none, 2>, 32, 64, 4, 4, 3, 8, 4, 2>>(80);
  run_direct<DirectOf<LayerOf<int, 5, 9, 4, 2, 2, 1, true>, 16, 64, 4, 4, 1, 16, 8, 4>>(100);
  run_direct<DirectOf<LayerOf<int, 11, 3, 20, 8, 1, 3, false, Activation::relu>, 32, 64, 4, 4, 8, 4, 4, 2>>(70);
}
TEST(DepthwiseOnTheHost, NarrowAndWideStrides) {
  run_depthwise<DepthwiseOf<LayerOf<int, 1, 1, 12, 2, 1, 5, true, Activation::none, 6>, 64, 3>>(300);
  run_depthwise<DepthwiseOf<LayerOf<int, 1, 2, 5, 4, 2, 1, true, Activation::relu, 3>, 64, 3>>(150);
  run_depthwise<DepthwiseOf<LayerOf<int, 1, 1, 20, 10, 1, 5, false, Activation::none, 4>, 64, 2>>(60);
}

}  // namespace
}  // namespace tconv
