// Byte-level BPE (GPT-2, Qwen2, Llama 3): text is cut into pieces, each piece's bytes are spelled
// in GPT-2's printable alphabet, and neighbours are merged, lowest rank first and leftmost among
// equals, until no merge applies.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/text/pretokenizer.h"
#include "daemon/text/token_table.h"
#include "daemon/text/tokenizer.h"

namespace sluice {

// (left id, right id) -> rank; a rank -> the id that the pair becomes. In the order of the file.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  // Entries whose result the vocabulary lacks are left out. Errors: gguf.tokenizer (an entry that
  // is not "left right", or names a token that does not exist).
  static Result<MergeTable> create(const GgufValue* merges, const TokenTable& table);

  uint32_t rank(TokenId left, TokenId right) const;
  TokenId result(uint32_t rank) const { return merges_[rank].result; }
  uint64_t memory_bytes() const;

 private:
  struct Merge {
    TokenId left, right, result;
  };
  std::vector<Merge> merges_;
  std::vector<uint32_t> slots_;  // rank + 1, or 0
  uint64_t seed_ = 0;
};

class ByteLevelBpe final : public Tokenizer {
 public:
  static Result<std::shared_ptr<const Tokenizer>> create(const VocabSource& source);

  Result<std::vector<TokenId>> encode(std::string_view text, bool parse_special) const override;
  std::string token_bytes(TokenId id) const override;
  std::string token_text(TokenId id) const override;
  std::optional<TokenId> find(std::string_view token_text) const override;
  bool is_special(TokenId id) const override;
  bool is_control(TokenId id) const override;
  int64_t vocab_size() const override { return table_.size(); }
  uint64_t memory_bytes() const override;

 private:
  struct Scratch;
  ByteLevelBpe(TokenTable table, MergeTable merges, PreTokenizer pre);
  Result<void> encode_plain(std::string_view text,
                            Scratch& scratch,
                            std::vector<TokenId>& out) const;
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;
  void merge_short(Scratch& scratch, std::vector<TokenId>& out) const;
  void merge_long(Scratch& scratch, std::vector<TokenId>& out) const;

  TokenTable table_;
  MergeTable merges_;
  PreTokenizer pre_;
  SpecialMatcher specials_;
  std::array<TokenId, 256> byte_tokens_{};  // -1: the vocabulary has no token for this byte
};

}  // namespace sluice
