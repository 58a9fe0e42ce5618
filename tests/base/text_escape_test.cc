#include "base/text_escape.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(EscapeText, ShowsControlBidiAndBrokenBytes) {
  EXPECT_EQ(escape_text("a\n\x1b[2J"), "a\\x0a\\x1b[2J");
  EXPECT_EQ(escape_text("\xff" "ok"), "\\xffok");
  EXPECT_EQ(escape_text("\xe2\x80\xae"), "\\xe2\\x80\\xae");
  EXPECT_EQ(escape_text("caf\xc3\xa9"), "caf\xc3\xa9");
  EXPECT_EQ(escape_text(std::string(100, 'x')), std::string(80, 'x') + "...");
}

TEST(ToValidUtf8, ReplacesMaximalSubparts) {
  EXPECT_EQ(to_valid_utf8("\xe2\x82(").size(), 4u);             // one replacement, then '('
  EXPECT_EQ(to_valid_utf8("\xc0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(to_valid_utf8("\xed\xa0\x80").size(), 9u);          // a surrogate: three bad bytes
}

TEST(CompletePrefix, NeverSplitsACodePoint) {
  EXPECT_EQ(complete_utf8_prefix("ab\xe2\x82"), 2u);
  EXPECT_EQ(complete_utf8_prefix("ab\xe2\x82\xac"), 5u);
  EXPECT_EQ(complete_utf8_prefix("\xf0\x9f\x98"), 0u);
  EXPECT_EQ(complete_utf8_prefix("a\xff"), 2u);                 // broken, not unfinished
}

}  // namespace
}  // namespace sluice
