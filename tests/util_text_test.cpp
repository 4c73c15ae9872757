#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv {
namespace {

TEST(Utf8, AcceptsEveryLengthAtItsBounds) {
  EXPECT_FALSE(first_invalid_utf8(""));
  EXPECT_FALSE(first_invalid_utf8(std::string_view("\0a\x7f", 3)));
  EXPECT_FALSE(first_invalid_utf8("\xC2\x80 \xDF\xBF"));
  EXPECT_FALSE(first_invalid_utf8("\xE0\xA0\x80 \xED\x9F\xBF \xEE\x80\x80 \xEF\xBF\xBF"));
  EXPECT_FALSE(first_invalid_utf8("\xF0\x90\x80\x80 \xF4\x8F\xBF\xBF"));
}

TEST(Utf8, NamesTheFirstMalformedByte) {
  const std::string_view malformed[] = {
      "\x80",
      "\xBF",  // continuation without a lead
      "\xC0\xAF",
      "\xC1\xBF",          // overlong, two bytes
      "\xE0\x9F\xBF",      // overlong, three bytes
      "\xF0\x8F\xBF\xBF",  // overlong, four bytes
      "\xED\xA0\x80",      // surrogate
      "\xF4\x90\x80\x80",
      "\xF5",  // past U+10FFFF
      "\xFF",
      "\xC2",
      "\xE2\x82",
      "\xF0\x9F\x98",
      "\xE2"
      "a",
  };
  for (const std::string_view bytes : malformed) {
    const std::string text = "ab\xC3\xA9" + std::string(bytes);
    EXPECT_EQ(first_invalid_utf8(text), 4u) << printable(text);
  }
}

TEST(Printable, KeepsTextAndEscapesWhatIsNot) {
  EXPECT_EQ(printable("request.txt"), "request.txt");
  EXPECT_EQ(printable("\xC3\xA9"), "\xC3\xA9");
  EXPECT_EQ(printable("a\nb\x1b[31m\x7f"), "a\\x0ab\\x1b[31m\\x7f");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m"),
            "\\xc2\\x9b31m");  // CSI as one character
  EXPECT_EQ(printable("\xFF\xC3\xA9"), "\\xff\xC3\xA9");
  EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
}

TEST(Printable, IsNeverLongerThanAskedAndNeverCutsACharacter) {
  const std::string text = "0123456789\xC3\xA9\n\xF0\x9F\x98\x80tail";
  for (std::size_t most = 0; most < 40; ++most) {
    const std::string line = printable(text, most);
    EXPECT_LE(line.size(), most);
    EXPECT_FALSE(first_invalid_utf8(line)) << most;
  }
  EXPECT_EQ(printable(text, 8), "01234...");
  EXPECT_EQ(printable("12345678", 8), "12345678");
}

TEST(ReplaceLine, TakesTheWholeLineOfTheMark) {
  std::string text = "first\n  x = 1  # @x\nlast # @y";
  replace_line(text, "# @x", "  x = 2\n");
  EXPECT_EQ(text, "first\n  x = 2\nlast # @y");
  replace_line(text, "# @y", "");
  EXPECT_EQ(text, "first\n  x = 2\n");
  try {
    replace_line(text, "# @y", "");
    FAIL() << "found a mark that is gone";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::defect);
  }
}

}  // namespace
}  // namespace tconv
