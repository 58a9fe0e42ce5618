// SentencePiece vocabularies: scores decide, bytes fill the gaps, spaces are U+2581.
#include <gtest/gtest.h>

#include <chrono>

#include "tests/support/vocab.h"

namespace sluice {
namespace {

using testing::VocabBuilder;

// ids: 0 <unk>, 1 <s>, 2 </s>, 3..258 bytes, then pieces.
constexpr TokenId kBytes = 3;
constexpr TokenId kPieces = 259;

std::shared_ptr<const Tokenizer> make(const std::vector<std::pair<std::string, float>>& pieces,
                                      bool prefix = true) {
  VocabBuilder v;
  v.model("llama").token("<unk>", 2).token("<s>", 3).token("</s>", 3);
  static const char* const kHex = "0123456789ABCDEF";
  for (int b = 0; b < 256; ++b) v.token(std::string("<0x") + kHex[b >> 4] + kHex[b & 15] + ">", 6);
  for (const auto& [text, score] : pieces) v.token(text, 1, score);
  VocabSource source = v.source();
  source.bos = 1;
  source.eos = 2;
  source.unk = 0;
  source.add_bos = true;
  source.add_space_prefix = prefix;
  auto t = Tokenizer::create(source);
  EXPECT_TRUE(t) << t.error().what;
  return t ? t.value() : nullptr;
}

std::vector<TokenId> encode(const Tokenizer& t, std::string_view text, bool special = true) {
  const auto ids = t.encode(text, special);
  EXPECT_TRUE(ids);
  return ids ? ids.value() : std::vector<TokenId>{};
}

TEST(SentencePiece, HighestScoreMergesFirst) {
  const auto t = make({{"a", -9}, {"b", -9}, {"c", -9}, {"ab", -2}, {"bc", -1}, {"\u2581", -9}});
  // "abc": bc (-1) before ab (-2).
  EXPECT_EQ(encode(*t, "abc"), (std::vector<TokenId>{kPieces + 5, kPieces + 0, kPieces + 4}));
  EXPECT_TRUE(t->add_bos());
  EXPECT_EQ(t->bos(), 1);
  EXPECT_EQ(t->stop_tokens(), std::vector<TokenId>{2});
}

TEST(SentencePiece, SpacesAndThePrefix) {
  const auto t = make({{"a", -9},
                       {"\u2581", -5},
                       {"\u2581"
                        "a",
                        -1}});
  EXPECT_EQ(encode(*t, "a a"), (std::vector<TokenId>{kPieces + 2, kPieces + 2}));
  EXPECT_EQ(encode(*t, ""), std::vector<TokenId>{});
  EXPECT_EQ(t->decode(encode(*t, "a a"), false), "a a");
  EXPECT_EQ(t->decode(encode(*t, " a"), false), " a");
  const auto bare = make({{"a", -9},
                          {"\u2581", -5},
                          {"\u2581"
                           "a",
                           -1}},
                         false);
  EXPECT_EQ(encode(*bare, "a a"), (std::vector<TokenId>{kPieces + 0, kPieces + 2}));
  EXPECT_EQ(bare->decode(encode(*bare, " a"), false), " a");
  EXPECT_EQ(t->token_bytes(kPieces + 2), " a");
  EXPECT_EQ(t->token_text(kPieces + 2),
            "\u2581"
            "a");
}

TEST(SentencePiece, BytesFillWhatNoPieceCovers) {
  const auto t = make({{"\u2581", -5}});
  EXPECT_EQ(encode(*t, "\u00e9"), (std::vector<TokenId>{kPieces, kBytes + 0xC3, kBytes + 0xA9}));
  EXPECT_EQ(t->decode(encode(*t, "\u00e9\n"), false), "\u00e9\n");
  StreamDecoder stream(*t, true);
  EXPECT_EQ(stream.push(kBytes + 0xC3), "");
  EXPECT_EQ(stream.push(kBytes + 0xA9), "\u00e9");
  EXPECT_EQ(stream.push(1), "");
  EXPECT_EQ(encode(*t, "\xff"),
            (std::vector<TokenId>{kPieces, kBytes + 0xEF, kBytes + 0xBF, kBytes + 0xBD}));
}

TEST(SentencePiece, UnknownWithoutByteTokens) {
  VocabBuilder v;
  v.model("llama").token("<unk>", 2).token("a", 1, -1).token("\u2581", 1, -1);
  VocabSource source = v.source();
  source.unk = 0;
  const auto t = Tokenizer::create(source);
  ASSERT_TRUE(t);
  EXPECT_EQ(encode(*t.value(), "axya"), (std::vector<TokenId>{2, 1, 0, 1}));  // neighbours are one
}

TEST(SentencePiece, ControlTextOnlyWhenAskedFor) {
  const auto t = make({{"<", -1}, {"s", -1}, {">", -1}, {"\u2581", -1}});
  EXPECT_EQ(encode(*t, "<s>"), std::vector<TokenId>{1});
  EXPECT_EQ(encode(*t, "<s>", false).size(), 4u);
  EXPECT_EQ(encode(*t, "<0x41>", false)[1], kPieces);  // the spelling of a byte token is only text
  EXPECT_EQ(t->decode(std::vector<TokenId>{1, kPieces}, true), "<");
}

TEST(SentencePiece, AMegabyteOfOneWordIsNotQuadratic) {
  std::vector<std::pair<std::string, float>> pieces = {{"\u2581", -1}};
  std::string word = "a";
  for (int i = 0; i < 17; ++i) {
    pieces.emplace_back(word, static_cast<float>(i));
    word += word;
  }
  const auto t = make(pieces);
  const auto start = std::chrono::steady_clock::now();
  const auto ids = encode(*t, std::string(1 << 20, 'a'));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_EQ(ids.size(), 1u + (1u << 20) / 65536);
  encode(*t, std::string(1 << 20, 'b'));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(SentencePiece, RefusesScoresOfAnotherLength) {
  VocabBuilder v;
  v.model("llama").token("a").token("b");
  VocabSource source = v.source();
  GgufValue scores = *source.scores;
  scores.count = 1;
  source.scores = &scores;
  EXPECT_EQ(Tokenizer::create(source).error().code, "gguf.tokenizer");
}

}  // namespace
}  // namespace sluice
