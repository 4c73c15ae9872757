// Activations in float64, and how far one that was computed in another arithmetic may be from them.
#pragma once

#include "problem/layer.hpp"

namespace tconv::verify {

// `parameter`: of leaky_relu and elu; `alpha`: of snake.
[[nodiscard]] double activate(Activation activation, double v, double parameter, double alpha);

// The largest |g - activate(v)| of a g computed with unit roundoff `u` from a value that is at most `error` from v.
// Derivation in activation.cpp. For snake, |alpha * v| must be below 39000, as the kernels' sine ends there.
[[nodiscard]] double activation_error(Activation activation, double v, double error, double parameter, double alpha,
                                      double u);

}  // namespace tconv::verify
