#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "report/format.hpp"

namespace tconv::report {
namespace {

TEST(ReportFormat, TimesHaveThreeDigits) {
  EXPECT_EQ(seconds_text(9.63e-3), "9.63 ms");
  EXPECT_EQ(seconds_text(0.34e-3), "0.340 ms");
  EXPECT_EQ(seconds_text(11.74e-3), "11.7 ms");
  EXPECT_EQ(seconds_text(4.4e-6), "4.40 µs");
  EXPECT_EQ(seconds_text(0), "0 s");
  EXPECT_EQ(seconds_text(std::nan("")), "not a number");
}

TEST(ReportFormat, RoundingMovesToTheNextPrefix) {
  EXPECT_EQ(quantity_text(999.4e9, "B/s"), "999 GB/s");
  EXPECT_EQ(quantity_text(999.6e9, "B/s"), "1.00 TB/s");
  EXPECT_EQ(quantity_text(9.996, "B"), "10.0 B");
  EXPECT_EQ(quantity_text(-1.5e6, "B"), "-1.50 MB");
  EXPECT_EQ(quantity_text(std::numeric_limits<double>::infinity(), "B"), "infinite");
}

TEST(ReportFormat, PlainReplacesWhatDeceives) {
  EXPECT_EQ(plain("a\x1b[31mb"), "a\xEF\xBF\xBD[31mb");  // terminal escape
  EXPECT_EQ(plain("a\nb\tc"), "a b c");
  EXPECT_EQ(plain("a\xE2\x80\xAE"
                  "b"),
            "a\xEF\xBF\xBD"
            "b");                                                    // right-to-left override
  EXPECT_EQ(plain("\xC3\xA9"), "\xC3\xA9");                          // well-formed text stays
  EXPECT_EQ(plain("\xC0\xAF"), "\xEF\xBF\xBD\xEF\xBF\xBD");          // overlong
  EXPECT_EQ(plain("\xED\xA0\x80").find('\xED'), std::string::npos);  // surrogate
  EXPECT_EQ(plain("\xF0\x9F"), "\xEF\xBF\xBD\xEF\xBF\xBD");          // cut off
  EXPECT_EQ(plain(std::string_view("\0x", 2)), "\xEF\xBF\xBDx");
  EXPECT_EQ(plain_lines("a\r\nb\rc\td"), "a\nb\nc\td");
}

TEST(ReportFormat, HtmlKeepsNoMarkup) {
  EXPECT_EQ(html_text("<a href=\"x\" id='y'>&</a>"), "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;&lt;/a&gt;");
}

TEST(ReportFormat, MarkdownKeepsNoMarkup) {
  EXPECT_EQ(markdown_text("a|b"), "a\\|b");
  EXPECT_EQ(markdown_text("<b>*x*</b>"), "\\<b\\>\\*x\\*\\</b\\>");
  EXPECT_EQ(markdown_text("[t](http://h)"), "\\[t\\](http\\://h)");
  EXPECT_EQ(markdown_text("sm__throughput.avg _x_"), "sm__throughput.avg \\_x\\_");
  EXPECT_EQ(markdown_text("1. first"), "1\\. first");
  EXPECT_EQ(markdown_text("3.6.0 a & b &copy; &#60;"), "3.6.0 a & b \\&copy; \\&\\#60;");
  EXPECT_EQ(markdown_text("www.h"), "www\\.h");
}

TEST(ReportFormat, CodeCannotEndItsSpanOrFence) {
  EXPECT_EQ(markdown_code("a`b"), "``a`b``");
  EXPECT_EQ(markdown_code("a``"), "``` a`` ```");
  EXPECT_EQ(markdown_code("a|b"), "`a\\|b`");
  EXPECT_EQ(markdown_fence("x = 1", "python"), "```python\nx = 1\n```\n");
  EXPECT_EQ(markdown_fence("```\n````\n", ""), "`````\n```\n````\n`````\n");
}

TEST(ReportFormat, WrapKeepsTheWidthAndEveryWord) {
  const std::string text = "the quick brown fox " + std::string(50, 'x') + " jumps µµµµµ over";
  std::string joined;
  for (const std::string& line : wrap(text, 12)) {
    EXPECT_LE(columns(line), 12u) << line;
    for (const char c : line) {
      if (c != ' ') joined += c;
    }
  }
  std::string expected;
  for (const char c : text) {
    if (c != ' ') expected += c;
  }
  EXPECT_EQ(joined, expected);
  EXPECT_EQ(wrap("", 10).size(), 1u);
}

TEST(ReportFormat, ClipMarksTheCut) {
  EXPECT_EQ(clip("abc", 3), "abc");
  EXPECT_EQ(clip("abcd", 3), "ab…");
  EXPECT_EQ(columns("界"), 2u);
}

}  // namespace
}  // namespace tconv::report
