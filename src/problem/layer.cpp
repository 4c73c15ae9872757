#include "problem/layer.hpp"

#include <array>
#include <cmath>
#include <string>

namespace tconv {
namespace {

constexpr std::array<std::string_view, 7> kNames{"none", "relu", "leaky_relu", "elu", "gelu", "tanh", "snake"};

}  // namespace

std::string_view name(Activation activation) noexcept { return kNames[static_cast<std::size_t>(activation)]; }

std::optional<Activation> activation_named(std::string_view name) noexcept {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Activation>(i);
  }
  return std::nullopt;
}

std::optional<Refusal> refuse(const Layer& layer) {
  if (std::optional<Refusal> own = refuse(layer.problem)) return own;
  for (const Activation activation : {layer.before, layer.after}) {
    if (layer.problem.arithmetic == Arithmetic::i32 && activation != Activation::none && activation != Activation::relu)
      return Refusal{"the activation " + std::string(name(activation)) + " of integers", "none or relu"};
  }
  if (!std::isfinite(layer.before_parameter) || !std::isfinite(layer.after_parameter))
    return Refusal{"an activation's parameter is not finite", "a finite number"};
  return std::nullopt;
}

}  // namespace tconv
