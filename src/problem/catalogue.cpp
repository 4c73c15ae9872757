#include "problem/catalogue.hpp"

#include <algorithm>
#include <array>

namespace tconv {
namespace {

// A row of catalogue_rows.inc, in the column order of its heading.
struct Row {
  std::string_view name, model;
  std::int64_t batch, c_in, c_out, length, kernel, stride, padding, output_padding, dilation, groups;
  bool bias;
  Arithmetic arithmetic;
};

using enum Arithmetic;
constexpr Row kRows[] = {
#include "problem/catalogue_rows.inc"
};

constexpr auto kEntries = [] {
  std::array<CatalogueEntry, std::size(kRows)> entries{};
  std::ranges::transform(kRows, entries.begin(), [](const Row& r) {
    const Problem problem{.c_in = r.c_in,
                          .c_out = r.c_out,
                          .kernel = r.kernel,
                          .stride = r.stride,
                          .padding = r.padding,
                          .output_padding = r.output_padding,
                          .dilation = r.dilation,
                          .groups = r.groups,
                          .arithmetic = r.arithmetic,
                          .bias = r.bias};
    return CatalogueEntry{r.name, r.model, {problem, {.batch = r.batch, .length = r.length}}};
  });
  return entries;
}();

struct Alias {
  std::string_view alias, name;
};
constexpr Alias kAliases[] = {{"kb64", "kb_l1_64"}, {"kb74", "kb_l1_74"}, {"kb79", "kb_l1_79"}};

}  // namespace

std::span<const CatalogueEntry> catalogue() { return kEntries; }

const CatalogueEntry* find_in_catalogue(std::string_view name) {
  const auto alias = std::ranges::find(kAliases, name, &Alias::alias);
  if (alias != std::end(kAliases)) name = alias->name;
  const auto entry = std::ranges::find(kEntries, name, &CatalogueEntry::name);
  return entry == kEntries.end() ? nullptr : &*entry;
}

}  // namespace tconv
