#include "util/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "util/error.hpp"

namespace tconv {
namespace {

// Bytes of the character that starts `text`; 0 when it is malformed. RFC 3629, table in section 4.
std::size_t character_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const auto between = [&](std::size_t i, unsigned low, unsigned high) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return between(1, 0x80, 0xBF) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const unsigned low = lead == 0xE0 ? 0xA0 : 0x80;   // below: overlong
    const unsigned high = lead == 0xED ? 0x9F : 0xBF;  // above: a surrogate
    return between(1, low, high) && between(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const unsigned low = lead == 0xF0 ? 0x90 : 0x80;   // below: overlong
    const unsigned high = lead == 0xF4 ? 0x8F : 0xBF;  // above: past U+10FFFF
    return between(1, low, high) && between(2, 0x80, 0xBF) && between(3, 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

// C0 and C1 controls and DEL: they move the cursor or end the line.
bool is_control(std::string_view character) {
  const auto first = static_cast<std::uint8_t>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7F;
  return character.size() == 2 && first == 0xC2 && static_cast<std::uint8_t>(character[1]) < 0xA0;
}

}  // namespace

std::optional<std::size_t> first_invalid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = character_bytes(text.substr(at));
    if (bytes == 0) return at;
    at += bytes;
  }
  return std::nullopt;
}

std::string printable(std::string_view text, std::size_t max_bytes) {
  constexpr std::string_view kCut = "...";
  std::string line;
  std::size_t fits = 0;  // bytes of `line` that leave room for the mark of a cut
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = character_bytes(text.substr(at));
    const std::string_view character = text.substr(at, bytes == 0 ? 1 : bytes);
    if (bytes != 0 && !is_control(character)) {
      line += character;
    } else {
      for (const char raw : character) line += fmt::format("\\x{:02x}", static_cast<std::uint8_t>(raw));
    }
    if (line.size() > max_bytes) return line.substr(0, fits).append(kCut.substr(0, max_bytes));
    if (line.size() + kCut.size() <= max_bytes) fits = line.size();
    at += character.size();
  }
  return line;
}

void replace_line(std::string& text, std::string_view mark, std::string_view replacement) {
  const std::size_t at = text.find(mark);
  if (at == std::string::npos) throw Error(Exit::defect, "emit", fmt::format("a text has lost its mark {}", mark), "");
  const std::size_t begin = text.rfind('\n', at) + 1;
  const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
  text.replace(begin, end - begin, replacement);
}

}  // namespace tconv
