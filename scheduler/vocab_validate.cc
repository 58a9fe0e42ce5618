// The tokenizer's metadata: arrays of the right type and length, ids inside the vocabulary, merges
// of known tokens.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "base/text_escape.h"
#include "scheduler/model_validate.h"

namespace sluice {
namespace {

constexpr uint64_t kMaxTokens = 1u << 24;
constexpr uint64_t kMaxTemplateBytes = 1u << 20;
constexpr uint64_t kMaxTokenType = 6;

// Pre-tokenizers of byte-level BPE, by the names that files use: those daemon/text/pretokenizer
// knows.
constexpr std::string_view kPreTokenizers[] = {
    "qwen2",
    "deepseek-r1-qwen",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "gpt-2",
    "gpt2",
    "default",
    "",
    "tekken",
    "smollm",
    "starcoder",
};

// Seeded for each process, so that no vocabulary can be made to collide on purpose.
size_t hash_text(std::string_view s) {
  static const uint64_t seed = (uint64_t{std::random_device{}()} << 32) ^ std::random_device{}();
  return XXH3_64bits_withSeed(s.data(), s.size(), seed);
}

// The set of token texts: open addressing over the positions of the tokens in the array, so that
// 10^5 tokens cost one allocation and no copies.
class TokenSet {
 public:
  explicit TokenSet(const GgufValue& tokens)
      : base_(tokens.bytes.data()), slots_(std::bit_ceil(tokens.count * 2 + 2), 0) {
    const size_t mask = slots_.size() - 1;
    GgufStringArray strings = GgufFile::array_strings(tokens);
    while (const auto token = strings.next()) {
      size_t slot = hash_text(*token) & mask;
      // Among equal tokens one entry is enough, which also keeps a vocabulary of equal tokens
      // linear.
      while (slots_[slot] != 0 && text(slots_[slot]) != *token) slot = (slot + 1) & mask;
      const auto* start = reinterpret_cast<const std::byte*>(token->data());
      slots_[slot] = static_cast<uint32_t>(
          start - base_);  // >= 8: a length stands before it. Headers end at 64 MiB
    }
  }

  bool contains(std::string_view left, std::string_view right = {}) {
    joined_.assign(left).append(right);
    const size_t mask = slots_.size() - 1;
    for (size_t slot = hash_text(joined_) & mask; slots_[slot] != 0; slot = (slot + 1) & mask) {
      if (text(slots_[slot]) == joined_) return true;
    }
    return false;
  }

 private:
  std::string_view text(uint32_t position) const {
    uint64_t n = 0;
    std::memcpy(&n, base_ + position - 8, sizeof n);
    return {reinterpret_cast<const char*>(base_) + position, static_cast<size_t>(n)};
  }
  const std::byte* base_;
  std::vector<uint32_t> slots_;  // position of the text in the array's bytes; 0: free
  std::string joined_;
};

Error array_error(const GgufFile& file, const GgufValue& v, const char* allowed) {
  return file.refuse(
      &v,
      v.key,
      v.type == GgufValueType::kArray
          ? fmt::format("found an array of {} {}, allowed {}",
                        v.count,
                        gguf_value_type_name(v.elem_type),
                        allowed)
          : fmt::format("found type {}, allowed {}", gguf_value_type_name(v.type), allowed),
      "gguf.key_type");
}

bool is_array_of(const GgufValue& v, std::initializer_list<GgufValueType> types) {
  return v.type == GgufValueType::kArray &&
         std::find(types.begin(), types.end(), v.elem_type) != types.end();
}

Result<void> check_length(const GgufFile& file, const GgufValue& v, uint64_t n_tokens) {
  if (v.count == n_tokens) return success();
  return file.refuse(
      &v,
      v.key,
      fmt::format("found {} entries, allowed {}, one for each token", v.count, n_tokens),
      "gguf.vocab");
}

Result<void> read_tokens(const GgufFile& file, VocabSource& vocab) {
  vocab.tokens = file.find("tokenizer.ggml.tokens");
  const GgufValue& v = *vocab.tokens;
  if (!is_array_of(v, {GgufValueType::kString})) return array_error(file, v, "an array of strings");
  if (v.count == 0 || v.count > kMaxTokens) {
    return file.refuse(&v,
                       v.key,
                       fmt::format("found {} tokens, allowed 1..{}", v.count, kMaxTokens),
                       "gguf.vocab");
  }
  return success();
}

Result<void> read_scores_and_types(const GgufFile& file, VocabSource& vocab) {
  const uint64_t n_tokens = vocab.tokens->count;
  vocab.scores = file.find("tokenizer.ggml.scores");
  if (vocab.scores != nullptr) {
    const GgufValue& v = *vocab.scores;
    if (!is_array_of(v, {GgufValueType::kF32})) return array_error(file, v, "an array of f32");
    SLUICE_TRY(check_length(file, v, n_tokens));
    for (uint64_t i = 0; i < v.count; ++i) {
      if (std::isnan(GgufFile::array_real(v, i))) {
        return file.refuse(
            &v, v.key, fmt::format("found NaN for token {}, allowed numbers", i), "gguf.vocab");
      }
    }
  }
  vocab.token_types = file.find("tokenizer.ggml.token_type");
  if (vocab.token_types != nullptr) {
    const GgufValue& v = *vocab.token_types;
    if (!is_array_of(v, {GgufValueType::kI32, GgufValueType::kU32}))
      return array_error(file, v, "an array of i32 or u32");
    SLUICE_TRY(check_length(file, v, n_tokens));
    for (uint64_t i = 0; i < v.count; ++i) {
      const uint64_t type = GgufFile::array_uint(v, i);
      if (type > kMaxTokenType) {
        return file.refuse(&v,
                           v.key,
                           fmt::format("found {} for token {}, allowed 0..{}",
                                       static_cast<int64_t>(type),
                                       i,
                                       kMaxTokenType),
                           "gguf.vocab");
      }
    }
  }
  return success();
}

// Each merge is "left right": two tokens that make a third.
Result<void> read_merges(const GgufFile& file, VocabSource& vocab) {
  vocab.merges = file.find("tokenizer.ggml.merges");
  if (vocab.merges == nullptr) {
    if (vocab.model != "gpt2") return success();
    // Text would silently fall apart into bytes.
    return file.refuse(
        nullptr,
        "tokenizer.ggml.merges",
        fmt::format(
            "found no such key, required to make the {} tokenizer.ggml.tokens of a gpt2 tokenizer",
            vocab.tokens->count),
        "gguf.missing_key");
  }
  const GgufValue& v = *vocab.merges;
  if (!is_array_of(v, {GgufValueType::kString})) return array_error(file, v, "an array of strings");
  TokenSet known(*vocab.tokens);
  GgufStringArray merges = GgufFile::array_strings(v);
  for (uint64_t i = 0; i < v.count; ++i) {
    const std::string_view merge = *merges.next();
    // A space may be the left token's first character, never the cut.
    const size_t cut = merge.find(' ', 1);
    if (cut == std::string_view::npos || cut + 1 == merge.size()) {
      return file.refuse(
          &v,
          v.key,
          fmt::format("found \"{}\" as entry {}, allowed \"left right\"", escape_text(merge), i),
          "gguf.vocab");
    }
    const std::string_view left = merge.substr(0, cut);
    const std::string_view right = merge.substr(cut + 1);
    if (!known.contains(left) || !known.contains(right) || !known.contains(left, right)) {
      return file.refuse(
          &v,
          v.key,
          fmt::format("found \"{}\" as entry {}, allowed two tokens that together are a token",
                      escape_text(merge),
                      i),
          "gguf.vocab");
    }
  }
  return success();
}

// Every tokenizer.ggml.*_token_id, whether it is used here or not.
Result<void> check_special_ids(const GgufFile& file, const KeyReader& keys, uint64_t n_tokens) {
  for (const GgufValue& v : file.values()) {
    if (!v.key.starts_with("tokenizer.ggml.") || !v.key.ends_with("_token_id")) continue;
    SLUICE_TRY(keys.whole(std::string(v.key), 0, n_tokens - 1));
  }
  return success();
}

Result<void> read_settings(const GgufFile& file, const KeyReader& keys, VocabSource& vocab) {
  const std::string t = "tokenizer.ggml.";
  const auto id = [&](const char* name) {
    const auto value = file.uint(t + name + "_token_id");  // its range is checked
    return value ? static_cast<TokenId>(*value) : TokenId{-1};
  };
  vocab.bos = id("bos");
  vocab.eos = id("eos");
  vocab.eot = id("eot");
  vocab.unk = id("unknown");
  vocab.pad = id("padding");
  SLUICE_TRY(const auto add_bos, keys.boolean(t + "add_bos_token"));
  SLUICE_TRY(const auto add_eos, keys.boolean(t + "add_eos_token"));
  SLUICE_TRY(const auto add_space, keys.boolean(t + "add_space_prefix"));
  // Without the key, SentencePiece vocabularies begin with BOS and byte-level ones do not, as in
  // llama.cpp.
  vocab.add_bos = add_bos.value_or(vocab.model == "llama" && vocab.bos >= 0);
  vocab.add_eos = add_eos.value_or(false);
  vocab.add_space_prefix = add_space.value_or(true);
  return success();
}

Result<void> read_templates(const GgufFile& file, VocabSource& vocab) {
  for (const GgufValue& v : file.values()) {
    if (!v.key.starts_with("tokenizer.chat_template")) continue;
    const bool is_main = v.key.size() == std::string_view("tokenizer.chat_template").size();
    if (v.type != GgufValueType::kString) {
      if (!is_main) continue;  // tokenizer.chat_templates lists the names of others
      return array_error(file, v, "string");
    }
    if (v.bytes.size() > kMaxTemplateBytes) {
      return file.refuse(
          &v,
          escape_text(v.key),
          fmt::format("found {} bytes, allowed 0..{}", v.bytes.size(), kMaxTemplateBytes),
          "gguf.vocab");
    }
    if (is_main) vocab.chat_template = *file.string(v.key);
  }
  return success();
}

void check_kind(const GgufFile& file, const VocabSource& vocab, Unsupported& unsupported) {
  if (vocab.model == "llama") return;
  if (vocab.model != "gpt2") {
    unsupported.note(
        file.refuse(file.find("tokenizer.ggml.model"),
                    "tokenizer.ggml.model",
                    fmt::format("found \"{}\", allowed gpt2, llama", escape_text(vocab.model)),
                    "model_unsupported"));
    return;
  }
  if (std::find(std::begin(kPreTokenizers), std::end(kPreTokenizers), vocab.pre) !=
      std::end(kPreTokenizers))
    return;
  unsupported.note(file.refuse(file.find("tokenizer.ggml.pre"),
                               "tokenizer.ggml.pre",
                               fmt::format("found \"{}\", allowed one of: {}",
                                           escape_text(vocab.pre),
                                           fmt::join(kPreTokenizers, " ")),
                               "model_unsupported"));
}

}  // namespace

Result<VocabSource> read_vocab(const GgufFile& file, Unsupported& unsupported) {
  const KeyReader keys(file);
  VocabSource vocab;
  SLUICE_TRY(keys.require({"tokenizer.ggml.model", "tokenizer.ggml.tokens"}));
  SLUICE_TRY(const auto model, keys.string("tokenizer.ggml.model"));
  SLUICE_TRY(const auto pre, keys.string("tokenizer.ggml.pre"));
  vocab.model = *model;
  vocab.pre = pre.value_or("default");
  SLUICE_TRY(read_tokens(file, vocab));
  SLUICE_TRY(read_scores_and_types(file, vocab));
  SLUICE_TRY(check_special_ids(file, keys, vocab.tokens->count));
  SLUICE_TRY(read_settings(file, keys, vocab));
  SLUICE_TRY(read_templates(file, vocab));
  SLUICE_TRY(read_merges(file, vocab));
  check_kind(file, vocab, unsupported);
  return vocab;
}

Result<VocabSource> check_vocab(const GgufFile& file) {
  Unsupported unsupported;
  SLUICE_TRY(const VocabSource vocab, read_vocab(file, unsupported));
  if (unsupported.first()) return *unsupported.first();
  return vocab;
}

}  // namespace sluice
