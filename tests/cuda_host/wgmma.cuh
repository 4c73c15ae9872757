// Stands in for kernels/wgmma.cuh on the CPU: each thread has its part of the product, read from the operands when it is
// waited for. 16-bit operands are integers here, as the test's storage has them.
#pragma once

#include "ptx.cuh"

namespace tconv::ptx {

template <int ROW_BYTES>
unsigned long long matrix_descriptor(unsigned start) {
  if (start >= 1 << 14) host::fail("an address takes 14 bits");
  return static_cast<unsigned long long>(ROW_BYTES) << 32 | start;
}

// Element `k` of row `row` of an operand.
template <Operand OPERAND>
float element_of(unsigned long long descriptor, int row, int k) {
  constexpr unsigned SIZE = OPERAND == Operand::tf32 ? 4 : 2;
  const unsigned row_bytes = static_cast<unsigned>(descriptor >> 32);
  unsigned address = static_cast<unsigned>(descriptor & 0xFFFF) * 16 + static_cast<unsigned>(row) * row_bytes +
                     static_cast<unsigned>(k) * SIZE;
  address ^= (address >> 7 & (row_bytes / 16 - 1)) << 4;
  if constexpr (SIZE == 4) {
    unsigned bits;
    std::memcpy(&bits, host::shared_bytes() + address, 4);
    if ((bits & 0x1FFF) != 0) host::fail("a TF32 operand was not rounded");
    return __uint_as_float(bits);
  } else {
    std::int16_t value;
    std::memcpy(&value, host::shared_bytes() + address, 2);
    return value;
  }
}

template <Operand OPERAND, int N>
struct Wgmma {
  static void issue(float (&d)[N / 2], unsigned long long a, unsigned long long b, int accumulate) {
    host::products.back().push_back([&d, a, b, accumulate] {
      constexpr int STEP = OPERAND == Operand::tf32 ? 8 : 16;
      const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x % 128 / 32);
      float rows[2][STEP];
      for (int half = 0; half < 2; ++half) {
        for (int k = 0; k < STEP; ++k) rows[half][k] = element_of<OPERAND>(a, 16 * warp + 8 * half + lane / 4, k);
      }
      for (int n = 0; n < N / 4; ++n) {  // columns of this lane
        const int column = n / 2 * 8 + lane % 4 * 2 + n % 2;
        float values[STEP];
        for (int k = 0; k < STEP; ++k) values[k] = element_of<OPERAND>(b, column, k);
        for (int half = 0; half < 2; ++half) {
          float& sum = d[n / 2 * 4 + half * 2 + n % 2];
          float product = 0;
          for (int k = 0; k < STEP; ++k) product += rows[half][k] * values[k];
          sum = (accumulate != 0 ? sum : 0) + product;
        }
      }
    });
  }
};

}  // namespace tconv::ptx
