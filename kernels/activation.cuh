// Activations of x before the sum and of y behind the bias, by the definitions of src/problem/layer.hpp, in the type that
// sums run in.
#pragma once

#include "element.cuh"

namespace tconv {

enum class Activation { none, relu, leaky_relu, elu, gelu, tanh, snake };

__device__ __forceinline__ float reciprocal(float v) {
  float r;
  asm("rcp.approx.f32 %0, %1;" : "=f"(r) : "f"(v));  // within one unit in the last place
  return r;
}
__device__ __forceinline__ double reciprocal(double v) { return 1 / v; }

// Of v^power in the sine's series, power odd.
__host__ __device__ constexpr double sine_coefficient(int power) {
  return power == 1 ? 1.0 : -sine_coefficient(power - 2) / (power * (power - 1));
}

// The series' terms from that of v^POWER to that of v^LAST, over v^POWER; by Horner's rule.
template <int POWER, int LAST, class Sum>
__device__ __forceinline__ Sum sine_series(Sum square) {
  constexpr Sum COEFFICIENT = static_cast<Sum>(sine_coefficient(POWER));
  if constexpr (POWER == LAST) {
    return COEFFICIENT;
  } else {
    return multiply_add(sine_series<POWER + 2, LAST>(square), square, COEFFICIENT);
  }
}

// sin(v)^2 of |v| up to 39000: v less the nearest multiple of pi, for the square does not tell them apart. The library's
// sine reduces any argument, with an array in local memory.
template <class Sum>
__device__ __forceinline__ Sum square_of_sine(Sum v) {
  constexpr bool WIDE = sizeof(Sum) == 8;
  constexpr Sum PI = static_cast<Sum>(3.14159265358979323846);
  constexpr Sum PI_REST = static_cast<Sum>(WIDE ? 1.2246467991473532e-16 : -8.742278000372486e-8);
  constexpr int LAST = WIDE ? 21 : 13;  // at pi/2, what follows is below a tenth of the unit roundoff
  const Sum turns = rint(v * static_cast<Sum>(0.31830988618379067154));
  const Sum angle = multiply_add(turns, -PI_REST, multiply_add(turns, -PI, v));
  const Sum square = angle * angle;
  const Sum sine = multiply_add(sine_series<3, LAST>(square) * square, angle, angle);
  return sine * sine;
}

__device__ __forceinline__ bool negative(float v) { return v < 0; }
__device__ __forceinline__ bool negative(double v) { return v < 0; }
__device__ __forceinline__ bool negative(unsigned v) { return static_cast<int>(v) < 0; }  // what a sum of integers means

// `parameter`: of leaky_relu and elu; `alpha`: of snake. A NaN stays one.
template <Activation ACTIVATION, class Sum>
__device__ __forceinline__ Sum activate(Sum v, [[maybe_unused]] double parameter, [[maybe_unused]] Sum alpha) {
  if constexpr (ACTIVATION == Activation::relu) {
    return negative(v) ? Sum(0) : v;
  } else if constexpr (ACTIVATION == Activation::leaky_relu) {
    return negative(v) ? static_cast<Sum>(parameter) * v : v;
  } else if constexpr (ACTIVATION == Activation::elu) {
    return negative(v) ? static_cast<Sum>(parameter) * expm1(v) : v;
  } else if constexpr (ACTIVATION == Activation::gelu) {
    return v * static_cast<Sum>(0.5) * (1 + erf(v * static_cast<Sum>(0.70710678118654752440)));
  } else if constexpr (ACTIVATION == Activation::tanh) {
    return ::tanh(v);
  } else if constexpr (ACTIVATION == Activation::snake) {
    const Sum angle = alpha * v;  // beyond the sine's reach v alone is taken; an infinity makes NaN
    const Sum square = fabs(angle) <= 39000 ? square_of_sine(angle) : angle - angle;
    return multiply_add(square, reciprocal(alpha + static_cast<Sum>(1e-9)), v);
  } else {
    return v;
  }
}

// Layer: BEFORE and AFTER, BEFORE_PARAMETER and AFTER_PARAMETER. `alphas`: those of a call, of its channels.
template <class Layer, class Sum>
__device__ __forceinline__ Sum alpha_before(const void* alphas, long long channel) {
  return Layer::BEFORE == Activation::snake ? static_cast<const Sum*>(alphas)[channel] : Sum(0);
}
template <class Layer, class Sum>
__device__ __forceinline__ Sum alpha_after(const void* alphas, long long channel) {
  return Layer::AFTER == Activation::snake ? static_cast<const Sum*>(alphas)[channel] : Sum(0);
}
// Of a sample of x that is there: what is beyond its ends stays zero.
template <class Layer, class Sum>
__device__ __forceinline__ Sum before(Sum x, Sum alpha) {
  return activate<Layer::BEFORE>(x, Layer::BEFORE_PARAMETER, alpha);
}
template <class Layer, class Sum>
__device__ __forceinline__ Sum after(Sum y, Sum alpha) {
  return activate<Layer::AFTER>(y, Layer::AFTER_PARAMETER, alpha);
}

}  // namespace tconv
