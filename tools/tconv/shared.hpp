// What several verbs need.
#pragma once

#include <string>
#include <string_view>

#include "target/target.hpp"

namespace tconv::tool {

// Throws Error(usage) that lists the sheets there are.
[[nodiscard]] const Target& require_target(const std::string& name);

// Colour is for a terminal whose user did not set NO_COLOR.
[[nodiscard]] bool use_colour();

// Results, to standard output. Throws Error(usage) when they do not arrive, such as on a full disk.
void print_result(std::string_view text);

}  // namespace tconv::tool
