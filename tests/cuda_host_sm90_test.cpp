// gemm_sm90's kernel itself, run on the CPU thread by thread against plain sums of integers, exactly: CI has no GPU.
// The headers are those of kernels/, with cuda_host/ in the place of the instructions. Not here: blocks that share a
// tile, the conversions of 16-bit floats, and anything about time.
#define HOST_MEMORY char
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "cuda_host_layers.hpp"
// Behind it.
#include "gemm_sm90.cuh"

namespace tconv {
namespace {

using host::AsInteger;
using host::LayerOf;

template <int ROWS_, int TILES, int CONSUMERS_, int X, int W>
struct ScheduleOf {
  static constexpr int ROWS = ROWS_, GROUP_POSITIONS = 64 * TILES, CONSUMERS = CONSUMERS_, X_STAGES = X, W_STAGES = W;
  static constexpr int SPLITS = 1, AT_ONCE = 1;
  static constexpr bool BY_ROWS = false;
};
template <int ROWS_, int X, int W>
struct TwoAtOnce : ScheduleOf<ROWS_, 1, 2, X, W> {
  static constexpr int AT_ONCE = 2;
};
template <int ROWS_, int GROUP, int CONSUMERS_, int X, int W>
struct ByRows : ScheduleOf<ROWS_, 1, CONSUMERS_, X, W> {
  static constexpr int GROUP_POSITIONS = GROUP;
  static constexpr bool BY_ROWS = true;
};

template <class Layer, class Schedule>
void run_sizes(int length) {
  using Kernel = GemmSm90<Layer, Schedule>;
  static_assert(Kernel::SHARED_BYTES <= SHARED_MOST);
  const auto as_stored = [](int value) { return Layer::Storage::round(static_cast<float>(value)); };
  host::each_size<Layer, typename Layer::Storage::Element>(length, as_stored, [](auto& one) {
    one.pack(Kernel::PACKED_BYTES, Kernel::PACK_UNITS, Kernel::pack);
    constexpr char kUnused = 0x7F;
    std::ranges::fill(memory, kUnused);
    one.run(2, Kernel::THREADS, Kernel::run);
    EXPECT_TRUE(std::all_of(memory + Kernel::SHARED_BYTES, memory + SHARED_MOST, [](char c) { return c == kUnused; }));
  });
}

TEST(GemmSm90OnTheHost, QuotientsOfAnySize) {
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < 1000; ++i) {
    const auto a = static_cast<long long>(random() >> (1 + random() % 62));
    const auto b = static_cast<long long>(random() >> (1 + random() % 62)) + 1;
    ASSERT_EQ(quotient(a, b), a / b) << a << " / " << b;
    ASSERT_EQ(quotient(a / b * b, b), a / b) << a / b * b << " / " << b;
  }
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
  // Two and four phases, pairs of which start at even samples of y and at odd ones.
  run_sizes<LayerOf<AsTf32, 32, 60, 4, 2, 1, 1, true>, ScheduleOf<128, 2, 2, 2, 2>>(301);
  run_sizes<LayerOf<AsTf32, 16, 30, 4, 2, 1, 2, false>, ScheduleOf<64, 1, 2, 2, 2>>(150);
  run_sizes<LayerOf<AsF32, 16, 30, 4, 2, 1, 1, false>, ScheduleOf<64, 1, 2, 2, 2>>(150);
  run_sizes<LayerOf<AsTf32, 16, 20, 8, 4, 1, 1, true>, ScheduleOf<80, 1, 1, 2, 2>>(90);
  run_sizes<LayerOf<AsInteger, 32, 20, 8, 4, 1, 3, true>, ScheduleOf<80, 1, 2, 2, 2>>(150);
}
TEST(GemmSm90OnTheHost, LongRunsLeaveFromRegisters) {
  using Half = LayerOf<AsInteger, 128, 20, 16, 8, 1, 4, true>;
  using HalfTile = ScheduleOf<128, 2, 2, 3, 4>;
  static_assert(GemmSm90<Half, HalfTile>::DIRECT);
  run_sizes<Half, HalfTile>(300);
  using Four = LayerOf<AsInteger, 64, 33, 8, 4, 1, 2, true>;
  static_assert(GemmSm90<Four, HalfTile>::DIRECT);
  run_sizes<Four, HalfTile>(300);
  using Single = LayerOf<AsTf32, 64, 33, 8, 4, 1, 2, false>;
  using SingleTile = ScheduleOf<128, 1, 2, 3, 5>;
  static_assert(GemmSm90<Single, SingleTile>::DIRECT);
  run_sizes<Single, SingleTile>(180);
}
// Two row tiles of the packed weights in one product; of an odd number of them the last has no other beside it. The
// groups share their slots and refill them, unless all weights stay.
TEST(GemmSm90OnTheHost, TwoRowTilesAtOnce) {
  using Odd = LayerOf<AsInteger, 128, 40, 16, 8, 1, 4, true>;
  using Tile = TwoAtOnce<128, 3, 3>;
  static_assert(GemmSm90<Odd, Tile>::PACKED_TILES == 3 && GemmSm90<Odd, Tile>::DIRECT &&
                !GemmSm90<Odd, Tile>::RESIDENT);
  run_sizes<Odd, Tile>(300);
  using Stays = LayerOf<AsInteger, 100, 48, 8, 4, 1, 1, true, Activation::relu>;
  using StayingTile = TwoAtOnce<96, 2, 4>;
  static_assert(GemmSm90<Stays, StayingTile>::RESIDENT && !GemmSm90<Stays, StayingTile>::DIRECT);
  run_sizes<Stays, StayingTile>(300);
  using InTurns = LayerOf<AsInteger, 128, 64, 8, 4, 1, 0, true>;
  using InTurnsTile = TwoAtOnce<128, 3, 4>;
  using InTurnsKernel = GemmSm90<InTurns, InTurnsTile>;
  static_assert(InTurnsKernel::RESIDENT && InTurnsKernel::DIRECT && InTurnsKernel::IN_TURNS);
  run_sizes<InTurns, InTurnsTile>(300);
  run_sizes<InTurns, InTurnsTile>(InTurnsKernel::MANY_TILES * InTurnsKernel::POSITIONS);
  using Parts = LayerOf<AsTf32, 40, 200, 4, 2, 1, 1, true>;
  using PartsTile = TwoAtOnce<128, 2, 3>;
  static_assert(GemmSm90<Parts, PartsTile>::PARTS > 2);
  run_sizes<Parts, PartsTile>(170);
  run_sizes<LayerOf<AsInteger, 64, 30, 10, 5, 1, 2, false>, TwoAtOnce<80, 2, 2>>(150);
  run_sizes<LayerOf<AsTf32, 24, 20, 14, 7, 1, 3, true, Activation::none, 2>, TwoAtOnce<112, 2, 3>>(140);
  run_sizes<LayerOf<AsTf32, 64, 40, 8, 4, 1, 2, true>, TwoAtOnce<80, 3, 2>>(200);
}
// A warp has whole rows and stores them by itself, in one part and in two.
TEST(GemmSm90OnTheHost, RowsOfAWarp) {
  run_sizes<LayerOf<AsInteger, 64, 128, 3, 1, 1, 0, true>, ByRows<128, 256, 2, 2, 3>>(810);
  run_sizes<LayerOf<AsInteger, 64, 100, 3, 1, 1, 1, false>, ByRows<128, 128, 2, 2, 3>>(403);
  run_sizes<LayerOf<AsInteger, 40, 64, 5, 1, 3, 4, true, Activation::relu>, ByRows<64, 128, 2, 2, 5>>(1100);
  run_sizes<LayerOf<AsTf32, 32, 64, 5, 1, 3, 0, true>, ByRows<64, 256, 2, 2, 5>>(1101);
  run_sizes<LayerOf<AsInteger, 128, 90, 3, 1, 2, 1, true>, ByRows<128, 184, 2, 2, 6>>(601);
  run_sizes<LayerOf<AsTf32, 16, 70, 3, 1, 1, 1, false, Activation::relu>, ByRows<128, 128, 2, 2, 5>>(300);
}
// Where a block has many tiles.
TEST(GemmSm90OnTheHost, GroupsMultiplyInTurns) {
  using Layer = LayerOf<AsInteger, 32, 16, 2, 1, 1, 0, true>;
  using Schedule = ScheduleOf<16, 1, 2, 1, 2>;
  using Kernel = GemmSm90<Layer, Schedule>;
  static_assert(Kernel::IN_TURNS);
  run_sizes<Layer, Schedule>(2 * Kernel::MANY_TILES * Kernel::POSITIONS + 70);
}
// Each with a ring of its own rows of the weights; outputs leave as sectors, of rows that start anywhere in one.
TEST(GemmSm90OnTheHost, GroupsOfRowsBringTheirOwnWeights) {
  using Layer = LayerOf<AsTf32, 100, 120, 3, 1, 1, 1, true>;
  using Schedule = ByRows<128, 128, 2, 4, 3>;
  using Kernel = GemmSm90<Layer, Schedule>;
  static_assert(Kernel::OWN_W);
  run_sizes<Layer, Schedule>(700);
  run_sizes<LayerOf<AsTf32, 64, 128, 2, 1, 3, 0, false>, ByRows<128, 256, 2, 2, 2>>(600);
  run_sizes<LayerOf<AsTf32, 32, 200, 3, 1, 1, 2, true, Activation::relu>, ByRows<128, 256, 2, 2, 2>>(801);
}
// Five and seven phases, the outputs of 120 rows in three parts.
TEST(GemmSm90OnTheHost, RowsOfManyTiles) {
  using Layer = LayerOf<AsInteger, 64, 30, 10, 5, 1, 2, true>;
  using Schedule = ScheduleOf<120, 2, 2, 2, 4>;
  static_assert(GemmSm90<Layer, Schedule>::PARTS == 3);
  run_sizes<Layer, Schedule>(500);
  run_sizes<LayerOf<AsTf32, 40, 24, 10, 5, 1, 1, false>, ScheduleOf<120, 2, 2, 2, 3>>(300);
  run_sizes<LayerOf<AsInteger, 24, 16, 14, 7, 1, 3, true, Activation::relu>, ScheduleOf<112, 1, 2, 2, 3>>(200);
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
// Channels that fill no step of the matrix unit, or no chunk.
TEST(GemmSm90OnTheHost, FewChannels) {
  run_sizes<LayerOf<AsInteger, 11, 1, 20, 5, 1, 0, false>, ScheduleOf<32, 4, 2, 2, 4>>(1600);
  run_sizes<LayerOf<AsInteger, 11, 1, 20, 5, 1, 0, false>, ScheduleOf<32, 2, 2, 2, 4>>(1600);
  run_sizes<LayerOf<AsInteger, 11, 1, 20, 5, 1, 0, false>, ScheduleOf<32, 1, 2, 2, 4>>(800);
  run_sizes<LayerOf<AsInteger, 11, 1, 20, 5, 1, 0, false>, ScheduleOf<32, 1, 1, 2, 4>>(400);
  run_sizes<LayerOf<AsInteger, 48, 8, 8, 4, 1, 0, true>, ScheduleOf<32, 2, 2, 2, 2>>(801);
  run_sizes<LayerOf<AsTf32, 13, 20, 3, 1, 1, 1, true>, ScheduleOf<24, 2, 2, 2, 3>>(801);
}
// More than registers hold at once: a window in two batches, and several short ones together.
TEST(GemmSm90OnTheHost, WindowsInBatchesAndTogether) {
  run_sizes<LayerOf<AsTf32, 32, 64, 3, 1, 1, 1, true>, ScheduleOf<64, 4, 2, 2, 3>>(600);
  run_sizes<LayerOf<AsInteger, 448, 64, 3, 1, 1, 0, true>, ScheduleOf<64, 1, 1, 2, 8>>(70);
}

}  // namespace
}  // namespace tconv
