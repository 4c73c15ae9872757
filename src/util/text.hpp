// Text that may be hostile: checked, and made fit to print on one line.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace tconv {

// Offset of the first byte that is not well-formed UTF-8 (no overlong form, no surrogate, at most
// U+10FFFF), if any.
[[nodiscard]] std::optional<std::size_t> first_invalid_utf8(std::string_view text);

// `text` as one printable line of at most `max_bytes` bytes: control characters and malformed bytes
// become \xHH, and what is cut off becomes "...".
[[nodiscard]] std::string printable(std::string_view text, std::size_t max_bytes = 80);

// The line of `text` that `mark` stands in, gone for `replacement`. Throws Error(defect) where it stands in none.
void replace_line(std::string& text, std::string_view mark, std::string_view replacement);

}  // namespace tconv
