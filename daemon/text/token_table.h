// Spelling <-> id for a whole vocabulary: one string pool, 32-bit offsets, one open-addressed table
// of ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "scheduler/model_loader.h"

namespace sluice {

// GGUF's tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

class TokenTable {
 public:
  // Of equal spellings the first id is found. Errors: gguf.tokenizer.
  static Result<TokenTable> create(const VocabSource& source);

  uint32_t size() const { return static_cast<uint32_t>(types_.size()); }
  bool has(TokenId id) const { return id >= 0 && static_cast<uint32_t>(id) < size(); }
  // Empty for ids out of range. As in the file: not necessarily valid UTF-8.
  std::string_view text(TokenId id) const;
  TokenType type(TokenId id) const {
    return has(id) ? types_[static_cast<uint32_t>(id)] : TokenType::kUndefined;
  }
  std::optional<TokenId> find(std::string_view text) const;
  uint64_t memory_bytes() const;

 private:
  std::string pool_;
  std::vector<uint32_t> offsets_;  // size() + 1
  std::vector<uint32_t> slots_;    // id + 1, or 0; a power of two, at most 5/8 full
  std::vector<TokenType> types_;
  uint64_t seed_ = 0;
};

// Finds the texts of added tokens ("<|im_start|>") in a text: leftmost, then longest.
class SpecialMatcher {
 public:
  struct Match {
    size_t begin = 0;
    size_t length = 0;  // 0: none up to the end
    TokenId id = -1;
  };

  explicit SpecialMatcher(const TokenTable& table);

  // The first match at or after `from`. Control and unknown tokens match only with `control`.
  Match next(const TokenTable& table, std::string_view text, size_t from, bool control) const;
  uint64_t memory_bytes() const { return ids_.capacity() * sizeof(TokenId) + sizeof(*this); }

 private:
  std::vector<TokenId> ids_;  // sorted by text, no text twice
  uint32_t first_[257] = {};  // ids_[first_[b]..first_[b+1]) start with byte b
};

// Random per process, so that no file can be made whose strings collide in our tables.
uint64_t hash_seed();

}  // namespace sluice
