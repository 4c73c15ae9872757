// Stands in for kernels/mma.cuh on the CPU: a warp's lanes show each other their registers. 16-bit operands are integers
// here, as the test's storage has them.
#pragma once

#include "ptx.cuh"

namespace tconv::ptx {

constexpr int a_row(int lane, int word) { return lane / 4 + word % 2 * 8; }
constexpr int a_column(int lane, int word) { return lane % 4 + word / 2 * 4; }
constexpr int b_row(int lane, int word) { return lane % 4 + word * 4; }
constexpr int b_column(int lane) { return lane / 4; }
constexpr int d_row(int lane, int sum) { return lane / 4 + sum / 2 * 8; }
constexpr int d_column(int lane, int sum) { return lane % 4 * 2 + sum % 2; }

template <Operand OPERAND>
float product_of(unsigned a, unsigned b) {
  if constexpr (OPERAND == Operand::tf32) {
    if (((a | b) & 0x1FFF) != 0) host::fail("a TF32 operand was not rounded");
    return __uint_as_float(a) * __uint_as_float(b);
  } else {
    const auto half = [](unsigned word, int upper) { return static_cast<std::int16_t>(word >> (16 * upper)); };
    return static_cast<float>(half(a, 0) * half(b, 0) + half(a, 1) * half(b, 1));
  }
}

template <Operand OPERAND>
struct Mma {
  static void issue(float (&d)[4], const uint4& a, unsigned b0, unsigned b1) {
    const auto lanes = host::exchange<6>({a.x, a.y, a.z, a.w, b0, b1});
    unsigned left[16][8], right[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& words = lanes[static_cast<std::size_t>(lane)];
      for (int word = 0; word < 4; ++word)
        left[a_row(lane, word)][a_column(lane, word)] = words[static_cast<std::size_t>(word)];
      for (int word = 0; word < 2; ++word)
        right[b_row(lane, word)][b_column(lane)] = words[static_cast<std::size_t>(4 + word)];
    }
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int sum = 0; sum < 4; ++sum) {
      for (int k = 0; k < 8; ++k)
        d[sum] += product_of<OPERAND>(left[d_row(lane, sum)][k], right[k][d_column(lane, sum)]);
    }
  }
};

}  // namespace tconv::ptx
