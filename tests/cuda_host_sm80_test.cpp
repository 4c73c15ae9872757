// gemm_sm80's kernel on the CPU, as cuda_host_sm90_test.cpp does with gemm_sm90's.
#define HOST_MEMORY uint4
#include <gtest/gtest.h>

#include "cuda_host_layers.hpp"
// Behind it.
#include "gemm_sm80.cuh"

namespace tconv {
namespace {

using host::AsInteger;
using host::LayerOf;

template <int ROWS_, int POSITIONS_, int WARP_ROWS_, int WARP_POSITIONS_, int STEPS_, int X, int W, int BAND_,
          int BAND_CHANNELS_>
struct ScheduleOf {
  static constexpr int ROWS = ROWS_, POSITIONS = POSITIONS_, WARP_ROWS = WARP_ROWS_, WARP_POSITIONS = WARP_POSITIONS_;
  static constexpr int STEPS = STEPS_, X_STAGES = X, W_STAGES = W, BAND = BAND_, BAND_CHANNELS = BAND_CHANNELS_;
};

template <class Layer, class Schedule>
void run_sizes(int length) {
  using Kernel = GemmSm80<Layer, Schedule>;
  static_assert(Kernel::SHARED_BYTES <= SHARED_MOST);
  const auto as_stored = [](int value) { return Layer::Storage::round(static_cast<float>(value)); };
  host::each_size<Layer, typename Layer::Storage::Element>(length, as_stored, [](auto& one) {
    one.pack(Kernel::PACKED_BYTES, Kernel::PACK_UNITS, Kernel::pack);
    const Call& call = one.call();
    const long long first = Layer::PADDING / Layer::STRIDE;
    const long long positions = (call.out_length - 1 + Layer::PADDING) / Layer::STRIDE - first + 1;
    const long long tiles = (positions + Schedule::POSITIONS - 1) / Schedule::POSITIONS;
    one.run(call.batch * tiles * Layer::GROUPS * Kernel::ROW_TILES, Kernel::THREADS, Kernel::run);
  });
}

TEST(GemmSm80OnTheHost, OnePhaseARow) {
  run_sizes<LayerOf<AsInteger, 40, 100, 3, 1, 1, 0, true>, ScheduleOf<128, 128, 64, 32, 1, 2, 4, 16, 16>>(200);
  run_sizes<LayerOf<AsTf32, 24, 40, 5, 1, 3, 1, false>, ScheduleOf<64, 128, 64, 32, 2, 2, 3, 16, 16>>(190);
}
TEST(GemmSm80OnTheHost, DeadPhasesAreTheBias) {
  run_sizes<LayerOf<AsInteger, 32, 64, 3, 2, 2, 1, true>, ScheduleOf<64, 128, 64, 32, 2, 1, 3, 16, 16>>(150);
  run_sizes<LayerOf<AsTf32, 16, 10, 4, 6, 3, 2, true>, ScheduleOf<32, 64, 16, 32, 1, 2, 2, 16, 8>>(90);
}
TEST(GemmSm80OnTheHost, SeveralPhases) {
  run_sizes<LayerOf<AsInteger, 64, 20, 16, 8, 1, 4, true>, ScheduleOf<128, 128, 64, 32, 1, 2, 4, 16, 2>>(140);
  run_sizes<LayerOf<AsTf32, 19, 7, 10, 5, 1, 2, true, Activation::none, 2>, ScheduleOf<32, 64, 16, 32, 2, 2, 4, 16, 3>>(
      70);
  run_sizes<LayerOf<AsTf32, 32, 8, 8, 4, 1, 2, true, Activation::relu>, ScheduleOf<32, 128, 32, 32, 1, 2, 4, 16, 4>>(
      130);
}
TEST(GemmSm80OnTheHost, ThreeTerms) {
  run_sizes<LayerOf<AsF32, 24, 30, 3, 1, 1, 1, true>, ScheduleOf<64, 128, 32, 32, 1, 2, 4, 16, 16>>(150);
}
TEST(GemmSm80OnTheHost, AsManyPhasesAsRows) {
  run_sizes<LayerOf<AsInteger, 32, 2, 128, 64, 1, 0, true>, ScheduleOf<64, 32, 16, 32, 1, 2, 4, 64, 1>>(40);
  run_sizes<LayerOf<AsTf32, 24, 1, 256, 128, 1, 5, false>, ScheduleOf<128, 128, 64, 32, 1, 2, 4, 128, 1>>(150);
}
// A tile has some of a channel's phases.
TEST(GemmSm80OnTheHost, MorePhasesThanRows) {
  run_sizes<LayerOf<AsInteger, 32, 2, 300, 150, 1, 0, true>, ScheduleOf<64, 32, 16, 32, 1, 2, 4, 160, 1>>(40);
}

}  // namespace
}  // namespace tconv
