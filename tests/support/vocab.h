// Tokenizers and JSON files for tests.
#pragma once

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "daemon/text/tokenizer.h"
#include "scheduler/model_loader.h"
#include "storage/gguf_reader.h"

namespace sluice::testing {

inline std::string golden_path(const std::string& name) {
  return std::string(SLUICE_SOURCE_DIR) + "/tests/golden/" + name;
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline boost::json::value read_json(const std::string& path) {
  return boost::json::parse(read_file(path));
}

inline std::vector<TokenId> ids_of(const boost::json::value& v) {
  std::vector<TokenId> out;
  for (const auto& id : v.as_array()) out.push_back(static_cast<TokenId>(id.as_int64()));
  return out;
}

inline std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path) {
  auto file = GgufFile::open(path);
  EXPECT_TRUE(file) << path << ": " << (file ? "" : file.error().what);
  if (!file) return nullptr;
  auto vocab = check_vocab(file.value());
  EXPECT_TRUE(vocab) << path << ": " << (vocab ? "" : vocab.error().what);
  if (!vocab) return nullptr;
  auto tokenizer = Tokenizer::create(vocab.value());
  EXPECT_TRUE(tokenizer) << path << ": " << (tokenizer ? "" : tokenizer.error().what);
  return tokenizer ? tokenizer.value() : nullptr;
}

// Where tests/tools/fetch_models.py puts a real model; empty if it is not there.
inline std::string real_model_path(const std::string& name) {
  const char* models = std::getenv("SLUICE_MODELS");
  const char* home = std::getenv("HOME");
  const std::string folder = models != nullptr ? models
                             : home != nullptr ? std::string(home) + "/.cache/sluice-models"
                                               : "";
  const std::string path = folder + "/" + name + ".gguf";
  return std::ifstream(path).good() ? path : std::string();
}

#define SLUICE_NEED_REAL_MODEL(path, name)                           \
  const std::string path = ::sluice::testing::real_model_path(name); \
  if (path.empty()) GTEST_SKIP() << "needs a real model: python3 "   \
                                    "tests/tools/fetch_models.py " name

// Gives a tokenizer a vocabulary that a test writes down.
class VocabBuilder {
 public:
  VocabBuilder& model(std::string_view m) { return model_ = m, *this; }
  VocabBuilder& pre(std::string_view p) { return pre_ = p, *this; }
  VocabBuilder& token(std::string_view text, int32_t type = 1, float score = 0) {
    append_string(tokens_, text);
    types_.push_back(type);
    scores_.push_back(score);
    return *this;
  }
  VocabBuilder& merge(std::string_view text) {
    append_string(merges_, text);
    ++n_merges_;
    return *this;
  }
  // All 256 bytes in GPT-2's alphabet, ids 0..255 in byte order.
  VocabBuilder& bytes() {
    uint32_t extra = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const uint32_t c = printable ? b : extra++;
      std::string s;
      if (c < 0x80) {
        s += static_cast<char>(c);
      } else {
        s += static_cast<char>(0xC0 | (c >> 6));
        s += static_cast<char>(0x80 | (c & 0x3F));
      }
      token(s);
    }
    return *this;
  }
  VocabSource source() {
    VocabSource s;
    s.model = model_;
    s.pre = pre_;
    fill(token_value_, GgufValueType::kString, types_.size(), tokens_);
    s.tokens = &token_value_;
    fill(merge_value_, GgufValueType::kString, n_merges_, merges_);
    s.merges = &merge_value_;
    fill(type_value_, GgufValueType::kI32, types_.size(), types_);
    s.token_types = &type_value_;
    fill(score_value_, GgufValueType::kF32, scores_.size(), scores_);
    s.scores = &score_value_;
    return s;
  }

 private:
  static void append_string(std::vector<char>& out, std::string_view s) {
    const uint64_t n = s.size();
    const char* p = reinterpret_cast<const char*>(&n);
    out.insert(out.end(), p, p + sizeof n);
    out.insert(out.end(), s.begin(), s.end());
  }
  template <class T>
  static void fill(GgufValue& v, GgufValueType type, size_t count, const std::vector<T>& data) {
    v.type = GgufValueType::kArray;
    v.elem_type = type;
    v.count = count;
    v.bytes = std::as_bytes(std::span<const T>(data));
  }
  std::string model_ = "gpt2", pre_ = "gpt-2";
  std::vector<char> tokens_, merges_;
  std::vector<int32_t> types_;
  std::vector<float> scores_;
  uint64_t n_merges_ = 0;
  GgufValue token_value_, merge_value_, type_value_, score_value_;
};

}  // namespace sluice::testing
