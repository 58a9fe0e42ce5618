#include "client/terminal.h"

#include <gtest/gtest.h>

#include "base/suggest.h"
#include "client/client.h"

namespace sluice {
namespace {

std::string sanitised(std::string_view text, bool utf8 = true) { return sanitise(text, utf8); }

TEST(Sanitiser, ShowsControlBytesAsGlyphs) {
  EXPECT_EQ(sanitised("a\tb\nc"), "a\tb\nc");
  EXPECT_EQ(sanitised("\x1b[31mred"), "\u241B[31mred");
  EXPECT_EQ(sanitised("\x07\x7f\r"), "\u2407\u2421\u240D");
  EXPECT_EQ(sanitised(std::string("\0", 1)), "\u2400");
  EXPECT_EQ(sanitised("\xC2\x9B"
                      "31m"),
            "\uFFFD31m");  // CSI as one C1 control
  EXPECT_EQ(sanitised("\x1b[0m", false), "^[[0m");
}

TEST(Sanitiser, NoControlByteEverPasses) {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  for (const bool utf8 : {true, false}) {
    for (const char c : sanitised(all, utf8)) {
      const auto byte = static_cast<unsigned char>(c);
      EXPECT_TRUE(byte >= 0x20 || c == '\n' || c == '\t') << int(byte);
      EXPECT_NE(byte, 0x7F);
    }
  }
}

TEST(Sanitiser, EmitsOnlyWholeCodePointsAtEverySplit) {
  const std::string text = "h\u00E9llo \u20AC \U0001F30A\x1b end";
  const std::string whole = sanitised(text);
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    Sanitiser sanitiser(true);
    std::string out = sanitiser.feed(std::string_view(text).substr(0, cut));
    EXPECT_EQ(sanitised(out), out) << cut;  // nothing broken was emitted
    out += sanitiser.feed(std::string_view(text).substr(cut));
    out += sanitiser.finish();
    EXPECT_EQ(out, whole) << cut;
  }
}

TEST(Sanitiser, AnUnfinishedCodePointAtTheEndIsReplaced) {
  EXPECT_EQ(sanitised("a\xE2\x82"), "a\uFFFD");
  EXPECT_EQ(sanitised("a\xFF"
                      "b"),
            "a\uFFFD"
            "b");
}

TEST(Table, AlignsByCodePointsAndCutsAtTheWidth) {
  EXPECT_EQ(format_table({{"NAME", "SIZE"}, {"\u00E9\u00E9", "1"}}, 0),
            "NAME  SIZE\n\u00E9\u00E9    1\n");
  EXPECT_EQ(format_table({{"\u00E9\u00E9\u00E9\u00E9", "tail"}}, 3), "\u00E9\u00E9\u00E9\n");
}

TEST(Suggest, FindsTyposAndNothingElse) {
  const std::vector<std::string> words{
      "status", "models", "tokenize", "--temp", "--top-p", "--max-tokens"};
  EXPECT_EQ(nearest_word("stats", words), "status");
  EXPECT_EQ(nearest_word("tokenise", words), "tokenize");
  EXPECT_EQ(nearest_word("--tmep", words), "--temp");
  EXPECT_EQ(nearest_word("--max", words), "--max-tokens");
  EXPECT_EQ(nearest_word("zebra", words), "");
  EXPECT_EQ(nearest_word("", words), "");
  EXPECT_EQ(nearest_word(std::string(5000, 's'), words), "");
}

TEST(Checks, NumbersMustBeFiniteAndInRange) {
  const auto check = number_between(0, 2);
  EXPECT_EQ(check("0"), "");
  EXPECT_EQ(check("2"), "");
  for (const char* text : {"2.1", "-0.1", "nan", "inf", "1x", "", "0x1"})
    EXPECT_NE(check(text), "") << text;
}

}  // namespace
}  // namespace sluice
