// Numbers with units, and strings made safe for the medium they go to. A request is hostile: no string
// of it reaches a report except through one of these functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tconv::report {

// Three significant digits with an SI prefix: "9.63 ms", "921 GB/s", "1.34 GB". NaN and infinity in words.
[[nodiscard]] std::string seconds_text(double seconds);
[[nodiscard]] std::string quantity_text(double value, std::string_view unit);
[[nodiscard]] std::string ratio_text(double ratio);  // "8.04x"
// Any number, for tables of unlike things: integers below 1e6 as they are, else three to six digits.
[[nodiscard]] std::string number_text(double value);

// Valid UTF-8 on one line: malformed bytes, control characters and invisible or direction-changing code
// points become U+FFFD; tabs and line ends become spaces.
[[nodiscard]] std::string plain(std::string_view text);
// As plain, but keeps line ends and tabs: for source code.
[[nodiscard]] std::string plain_lines(std::string_view text);

[[nodiscard]] std::string html_text(std::string_view text);      // for element content and quoted attributes
[[nodiscard]] std::string html_lines(std::string_view text);     // likewise, keeps line ends
[[nodiscard]] std::string markdown_text(std::string_view text);  // for running text and table cells
[[nodiscard]] std::string markdown_code(std::string_view text);  // a code span, safe inside a table cell
[[nodiscard]] std::string markdown_fence(std::string_view code, std::string_view language);

// Terminal columns of valid UTF-8.
[[nodiscard]] std::size_t columns(std::string_view text);
// Greedy line breaking of one-line text; longer words are cut. Always at least one line.
[[nodiscard]] std::vector<std::string> wrap(std::string_view text, std::size_t width);
// At most `width` columns, with an ellipsis where something was cut.
[[nodiscard]] std::string clip(std::string_view text, std::size_t width);

}  // namespace tconv::report
