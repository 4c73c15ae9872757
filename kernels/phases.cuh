// The phases of a layer on the device: src/problem/phases.hpp, with a live phase known by its first tap.
//
// Taps 0 .. LIVE-1 reach distinct residues, so live phase f has taps k = f + j*K_STEP, residue f*DILATION mod STRIDE,
// and tap j reads x[q - f*DILATION/STRIDE - j*OFFSET_STEP].
#pragma once

namespace tconv {

// i with i*a == 1 (mod m), for gcd(a, m) == 1; 0 for m == 1.
__host__ __device__ constexpr int inverse(int a, int m) {
  int r0 = m, r1 = a % m, x0 = 0, x1 = 1;
  while (r1 != 0) {
    const int quotient = r0 / r1;
    const int r = r0 - quotient * r1;
    const int x = x0 - quotient * x1;
    r0 = r1;
    r1 = r;
    x0 = x1;
    x1 = x;
  }
  return x0 < 0 ? x0 + m : x0 % m;
}

template <class Layer>
struct Phases {
  static constexpr int K_STEP = Layer::STRIDE / Layer::GAP;
  static constexpr int OFFSET_STEP = Layer::DILATION / Layer::GAP;
  static constexpr int LIVE = Layer::K < K_STEP ? Layer::K : K_STEP;
  static constexpr int TAPS = (Layer::K - 1) / K_STEP + 1;  // of phase 0, which has the most
  static constexpr int INVERSE = inverse(OFFSET_STEP, K_STEP);
  static_assert(static_cast<long long>(Layer::K) * Layer::DILATION <= (1 << 29), "offsets are int");

  __host__ __device__ static constexpr int residue(int f) { return f * Layer::DILATION % Layer::STRIDE; }
  // Of tap 0, and minus the offset: how far behind position q it reads.
  __host__ __device__ static constexpr int behind(int f) { return f * Layer::DILATION / Layer::STRIDE; }
  // The live phase of a residue, -1 for a dead one.
  __host__ __device__ static constexpr int of_residue(int r) {
    if (r % Layer::GAP != 0) return -1;
    // Only strides above 46340 need the wide product.
    const int f = K_STEP <= 46340 ? r / Layer::GAP * INVERSE % K_STEP
                                  : static_cast<int>(static_cast<long long>(r / Layer::GAP) * INVERSE % K_STEP);
    return f < LIVE ? f : -1;
  }
};

}  // namespace tconv
