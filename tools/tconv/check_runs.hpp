// One case run by a kernel in several ways, on either kind of memory: guarded, poisoned, compared with the reference
// and with each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/call.h"
#include "verify/cases.hpp"
#include "verify/number.hpp"
#include "verify/verify.hpp"

namespace tconv::tool {

inline constexpr std::size_t kGuard = 4096;  // bytes before and behind every buffer that no kernel may touch
inline constexpr unsigned char kPoison = 0xdb;

// Bytes between guards, `shift` bytes behind the alignment of an allocation.
template <typename Memory>
class Guarded {
 public:
  Guarded(std::string_view bytes, std::size_t shift)
      : host_(kGuard + shift, static_cast<char>(kPoison)), first_(kGuard + shift), size_(bytes.size()) {
    host_ += bytes;
    host_.append(kGuard, static_cast<char>(kPoison));
    memory_ = Memory(host_.size());
    memory_.write(0, host_);
  }
  [[nodiscard]] void* data() const { return memory_.at(first_); }
  // The bytes now; nothing where a guard was written.
  [[nodiscard]] std::optional<std::string> read() const {
    const std::string now = memory_.read();
    const std::string_view view = now;
    const std::string_view before = host_;
    if (view.substr(0, first_) != before.substr(0, first_) ||
        view.substr(first_ + size_) != before.substr(first_ + size_))
      return std::nullopt;
    return now.substr(first_, size_);
  }
  [[nodiscard]] bool unchanged() const {
    const std::optional<std::string> now = read();
    return now && *now == host_.substr(first_, size_);
  }

 private:
  std::string host_;
  std::size_t first_;
  std::size_t size_;
  Memory memory_;
};

// Where x's elements lie in memory.
struct Strides {
  std::int64_t b, c, t;
  std::int64_t first = 0;
  std::int64_t elements;  // of the memory
};

inline Strides strides_of(verify::Layout layout, std::int64_t batch, std::int64_t channels, std::int64_t length) {
  const std::int64_t image = channels * length;
  switch (layout) {
    case verify::Layout::contiguous:
      break;
    case verify::Layout::transposed:
      return {image, 1, channels, 0, batch * image};
    case verify::Layout::sliced: {  // out of a longer tensor
      const std::int64_t longer = length + 5;
      return {channels * longer, longer, 1, 3, batch * channels * longer + 3};
    }
    case verify::Layout::strided:
      return {2 * image, 2 * length, 2, 0, 2 * batch * image};
    case verify::Layout::expanded:
      return {0, length, 1, 0, image};
  }
  return {image, length, 1, 0, batch * image};
}

inline std::string arranged(const std::string& dense, const Strides& s, const verify::Case& c, std::size_t size) {
  const std::int64_t channels = c.workload.problem.c_in, length = c.workload.extent.length;
  std::string memory(static_cast<std::size_t>(s.elements) * size, static_cast<char>(kPoison));
  std::size_t from = 0;
  for (std::int64_t b = 0; b < c.workload.extent.batch; ++b) {
    for (std::int64_t i = 0; i < channels; ++i) {
      for (std::int64_t t = 0; t < length; ++t, from += size)
        std::memcpy(memory.data() + static_cast<std::size_t>(s.first + b * s.b + i * s.c + t * s.t) * size,
                    dense.data() + from, size);
    }
  }
  return memory;
}

// A kernel, as a plan of either device has it. Every run must leave the same bits.
struct Runnable {
  std::int64_t packed_bytes;
  std::function<void(const Pack&)> pack;
  std::vector<std::function<void(const Call&)>> runs;
};

struct Checked {
  std::string fault;  // empty: good
  double ratio = 0;   // largest error over its bound
  std::string packed = {};
};

template <typename Memory>
Checked check_runs(const Runnable& kernel, const verify::Case& c, const verify::Tensors& tensors,
                   const verify::Expected& expected) {
  const Problem& p = c.workload.problem;
  const Extent& extent = c.workload.extent;
  const auto size = static_cast<std::size_t>(bytes_per_element(p.arithmetic));
  const std::int64_t out = out_length(p, extent.length);
  // Every third case has pointers that are aligned to an element only.
  const std::size_t shift = c.config % 3 == 0 ? size : 0;
  const bool padded_rows = c.config % 5 == 0;  // of y
  const std::int64_t row = out + (padded_rows ? 3 : 0);

  const Strides x_strides = strides_of(c.layout, extent.batch, p.c_in, extent.length);
  const Arithmetic sums = p.arithmetic == Arithmetic::f64 ? Arithmetic::f64 : Arithmetic::f32;
  using Buffer = Guarded<Memory>;
  const Buffer x(arranged(verify::encode(tensors.x, p.arithmetic), x_strides, c, size), shift);
  const Buffer w(verify::encode(tensors.w, p.arithmetic), shift);
  const Buffer bias(verify::encode(tensors.bias, p.arithmetic), shift);
  const Buffer x_alpha(verify::encode(tensors.x_alpha, sums), shift == 0 ? 0 : sizeof(double));
  const Buffer y_alpha(verify::encode(tensors.y_alpha, sums), shift == 0 ? 0 : sizeof(double));
  const std::string poison(static_cast<std::size_t>(extent.batch * p.c_out * row) * size, static_cast<char>(kPoison));
  const Buffer packed(std::string(static_cast<std::size_t>(kernel.packed_bytes), static_cast<char>(kPoison)), 0);

  kernel.pack({.w = w.data(),
               .packed = packed.data(),
               .stride_in = p.c_out / p.groups * p.kernel,
               .stride_out = p.kernel,
               .stride_k = 1});
  std::optional<std::string> first;
  for (std::size_t i = 0; i < kernel.runs.size(); ++i) {
    const Buffer y(poison, shift);
    kernel.runs[i]({.x = static_cast<const char*>(x.data()) + static_cast<std::size_t>(x_strides.first) * size,
                    .w = packed.data(),
                    .bias = p.bias ? bias.data() : nullptr,
                    .y = y.data(),
                    .batch = extent.batch,
                    .length = extent.length,
                    .out_length = out,
                    .x_stride_b = x_strides.b,
                    .x_stride_c = x_strides.c,
                    .x_stride_t = x_strides.t,
                    .y_stride_b = p.c_out * row,
                    .y_stride_c = row,
                    .x_alpha = c.before == Activation::snake ? x_alpha.data() : nullptr,
                    .y_alpha = c.after == Activation::snake ? y_alpha.data() : nullptr});
    const std::optional<std::string> now = y.read();
    if (!now) return {"wrote outside y"};
    if (!first) first = now;
    if (*now != *first) return {"run " + std::to_string(i + 1) + " differs from the first"};
  }
  Checked checked;
  if (const std::optional<std::string> now = packed.read()) {
    checked.packed = *now;
  } else {
    return {"packed outside the packed weights"};
  }
  for (const Buffer* input : {&x, &w, &bias, &x_alpha, &y_alpha}) {
    if (!input->unchanged()) return {"wrote to an input"};
  }
  std::string dense;
  const std::size_t row_bytes = static_cast<std::size_t>(row) * size, out_bytes = static_cast<std::size_t>(out) * size;
  for (std::size_t at = 0; at < first->size(); at += row_bytes) {
    dense.append(*first, at, out_bytes);
    if (first->compare(at + out_bytes, row_bytes - out_bytes, poison, at + out_bytes, row_bytes - out_bytes) != 0)
      return {"wrote between the rows of y"};
  }
  const verify::Judgement judgement = verify::judge(c, expected, dense);
  if (judgement.fault) return {judgement.fault->kind + ": " + judgement.fault->detail};
  checked.ratio = judgement.ratio;
  return checked;
}

}  // namespace tconv::tool
