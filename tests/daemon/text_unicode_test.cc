// Python's text functions and NFC, against values that Python gave.
#include "daemon/text/unicode.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>

#include "daemon/text/python_text.h"

namespace sluice {
namespace {

using Parts = std::vector<std::string_view>;

TEST(Unicode, NfcComposesAndOrders) {
  EXPECT_EQ(to_nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(to_nfc("\u212b"), "\u00c5");                // Angstrom sign
  EXPECT_EQ(to_nfc("\u1100\u1161\u11a8"), "\uac01");    // Hangul
  EXPECT_EQ(to_nfc("q\u0307\u0323"), "q\u0323\u0307");  // marks by class
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093c");          // excluded from composition
  EXPECT_EQ(to_nfc("a\u0301b\u0323c"),
            "\u00e1\u1e05"
            "c");
  EXPECT_EQ(to_nfc("\ufb01"), "\ufb01");  // a compatibility character stays
  EXPECT_EQ(to_nfc(std::string_view("a\0b", 3)), std::string_view("a\0b", 3));
  EXPECT_EQ(to_nfc("\U0001d15e"), "\U0001d157\U0001d165");
}

TEST(Unicode, QuickCheckNeverLies) {
  // Every code point alone and between letters: what is called surely normalized must be what NFC
  // leaves alone.
  int sure = 0;
  for (uint32_t c = 1; c < 0x11000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string s = "e";
    append_utf8(s, c);
    s += "e";
    if (!is_surely_nfc(s)) continue;
    ++sure;
    EXPECT_EQ(to_nfc(s), s) << c;
  }
  EXPECT_GT(sure, 40000);
  EXPECT_TRUE(
      is_surely_nfc("plain \u00e9 \u65e5\u672c\u8a9e \u043f\u0440\u0438\u0432\u0435\u0442"));
  EXPECT_FALSE(is_surely_nfc("e\u0301"));
}

TEST(Unicode, ManyMarksTakeLinearTime) {
  std::string s = "a";
  for (int i = 0; i < 200000; ++i) s += i % 2 == 0 ? "\u0301" : "\u0323";  // in the worst order
  const auto start = std::chrono::steady_clock::now();
  const std::string out = to_nfc(s);
  EXPECT_LT(std::chrono::steady_clock::now() - start,
            std::chrono::seconds(5));  // quadratic: minutes
  EXPECT_TRUE(out.starts_with("\u1ea1\u0323"));
}

TEST(PythonText, FloatsPrintAsRepr) {
  const std::pair<double, const char*> cases[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {0.1, "0.1"},
      {0.1 + 0.2, "0.30000000000000004"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e+16"},
      {1.5e16, "1.5e+16"},
      {123456789.125, "123456789.125"},
      {1e-4, "0.0001"},
      {1e-5, "1e-05"},
      {1.25e-7, "1.25e-07"},
      {1e100, "1e+100"},
      {-2.5, "-2.5"},
      {5e-324, "5e-324"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {100.0, "100.0"},
      {9007199254740993.0, "9007199254740992.0"},
      {std::numeric_limits<double>::infinity(), "inf"},
      {-std::numeric_limits<double>::infinity(), "-inf"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(format_float(value), text);
  EXPECT_EQ(format_float(std::nan("")), "nan");
}

TEST(PythonText, SplitsAsStrSplit) {
  EXPECT_EQ(split("a,b,,c", ",", -1), (Parts{"a", "b", "", "c"}));
  EXPECT_EQ(split("a,b,,c", ",", 1), (Parts{"a", "b,,c"}));
  EXPECT_EQ(split("", ",", -1), (Parts{""}));
  EXPECT_EQ(rsplit("a,b,c", ",", 1), (Parts{"a,b", "c"}));
  EXPECT_EQ(split_space("  a  b\u3000c ", -1), (Parts{"a", "b", "c"}));
  EXPECT_EQ(split_space(" a b c ", 1), (Parts{"a", "b c "}));
  EXPECT_EQ(rsplit_space(" a b c ", 1), (Parts{" a b", "c"}));
  EXPECT_EQ(split_space("", -1), Parts{});
  EXPECT_EQ(split_lines("a\nb\r\nc\rd\u2028e\n", false), (Parts{"a", "b", "c", "d", "e"}));
  EXPECT_EQ(split_lines("a\n\nb", true), (Parts{"a\n", "\n", "b"}));
}

TEST(PythonText, StripsWholeCodePoints) {
  EXPECT_EQ(strip_left("\u00a0\u2003 x "), "x ");
  EXPECT_EQ(strip_right(" x\x1c\x1f\n"), " x");
  EXPECT_EQ(strip_left("\u00e9\u00e8x", "\u00e8\u00e9"), "x");
  EXPECT_EQ(strip_right("x\u00e9", "\u00e8"), "x\u00e9");
  EXPECT_EQ(strip_right("", "a"), "");
}

TEST(PythonText, ChangesCase) {
  EXPECT_EQ(to_upper("stra\u00dfe \u00e9"), "STRASSE \u00c9");
  EXPECT_EQ(to_lower("\u00c9T\u00c9 \u0130"), "\u00e9t\u00e9 i\u0307");
  EXPECT_EQ(capitalize("hELLO wORLD"), "Hello world");
  EXPECT_EQ(title_case("they're bill's 3rd-x"), "They'Re Bill'S 3Rd-X");
  EXPECT_TRUE(is_upper("A1") && !is_upper("1") && !is_upper("Aa") && is_lower("a1") &&
              !is_lower(""));
}

TEST(PythonText, QuotesAsReprAndJson) {
  const auto repr = [](std::string_view s) {
    const char q = python_quote(s);
    std::string out(1, q);
    append_python_escaped(out, s, q);
    return out + q;
  };
  EXPECT_EQ(repr("it's"), "\"it's\"");
  EXPECT_EQ(repr("'\""), "'\\'\"'");
  EXPECT_EQ(repr("a\n\t\\\x01\x7f\u00e9\u00ad\u200b\U0001f600"),
            "'a\\n\\t\\\\\\x01\\x7f\u00e9\\xad\\u200b\U0001f600'");
  std::string json;
  append_json_escaped(json, "\"\\\n\x01\x7f\u00e9\u2028\U0001f600", false);
  EXPECT_EQ(json, "\\\"\\\\\\n\\u0001\x7f\u00e9\u2028\U0001f600");
  json.clear();
  append_json_escaped(json, "\x7f\u00e9\U0001f600", true);
  EXPECT_EQ(json, "\\u007f\\u00e9\\ud83d\\ude00");
}

TEST(PythonText, ReadsNumbersAsPython) {
  EXPECT_EQ(parse_int(" 42 ", 10), 42);
  EXPECT_EQ(parse_int("-1_000", 10), -1000);
  EXPECT_EQ(parse_int("0x1F", 16), 31);
  EXPECT_EQ(parse_int("0b101", 0), 5);
  for (const char* bad :
       {"", "x", "1.5", "_1", "1_", "1__0", "--1", "+-1", "0x", "99999999999999999999"}) {
    EXPECT_FALSE(parse_int(bad, 10)) << bad;
  }
  EXPECT_EQ(parse_float("1e3"), 1000.0);
  EXPECT_EQ(parse_float(" -.5 "), -0.5);
  EXPECT_EQ(parse_float("1e999"), HUGE_VAL);
  EXPECT_EQ(parse_float("1e-999"), 0.0);
  for (const char* bad : {"", "x", "1.5.2", "nan(1)", "++1", "1e"})
    EXPECT_FALSE(parse_float(bad)) << bad;
}

}  // namespace
}  // namespace sluice
