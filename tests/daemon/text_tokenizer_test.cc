// Byte-level BPE against HF's tokenizers: ids 100 % equal, both ways, whole and streamed.
#include "daemon/text/tokenizer.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "daemon/text/pretokenizer.h"
#include "tests/storage/gguf_doc.h"
#include "tests/support/vocab.h"

namespace sluice {
namespace {

using testing::golden_path;
using testing::ids_of;
using testing::load_tokenizer;
using testing::read_json;
using testing::VocabBuilder;

std::string from_hex(std::string_view hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    out += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return out;
}

std::string text_of(const boost::json::value& v) { return std::string(v.as_string()); }

class TokenizerGolden : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    tokenizer_ = load_tokenizer(golden_path("public/tokenizer/vocab.gguf"));
    cases_ = read_json(golden_path("public/tokenizer/case.json"));
  }
  static void TearDownTestSuite() { tokenizer_.reset(); }
  const boost::json::array& cases(const char* name) {
    return cases_.as_object().at(name).as_array();
  }

  static inline std::shared_ptr<const Tokenizer> tokenizer_;
  static inline boost::json::value cases_;
};

TEST_F(TokenizerGolden, EncodesAsTheReference) {
  ASSERT_GT(cases("encode").size(), 400u);
  for (const auto& c : cases("encode")) {
    const std::string text = text_of(c.at("text"));
    const auto ids = tokenizer_->encode(text, true);
    ASSERT_TRUE(ids) << ids.error().what;
    EXPECT_EQ(ids.value(), ids_of(c.at("ids"))) << text;
    EXPECT_EQ(tokenizer_->decode(ids.value(), false), text_of(c.at("decoded"))) << text;
    EXPECT_EQ(tokenizer_->decode(ids.value(), true), text_of(c.at("decoded_skip_special"))) << text;
  }
}

TEST_F(TokenizerGolden, ReadsInvalidUtf8AsReplacementCharacters) {
  for (const auto& c : cases("invalid_utf8")) {
    const auto ids = tokenizer_->encode(from_hex(c.at("bytes_hex").as_string()), true);
    ASSERT_TRUE(ids);
    EXPECT_EQ(ids.value(), ids_of(c.at("ids"))) << c.at("bytes_hex");
  }
}

TEST_F(TokenizerGolden, DecodesAsTheReference) {
  for (const auto& c : cases("decode")) {
    const auto ids = ids_of(c.at("ids"));
    EXPECT_EQ(tokenizer_->decode(ids, false), text_of(c.at("text")));
    EXPECT_EQ(tokenizer_->decode(ids, true), text_of(c.at("text_skip_special")));
  }
}

TEST_F(TokenizerGolden, StreamsWholeCodePoints) {
  for (const auto& c : cases("stream")) {
    StreamDecoder decoder(*tokenizer_, false);
    std::string all;
    const auto ids = ids_of(c.at("ids"));
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::string chunk = decoder.push(ids[i]);
      EXPECT_EQ(chunk, text_of(c.at("chunks").at(i)));
      all += chunk;
    }
    const std::string rest = decoder.flush();
    EXPECT_EQ(rest, text_of(c.at("flush")));
    EXPECT_EQ(all + rest, tokenizer_->decode(ids, false));
    EXPECT_EQ(decoder.flush(), "");
  }
}

TEST_F(TokenizerGolden, EncodesWithTheVocabularyOfAModelFile) {
  const auto tokenizer = load_tokenizer(golden_path("public/qwen2-tiny-f32/model.gguf"));
  ASSERT_TRUE(tokenizer);
  const auto& all = cases_.as_object().at("model_vocab_encode").at("cases").as_array();
  ASSERT_GT(all.size(), 300u);
  for (const auto& c : all) {
    const auto ids = tokenizer->encode(text_of(c.at("text")), true);
    ASSERT_TRUE(ids);
    EXPECT_EQ(ids.value(), ids_of(c.at("ids"))) << c.at("text");
  }
}

TEST_F(TokenizerGolden, AnyIdsStreamAsTheyDecode) {
  std::mt19937 random(20240607);
  for (int round = 0; round < 300; ++round) {
    std::vector<TokenId> ids(1 + random() % 40);
    for (TokenId& id : ids)
      id = static_cast<TokenId>(random() % static_cast<uint32_t>(tokenizer_->vocab_size()));
    for (const bool skip : {false, true}) {
      StreamDecoder decoder(*tokenizer_, skip);
      std::string all;
      for (const TokenId id : ids) all += decoder.push(id);
      EXPECT_EQ(all + decoder.flush(), tokenizer_->decode(ids, skip));
    }
  }
}

TEST_F(TokenizerGolden, ControlTextIsPlainTextUnlessAskedFor) {
  const auto as_token = tokenizer_->encode("<|im_start|>", true);
  const auto as_text = tokenizer_->encode("<|im_start|>", false);
  ASSERT_TRUE(as_token && as_text);
  ASSERT_EQ(as_token.value().size(), 1u);
  EXPECT_TRUE(tokenizer_->is_control(as_token.value()[0]));
  EXPECT_GT(as_text.value().size(), 1u);
  for (const TokenId id : as_text.value()) EXPECT_FALSE(tokenizer_->is_special(id));
  EXPECT_EQ(tokenizer_->decode(as_text.value(), false), "<|im_start|>");
  // User-defined tokens are text with an id of its own.
  const auto call = tokenizer_->encode("<tool_call>", false);
  ASSERT_TRUE(call);
  EXPECT_EQ(call.value().size(), 1u);
}

TEST_F(TokenizerGolden, NamesItsTokens) {
  const auto end = tokenizer_->find("<|im_end|>");
  ASSERT_TRUE(end);
  EXPECT_EQ(tokenizer_->token_text(*end), "<|im_end|>");
  EXPECT_EQ(tokenizer_->token_bytes(*end), "<|im_end|>");
  EXPECT_TRUE(std::count(tokenizer_->stop_tokens().begin(), tokenizer_->stop_tokens().end(), *end));
  EXPECT_FALSE(tokenizer_->find("no such token"));
  const auto space = tokenizer_->encode(" ", false);
  ASSERT_TRUE(space);
  EXPECT_EQ(tokenizer_->token_text(space.value()[0]), "\xC4\xA0");
  EXPECT_EQ(tokenizer_->token_bytes(space.value()[0]), " ");
  for (const TokenId bad :
       {-1, INT32_MIN, INT32_MAX, static_cast<TokenId>(tokenizer_->vocab_size())}) {
    EXPECT_EQ(tokenizer_->token_bytes(bad), "");
    EXPECT_EQ(tokenizer_->token_text(bad), "");
    EXPECT_FALSE(tokenizer_->is_special(bad));
  }
}

TEST_F(TokenizerGolden, ManyThreadsEncodeAlike) {
  const std::string text =
      text_of(cases("encode").back().at("text")) + " the quick \xE6\x97\xA5\xE6\x9C\xAC <|im_end|>";
  const auto expected = tokenizer_->encode(text, true);
  ASSERT_TRUE(expected);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        const auto ids = tokenizer_->encode(text, true);
        wrong += !ids || ids.value() != expected.value();
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
}

// ---- small vocabularies

TEST(Tokenizer, MergesLowestRankFirstAndLeftmostAmongEquals) {
  VocabBuilder v;
  v.bytes().token("aa").token("aaa").token("ab").merge("a a").merge("aa a").merge("a b");
  const auto t = Tokenizer::create(v.source());
  ASSERT_TRUE(t);
  // "aaaa": (a a) at 0, then (a a) at 2, and "aa aa" has no merge.
  EXPECT_EQ(t.value()->encode("aaaa", false).value(), (std::vector<TokenId>{256, 256}));
  EXPECT_EQ(t.value()->encode("aaa", false).value(), (std::vector<TokenId>{257}));
  // "aab": "a a" outranks "a b".
  EXPECT_EQ(t.value()->encode("aab", false).value(), (std::vector<TokenId>{256, 'b'}));
}

TEST(Tokenizer, LongWordsMergeLikeShortOnes) {
  // The heap and the plain loop are two ways to the same ids: force the heap with a long word made
  // of a short one.
  VocabBuilder v;
  v.bytes().token("ab").token("ba").token("abc").token("bab").token("abab").token("cab");
  v.merge("b a").merge("a b").merge("ab c").merge("ba b").merge("ab ab").merge("c ab");
  const auto t = Tokenizer::create(v.source());
  ASSERT_TRUE(t);
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::string word;
    const size_t n = 30 + random() % 200;
    for (size_t i = 0; i < n; ++i) word += static_cast<char>('a' + random() % 3);
    // The reference: repeat "find the best pair" by hand on token texts.
    std::vector<std::string> symbols;
    for (const char c : word) symbols.emplace_back(1, c);
    const std::vector<std::pair<std::string, std::string>> merges = {
        {"b", "a"}, {"a", "b"}, {"ab", "c"}, {"ba", "b"}, {"ab", "ab"}, {"c", "ab"}};
    for (;;) {
      size_t best = merges.size();
      size_t at = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        for (size_t m = 0; m < best; ++m) {
          if (merges[m].first == symbols[i] && merges[m].second == symbols[i + 1]) {
            best = m;
            at = i;
          }
        }
      }
      if (best == merges.size()) break;
      symbols[at] += symbols[at + 1];
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
    }
    std::vector<TokenId> expected;
    for (const auto& s : symbols) expected.push_back(*t.value()->find(s));
    EXPECT_EQ(t.value()->encode(word, false).value(), expected) << word;
  }
}

TEST(Tokenizer, SpecialTokensMatchLeftmostThenLongest) {
  VocabBuilder v;
  v.bytes().token("<a>", 4).token("<a>b", 4).token("b<", 4).token("<|c|>", 3).token("", 3);
  const auto t = Tokenizer::create(v.source());
  ASSERT_TRUE(t);
  EXPECT_EQ(t.value()->encode("<a>b<a>", true).value(), (std::vector<TokenId>{257, 256}));
  EXPECT_EQ(t.value()->encode("<a><|c|>", true).value(), (std::vector<TokenId>{256, 259}));
  EXPECT_EQ(t.value()->encode("<a><|c|", true).value().size(), 5u);
  EXPECT_EQ(t.value()->encode("<|c|>", false).value().size(), 5u);
}

TEST(Tokenizer, LlamaTakesWholeWordsFromTheVocabulary) {
  VocabBuilder v;
  v.bytes().token("xyz").token("ab").merge("a b");
  v.pre("llama-bpe");
  auto t = Tokenizer::create(v.source());
  ASSERT_TRUE(t);
  EXPECT_EQ(t.value()->encode("xyz", false).value(),
            (std::vector<TokenId>{256}));  // no merge leads there
  EXPECT_EQ(t.value()->encode("xyza", false).value(), (std::vector<TokenId>{'x', 'y', 'z', 'a'}));
  v.pre("gpt-2");
  t = Tokenizer::create(v.source());
  ASSERT_TRUE(t);
  EXPECT_EQ(t.value()->encode("xyz", false).value().size(), 3u);
}

TEST(Tokenizer, PreTokenizersDifferInDigitsAndNewlines) {
  const auto encode = [](std::string_view pre, std::string_view text) {
    VocabBuilder v;
    v.bytes().token("12").token("123").token("1234").token("!\xC4\x8A");
    v.merge("1 2").merge("12 3").merge("123 4").merge("! \xC4\x8A").pre(pre);
    return Tokenizer::create(v.source()).value()->encode(text, false).value();
  };
  EXPECT_EQ(encode("qwen2", "1234").size(), 4u);      // one digit at a time
  EXPECT_EQ(encode("llama-bpe", "1234").size(), 2u);  // three
  EXPECT_EQ(encode("gpt-2", "1234").size(), 1u);      // all
  EXPECT_EQ(encode("default", "1234").size(), 1u);
  EXPECT_EQ(encode("qwen2", "!\n").size(), 1u);  // newlines stay with the signs before them
  EXPECT_EQ(encode("gpt-2", "!\n").size(), 2u);
}

// The words of `text` after `mark`, one space between each two: an empty name is among them.
std::multiset<std::string> names_after(const std::string& text, std::string_view mark) {
  const size_t at = text.find(mark);
  EXPECT_NE(at, std::string::npos) << text;
  std::multiset<std::string> names;
  std::stringstream rest(at == std::string::npos ? "" : text.substr(at + mark.size()));
  for (std::string name; std::getline(rest, name, ' ');) names.insert(name);
  return names;
}

// The check of a model file has a list of its own, because scheduler/ may not include daemon/text. Both name all of
// theirs where they refuse one.
TEST(PreTokenizer, KnowsTheNamesThatTheModelCheckAllows) {
  const auto unknown = PreTokenizer::create("no-such-rule");
  ASSERT_FALSE(unknown);
  const auto known = names_after(unknown.error().hint, "known: ");

  test::TempDir dir;
  const auto refused =
      check_model(test::GgufDoc::read(golden_path("public/qwen2-tiny-f32/model.gguf"))
                      .set_string("tokenizer.ggml.pre", "no-such-rule")
                      .write(dir.file("m.gguf")));
  ASSERT_FALSE(refused);
  ASSERT_EQ(refused.error().field, "tokenizer.ggml.pre") << refused.error().what;
  EXPECT_EQ(names_after(refused.error().what, "allowed one of: "), known);

  EXPECT_GT(known.size(), 10u);
  EXPECT_TRUE(known.contains("qwen2") && known.contains(""));
  for (const std::string& name : known) {
    EXPECT_EQ(known.count(name), 1u) << name;
    EXPECT_TRUE(PreTokenizer::create(name)) << name;
  }
}

TEST(Tokenizer, OnlyQwenNormalizes) {
  const std::string decomposed = "e\xCC\x81";  // e + acute
  for (const auto& [pre, bytes] :
       {std::pair{"qwen2", 2u}, std::pair{"llama-bpe", 3u}, std::pair{"gpt-2", 3u}}) {
    VocabBuilder v;
    v.bytes().pre(pre);
    const auto t = Tokenizer::create(v.source());
    ASSERT_TRUE(t);
    EXPECT_EQ(t.value()->encode(decomposed, false).value().size(), bytes) << pre;
  }
}

TEST(Tokenizer, AMegabyteOfOneWordIsNotQuadratic) {
  VocabBuilder v;
  v.bytes();
  std::string token = "a";
  for (int i = 0; i < 16; ++i) {
    v.merge(token + " " + token);
    token += token;
    v.token(token);
  }
  v.pre("qwen2");
  const auto t = Tokenizer::create(v.source());
  ASSERT_TRUE(t);
  for (const char* unit : {"a",
                           " ",
                           "\n",
                           "1",
                           "!",
                           "\xCC\x81",
                           "<",
                           "\xE0\xBF\xBF",
                           "'s",
                           "a\xCC\x81",
                           "\xF0\x9F\x98\x80",
                           " \n"}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    const auto start = std::chrono::steady_clock::now();
    const auto ids = t.value()->encode(text, true);
    const auto took = std::chrono::steady_clock::now() - start;
    ASSERT_TRUE(ids) << unit << ids.error().what;
    EXPECT_LT(took, std::chrono::seconds(10)) << unit;  // about 0.2 s; quadratic would be hours
    if (std::string_view(unit) == "a") {
      EXPECT_EQ(ids.value().size(), (1u << 20) / 65536);
    }
  }
  EXPECT_EQ(t.value()->encode(std::string(kMaxEncodeBytes + 1, 'a'), true).error().code,
            "text_too_long");
}

TEST(Tokenizer, RefusesWhatDoesNotFitTogether) {
  {
    VocabBuilder v;
    v.bytes().merge("ab");
    EXPECT_EQ(Tokenizer::create(v.source()).error().code, "gguf.tokenizer");
  }
  {
    VocabBuilder v;
    v.bytes().merge("a \xE2\x98\x83");
    EXPECT_EQ(Tokenizer::create(v.source()).error().code, "gguf.tokenizer");
  }
  {
    VocabBuilder v;
    v.bytes().pre("no-such-pre");
    const auto t = Tokenizer::create(v.source());
    ASSERT_FALSE(t);
    EXPECT_EQ(t.error().code, "model_unsupported");
    EXPECT_NE(t.error().what.find("no-such-pre"), std::string::npos);
  }
  {
    VocabBuilder v;
    v.bytes().model("bert");
    EXPECT_EQ(Tokenizer::create(v.source()).error().code, "model_unsupported");
  }
  EXPECT_FALSE(Tokenizer::create(VocabBuilder().source()));
}

TEST(Tokenizer, OddVocabulariesStillGiveValidUtf8) {
  VocabBuilder v;
  v.token("\xFF\xFE")
      .token("")
      .token("a")
      .token("a")
      .token(std::string("\0b", 2))
      .token("\xC4\xA0\xC4")
      .merge("a a");
  const auto t = Tokenizer::create(v.source());
  ASSERT_TRUE(t);
  EXPECT_EQ(t.value()->decode(std::vector<TokenId>{0}, false), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(t.value()->token_text(0), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(t.value()->find("a"), 2);
  EXPECT_EQ(t.value()->encode("ab", false).value(), (std::vector<TokenId>{2}));  // no token for "b"
}

// ---- a real vocabulary

int64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  int64_t pages = 0;
  int64_t resident = 0;
  in >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(RealTokenizer, EncodesAsTheReference) {
  SLUICE_NEED_REAL_MODEL(path, "qwen2.5-coder-0.5b");
  const auto tokenizer = load_tokenizer(path);
  ASSERT_TRUE(tokenizer);
  const auto golden = read_json(golden_path("public/tokenizer/real-qwen2.5.json"));
  ASSERT_GT(golden.at("encode").as_array().size(), 400u);
  for (const auto& c : golden.at("encode").as_array()) {
    const std::string text = text_of(c.at("text"));
    const auto ids = tokenizer->encode(text, true);
    ASSERT_TRUE(ids);
    EXPECT_EQ(ids.value(), ids_of(c.at("ids"))) << text;
  }
  const auto real = read_json(golden_path("real/qwen2.5-coder-0.5b.json"));
  for (const auto& [name, c] : real.at("texts").as_object()) {
    EXPECT_EQ(tokenizer->encode(text_of(c.at("text")), false).value(), ids_of(c.at("ids"))) << name;
  }
}

TEST(RealTokenizer, TakesAtMost20MiB) {
  SLUICE_NEED_REAL_MODEL(path, "qwen2.5-coder-0.5b");
  auto file = GgufFile::open(path);
  ASSERT_TRUE(file);
  auto vocab = check_vocab(file.value());
  ASSERT_TRUE(vocab);
  malloc_trim(0);  // so that the tables cannot hide in memory that was freed but not returned
  const int64_t before = resident_bytes();
  const auto tokenizer = Tokenizer::create(vocab.value());
  ASSERT_TRUE(tokenizer);
  malloc_trim(0);
  const int64_t grown = resident_bytes() - before;
  EXPECT_EQ(tokenizer.value()->vocab_size(), 151936);
  EXPECT_LE(tokenizer.value()->memory_bytes(), 20u << 20);
  EXPECT_GT(tokenizer.value()->memory_bytes(), 2u << 20);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LE(grown, 20 << 20);
#endif
  RecordProperty("memory_bytes", static_cast<int>(tokenizer.value()->memory_bytes()));
  RecordProperty("resident_growth", static_cast<int>(grown));
  std::printf("tokenizer: %.1f MiB by its own count, resident set grew by %.1f MiB\n",
              static_cast<double>(tokenizer.value()->memory_bytes()) / 1048576.0,
              static_cast<double>(grown) / 1048576.0);
}

}  // namespace
}  // namespace sluice
