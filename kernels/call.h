// What a call brings to a kernel: pointers, sizes and strides. Host and device share this layout.
#pragma once

namespace tconv {

// Strides count elements. x (batch, C_in, length), y (batch, C_out, out_length); y's samples are adjacent.
// Pointers need the alignment of one element, `w` of 16 bytes: it is what the kernel's own pack kernel wrote.
struct Call {
  const void* x;
  const void* w;
  const void* bias;  // C_out elements, or null
  void* y;
  long long batch;
  long long length;      // L_in
  long long out_length;  // L_out
  long long x_stride_b;
  long long x_stride_c;
  long long x_stride_t;
  long long y_stride_b;
  long long y_stride_c;
  const void* x_alpha = nullptr;  // of snake before: C_in values as sums hold them
  const void* y_alpha = nullptr;  // of snake after: C_out values
};

// What packing the weights once brings: w (C_in, C_out/groups, K) with element strides -> the solver's own image.
struct Pack {
  const void* w;
  void* packed;
  long long stride_in;
  long long stride_out;
  long long stride_k;
};

}  // namespace tconv
