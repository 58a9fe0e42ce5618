#include "daemon/choice_sink.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/text_escape.h"

namespace sluice {
namespace {

// A vocabulary of given byte strings; ids are their places.
class PieceTokenizer final : public Tokenizer {
 public:
  explicit PieceTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}
  Result<std::vector<TokenId>> encode(std::string_view, bool) const override {
    return Error{"unused", ""};
  }
  std::string token_bytes(TokenId id) const override { return pieces_.at(static_cast<size_t>(id)); }
  std::string token_text(TokenId id) const override { return to_valid_utf8(token_bytes(id)); }
  std::optional<TokenId> find(std::string_view) const override { return std::nullopt; }
  bool is_special(TokenId) const override { return false; }
  bool is_control(TokenId) const override { return false; }
  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }
  uint64_t memory_bytes() const override { return 0; }

 private:
  std::vector<std::string> pieces_;
};

struct Got {
  std::string text;
  std::vector<TokenLogprob> logprobs;
  bool stopped = false;
};

Got run(const std::vector<std::string>& pieces, ChoiceSink::Options options) {
  const PieceTokenizer tokenizer(pieces);
  Got got;
  ChoiceSink sink(
      tokenizer,
      std::move(options),
      [&](std::string text, std::vector<TokenLogprob> logprobs) {
        EXPECT_EQ(to_valid_utf8(text), text) << "a piece that is no UTF-8";
        got.text += text;
        for (auto& t : logprobs) got.logprobs.push_back(std::move(t));
        return true;
      },
      [](int64_t, int64_t) {},
      [](int64_t) {});
  for (size_t i = 0; i < pieces.size() && !got.stopped; ++i) {
    Sampled s;
    s.id = static_cast<TokenId>(i);
    s.logprob = -static_cast<float>(i);
    got.stopped = !sink.on_token(s);
  }
  sink.finish();
  return got;
}

TEST(ChoiceSink, TextIsWholeCodePointsWhateverTheTokensCut) {
  // "a€😀b" and a byte that belongs to nothing, one byte a token.
  const std::string text =
      "a\xe2\x82\xac\xf0\x9f\x98\x80\xff"
      "b\xe2\x82";
  std::vector<std::string> pieces;
  for (const char c : text) pieces.emplace_back(1, c);
  EXPECT_EQ(run(pieces, {}).text, to_valid_utf8(text));
}

TEST(ChoiceSink, HostileBytesStayText) {
  const Got got = run({"data: ", "[DONE]", "\n\n", std::string("\0", 1), "\r\n", "\"}"}, {});
  EXPECT_EQ(got.text, std::string("data: [DONE]\n\n\0\r\n\"}", 19));
}

TEST(ChoiceSink, LogprobsGoWithTheirTextAndEndAtTheStop) {
  ChoiceSink::Options o;
  o.logprobs = true;
  o.stops = {"STOP"};
  const Got got = run({"one ", "ST", "x ", "S", "TO", "P two"}, o);
  EXPECT_TRUE(got.stopped);
  EXPECT_EQ(got.text, "one STx ");
  ASSERT_EQ(got.logprobs.size(), 3u);
  EXPECT_EQ(got.logprobs[2].bytes, "x ");
  EXPECT_EQ(got.logprobs[2].text_offset, 6);
}

TEST(ChoiceSink, EveryTokenHasItsLogprobWhenNothingStops) {
  ChoiceSink::Options o;
  o.logprobs = true;
  o.stops = {"zzz"};
  const Got got = run({"a", "\xe2", "\x82", "\xac", "z", "z"}, o);
  EXPECT_EQ(got.text, "a\xe2\x82\xaczz");
  ASSERT_EQ(got.logprobs.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(got.logprobs[i].logprob, -static_cast<double>(i));
  EXPECT_EQ(got.logprobs[4].text_offset, 2);
}

TEST(ChoiceSink, SameTextForEveryCutting) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::string text = "h\xc3\xa9llo w\xc3\xb6rld \xe2\x82\xac STO STOP after";
  for (int round = 0; round < 500; ++round) {
    std::vector<std::string> pieces(1);
    for (const char c : text) {
      pieces.back() += c;
      if (random() % 3 == 0) pieces.emplace_back();
    }
    ChoiceSink::Options o;
    o.stops = {"STOP", "\xe2\x82\xac\xe2\x82\xac"};
    o.logprobs = round % 2 == 0;
    const Got got = run(pieces, o);
    ASSERT_EQ(got.text, text.substr(0, text.find("STOP")));
    ASSERT_TRUE(got.stopped);
  }
}

TEST(ChoiceSink, EchoComesFirstAndOnce) {
  ChoiceSink::Options o;
  o.echo = true;
  o.echo_text = "prompt ";
  EXPECT_EQ(run({"a", "b"}, o).text, "prompt ab");
  EXPECT_EQ(run({}, o).text, "prompt ") << "also when nothing is generated";
}

}  // namespace
}  // namespace sluice
