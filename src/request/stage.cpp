// The stage's text: headings, bullets and free lines, whose wording differs from template to template.
#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "request/request.hpp"

namespace tconv::request {
namespace {

constexpr std::size_t kMaxRules = 500;

bool space(char c) { return c == ' ' || c == '\t' || c == '\r'; }
bool digit(char c) { return c >= '0' && c <= '9'; }

std::string_view trim(std::string_view text) {
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// `text` without a bullet in front; absent when it has none.
std::optional<std::string_view> bullet(std::string_view text) {
  constexpr std::array<std::string_view, 5> kBullets{"- ", "* ", "\u2022", "\u2705", "\u274c"};
  for (const std::string_view mark : kBullets) {
    if (text.starts_with(mark)) return trim(text.substr(mark.size()));
  }
  std::size_t digits = 0;
  while (digits < text.size() && digit(text[digits])) ++digits;
  if (digits > 0 && digits < 3 && text.substr(digits).starts_with(". ")) return trim(text.substr(digits + 2));
  return std::nullopt;
}

// Text of a line without the ** and ` of Markdown; "BLOCK_*" keeps its star.
std::string plain(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '`') continue;
    if (text.substr(i).starts_with("**") && (out.empty() || out.back() != '_')) {
      ++i;
      continue;
    }
    out += text[i];
  }
  return std::string(trim(out));
}

// The value of "Focus: ..." in either form.
std::optional<std::string> labelled(const std::string& text, std::string_view label) {
  if (!lower(text).starts_with(label)) return std::nullopt;
  std::string_view rest = trim(std::string_view(text).substr(label.size()));
  if (!rest.starts_with(":")) return std::nullopt;
  return std::string(trim(rest.substr(1)));
}

// --- kind ----------------------------------------------------------------------------------------------------

// A stage's own name where the text carries it, else its focus. Of more specific words the first decides.
StageKind kind_of(std::string_view focus_and_names, bool fused) {
  if (fused) return StageKind::fused;
  const std::string text = lower(focus_and_names);
  const auto has = [&](std::string_view word) { return contains(text, word); };
  if (has("memory_and_tuning")) return StageKind::memory_and_tuning;
  if (has("grid_and_parallel")) return StageKind::grid;
  if (has("block_tiling")) return StageKind::block_tiling;
  if (has("advanced_memory")) return StageKind::advanced_memory;
  if (has("memory_access")) return StageKind::memory;
  const bool tuning = has("tuning") || has("tune ");
  if (has("memory")) return tuning ? StageKind::memory_and_tuning : StageKind::memory;
  if (has("block") || has("tile") || has("tiling")) return StageKind::block_tiling;
  if (has("grid") || has("parallel") || has("launch geometry")) return StageKind::grid;
  if (has("micro") || has("final") || tuning) return StageKind::advanced_memory;
  return StageKind::unknown;
}

// --- limits --------------------------------------------------------------------------------------------------

std::optional<int> number_at(std::string_view text, std::size_t& at) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
  if (error != std::errc{} || value < 0) return std::nullopt;
  at = static_cast<std::size_t>(end - text.data());
  return value;
}

// The set in "num_stages ∈ {1,2,3}", "`num_warps`: {2, 4}" or "num_stages (e.g., [1, 2])". Empty when the line
// has none for this name.
std::vector<int> set_after(std::string_view text, std::string_view name, std::string_view other) {
  const auto named = text.find(name);
  if (named == std::string_view::npos) return {};
  const auto open = text.find_first_of("{[", named);
  if (open == std::string_view::npos) return {};
  const auto next = text.find(other, named);
  if (next != std::string_view::npos && next < open) return {};  // the set is the other name's
  std::vector<int> values;
  for (std::size_t at = open + 1; at < text.size();) {
    if (space(text[at]) || text[at] == ',') {
      ++at;
      continue;
    }
    if (text[at] == '}' || text[at] == ']') {
      std::ranges::sort(values);
      values.erase(std::unique(values.begin(), values.end()), values.end());
      return values;
    }
    const auto value = number_at(text, at);
    if (!value || *value < 1 || *value > 64 || values.size() >= 16) return {};
    values.push_back(*value);
  }
  return {};
}

std::size_t skip_dash(std::string_view text, std::size_t at) {
  while (at < text.size() && space(text[at])) ++at;
  for (const std::string_view dash : {"-", "\u2013", "\u2014", "to "}) {
    if (!text.substr(at).starts_with(dash)) continue;
    at += dash.size();
    while (at < text.size() && space(text[at])) ++at;
    return at;
  }
  return std::string_view::npos;
}

// "(2–4 configs)", "Max 2-3 configs", "2-3 BLOCK_SIZE configs", "at most 3 configs".
void read_configs(std::string_view text, StageLimits& limits) {
  const auto word = text.find("configs");
  if (word == std::string_view::npos) return;
  // The last number, or range of numbers, in front of the word, at most one other word between.
  for (std::size_t at = 0; at < word; ++at) {
    if (!digit(text[at]) || (at > 0 && (digit(text[at - 1]) || text[at - 1] == '=' || text[at - 1] == '.'))) continue;
    std::size_t end = at;
    const auto low = number_at(text, end);
    if (!low) return;
    std::optional<int> high;
    if (const auto after = skip_dash(text, end); after != std::string_view::npos) {
      std::size_t stop = after;
      high = number_at(text, stop);
      if (high) end = stop;
    }
    const std::string_view between = trim(text.substr(end, word - end));
    at = end - 1;
    const bool one_word = std::ranges::all_of(between, [](char c) { return c == '_' || (c >= 'a' && c <= 'z'); });
    if (!one_word || *low < 1 || *low > 256 || (high && (*high < *low || *high > 256))) continue;
    limits.min_configs = high ? low : std::nullopt;
    limits.max_configs = high ? high : low;
  }
}

void read_limits(std::string_view line, StageLimits& limits) {
  const std::string text = lower(plain(line));
  if (auto set = set_after(text, "num_stages", "num_warps"); !set.empty()) limits.num_stages = std::move(set);
  if (auto set = set_after(text, "num_warps", "num_stages"); !set.empty()) limits.num_warps = std::move(set);
  read_configs(text, limits);
}

}  // namespace

std::string_view name(StageKind stage) noexcept {
  switch (stage) {
    case StageKind::grid:
      return "grid_and_parallel";
    case StageKind::block_tiling:
      return "block_tiling";
    case StageKind::memory:
      return "memory_access";
    case StageKind::advanced_memory:
      return "advanced_memory";
    case StageKind::memory_and_tuning:
      return "memory_and_tuning";
    case StageKind::fused:
      return "fused";
    case StageKind::unknown:
      break;
  }
  return "unknown";
}

void read_stage(std::string_view text, int first_line, Stage& stage) {
  std::string names;      // what may name the stage
  std::string condition;  // "IF register pressure HIGH (...):", which the bullets under it share
  bool in_metrics = false;
  bool in_example = false;
  bool fused = false;
  for (int line = first_line; !text.empty(); ++line) {
    const auto end = text.find('\n');
    const std::string_view raw = trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (raw.starts_with("```")) {
      in_example = !in_example;
      continue;
    }
    if (in_example || raw.empty() || raw == "(None)" || raw == "---") continue;
    if (contains(lower(raw), "fused op") || contains(raw, "FUSION EXCLUSIONS") ||
        contains(lower(raw), "fused kernel") || contains(lower(raw), "fusion increases") ||
        contains(lower(raw), "fusion benefit")) {
      fused = true;
    }
    const auto item = bullet(raw);
    const std::string bare = plain(item ? *item : raw);
    if (auto focus = labelled(bare, "focus")) {
      names += " " + *focus;
      stage.focus = std::move(*focus);
      continue;
    }
    if (const auto label = labelled(bare, "stage"); label || lower(bare).starts_with("stage label:")) {
      names += " " + bare;
      continue;
    }
    if (raw.starts_with("#")) continue;  // "## Current Optimization Stage"
    if (!item && bare.ends_with(":")) {  // a heading
      in_metrics = contains(lower(bare), "metrics");
      condition = bare.starts_with("IF ") ? bare : "";
      continue;
    }
    if (in_metrics && item) {
      stage.metrics.emplace_back(*item);
      continue;
    }
    if (stage.focus.empty() && !item && stage.rules.empty() && lower(bare).starts_with("focus on ")) {
      stage.focus = bare;
      names += " " + bare;
      continue;
    }
    read_limits(raw, stage.limits);
    if (stage.rules.size() >= kMaxRules) continue;
    stage.rules.push_back(
        {line, condition.empty() ? std::string(raw) : condition + " " + std::string(item ? *item : raw)});
  }
  stage.kind = kind_of(names, fused);
}

}  // namespace tconv::request
