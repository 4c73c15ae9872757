// A transposed convolution as interleaved stride-1 convolutions: all index arithmetic of the project.
//
// Put u = t + padding, residue r = u mod stride, position q = u div stride. Tap k reaches residue r
// exactly when (r - k*dilation) mod stride == 0, and then reads x[q + (r - k*dilation)/stride].
// With g = gcd(stride, dilation), a residue that is no multiple of g has no tap: a dead phase (bias
// only). A live residue's taps are an arithmetic progression: k = first_k + j*k_step reads offset
// first_offset - j*offset_step, with k_step = stride/g and offset_step = dilation/g.
#pragma once

#include <cstdint>
#include <vector>

#include "problem/problem.hpp"

namespace tconv {

struct Tap {
  std::int64_t k = 0;       // index into the kernel
  std::int64_t offset = 0;  // reads x[q + offset]

  auto operator<=>(const Tap&) const = default;
};

struct Phase {
  std::int64_t residue = 0;       // r, 0 <= r < stride
  std::int64_t count = 0;         // taps; 0 for a dead phase
  std::int64_t first_k = 0;       // k of tap 0
  std::int64_t first_offset = 0;  // offset of tap 0
  std::int64_t k_step = 1;        // k rises by this from tap to tap
  std::int64_t offset_step = 1;   // the offset falls by this from tap to tap

  [[nodiscard]] bool dead() const noexcept { return count == 0; }
  [[nodiscard]] Tap tap(std::int64_t j) const noexcept {
    return {first_k + j * k_step, first_offset - j * offset_step};
  }
};

class Phases {
 public:
  explicit Phases(const Problem& problem);  // the problem must be valid

  [[nodiscard]] std::int64_t count() const noexcept { return stride_; }  // phases, live and dead
  [[nodiscard]] std::int64_t gcd() const noexcept { return gcd_; }       // gcd(stride, dilation)
  [[nodiscard]] std::int64_t live() const noexcept { return live_; }     // phases with a tap
  [[nodiscard]] std::int64_t dead() const noexcept { return stride_ - live_; }
  [[nodiscard]] std::int64_t max_taps() const noexcept { return max_taps_; }  // of one phase

  [[nodiscard]] Phase phase(std::int64_t residue) const;  // O(log stride)

  // Smallest and largest offset read by any tap: -floor((K-1)*dilation / stride) and 0, the latter by tap 0.
  [[nodiscard]] std::int64_t min_offset() const noexcept { return min_offset_; }
  [[nodiscard]] std::int64_t max_offset() const noexcept { return max_offset_; }

  // Positions q that the outputs 0..L_out-1 touch: [first_position, last_position].
  [[nodiscard]] std::int64_t first_position() const noexcept;
  [[nodiscard]] std::int64_t last_position(std::int64_t length) const;

  // Multiply-adds whose tap lands inside the input, for one triple (batch, output channel, input
  // channel of its group). Closed form, O(log K).
  [[nodiscard]] std::int64_t useful_taps(std::int64_t length) const;

 private:
  std::int64_t kernel_;
  std::int64_t stride_;
  std::int64_t padding_;
  std::int64_t output_padding_;
  std::int64_t dilation_;
  std::int64_t gcd_;
  std::int64_t live_;
  std::int64_t max_taps_;
  std::int64_t min_offset_;
  std::int64_t max_offset_;
};

// What a workload must do and move, whatever the algorithm.
struct Work {
  double useful_flops = 0;   // 2 * multiply-adds that land inside the input (bias not counted)
  double bytes_read = 0;     // x, w and bias once
  double bytes_written = 0;  // y once
  [[nodiscard]] double bytes() const noexcept { return bytes_read + bytes_written; }
};
[[nodiscard]] Work work(const Workload& workload);

}  // namespace tconv
