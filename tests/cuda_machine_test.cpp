// Which target's kernels a device takes.
#include <gtest/gtest.h>

#include "cuda/machine.hpp"
#include "util/error.hpp"

namespace tconv::cuda {
namespace {

constexpr int kHopperShared = 227 << 10;
constexpr int kAdaShared = 99 << 10;

TEST(StandIn, IsAnOlderTargetOrOneOfTheSameInstructions) {
  EXPECT_EQ(stand_in("rtx4090", 90, kHopperShared).sm, 89);
  EXPECT_EQ(stand_in("NVIDIA A100-SXM4-80GB", 90, kHopperShared).key, "a100");
  EXPECT_EQ(stand_in("h200", 90, kHopperShared).key, "h200");
  EXPECT_EQ(stand_in("l4", 89, kAdaShared).key, "l4");
}

TEST(StandIn, IsNoneThatTheDeviceCannotServe) {
  EXPECT_THROW((void)stand_in("rtx4090ti", 90, kHopperShared), Error);  // unknown
  EXPECT_THROW((void)stand_in("b200", 90, kHopperShared), Error);       // newer
  EXPECT_THROW((void)stand_in("h100", 100, kHopperShared), Error);      // wgmma is gone
  EXPECT_THROW((void)stand_in("a100", 120, kAdaShared), Error);         // more shared memory
}

}  // namespace
}  // namespace tconv::cuda
