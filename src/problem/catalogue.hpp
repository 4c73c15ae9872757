// Real layers by name, from published models and user reports.
#pragma once

#include <span>
#include <string_view>

#include "problem/problem.hpp"

namespace tconv {

struct CatalogueEntry {
  std::string_view name;   // as in @name
  std::string_view model;  // the model or report it comes from
  Workload workload;       // arithmetic is tf32 for f32 layers, as PyTorch's convolutions run them
};

[[nodiscard]] std::span<const CatalogueEntry> catalogue();
// Accepts an alias (kb64, kb74, kb79) too. Null when unknown.
[[nodiscard]] const CatalogueEntry* find_in_catalogue(std::string_view name);

}  // namespace tconv
