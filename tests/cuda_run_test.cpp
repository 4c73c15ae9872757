// What a plan's runs promise on a GPU, whatever their sizes: nothing compiled or allocated, the same bits every time,
// tensors of more than 2^31 elements.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/compile.hpp"
#include "cuda/machine.hpp"
#include "cuda/plan.hpp"
#include "problem/grammar.hpp"
#include "util/error.hpp"

namespace tconv::cuda {
namespace {

class Memory {
 public:
  explicit Memory(std::int64_t bytes) {
    check(driver().cuMemAlloc(&pointer_, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))), "cuMemAlloc");
  }
  ~Memory() { driver().cuMemFree(pointer_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] Pointer at(std::int64_t byte) const { return pointer_ + static_cast<Pointer>(byte); }
  [[nodiscard]] void* get() const { return reinterpret_cast<void*>(pointer_); }  // NOLINT(performance-no-int-to-ptr)

 private:
  Pointer pointer_ = 0;
};

template <typename Element>
void copy_to(const Memory& memory, std::int64_t first, const std::vector<Element>& from) {
  check(driver().cuMemcpyHtoD(memory.at(first * static_cast<std::int64_t>(sizeof(Element))), from.data(),
                              from.size() * sizeof(Element)),
        "cuMemcpyHtoD");
}

template <typename Element>
std::vector<Element> copy_of(const Memory& memory, std::int64_t first, std::int64_t count) {
  std::vector<Element> to(static_cast<std::size_t>(count));
  check(driver().cuMemcpyDtoH(to.data(), memory.at(first * static_cast<std::int64_t>(sizeof(Element))),
                              to.size() * sizeof(Element)),
        "cuMemcpyDtoH");
  return to;
}

class Runs : public testing::Test {
 protected:
  void SetUp() override {
    try {
      here_ = &machine(0);
      check(driver().cuCtxSetCurrent(here_->context), "cuCtxSetCurrent");
      (void)compile("extern \"C\" __global__ void run(int* y) { *y = 1; }", here_->architecture);
    } catch (const Error& error) {
      if (error.exit() == Exit::no_device) GTEST_SKIP() << error.what();
      throw;
    }
  }
  void TearDown() override {
    for (const Stream stream : streams_) driver().cuStreamDestroy(stream);
  }

  Stream stream() {
    Stream made = nullptr;
    check(driver().cuStreamCreate(&made, kStreamNonBlocking), "cuStreamCreate");
    return streams_.emplace_back(made);
  }
  // The plan, or none where the solver named does not serve the problem here.
  std::unique_ptr<Plan> plan(const Problem& problem, std::string_view solver = {}) {
    try {
      return std::make_unique<Plan>(Layer{.problem = problem}, 0, solver);
    } catch (const Error& error) {
      if (error.exit() == Exit::unsupported && !solver.empty()) return nullptr;
      throw;
    }
  }

  const Machine* here_ = nullptr;

 private:
  std::vector<Stream> streams_;
};

// Dense tensors of a workload; the caller fills in the pointers.
Call dense(const Workload& workload) {
  const auto& [problem, extent] = workload;
  const std::int64_t out = out_length(problem, extent.length);
  Call call{};
  call.batch = extent.batch;
  call.length = extent.length;
  call.out_length = out;
  call.x_stride_b = problem.c_in * extent.length;
  call.x_stride_c = extent.length;
  call.x_stride_t = 1;
  call.y_stride_b = problem.c_out * out;
  call.y_stride_c = out;
  return call;
}

Pack dense_pack(const Problem& problem, const Memory& w, const Memory& packed) {
  return {.w = w.get(),
          .packed = packed.get(),
          .stride_in = problem.c_out / problem.groups * problem.kernel,
          .stride_out = problem.kernel,
          .stride_k = 1};
}

std::int64_t elements_of_w(const Problem& p) { return p.c_in * (p.c_out / p.groups) * p.kernel; }

// Numbers between 1/8 and 2, of either sign, in f32 or f16, and whatever they are as bits of another type.
std::vector<char> random_bytes(std::int64_t elements, int element_bytes, unsigned seed) {
  std::minstd_rand random(seed);
  std::vector<char> bytes(static_cast<std::size_t>(elements * element_bytes));
  for (std::int64_t i = 0; i < elements; ++i) {
    const auto r = static_cast<std::uint32_t>(random() >> 3);
    const std::uint32_t sign = (r & 1) << 31;
    if (element_bytes == 4) {
      const std::uint32_t bits = sign | (0x3E000000U + (r % 0x02000000U));
      std::copy_n(reinterpret_cast<const char*>(&bits), 4, bytes.begin() + 4 * i);
    } else {
      const auto bits = static_cast<std::uint16_t>((sign >> 16) | (0x3000U + r % 0x1000U));
      std::copy_n(reinterpret_cast<const char*>(&bits), 2, bytes.begin() + 2 * i);
    }
  }
  return bytes;
}

// --- sizes that change ---------------------------------------------------------------------------

std::set<std::string> files_below(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) names.insert(entry.path());
  return names;
}

// While a stream is captured in this mode, the driver refuses to allocate, to synchronise and to load a module.
struct Capture {
  int (*begin)(Stream, int mode) = nullptr;
  int (*end)(Stream, void** graph) = nullptr;
  int (*destroy)(void* graph) = nullptr;
  int (*instantiate)(void** executable, void* graph, unsigned long long flags) = nullptr;
  int (*launch)(void* executable, Stream) = nullptr;
  int (*destroy_executable)(void* executable) = nullptr;
  static constexpr int kGlobal = 0;

  Capture() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    begin = reinterpret_cast<decltype(begin)>(dlsym(library, "cuStreamBeginCapture_v2"));
    end = reinterpret_cast<decltype(end)>(dlsym(library, "cuStreamEndCapture"));
    destroy = reinterpret_cast<decltype(destroy)>(dlsym(library, "cuGraphDestroy"));
    instantiate = reinterpret_cast<decltype(instantiate)>(dlsym(library, "cuGraphInstantiateWithFlags"));
    launch = reinterpret_cast<decltype(launch)>(dlsym(library, "cuGraphLaunch"));
    destroy_executable = reinterpret_cast<decltype(destroy_executable)>(dlsym(library, "cuGraphExecDestroy"));
  }
};

TEST_F(Runs, OfAnySizeCompileAndAllocateNothing) {
  std::string folder = "/tmp/tconv_run_test_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  setenv("TCONV_CACHE", folder.c_str(), 1);
  for (const char* word : {"b20_i512_o256_l900_k16_s8_p4_f16_bias", "b20_i32_o64_l9000_k3_s2_p1_d2_tf32"}) {
    const Workload most = parse_workload(word);
    const Problem& problem = most.problem;
    const std::unique_ptr<Plan> made = plan(problem);
    const int size = bytes_per_element(problem.arithmetic);
    const Memory x(most.extent.batch * problem.c_in * most.extent.length * size), w(elements_of_w(problem) * size),
        bias(problem.c_out * size), packed(made->packed_bytes()),
        y(most.extent.batch * problem.c_out * out_length(problem, most.extent.length) * size);
    check(driver().cuMemsetD8(w.at(0), 0, static_cast<std::size_t>(elements_of_w(problem) * size)), "cuMemsetD8");
    const Stream own = stream();
    made->pack(dense_pack(problem, w, packed), own);
    check(driver().cuStreamSynchronize(own), "cuStreamSynchronize");
    const std::set<std::string> before = files_below(folder);
    EXPECT_FALSE(before.empty());

    const Capture capture;
    ASSERT_TRUE(capture.begin && capture.end && capture.destroy);
    check(capture.begin(own, Capture::kGlobal), "cuStreamBeginCapture");
    std::minstd_rand random(7);
    for (int i = 0; i < 220; ++i) {
      Extent extent{.batch = 1, .length = 1 + static_cast<std::int64_t>(random()) % most.extent.length};
      if (i >= 200) extent = {.batch = 1 + static_cast<std::int64_t>(random()) % most.extent.batch, .length = 100};
      Call call = dense({problem, extent});
      call.x = x.get();
      call.w = packed.get();
      call.bias = problem.bias ? bias.get() : nullptr;
      call.y = y.get();
      EXPECT_NO_THROW(made->run(call, own)) << word << ", batch " << extent.batch << ", length " << extent.length;
    }
    void* graph = nullptr;
    EXPECT_EQ(capture.end(own, &graph), kSuccess) << word;
    if (graph != nullptr) capture.destroy(graph);
    EXPECT_EQ(files_below(folder), before) << word;
  }
  unsetenv("TCONV_CACHE");
  std::filesystem::remove_all(folder);
}

// --- the same bits -------------------------------------------------------------------------------

// Images 0 and 2 of x are equal; two streams run at once, several times each.
TEST_F(Runs, GiveTheSameBitsOnAnyStreamAndForAnyImage) {
  constexpr const char* kLayers[] = {
      "b3_i24_o24_l3000_k12_s2_g24_f32",      "b3_i64_o32_l900_k8_s4_p2_tf32",  "b3_i64_o32_l900_k8_s4_p2_f16",
      "b3_i512_o256_l40_k16_s8_p4_f16_bias",  "b3_i1026_o1_l60_k1024_s256_f16", "b3_i1026_o1_l60_k1024_s256_f32",
      "b3_i1024_o512_l2_k16_s8_p4_tf32_bias", "b3_i1026_o1_l20_k512_s128_f16",  "b3_i64_o2_l12000_k16_s2_p1_f16",
  };
  const Stream streams[] = {stream(), stream()};
  std::set<std::string_view> met;
  int shared_sums = 0;
  for (const char* word : kLayers) {
    const Workload workload = parse_workload(word);
    const auto& [problem, extent] = workload;
    const int size = bytes_per_element(problem.arithmetic);
    const std::int64_t image = problem.c_in * extent.length;
    std::vector<char> x_bytes = random_bytes(extent.batch * image, size, 1);
    std::copy_n(x_bytes.begin(), image * size, x_bytes.begin() + 2 * image * size);
    const Memory x(extent.batch * image * size), w(elements_of_w(problem) * size), bias(problem.c_out * size);
    copy_to(x, 0, x_bytes);
    copy_to(w, 0, random_bytes(elements_of_w(problem), size, 2));
    copy_to(bias, 0, random_bytes(problem.c_out, size, 3));
    const std::int64_t y_image = problem.c_out * out_length(problem, extent.length) * size;
    const Memory ys[] = {Memory(extent.batch * y_image), Memory(extent.batch * y_image)};

    for (const Solver* solver : solvers()) {
      const std::unique_ptr<Plan> made = plan(problem, solver->name);
      if (made == nullptr) continue;
      met.insert(solver->name);
      const Memory packed(made->packed_bytes());
      made->pack(dense_pack(problem, w, packed), nullptr);
      check(driver().cuCtxSynchronize(), "cuCtxSynchronize");
      Call call = dense(workload);
      call.x = x.get();
      call.w = packed.get();
      call.bias = problem.bias ? bias.get() : nullptr;
      for (std::size_t i = 0; i < made->compiled().size(); ++i) {
        const Schedule& schedule = made->compiled()[i].schedule;
        const std::string what = std::string(word) + ", " + std::string(solver->name) + ", " + print(schedule);
        shared_sums += schedule.splits > 1 ? 1 : 0;
        for (const Memory& y : ys)
          check(driver().cuMemsetD8(y.at(0), 0xFF, static_cast<std::size_t>(extent.batch * y_image)), "cuMemsetD8");
        for (int repeat = 0; repeat < 4; ++repeat) {
          for (int s = 0; s < 2; ++s) {
            call.y = ys[s].get();
            made->run(i, call, streams[s]);
          }
        }
        check(driver().cuCtxSynchronize(), "cuCtxSynchronize");
        const std::vector<char> one = copy_of<char>(ys[0], 0, extent.batch * y_image);
        EXPECT_EQ(one, copy_of<char>(ys[1], 0, extent.batch * y_image)) << what << ": by stream";
        EXPECT_TRUE(std::equal(one.begin(), one.begin() + y_image, one.begin() + 2 * y_image)) << what << ": by image";
      }
    }
  }
  EXPECT_TRUE(met.contains("depthwise") && met.contains("gemm_sm80") && met.contains("direct"));
  if (here_->target.sm == 90) {
    EXPECT_TRUE(met.contains("gemm_sm90"));
    EXPECT_GT(shared_sums, 0);
  }
}

// --- one after the other -------------------------------------------------------------------------

// A layer of its own result, several times, with the weights packed anew for each: a launch may begin beside the end of
// the one before it, and has few enough blocks for all of both to be on the GPU at once.
TEST_F(Runs, ReadWhatTheOneBeforeWrote) {
  const Capture capture;
  ASSERT_TRUE(capture.begin && capture.end && capture.destroy && capture.instantiate && capture.launch &&
              capture.destroy_executable);
  constexpr int kRuns = 12;
  std::set<std::string_view> met;
  for (const char* word :
       {"b1_i64_o64_l2000_k3_s1_p1_tf32", "b1_i512_o512_l40_k3_s1_p1_tf32", "b1_i64_o64_l2000_k3_p1_g64_f32"}) {
    const Workload workload = parse_workload(word);
    const Problem& problem = workload.problem;
    const std::int64_t bytes = 4 * problem.c_in * workload.extent.length;
    const Memory ws[] = {Memory(4 * elements_of_w(problem)), Memory(4 * elements_of_w(problem))};
    const Memory a(bytes), b(bytes);
    for (unsigned i = 0; i < 2; ++i) copy_to(ws[i], 0, random_bytes(elements_of_w(problem), 4, 2 + i));
    const std::vector<char> x = random_bytes(bytes / 4, 4, 1);
    for (const Solver* solver : solvers()) {
      const std::unique_ptr<Plan> made = plan(problem, solver->name);
      if (made == nullptr) continue;
      met.insert(solver->name);
      const Memory packed(made->packed_bytes());
      const Stream here = stream();
      for (std::size_t i = 0; i < made->compiled().size(); ++i) {
        const std::string what =
            std::string(word) + ", " + std::string(solver->name) + ", " + print(made->compiled()[i].schedule);
        Call call = dense(workload);
        call.w = packed.get();
        const auto runs = [&](bool wait) {
          for (int run = 0; run < kRuns; ++run) {
            made->pack(dense_pack(problem, ws[run % 2], packed), here);
            if (wait) check(driver().cuStreamSynchronize(here), "cuStreamSynchronize");
            call.x = (run % 2 == 0 ? a : b).get();
            call.y = (run % 2 == 0 ? b : a).get();
            made->run(i, call, here);
            if (wait) check(driver().cuStreamSynchronize(here), "cuStreamSynchronize");
          }
        };
        const auto result = [&](auto all) {
          copy_to(a, 0, x);
          check(driver().cuMemsetD8(b.at(0), 0xFF, static_cast<std::size_t>(bytes)), "cuMemsetD8");
          check(driver().cuCtxSynchronize(), "cuCtxSynchronize");
          all();
          check(driver().cuStreamSynchronize(here), "cuStreamSynchronize");
          return copy_of<char>(kRuns % 2 == 0 ? a : b, 0, bytes);
        };
        const std::vector<char> due = result([&] { runs(true); });
        EXPECT_EQ(due, result([&] { runs(false); })) << what;
        void* graph = nullptr;
        void* executable = nullptr;
        check(capture.begin(here, Capture::kGlobal), "cuStreamBeginCapture");
        runs(false);
        check(capture.end(here, &graph), "cuStreamEndCapture");
        check(capture.instantiate(&executable, graph, 0), "cuGraphInstantiateWithFlags");
        EXPECT_EQ(due, result([&] { check(capture.launch(executable, here), "cuGraphLaunch"); }))
            << what << ": as a graph";
        check(capture.destroy_executable(executable), "cuGraphExecDestroy");
        check(capture.destroy(graph), "cuGraphDestroy");
      }
    }
  }
  EXPECT_TRUE(met.contains("depthwise") && met.contains("gemm_sm80") && met.contains("direct"));
  if (here_->target.sm == 90) {
    EXPECT_TRUE(met.contains("gemm_sm90"));
  }
}

// --- many elements -------------------------------------------------------------------------------

constexpr std::array<std::uint16_t, 5> kWhole{0xC000, 0xBC00, 0, 0x3C00, 0x4000};  // -2 to 2 in f16

double value_of_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 31) return std::nan("");
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits >> 15 != 0 ? -magnitude : magnitude;
}

// Whole numbers, whose sums are exact in f16: -2 to 2, repeated after a prime number of elements, so that no row begins
// as another does.
TEST_F(Runs, ServeMoreThan2To31Elements) {
  for (const char* word : {"b2_i128_o128_l12600000_k3_p1_f16", "b2_i128_o128_l12600000_k3_p1_g128_f16"}) {
    const Workload workload = parse_workload(word);
    const auto& [problem, extent] = workload;
    const std::int64_t count = extent.batch * problem.c_in * extent.length;  // of x, and as many of y
    ASSERT_GT(count, std::int64_t{1} << 31);
    std::size_t free = 0;
    std::size_t total = 0;
    check(driver().cuMemGetInfo(&free, &total), "cuMemGetInfo");
    if (static_cast<std::int64_t>(free) < 4 * count + (std::int64_t{1} << 30))
      GTEST_SKIP() << "needs " << 4 * count << " bytes of device memory, and " << free << " are free";
    const Memory x(2 * count), y(2 * count), w(2 * elements_of_w(problem));

    constexpr std::int64_t kPeriod = 33554393;
    std::vector<std::uint16_t> block(kPeriod);
    std::minstd_rand random(5);
    for (std::uint16_t& bits : block) bits = kWhole[random() / 7 % 5];
    for (std::int64_t at = 0; at < count; at += kPeriod) {
      if (count - at < kPeriod) block.resize(static_cast<std::size_t>(count - at));
      copy_to(x, at, block);
    }
    std::vector<std::uint16_t> weights(static_cast<std::size_t>(elements_of_w(problem)));
    for (std::uint16_t& bits : weights) bits = kWhole[random() / 7 % 5];
    copy_to(w, 0, weights);

    // Samples around the ends, and around element 2^31 of y and of x.
    const std::int64_t out = out_length(problem, extent.length);
    ASSERT_EQ(out, extent.length);
    struct Window {
      std::int64_t image, channel, first;
    };
    constexpr std::int64_t kSamples = 64;
    std::vector<Window> windows;
    for (const std::int64_t image : {0, 1})
      for (const std::int64_t channel : {0, 77, 127})
        for (const std::int64_t first : {std::int64_t{0}, out / 2, out - kSamples})
          windows.push_back({image, channel, first});
    const std::int64_t row = (std::int64_t{1} << 31) / out, in_row = (std::int64_t{1} << 31) % out;
    for (const std::int64_t first : {in_row - kSamples, in_row})
      windows.push_back({row / problem.c_out, row % problem.c_out, first});

    for (const Solver* solver : solvers()) {
      const std::unique_ptr<Plan> made = plan(problem, solver->name);
      if (made == nullptr) continue;
      const Memory packed(made->packed_bytes());
      made->pack(dense_pack(problem, w, packed), nullptr);
      check(driver().cuMemsetD8(y.at(0), 0xFF, static_cast<std::size_t>(2 * count)), "cuMemsetD8");
      Call call = dense(workload);
      call.x = x.get();
      call.w = packed.get();
      call.y = y.get();
      made->run(call, nullptr);
      check(driver().cuCtxSynchronize(), "cuCtxSynchronize");
      const std::int64_t channels = problem.c_in / problem.groups;  // of a group, and as many of y
      for (const Window& window : windows) {
        const auto ours =
            copy_of<std::uint16_t>(y, (window.image * problem.c_out + window.channel) * out + window.first, kSamples);
        std::vector<double> due(kSamples);
        const std::int64_t from = std::max<std::int64_t>(window.first - 2, 0);
        const std::int64_t to = std::min(window.first + kSamples + 2, extent.length);
        for (std::int64_t c = 0; c < channels; ++c) {
          const std::int64_t ci = window.channel / channels * channels + c;
          const auto samples =
              copy_of<std::uint16_t>(x, (window.image * problem.c_in + ci) * extent.length + from, to - from);
          for (std::int64_t t = 0; t < kSamples; ++t) {
            for (std::int64_t k = 0; k < problem.kernel; ++k) {
              const std::int64_t i = window.first + t + problem.padding - k;
              if (i < 0 || i >= extent.length) continue;
              const std::int64_t at = (ci * channels + window.channel % channels) * problem.kernel + k;
              due[static_cast<std::size_t>(t)] += value_of_half(samples[static_cast<std::size_t>(i - from)]) *
                                                  value_of_half(weights[static_cast<std::size_t>(at)]);
            }
          }
        }
        for (std::size_t t = 0; t < due.size(); ++t)
          ASSERT_EQ(value_of_half(ours[t]), due[t])
              << word << ", " << solver->name << ": image " << window.image << ", channel " << window.channel
              << ", sample " << window.first + static_cast<std::int64_t>(t);
      }
    }
  }
}

}  // namespace
}  // namespace tconv::cuda
