#include "daemon/protocol/json_text.h"

#include <gtest/gtest.h>

#include <boost/json/object.hpp>
#include <limits>
#include <string>

namespace sluice {
namespace {

std::string nested(size_t depth, char open, char close) {
  return std::string(depth, open) + std::string(depth, close);
}

TEST(JsonText, DepthLimitIsExact) {
  JsonLimits limits;
  for (const size_t depth : {limits.depth - 1, limits.depth}) {
    EXPECT_TRUE(parse_json(nested(depth, '[', ']'))) << depth;
  }
  const auto over = parse_json(nested(limits.depth + 1, '[', ']'));
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().code, "invalid_request");
}

TEST(JsonText, DepthBombsAreRefusedBeforeParsing) {
  for (const size_t n : {1000u, 500000u, 4000000u}) {
    EXPECT_FALSE(check_json_limits(std::string(n, '['), {}));
    std::string objects;
    for (size_t i = 0; i < n / 5; ++i) objects += "{\"a\":";
    EXPECT_FALSE(check_json_limits(objects, {}));
  }
}

TEST(JsonText, BracketsInsideStringsDoNotCount) {
  const std::string inside = "[\"" + std::string(1000, '[') + "\\\"[[\\\\\", 1]";
  EXPECT_TRUE(parse_json(inside));
  // An escaped quote does not end the string, an escaped backslash before a quote does.
  EXPECT_FALSE(parse_json("[\"\\\\\"" + std::string(100, '[')));
}

TEST(JsonText, ValueLimitIsExact) {
  JsonLimits limits;
  limits.values = 10;  // one bracket and nine commas
  EXPECT_TRUE(parse_json("[1,2,3,4,5,6,7,8,9,0]", limits));
  EXPECT_FALSE(parse_json("[1,2,3,4,5,6,7,8,9,0,1,2]", limits));
}

TEST(JsonText, MalformedTextIsAnError) {
  for (const std::string& text : {std::string(),
                                  std::string("{"),
                                  std::string("nul"),
                                  std::string("{\"a\":}"),
                                  std::string("{\"a\":1,}"),
                                  std::string("{'a':1}"),
                                  std::string("{\"a\":1}x"),
                                  std::string("\"\\u12\""),
                                  std::string("\"\\ud800\""),
                                  std::string("NaN"),
                                  std::string("[Infinity]"),
                                  std::string("-"),
                                  std::string("01"),
                                  std::string("1e"),
                                  std::string("[1 2]"),
                                  std::string("\0", 1),
                                  std::string("\xef\xbb\xbf{}"),
                                  std::string("\"\xff\""),
                                  std::string("\"\xc0\xaf\""),
                                  std::string("\"\xed\xa0\x80\""),
                                  std::string("{\"\xe2\x82\":1}")}) {
    const auto parsed = parse_json(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, "invalid_request");
  }
}

TEST(JsonText, SpaceAroundTheValueIsFine) { EXPECT_TRUE(parse_json(" \r\n\t{\"a\": [1]} \n")); }

TEST(JsonText, NumbersPrintPlainly) {
  const boost::json::object o{{"created", int64_t{1790000000}},
                              {"big", std::numeric_limits<uint64_t>::max()},
                              {"half", 0.5},
                              {"one", 1.0},
                              {"nan", std::numeric_limits<double>::quiet_NaN()}};
  EXPECT_EQ(json_text(o),
            "{\"created\":1790000000,\"big\":18446744073709551615,\"half\":0.5,\"one\":1.0,\"nan\":"
            "null}");
}

TEST(JsonText, WhatIsPrintedIsAlwaysValidUtf8) {
  const std::string hostile("a\xff\xe2\x82 \"\\\n\0z", 11);
  const std::string text = json_text(boost::json::object{{hostile, hostile}});
  const auto back = parse_json(text);
  ASSERT_TRUE(back) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace sluice
