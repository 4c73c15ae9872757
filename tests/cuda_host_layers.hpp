// Layers of integers for kernels that run on the CPU (cuda_host_*_test.cpp): what a kernel's template takes, data, the
// blocks of a launch as threads, and plain sums to hold the results against, exactly.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <thread>
#include <utility>
#include <vector>

// Before any of kernels/: they need it.
#include "ptx.cuh"
// Behind it.
#include "activation.cuh"
#include "call.h"

namespace tconv::host {

struct AsInteger {  // in 16 bits
  using Element = unsigned short;
  static constexpr ptx::Operand OPERAND = ptx::Operand::f16;
  static constexpr int TERMS = 1;
  static float load(Element e) { return static_cast<std::int16_t>(e); }
  static Element round(float v) { return static_cast<Element>(static_cast<std::int16_t>(v)); }
  static unsigned round(float first, float second) { return round(first) | static_cast<unsigned>(round(second)) << 16; }
  static void store(Element* to, float first, float second) {
    if (reinterpret_cast<std::uintptr_t>(to) % 4 != 0) fail("a store of two samples is aligned");
    to[0] = round(first), to[1] = round(second);
  }
};

// C_IN_ and C_OUT_: of a group.
template <class S, int C_IN_, int C_OUT_, int K_, int STRIDE_, int DILATION_, int PADDING_, bool BIAS_,
          Activation ACTIVATION = Activation::none, int GROUPS_ = 1>
struct LayerOf {
  using Storage = S;
  static constexpr int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }
  static constexpr int C_IN = C_IN_, C_OUT = C_OUT_, GROUPS = GROUPS_, K = K_;
  static constexpr int STRIDE = STRIDE_, PADDING = PADDING_, DILATION = DILATION_;
  static constexpr int GAP = gcd(STRIDE, DILATION), LIVE = STRIDE / GAP, STEP = DILATION / GAP;
  // As src/cuda/gemm.cpp has it: of several phases, every offset of the window.
  static constexpr int TAPS = LIVE == 1 ? K : (DILATION * (K - 1)) / STRIDE + 1, JUMP = LIVE == 1 ? DILATION / GAP : 1;
  static constexpr bool BIAS = BIAS_;
  static constexpr Activation BEFORE = ACTIVATION, AFTER = ACTIVATION;
  static constexpr double BEFORE_PARAMETER = 0, AFTER_PARAMETER = 0;
};

struct Size {
  int batch, length;
  int x_start, x_step;  // elements past an alignment of 16 bytes, and between samples
  int y_start;
};

// Data of one layer and size, in Element, which as_stored makes of a number; every tensor exactly as long as it must
// be, so that the address sanitizer sees whoever leaves one.
template <class Layer, class Element>
class Case {
 public:
  template <class AsStored>
  Case(const Size& size, AsStored as_stored) : size_(size) {
    static std::mt19937 seeds(std::random_device{}());
    seed_ = static_cast<unsigned>(seeds());
    std::mt19937 random(seed_);
    const auto draw = [&] { return static_cast<int>(random() % 9) - 4; };
    const long long x_row = 1ll * size.length * size.x_step;
    x_values_.resize(static_cast<std::size_t>(size.batch) * C_IN * static_cast<std::size_t>(size.length));
    w_values_.resize(static_cast<std::size_t>(C_IN) * Layer::C_OUT * Layer::K);
    bias_values_.resize(C_OUT);
    for (auto* values : {&x_values_, &w_values_, &bias_values_}) std::ranges::generate(*values, draw);
    x_.resize(static_cast<std::size_t>(size.x_start + size.batch * C_IN * x_row - size.x_step + 1));
    for (std::size_t i = 0; i < x_values_.size(); ++i)
      x_[static_cast<std::size_t>(size.x_start) + i * static_cast<std::size_t>(size.x_step)] = as_stored(x_values_[i]);
    for (const int value : w_values_) w_.push_back(as_stored(value));
    for (const int value : bias_values_) bias_.push_back(as_stored(value));
    const long long out_length =
        (size.length - 1ll) * Layer::STRIDE - 2 * Layer::PADDING + Layer::DILATION * (Layer::K - 1) + 1;
    poison_ = as_stored(-31000);
    y_.resize(static_cast<std::size_t>(size.y_start + size.batch * C_OUT * out_length), poison_);
    call_ = {.x = x_.data() + size.x_start,
             .w = nullptr,
             .bias = Layer::BIAS ? bias_.data() : nullptr,
             .y = y_.data() + size.y_start,
             .batch = size.batch,
             .length = size.length,
             .out_length = out_length,
             .x_stride_b = C_IN * x_row,
             .x_stride_c = x_row,
             .x_stride_t = size.x_step,
             .y_stride_b = C_OUT * out_length,
             .y_stride_c = out_length};
  }

  [[nodiscard]] const Call& call() const { return call_; }

  // `threads` of pack's, one after another.
  template <class PackEntry>
  void pack(long long bytes, long long threads, PackEntry entry) {
    packed_.resize(static_cast<std::size_t>(bytes + 15) / 16);
    call_.w = packed_.data();
    gridDim.x = static_cast<unsigned>(threads), blockDim.x = 1, threadIdx.x = 0;
    for (long long thread = 0; thread < threads; ++thread) {
      blockIdx.x = static_cast<unsigned>(thread);
      has_waited = false;
      entry(Pack{w_.data(), packed_.data(), Layer::C_OUT * Layer::K, Layer::K, 1});
      touches_global_memory();  // it did
    }
  }

  // One block after another.
  template <class Entry>
  void run(long long blocks, int threads, Entry entry) {
    gridDim.x = static_cast<unsigned>(blocks), blockDim.x = static_cast<unsigned>(threads);
    for (unsigned index = 0; index < gridDim.x; ++index) {
      blockIdx.x = index;
      Block all(threads);
      block = &all;
      std::vector<std::jthread> running;
      for (unsigned thread = 0; thread < blockDim.x; ++thread) {
        running.emplace_back([thread, &entry, this] {
          threadIdx.x = thread;
          entry(std::as_const(call_));
        });
      }
    }
  }

  template <class AsStored>
  void check(AsStored as_stored) const {
    SCOPED_TRACE(testing::Message() << "seed " << seed_ << ", batch " << size_.batch << ", length " << size_.length);
    std::vector<int> due(y_.size() - static_cast<std::size_t>(size_.y_start));
    for (int b = 0; b < size_.batch; ++b) {
      for (int o = 0; o < C_OUT; ++o) {
        int* const row = due.data() + (b * C_OUT + o) * call_.out_length;
        std::fill(row, row + call_.out_length, Layer::BIAS ? bias_values_[static_cast<std::size_t>(o)] : 0);
        for (int c = o / Layer::C_OUT * Layer::C_IN; c < (o / Layer::C_OUT + 1) * Layer::C_IN; ++c) {
          for (int i = 0; i < size_.length; ++i) {
            for (int k = 0; k < Layer::K; ++k) {
              const long long t = 1ll * i * Layer::STRIDE - Layer::PADDING + k * Layer::DILATION;
              if (t < 0 || t >= call_.out_length) continue;
              const int sample = x_values_[static_cast<std::size_t>((b * C_IN + c) * size_.length + i)];
              row[t] += (Layer::BEFORE == Activation::relu ? std::max(sample, 0) : sample) *
                        w_values_[static_cast<std::size_t>((c * Layer::C_OUT + o % Layer::C_OUT) * Layer::K + k)];
            }
          }
        }
      }
    }
    if (Layer::AFTER == Activation::relu)
      std::ranges::transform(due, due.begin(), [](int sum) { return std::max(sum, 0); });
    int wrong = 0;
    for (std::size_t i = 0; i < due.size(); ++i) {
      if (y_[static_cast<std::size_t>(size_.y_start) + i] != as_stored(due[i]) && wrong++ < 5)
        ADD_FAILURE() << "y[" << i << "] of " << due.size() << " is not " << due[i];
    }
    EXPECT_EQ(wrong, 0);
    for (int i = 0; i < size_.y_start; ++i) EXPECT_EQ(y_[static_cast<std::size_t>(i)], poison_);
  }

 private:
  static constexpr int C_IN = Layer::C_IN * Layer::GROUPS, C_OUT = Layer::C_OUT * Layer::GROUPS;
  struct alignas(16) Unit {
    unsigned words[4];
  };
  Size size_;
  unsigned seed_ = 0;
  std::vector<int> x_values_, w_values_, bias_values_;
  std::vector<Element> x_, w_, bias_, y_;
  Element poison_{};
  std::vector<Unit> packed_;
  Call call_{};
};

// Pairs and fours of samples; single ones, as the length is odd, of rows that begin between two words and of others;
// strided x and tiles that reach over both ends of y.
inline std::vector<Size> sizes(int length) {
  return {{.batch = 2, .length = length, .x_start = 0, .x_step = 1, .y_start = 0},
          {.batch = 2, .length = length + 3, .x_start = 0, .x_step = 1, .y_start = 3},
          {.batch = 1, .length = length + 1, .x_start = 1, .x_step = 1, .y_start = 1},
          {.batch = 1, .length = 5, .x_start = 0, .x_step = 2, .y_start = 2}};
}

// `run` packs and runs a case of each size, and it is checked.
template <class Layer, class Element, class AsStored, class Run>
void each_size(int length, AsStored as_stored, Run run) {
  for (const Size& size : sizes(length)) {
    Case<Layer, Element> one(size, as_stored);
    run(one);
    one.check(as_stored);
  }
}

}  // namespace tconv::host
