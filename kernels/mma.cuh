// mma.sync: D (16 x 8, f32) += A (16 x k) * B (k x 8), k = 8 for tf32 and 16 for f16 and bf16, all in registers of a warp.
//
// In words of 32 bits (a word holds one tf32 or two neighbouring 16-bit values along k) all three lay out A (16 x 8 words),
// B (8 words x 8) and D alike over the lanes of a warp; the functions say which.
#pragma once

#include "ptx.cuh"

namespace tconv::ptx {

// Of word `word` (0..3) of a lane's part of A.
__host__ __device__ constexpr int a_row(int lane, int word) { return lane / 4 + word % 2 * 8; }
__host__ __device__ constexpr int a_column(int lane, int word) { return lane % 4 + word / 2 * 4; }
// Of word `word` (0, 1) of B.
__host__ __device__ constexpr int b_row(int lane, int word) { return lane % 4 + word * 4; }
__host__ __device__ constexpr int b_column(int lane) { return lane / 4; }
// Of sum `sum` (0..3) of D.
__host__ __device__ constexpr int d_row(int lane, int sum) { return lane / 4 + sum / 2 * 8; }
__host__ __device__ constexpr int d_column(int lane, int sum) { return lane % 4 * 2 + sum % 2; }

template <Operand OPERAND>
struct Mma;

template <>
struct Mma<Operand::tf32> {
  __device__ static __forceinline__ void issue(float (&d)[4], const uint4& a, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  }
};

template <>
struct Mma<Operand::f16> {
  __device__ static __forceinline__ void issue(float (&d)[4], const uint4& a, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  }
};

template <>
struct Mma<Operand::bf16> {
  __device__ static __forceinline__ void issue(float (&d)[4], const uint4& a, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  }
};

}  // namespace tconv::ptx
