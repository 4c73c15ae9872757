// Transposed 1-D convolution on the CPU and on CUDA GPUs: C++17 over tconv.h, which says what is computed.
//
//   tconv::Problem problem;
//   problem.c_in = 512, problem.c_out = 256, problem.kernel = 16, problem.stride = 8, problem.padding = 4;
//   const tconv::Plan plan(problem);                       // for the CPU; seconds the first time on a GPU
//   const tconv::Memory packed(plan.packed_bytes());       // on the CPU; on a GPU it is the device's
//   plan.pack(w, packed.data());                           // w: float (512, 256, 16), once
//   plan.run({x, packed.data(), y, batch, length});        // x: float (batch, 512, length), at any batch and length
//
// What tconv.h returns as a status is thrown as tconv::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "tconv/tconv.h"

namespace tconv {

// A refusal or a failure: what() is one line of text. What threw it did nothing.
class Error : public std::runtime_error {
 public:
  Error(tconv_status status, const char* text) : std::runtime_error(text), status_(status) {}
  // TCONV_INVALID, TCONV_UNSUPPORTED, TCONV_NO_DEVICE or TCONV_DEFECT.
  [[nodiscard]] tconv_status status() const noexcept { return status_; }

 private:
  tconv_status status_;
};

// Throws what a function of tconv.h returned, in the same thread.
inline void check(tconv_status status) {
  if (status != TCONV_OK) throw Error(status, tconv_last_error());
}

// "0.1.0", of the library that is loaded.
[[nodiscard]] inline std::string version() { return tconv_version(); }

// PyTorch's ConvTranspose1d: c_in, c_out and kernel have to be set, the rest has its defaults, except that there is no
// bias until it is asked for. Rules: groups divides both channels, output_padding < max(stride, dilation).
struct Problem {
  std::int64_t c_in = 0;
  std::int64_t c_out = 0;
  std::int64_t kernel = 0;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t output_padding = 0;
  std::int64_t dilation = 1;
  std::int64_t groups = 1;
  tconv_arithmetic arithmetic = TCONV_F32;  // and so the type of the elements
  bool bias = false;
  tconv_activation before = TCONV_NONE;  // of x
  tconv_activation after = TCONV_NONE;   // of y, behind the bias
  double before_parameter = 0;           // a of leaky_relu and elu
  double after_parameter = 0;
};

// How a call runs; tconv_how says more.
struct How {
  int threads = 1;                    // on the CPU: 1 to 1024, the caller's among them
  void* stream = nullptr;             // on a GPU: a CUstream or cudaStream_t
  tconv_parallel parallel = nullptr;  // on the CPU: threads of the caller's, null for tconv's
};

// All strides are in elements.
struct WeightStrides {
  std::int64_t in, out, tap;
};
struct InputStrides {
  std::int64_t batch, channel, sample;
};
struct OutputStrides {
  std::int64_t batch, channel;
};

// One call. Pointers are to the plan's device, elements of the problem's arithmetic.
struct Run {
  const void* x = nullptr;       // (batch, c_in, length)
  const void* packed = nullptr;  // what Plan::pack wrote
  void* y = nullptr;             // (batch, c_out, out_length(length)), apart from all that is read
  std::int64_t batch = 1;
  std::int64_t length = 0;
  const void* bias = nullptr;                   // (c_out), where the problem has a bias
  std::optional<InputStrides> x_strides = {};   // dense where left out
  std::optional<OutputStrides> y_strides = {};  // dense where left out; the samples always are
  const void* x_alpha = nullptr;                // (c_in) where `before` is snake: double for f64, else float
  const void* y_alpha = nullptr;                // (c_out) where `after` is snake
};

// Memory of the CPU, aligned as packed weights want it. Throws std::bad_alloc.
class Memory {
 public:
  explicit Memory(std::int64_t bytes) : data_(allocate(bytes)), bytes_(bytes) {}
  [[nodiscard]] void* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }

 private:
  static constexpr std::align_val_t kAlign{256};
  struct Free {
    void operator()(void* data) const noexcept { ::operator delete(data, kAlign); }
  };
  static void* allocate(std::int64_t bytes) {
    if (bytes < 0) throw std::bad_alloc();
    return ::operator new(static_cast<std::size_t>(bytes), kAlign);
  }
  std::unique_ptr<void, Free> data_;
  std::int64_t bytes_;
};

// One layer on one device. Movable; may be used by several threads at once.
class Plan {
 public:
  // `device`: TCONV_CPU, or a CUDA device's number. `solver`: nullptr chooses. Throws Error: unsupported where the
  // problem breaks a rule or nothing serves it, no_device where the GPU cannot be opened.
  explicit Plan(const Problem& problem, int device = TCONV_CPU, const char* solver = nullptr) : problem_(problem) {
    tconv_problem given = TCONV_PROBLEM_INIT;
    given.c_in = problem.c_in;
    given.c_out = problem.c_out;
    given.kernel = problem.kernel;
    given.stride = problem.stride;
    given.padding = problem.padding;
    given.output_padding = problem.output_padding;
    given.dilation = problem.dilation;
    given.groups = problem.groups;
    given.arithmetic = problem.arithmetic;
    given.bias = problem.bias ? 1 : 0;
    given.before = problem.before;
    given.after = problem.after;
    given.before_parameter = problem.before_parameter;
    given.after_parameter = problem.after_parameter;
    tconv_plan* made = nullptr;
    check(tconv_plan_create(&given, device, solver, &made));
    plan_.reset(made);
  }

  [[nodiscard]] const Problem& problem() const noexcept { return problem_; }
  [[nodiscard]] tconv_plan* get() const noexcept { return plan_.get(); }

  // Bytes of the device's memory that the packed weights take. Align it to 256.
  [[nodiscard]] std::int64_t packed_bytes() const noexcept { return tconv_plan_packed_bytes(plan_.get()); }

  // Throws Error where `length` makes no output.
  [[nodiscard]] std::int64_t out_length(std::int64_t length) const {
    std::int64_t result = 0;
    check(tconv_plan_out_length(plan_.get(), length, &result));
    return result;
  }

  // w: (c_in, c_out/groups, kernel) on the device, dense. packed: packed_bytes().
  void pack(const void* w, void* packed, const How& how = {}) const {
    pack(w, {problem_.c_out / problem_.groups * problem_.kernel, problem_.kernel, 1}, packed, how);
  }
  void pack(const void* w, const WeightStrides& strides, void* packed, const How& how = {}) const {
    const tconv_how own = how_of(how);
    check(tconv_plan_pack(plan_.get(), w, strides.in, strides.out, strides.tap, packed, &own));
  }

  // On the CPU y is written on return; on a GPU the call is asynchronous on the stream.
  void run(const Run& run, const How& how = {}) const {
    // Refuses a length whose products would not fit. An empty batch has no strides, and may have no length.
    const std::int64_t out = run.batch == 0 ? 0 : out_length(run.length);
    const std::int64_t in = run.batch == 0 ? 0 : run.length;
    const InputStrides x = run.x_strides.value_or(InputStrides{problem_.c_in * in, in, 1});
    const OutputStrides y = run.y_strides.value_or(OutputStrides{problem_.c_out * out, out});
    const tconv_run call{sizeof call, run.x,     run.packed, run.bias, run.y,     run.batch,   run.length,
                         x.batch,     x.channel, x.sample,   y.batch,  y.channel, run.x_alpha, run.y_alpha};
    const tconv_how own = how_of(how);
    check(tconv_plan_run(plan_.get(), &call, &own));
  }

  // What runs at this batch and length, and why, in lines.
  [[nodiscard]] std::string explain(std::int64_t batch, std::int64_t length) const {
    std::size_t needed = 0;
    check(tconv_plan_explain(plan_.get(), batch, length, nullptr, 0, &needed));
    std::string text(needed, '\0');
    check(tconv_plan_explain(plan_.get(), batch, length, text.data(), needed, nullptr));
    text.pop_back();
    return text;
  }

 private:
  struct Destroy {
    void operator()(tconv_plan* plan) const noexcept { tconv_plan_destroy(plan); }
  };
  static tconv_how how_of(const How& how) { return {sizeof(tconv_how), how.stream, how.threads, how.parallel}; }

  Problem problem_;
  std::unique_ptr<tconv_plan, Destroy> plan_;
};

}  // namespace tconv
