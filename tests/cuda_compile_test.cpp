#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <vector>

#include "cuda/compile.hpp"
#include "util/error.hpp"

namespace tconv::cuda {
namespace {

constexpr const char* kCopy = R"(#include "call.h"
extern "C" __global__ void run(const __grid_constant__ tconv::Call call) {
  static_cast<float*>(call.y)[threadIdx.x] = static_cast<const float*>(call.x)[threadIdx.x];
})";

// A cache of this process's own, so that what another run left decides nothing.
const bool kOwnCache = [] {
  static std::string name = (std::filesystem::temp_directory_path() / "tconv_compile_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) return false;
  setenv("TCONV_CACHE", name.c_str(), 1);
  std::atexit([] {
    std::error_code ignored;
    std::filesystem::remove_all(name, ignored);
  });
  return true;
}();

// Empty when NVRTC is here, else why it is not.
std::string absent() {
  try {
    (void)compile(kCopy, "sm_80");
    return "";
  } catch (const Error& error) {
    return error.exit() == Exit::no_device ? error.what() : "";
  }
}

#define NEEDS_NVRTC() \
  if (const std::string why = absent(); !why.empty()) GTEST_SKIP() << why

TEST(CudaCompile, EveryArchitecture) {
  NEEDS_NVRTC();
  for (const int sm : {80, 86, 89, 90, 100, 120}) {
    SCOPED_TRACE(sm);
    const Cubin cubin = compile(kCopy, architecture_of(sm));
    EXPECT_EQ(cubin.bytes.substr(1, 3), "ELF");
    EXPECT_GT(cubin.registers, 0);
    EXPECT_LT(cubin.registers, 64);
    EXPECT_EQ(cubin.spill_bytes, 0);
    EXPECT_EQ(cubin.stack_bytes, 0);
    EXPECT_EQ(cubin.static_shared_bytes, 0);
  }
}

TEST(CudaCompile, ReportsSpillsOfTheEntryAlone) {
  NEEDS_NVRTC();
  // 128 values stay live over a barrier, in at most 32 registers; `pack` spills nothing.
  const Cubin cubin = compile(R"(
extern "C" __global__ void pack(float* y) { y[threadIdx.x] = 1; }
extern "C" __global__ void __launch_bounds__(1024, 2) run(const float* x, float* y, int n) {
  float v[128];
#pragma unroll
  for (int i = 0; i < 128; ++i) v[i] = x[i * n + threadIdx.x];
  for (int k = 0; k < n; ++k) {
#pragma unroll
    for (int i = 0; i < 128; ++i) v[i] = v[i] * v[(i + 7) % 128] + 1.0f;
  }
#pragma unroll
  for (int i = 0; i < 128; ++i) y[i * n + threadIdx.x] = v[i];
})",
                              "sm_90a");
  EXPECT_GT(cubin.spill_bytes, 0);
  EXPECT_GT(cubin.stack_bytes, 0);
  EXPECT_LE(cubin.registers, 32);
}

TEST(CudaCompile, ReportsStaticSharedMemory) {
  NEEDS_NVRTC();
  const Cubin cubin = compile(R"(
extern "C" __global__ void run(float* y) {
  __shared__ float s[256];
  s[threadIdx.x] = y[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[255 - threadIdx.x];
})",
                              "sm_80");
  EXPECT_EQ(cubin.static_shared_bytes, 1024);
}

TEST(CudaCompile, TheSecondTimeIsFromTheCache) {
  NEEDS_NVRTC();
  ASSERT_TRUE(kOwnCache);
  const std::string source = std::string(kCopy) + "// cached";
  const Cubin first = compile(source, "sm_90a");
  const Cubin second = compile(source, "sm_90a");
  EXPECT_FALSE(first.cached);
  EXPECT_TRUE(second.cached);
  EXPECT_EQ(first.bytes, second.bytes);
  EXPECT_EQ(first.registers, second.registers);
  EXPECT_FALSE(compile(source, "sm_89").cached);
}

TEST(CudaCompile, ManyThreadsCompileOnce) {
  NEEDS_NVRTC();
  ASSERT_TRUE(kOwnCache);
  const std::string source = std::string(kCopy) + "// threads";
  std::atomic<int> compiled = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] { compiled += compile(source, "sm_80").cached ? 0 : 1; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(compiled, 1);
}

TEST(CudaCompile, BadSourceGivesTheLog) {
  NEEDS_NVRTC();
  try {
    (void)compile("extern \"C\" __global__ void run() { no_such_name(); }", "sm_80");
    FAIL() << "compiled";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::defect);
    EXPECT_NE(std::string(error.what()).find("no_such_name"), std::string::npos) << error.what();
  }
}

TEST(CudaCompile, UnknownArchitectureIsAnAbsentTool) {
  NEEDS_NVRTC();
  try {
    (void)compile(kCopy, "sm_999");
    FAIL() << "compiled";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::no_device) << error.what();
  }
}

TEST(CudaCompile, ArchitectureNames) {
  EXPECT_EQ(architecture_of(80), "sm_80");
  EXPECT_EQ(architecture_of(90), "sm_90a");
  EXPECT_EQ(architecture_of(120), "sm_120");
}

}  // namespace
}  // namespace tconv::cuda
