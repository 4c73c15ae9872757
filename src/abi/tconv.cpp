// The C interface: no exception crosses it, and every failure leaves its line with the thread.
#include "tconv/tconv.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "cpu/plan.hpp"
#include "cuda/plan.hpp"
#include "problem/layer.hpp"
#include "util/error.hpp"
#include "util/text.hpp"

struct tconv_plan {
  tconv::Problem problem;
  std::unique_ptr<const tconv::cpu::Plan> cpu;  // one of the two
  std::unique_ptr<const tconv::cuda::Plan> cuda;
};

namespace {

constexpr std::size_t kMaxMessage = 4000;

std::string& last_error() {
  thread_local std::string text;
  return text;
}

tconv_status fail(tconv_status status, const char* text) noexcept {
  try {
    last_error() = tconv::printable(text, kMaxMessage);
  } catch (...) {
    last_error().clear();  // no memory for the text; the status still tells
  }
  return status;
}

tconv_status status_of(tconv::Exit exit) {
  switch (exit) {
    case tconv::Exit::ok:
      return TCONV_OK;
    case tconv::Exit::usage:
      return TCONV_INVALID;
    case tconv::Exit::unsupported:
      return TCONV_UNSUPPORTED;
    case tconv::Exit::no_device:
      return TCONV_NO_DEVICE;
    case tconv::Exit::check_failed:
    case tconv::Exit::defect:
      break;
  }
  return TCONV_DEFECT;
}

template <typename Body>
tconv_status guarded(Body body) noexcept {
  try {
    last_error().clear();
    body();
    return TCONV_OK;
  } catch (const tconv::Error& error) {
    return fail(status_of(error.exit()), error.what());
  } catch (const std::exception& error) {
    return fail(TCONV_DEFECT, error.what());
  } catch (...) {
    return fail(TCONV_DEFECT, "an exception of no known type");
  }
}

void require(bool good, const char* where, const char* what) {
  if (!good) throw tconv::Error(tconv::Exit::usage, where, what, "");
}

// The only size there has been so far; a later header's first members will be these.
template <typename Struct>
void require_size(const Struct* given, const char* where) {
  require(given != nullptr, where, "the pointer is null");
  if (given->struct_size != sizeof(Struct))
    throw tconv::Error(tconv::Exit::usage, where, "has a struct_size of " + std::to_string(given->struct_size),
                       "sizeof is " + std::to_string(sizeof(Struct)));
}

tconv::Layer layer_of(const tconv_problem& given) {
  require(given.arithmetic >= TCONV_F32 && given.arithmetic <= TCONV_I32, "tconv_problem",
          "the arithmetic is none of tconv_arithmetic");
  require(given.bias == 0 || given.bias == 1, "tconv_problem", "the bias is neither 0 nor 1");
  for (const std::int32_t activation : {given.before, given.after})
    require(activation >= TCONV_NONE && activation <= TCONV_SNAKE, "tconv_problem",
            "an activation is none of tconv_activation");
  constexpr tconv::Arithmetic kArithmetics[] = {tconv::Arithmetic::f32, tconv::Arithmetic::tf32,
                                                tconv::Arithmetic::f16, tconv::Arithmetic::bf16,
                                                tconv::Arithmetic::f64, tconv::Arithmetic::i32};
  static_assert(static_cast<int>(tconv::Activation::snake) == TCONV_SNAKE &&
                    static_cast<int>(tconv::Activation::elu) == TCONV_ELU,
                "both enumerations are in one order");
  return {.problem = {.c_in = given.c_in,
                      .c_out = given.c_out,
                      .kernel = given.kernel,
                      .stride = given.stride,
                      .padding = given.padding,
                      .output_padding = given.output_padding,
                      .dilation = given.dilation,
                      .groups = given.groups,
                      .arithmetic = kArithmetics[given.arithmetic],
                      .bias = given.bias != 0},
          .before = static_cast<tconv::Activation>(given.before),
          .after = static_cast<tconv::Activation>(given.after),
          .before_parameter = given.before_parameter,
          .after_parameter = given.after_parameter};
}

tconv_how how_of(const tconv_how* given) {
  if (given == nullptr) return TCONV_HOW_INIT;
  require_size(given, "tconv_how");
  return *given;
}

}  // namespace

const char* tconv_version(void) { return TCONV_VERSION; }

const char* tconv_last_error(void) { return last_error().c_str(); }

tconv_status tconv_plan_create(const tconv_problem* problem, int device, const char* solver, tconv_plan** plan) {
  return guarded([&] {
    require(plan != nullptr, "tconv_plan_create", "the pointer to the plan is null");
    *plan = nullptr;
    require_size(problem, "tconv_problem");
    const tconv::Layer layer = layer_of(*problem);
    const char* name = solver != nullptr ? solver : "";
    auto made = std::make_unique<tconv_plan>();
    made->problem = layer.problem;
    if (device == TCONV_CPU) {
      made->cpu = std::make_unique<const tconv::cpu::Plan>(layer, name);
    } else {
      made->cuda = std::make_unique<const tconv::cuda::Plan>(layer, device, name);
    }
    *plan = made.release();
  });
}

void tconv_plan_destroy(tconv_plan* plan) { delete plan; }

int64_t tconv_plan_packed_bytes(const tconv_plan* plan) {
  if (plan == nullptr) return 0;
  return plan->cpu != nullptr ? plan->cpu->packed_bytes() : plan->cuda->packed_bytes();
}

tconv_status tconv_plan_out_length(const tconv_plan* plan, int64_t length, int64_t* out_length) {
  return guarded([&] {
    require(plan != nullptr && out_length != nullptr, "tconv_plan_out_length", "a pointer is null");
    tconv::require_valid(plan->problem, {.batch = 1, .length = length});
    *out_length = tconv::out_length(plan->problem, length);
  });
}

tconv_status tconv_plan_pack(const tconv_plan* plan, const void* w, int64_t stride_in, int64_t stride_out,
                             int64_t stride_k, void* packed, const tconv_how* how) {
  return guarded([&] {
    require(plan != nullptr, "tconv_plan_pack", "the plan is null");
    const tconv_how own = how_of(how);
    const tconv::Pack call{
        .w = w, .packed = packed, .stride_in = stride_in, .stride_out = stride_out, .stride_k = stride_k};
    if (plan->cpu != nullptr) {
      plan->cpu->pack(call, {own.threads, own.parallel});
    } else {
      plan->cuda->pack(call, static_cast<tconv::cuda::Stream>(own.stream));
    }
  });
}

tconv_status tconv_plan_run(const tconv_plan* plan, const tconv_run* run, const tconv_how* how) {
  return guarded([&] {
    require(plan != nullptr, "tconv_plan_run", "the plan is null");
    require_size(run, "tconv_run");
    const tconv::Problem& problem = plan->problem;
    tconv::require_valid(problem, {.batch = run->batch, .length = run->length});
    const tconv_how own = how_of(how);
    const tconv::Call call{.x = run->x,
                           .w = run->packed,
                           .bias = run->bias,
                           .y = run->y,
                           .batch = run->batch,
                           .length = run->length,
                           .out_length = tconv::out_length(problem, run->length),
                           .x_stride_b = run->x_stride_batch,
                           .x_stride_c = run->x_stride_channel,
                           .x_stride_t = run->x_stride_sample,
                           .y_stride_b = run->y_stride_batch,
                           .y_stride_c = run->y_stride_channel,
                           .x_alpha = run->x_alpha,
                           .y_alpha = run->y_alpha};
    if (plan->cpu != nullptr) {
      plan->cpu->run(call, {own.threads, own.parallel});
    } else {
      plan->cuda->run(call, static_cast<tconv::cuda::Stream>(own.stream));
    }
  });
}

tconv_status tconv_plan_explain(const tconv_plan* plan, int64_t batch, int64_t length, char* text, size_t size,
                                size_t* needed) {
  return guarded([&] {
    require(plan != nullptr, "tconv_plan_explain", "the plan is null");
    require(text != nullptr || size == 0, "tconv_plan_explain", "the text is null");
    const tconv::Extent extent{.batch = batch, .length = length};
    const std::string whole = plan->cpu != nullptr ? plan->cpu->explain(extent) : plan->cuda->explain(extent);
    if (needed != nullptr) *needed = whole.size() + 1;
    if (size == 0) return;
    const std::size_t fits = std::min(whole.size(), size - 1);
    std::memcpy(text, whole.data(), fits);
    text[fits] = '\0';
  });
}
