// Types in memory, the types sums run in, and the conversions between them.
#pragma once

namespace tconv {

struct F16 {
  unsigned short bits;
};
struct Bf16 {
  unsigned short bits;
};

// Element<T>: Sum, the type that T is summed in; widen, exact; narrow, to nearest even, of 16 bits also two to a word.
template <class T>
struct Element;

template <>
struct Element<float> {
  using Sum = float;
  static __device__ float widen(float value) { return value; }
  static __device__ float narrow(float sum) { return sum; }
};

template <>
struct Element<double> {
  using Sum = double;
  static __device__ double widen(double value) { return value; }
  static __device__ double narrow(double sum) { return sum; }
};

// Unsigned, because integers wrap and signed overflow is undefined.
template <>
struct Element<int> {
  using Sum = unsigned;
  static __device__ unsigned widen(int value) { return static_cast<unsigned>(value); }
  static __device__ int narrow(unsigned sum) { return static_cast<int>(sum); }
};

template <>
struct Element<F16> {
  using Sum = float;
  static __device__ float widen(F16 value) {
    float sum;
    asm("cvt.f32.f16 %0, %1;" : "=f"(sum) : "h"(value.bits));
    return sum;
  }
  static __device__ F16 narrow(float sum) {
    F16 value;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(sum));
    return value;
  }
  static __device__ unsigned narrow(float first, float second) {
    unsigned word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
  }
};

template <>
struct Element<Bf16> {
  using Sum = float;
  // A bf16 is the upper half of a float; the cvt for it needs sm_90.
  static __device__ float widen(Bf16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
  static __device__ Bf16 narrow(float sum) {
    Bf16 value;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(value.bits) : "f"(sum));
    return value;
  }
  static __device__ unsigned narrow(float first, float second) {
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
  }
};

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ __forceinline__ unsigned multiply_add(unsigned a, unsigned b, unsigned c) { return a * b + c; }

// N elements that move as one; at most 16 bytes.
template <class T, int N>
struct alignas(N * sizeof(T)) Vector {
  static_assert(N * sizeof(T) <= 16, "a load or store moves at most 16 bytes");
  T at[N];
};

template <bool FIRST, class A, class B>
struct EitherOf {
  using Type = A;
};
template <class A, class B>
struct EitherOf<false, A, B> {
  using Type = B;
};
template <bool FIRST, class A, class B>
using Either = typename EitherOf<FIRST, A, B>::Type;

__host__ __device__ constexpr int common_divisor(int a, int b) { return b == 0 ? a : common_divisor(b, a % b); }
__device__ __forceinline__ long long smaller(long long a, long long b) { return a < b ? a : b; }
__device__ __forceinline__ long long larger(long long a, long long b) { return a > b ? a : b; }

}  // namespace tconv
