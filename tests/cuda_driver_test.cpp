#include <gtest/gtest.h>

#include <string>

#include "cuda/driver.hpp"
#include "util/error.hpp"

namespace tconv::cuda {
namespace {

TEST(CudaDriver, OpensOrSaysOnOneLineWhyNot) {
  try {
    const Driver& first = driver();
    EXPECT_EQ(&first, &driver());
    int devices = 0;
    check(first.cuDeviceGetCount(&devices), "cuDeviceGetCount");
    EXPECT_GT(devices, 0);
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(error.exit(), Exit::no_device);
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    EXPECT_EQ(what.rfind("cuda: ", 0), 0U) << what;
  }
}

TEST(CudaDriver, AFailureHasTheDriversOwnWords) {
  try {
    (void)driver();
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  EXPECT_NO_THROW(check(kSuccess, "cuInit"));
  try {
    check(1, "cuMemAlloc");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cuMemAlloc failed: CUDA_ERROR_INVALID_VALUE"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace tconv::cuda
