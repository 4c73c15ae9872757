#include "cpu/plan.hpp"

#include <fmt/format.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <new>
#include <utility>

#include "cpu/threads.hpp"
#include "util/error.hpp"

namespace tconv::cpu {
namespace {

// A thread's calls reuse their memory; it grows to the largest and goes with the thread.
class Memory {
 public:
  ~Memory() { release(); }
  std::byte* take(std::int64_t bytes) {
    if (bytes > bytes_) {
      release();
      memory_ = static_cast<std::byte*>(::operator new(static_cast<std::size_t>(bytes), kAlign));
      bytes_ = bytes;
    }
    return memory_;
  }

 private:
  static constexpr std::align_val_t kAlign{4096};
  void release() {
    if (memory_ != nullptr) ::operator delete(memory_, kAlign);
    memory_ = nullptr;
    bytes_ = 0;
  }
  std::byte* memory_ = nullptr;
  std::int64_t bytes_ = 0;
};

// [first, last) of the addresses that a tensor's elements lie at; strides may be negative.
struct Bytes {
  std::uint64_t first;
  std::uint64_t last;
};
struct Dimension {
  std::int64_t count, stride;
};
// Throws Error(usage) where the strides lead out of what addresses there are.
Bytes bytes_of(const char* where, const char* name, const void* pointer, std::initializer_list<Dimension> dimensions,
               std::int64_t size) {
  Bytes bytes{.first = reinterpret_cast<std::uint64_t>(pointer), .last = reinterpret_cast<std::uint64_t>(pointer)};
  bool outside = __builtin_add_overflow(bytes.last, size, &bytes.last);
  for (const Dimension& d : dimensions) {
    std::int64_t reach = 0;
    if (d.count <= 1) continue;
    outside |= __builtin_mul_overflow(d.count - 1, d.stride, &reach) || __builtin_mul_overflow(reach, size, &reach);
    outside |= reach < 0 ? __builtin_add_overflow(bytes.first, reach, &bytes.first)
                         : __builtin_add_overflow(bytes.last, reach, &bytes.last);
  }
  if (outside || bytes.last > INT64_MAX)
    throw Error(Exit::usage, where, fmt::format("the strides of {} lead out of memory", name), "addresses of 63 bits");
  return bytes;
}

void require_apart(const char* where, const char* out, const Bytes& written, const char* in, const Bytes& read) {
  if (written.first < read.last && read.first < written.last)
    throw Error(Exit::usage, where, fmt::format("{} overlaps {}", out, in), "an output of its own memory");
}

void require_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads)
    throw Error(Exit::usage, "threads", fmt::format("are {}", threads), fmt::format("1 to {}", kMaxThreads));
}

void require_aligned(const void* packed) {
  if (reinterpret_cast<std::uintptr_t>(packed) % kPackedAlign != 0)
    throw Error(Exit::usage, "packed", "is not aligned", fmt::format("a multiple of {} bytes", kPackedAlign));
}

// Rows that the smaller stride steps through lie behind each other, and all of those in each step of the larger one.
void require_rows_apart(Dimension inner, Dimension outer, std::int64_t row) {
  for (Dimension* d : {&inner, &outer}) d->stride = d->count > 1 ? std::abs(d->stride) : INT64_MAX;
  if (outer.stride < inner.stride) std::swap(inner, outer);
  const std::int64_t rows = inner.count > 1 ? (inner.count - 1) * inner.stride + row : row;
  if (inner.stride < row || outer.stride < rows)
    throw Error(Exit::usage, "run", "the rows of y overlap", "strides of at least the output length");
}

}  // namespace

Plan::Plan(const Layer& layer, std::string_view solver) : layer_(layer) {
  if (const std::optional<Refusal> no = refuse(layer)) throw Error(Exit::unsupported, "layer", no->what, no->rule);
  plan::Chosen<Solver> chosen =
      plan::choose(solvers(), solver, " on the CPU", [&](const Solver& one) { return one.refuse(layer); });
  solver_ = chosen.solver;
  passed_over_ = std::move(chosen.passed_over);
  if (solver_ == nullptr) {
    const plan::PassedOver& why =
        chosen.forced == nullptr ? passed_over_.back()
                                 : *std::ranges::find(passed_over_, chosen.forced->name, &plan::PassedOver::solver);
    throw Error(Exit::unsupported, "CPU", "no solver serves the layer", fmt::format("{}: {}", why.solver, why.why));
  }
  kernel_ = solver_->make(layer);
}

std::string Plan::explain(const Extent& extent) const {
  require_valid(problem(), extent);
  std::string out =
      fmt::format("{} on the CPU, {}\n  {}\n  {:.0f} KiB a thread\n", solver().name, instruction_sets().front(),
                  kernel_->explain(extent), static_cast<double>(workspace_bytes(extent)) / 1024);
  for (const plan::PassedOver& passed : passed_over_) out += fmt::format("not {}: {}\n", passed.solver, passed.why);
  return out;
}

void Plan::pack(const Pack& call, const Threads& threads) const {
  require_threads(threads.count);
  plan::require_pack(call);
  require_aligned(call.packed);
  const Problem& p = problem();
  const Bytes w = bytes_of("pack", "w", call.w,
                           {{p.c_in, call.stride_in}, {p.c_out / p.groups, call.stride_out}, {p.kernel, call.stride_k}},
                           bytes_per_element(p.arithmetic));
  require_apart("pack", "packed", bytes_of("pack", "packed", call.packed, {{packed_bytes(), 1}}, 1), "w", w);
  kernel_->pack(call, threads);
}

void Plan::run(const Call& call, const Threads& threads) const {
  const Problem& p = problem();
  require_threads(threads.count);
  if (!plan::require_call(layer_, call)) return;
  require_aligned(call.w);
  const std::int64_t size = bytes_per_element(p.arithmetic);
  const Dimension y_batch{call.batch, call.y_stride_b}, y_channel{p.c_out, call.y_stride_c};
  const Bytes y = bytes_of("run", "y", call.y, {y_batch, y_channel, {call.out_length, 1}}, size);
  require_rows_apart(y_channel, y_batch, call.out_length);
  const auto require_apart_from_y = [&](const char* name, const void* pointer,
                                        std::initializer_list<Dimension> dimensions, std::int64_t element) {
    if (pointer != nullptr) require_apart("run", "y", y, name, bytes_of("run", name, pointer, dimensions, element));
  };
  const std::int64_t sum_size = sum_bytes(p.arithmetic);
  require_apart_from_y(
      "x", call.x, {{call.batch, call.x_stride_b}, {p.c_in, call.x_stride_c}, {call.length, call.x_stride_t}}, size);
  require_apart_from_y("the packed weights", call.w, {{packed_bytes(), 1}}, 1);
  require_apart_from_y("the bias", call.bias, {{p.c_out, 1}}, size);
  require_apart_from_y("x_alpha", call.x_alpha, {{p.c_in, 1}}, sum_size);
  require_apart_from_y("y_alpha", call.y_alpha, {{p.c_out, 1}}, sum_size);

  thread_local Memory memory;
  const std::int64_t each = round_up(workspace_bytes({.batch = call.batch, .length = call.length}), kPackedAlign);
  kernel_->run(call, threads, {memory.take(each * threads.count), each});
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) names.emplace_back(hwy::TargetName(target));
  return names;
}

void use_instruction_set(std::string_view name) {
  hwy::SetSupportedTargetsForTest(0);
  std::string names;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (hwy::TargetName(target) == name) {
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
      return;
    }
    names += (names.empty() ? "" : ", ") + std::string(hwy::TargetName(target));
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  throw Error(Exit::usage, "instruction set", "is not one of this machine's", "one of: " + names);
}

}  // namespace tconv::cpu
