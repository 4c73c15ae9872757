#include "report/format.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>

namespace tconv::report {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

struct CodePoint {
  char32_t value = kReplacement;
  std::size_t bytes = 1;
};

// Strict UTF-8: no overlong forms, no surrogates. A malformed sequence costs one byte.
CodePoint decode(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < bytes) return {};
  char32_t value = lead & (0x7Fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    value = (value << 6) | (byte(i) & 0x3Fu);
  }
  constexpr std::array<char32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  if (value < kSmallest[bytes] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return {};
  return {value, bytes};
}

struct Range {
  char32_t first, last;
};
bool within(char32_t c, std::span<const Range> ranges) {
  return std::any_of(ranges.begin(), ranges.end(), [c](Range r) { return c >= r.first && c <= r.last; });
}

// Controls, zero-width characters, direction marks, tags: what makes text read otherwise than it is.
bool deceptive(char32_t c) {
  static constexpr std::array<Range, 9> kRanges = {{{0x00, 0x1F},
                                                    {0x7F, 0x9F},
                                                    {0xAD, 0xAD},
                                                    {0x61C, 0x61C},
                                                    {0x200B, 0x200F},
                                                    {0x2028, 0x202E},
                                                    {0x2060, 0x206F},
                                                    {0xFEFF, 0xFEFF},
                                                    {0xE0000, 0xE0FFF}}};
  return within(c, kRanges) || (c & 0xFFFE) == 0xFFFE;
}

std::size_t width_of(char32_t c) {
  static constexpr std::array<Range, 7> kWide = {{{0x1100, 0x115F},
                                                  {0x2E80, 0xA4CF},
                                                  {0xAC00, 0xD7A3},
                                                  {0xF900, 0xFAFF},
                                                  {0xFE30, 0xFE6F},
                                                  {0xFF00, 0xFF60},
                                                  {0x1F300, 0x3FFFF}}};
  return within(c, kWide) ? 2 : 1;
}

std::string cleaned(std::string_view text, bool keep_lines) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto [c, bytes] = decode(text.substr(i));
    if (c == '\r' && keep_lines && text.substr(i, 2) == "\r\n") {
      // The line end that follows says it all.
    } else if (c == '\n' || c == '\t' || c == '\r') {
      out += keep_lines ? static_cast<char>(c == '\r' ? '\n' : c) : ' ';
    } else if (c == kReplacement || deceptive(c)) {
      out += "\xEF\xBF\xBD";
    } else {
      out += text.substr(i, bytes);
    }
    i += bytes;
  }
  return out;
}

std::string escaped_for_html(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

bool word_character(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

// The longest run of backticks: a fence must be longer.
std::size_t longest_backticks(std::string_view text) {
  std::size_t longest = 0;
  std::size_t run = 0;
  for (const char c : text) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  return longest;
}

// Three significant digits, no exponent, for 1 <= |value| < 1000.
std::string three_digits(double value) {
  const double magnitude = std::abs(value);
  return fmt::format("{:.{}f}", value, magnitude < 9.995 ? 2 : magnitude < 99.95 ? 1 : 0);
}

}  // namespace

std::string quantity_text(double value, std::string_view unit) {
  if (std::isnan(value)) return "not a number";
  if (std::isinf(value)) return value > 0 ? "infinite" : "minus infinite";
  if (value == 0) return fmt::format("0 {}", unit);
  static constexpr std::array<std::string_view, 10> kPrefixes = {"p", "n", "µ", "m", "", "k", "M", "G", "T", "P"};
  // 999.6 would print as "1000": step to the next prefix where the rounding does.
  double exponent = std::floor(std::log10(std::abs(value)) / 3);
  if (std::abs(value) / std::pow(1000.0, exponent) >= 999.5) exponent += 1;
  exponent = std::clamp(exponent, -4.0, 5.0);
  const double scaled = value / std::pow(1000.0, exponent);
  const std::string digits = std::abs(scaled) >= 999.5 ? fmt::format("{:.0f}", scaled) : three_digits(scaled);
  return fmt::format("{} {}{}", digits, kPrefixes[static_cast<std::size_t>(exponent + 4)], unit);
}

std::string seconds_text(double seconds) {
  // Kernel times are read in milliseconds from a tenth of one on, as profilers print them.
  if (seconds >= 1e-4 && seconds < 1e-3) return fmt::format("{:.3f} ms", seconds * 1e3);
  return quantity_text(seconds, "s");
}

std::string ratio_text(double ratio) {
  if (!std::isfinite(ratio)) return "no ratio";
  const double magnitude = std::abs(ratio);
  return (magnitude >= 999.5 || magnitude < 1e-2 ? fmt::format("{:.3g}", ratio) : three_digits(ratio)) + "x";
}

std::string number_text(double value) {
  if (std::isnan(value)) return "not a number";
  if (std::isinf(value)) return value > 0 ? "infinite" : "minus infinite";
  if (value == std::trunc(value) && std::abs(value) < 1e9) return fmt::format("{:.0f}", value);
  return fmt::format("{:.4g}", value);
}

std::string plain(std::string_view text) { return cleaned(text, false); }
std::string plain_lines(std::string_view text) { return cleaned(text, true); }
std::string html_text(std::string_view text) { return escaped_for_html(plain(text)); }
std::string html_lines(std::string_view text) { return escaped_for_html(plain_lines(text)); }

std::string markdown_text(std::string_view text) {
  const std::string clean = plain(text);
  std::string out;
  out.reserve(clean.size());
  for (std::size_t i = 0; i < clean.size(); ++i) {
    const char c = clean[i];
    const char before = i > 0 ? clean[i - 1] : ' ';
    const char after = i + 1 < clean.size() ? clean[i + 1] : ' ';
    bool escape = std::string_view("\\`*[]<>|#~$!{}").find(c) != std::string_view::npos;
    // An underscore inside a name is no emphasis; escaping it would only hurt the reader of the raw file.
    if (c == '_') escape = !(word_character(before) && word_character(after));
    // Bare addresses turn into links by themselves.
    if (c == ':') escape = after == '/';
    if (c == '.')
      escape = i >= 3 && (clean[i - 3] | 0x20) == 'w' && (clean[i - 2] | 0x20) == 'w' && (before | 0x20) == 'w';
    if (c == '&') escape = word_character(after) || after == '#';  // an entity
    if (c == '@') escape = true;
    // What starts a list, a heading's underline or a quotation only does so at the start of a line.
    if (i == 0 && (c == '-' || c == '+' || c == '=')) escape = true;
    if ((c == '.' || c == ')') && after == ' ' && i > 0 &&
        std::all_of(clean.begin(), clean.begin() + static_cast<std::ptrdiff_t>(i),
                    [](char digit) { return digit >= '0' && digit <= '9'; })) {
      escape = true;
    }
    if (escape) out += '\\';
    out += c;
  }
  return out;
}

std::string markdown_code(std::string_view text) {
  std::string clean = plain(text);
  if (clean.empty()) return "";
  const std::string fence(longest_backticks(clean) + 1, '`');
  // Table cells are split at bars before code spans are seen, and a backslash keeps one bar whole.
  std::string body;
  for (const char c : clean) {
    if (c == '|') body += '\\';
    body += c;
  }
  const bool pad = body.front() == '`' || body.back() == '`' || body.back() == '\\';
  return fence + (pad ? " " : "") + body + (pad ? " " : "") + fence;
}

std::string markdown_fence(std::string_view code, std::string_view language) {
  const std::string body = plain_lines(code);
  const std::string fence(std::max<std::size_t>(3, longest_backticks(body) + 1), '`');
  return fmt::format("{}{}\n{}{}{}\n", fence, language, body, body.ends_with('\n') ? "" : "\n", fence);
}

std::size_t columns(std::string_view text) {
  std::size_t total = 0;
  for (std::size_t i = 0; i < text.size();) {
    const auto [c, bytes] = decode(text.substr(i));
    total += width_of(c);
    i += bytes;
  }
  return total;
}

std::string clip(std::string_view text, std::size_t width) {
  if (columns(text) <= width) return std::string(text);
  std::size_t used = 0;
  std::size_t i = 0;
  while (i < text.size()) {
    const auto [c, bytes] = decode(text.substr(i));
    if (used + width_of(c) + 1 > width) break;
    used += width_of(c);
    i += bytes;
  }
  return std::string(text.substr(0, i)) + "…";
}

std::vector<std::string> wrap(std::string_view text, std::size_t width) {
  std::vector<std::string> lines(1);
  std::size_t used = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (text[i] == ' ') {
      ++i;
      continue;
    }
    std::string_view word = text.substr(i, text.find(' ', i) - i);
    i += word.size();
    const std::size_t wide = columns(word);
    if (used > 0 && used + 1 + wide > width) {
      lines.emplace_back();
      used = 0;
    }
    if (used > 0) {
      lines.back() += ' ';
      ++used;
    }
    while (!word.empty()) {
      const auto [c, bytes] = decode(word);
      if (used > 0 && used + width_of(c) > width) {
        lines.emplace_back();
        used = 0;
      }
      lines.back() += word.substr(0, bytes);
      used += width_of(c);
      word.remove_prefix(bytes);
    }
  }
  return lines;
}

}  // namespace tconv::report
