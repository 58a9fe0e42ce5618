#include "client/sse_parser.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

std::string shown(const std::vector<SseEvent>& events) {
  std::string text;
  for (const SseEvent& e : events) text += (e.is_comment ? "#" : e.event + "=") + e.data + "|";
  return text;
}

std::string parse_at(std::string_view text, size_t cut, size_t second_cut) {
  SseParser parser;
  std::vector<SseEvent> events;
  for (const auto piece :
       {text.substr(0, cut), text.substr(cut, second_cut - cut), text.substr(second_cut)}) {
    EXPECT_TRUE(parser.feed(piece, events));
  }
  return shown(events);
}

const std::string kStream =
    ": sluice prefill 1/2\n\ndata: {\"a\":1}\n\ndata: one\ndata: two\n\nevent: "
    "done\r\ndata:x\r\n\r\ndata: cr\r\rignored: 1\nid: 7\n\ndata\n\n"
    "data: [DONE]\n\ndata: unfinished";
const std::string kExpected =
    "#sluice prefill "
    "1/2|message={\"a\":1}|message=one\ntwo|done=x|message=cr|message=|message=[DONE]|";

TEST(SseParser, ReadsTheSameAtEverySplit) {
  for (size_t i = 0; i <= kStream.size(); ++i) {
    for (size_t j = i; j <= kStream.size(); j += 7)
      EXPECT_EQ(parse_at(kStream, i, j), kExpected) << i << " " << j;
  }
}

TEST(SseParser, ByteByByteIsTheSame) {
  SseParser parser;
  std::vector<SseEvent> events;
  for (const char c : kStream) ASSERT_TRUE(parser.feed(std::string_view(&c, 1), events));
  EXPECT_EQ(shown(events), kExpected);
}

TEST(SseParser, RefusesALineLongerThanTheLimit) {
  std::vector<SseEvent> events;
  SseParser fits;
  EXPECT_TRUE(fits.feed("data: " + std::string(SseParser::kMaxLine - 6, 'x') + "\n\n", events));
  EXPECT_EQ(events.size(), 1u);
  SseParser too_long;
  EXPECT_FALSE(too_long.feed("data: " + std::string(SseParser::kMaxLine - 5, 'x'), events));
}

TEST(SseParser, RefusesAnEventLargerThanTheLimit) {
  SseParser parser;
  std::vector<SseEvent> events;
  const std::string line = "data: " + std::string(1000, 'x') + "\n";
  size_t n = 0;
  while (parser.feed(line, events)) ASSERT_LE(++n, SseParser::kMaxData / 1000 + 1);
  EXPECT_GE(n, SseParser::kMaxData / 1001 - 1);
  EXPECT_TRUE(events.empty());
}

}  // namespace
}  // namespace sluice
