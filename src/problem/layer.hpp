// A problem with what stands around it in a model: an activation of its input, and one of its output.
#pragma once

#include <optional>
#include <string_view>

#include "problem/problem.hpp"

namespace tconv {

// Of one element v, with a parameter a where it has one:
//   relu max(v, 0); leaky_relu v < 0 ? a*v : v; elu v < 0 ? a*(exp(v)-1) : v; gelu v/2*(1+erf(v/sqrt(2)));
//   tanh; snake v + sin(alpha*v)^2/(alpha+1e-9), with one alpha a channel (Ziyin et al. 2020, as in DAC).
enum class Activation { none, relu, leaky_relu, elu, gelu, tanh, snake };

[[nodiscard]] std::string_view name(Activation activation) noexcept;
[[nodiscard]] std::optional<Activation> activation_named(std::string_view name) noexcept;

struct Layer {
  Problem problem;
  Activation before = Activation::none;  // of x; activation(0) is 0 for all, so padding stays nothing
  Activation after = Activation::none;   // of y, behind the bias
  double before_parameter = 0;           // a of leaky_relu and elu
  double after_parameter = 0;
};

// The problem's own refusals, and: an activation of integers other than relu, a parameter that is not finite.
[[nodiscard]] std::optional<Refusal> refuse(const Layer& layer);

}  // namespace tconv
