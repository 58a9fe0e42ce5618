// SentencePiece BPE as in Llama 1 and 2 and TinyLlama: spaces are U+2581, neighbours are merged
// into the piece with the highest score (leftmost among equals), and what no piece covers is
// written byte by byte (<0x0A>).
#pragma once

#include <array>
#include <vector>

#include "daemon/text/token_table.h"
#include "daemon/text/tokenizer.h"

namespace sluice {

class SentencePiece final : public Tokenizer {
 public:
  static Result<std::shared_ptr<const Tokenizer>> create(const VocabSource& source);

  Result<std::vector<TokenId>> encode(std::string_view text, bool parse_special) const override;
  std::string token_bytes(TokenId id) const override;
  std::string token_text(TokenId id) const override;
  std::optional<TokenId> find(std::string_view token_text) const override;
  bool is_special(TokenId id) const override;
  bool is_control(TokenId id) const override;
  // Without the space that encode() puts in front.
  std::string decode(std::span<const TokenId> ids, bool skip_special) const override;
  int64_t vocab_size() const override { return table_.size(); }
  uint64_t memory_bytes() const override;

 private:
  SentencePiece(TokenTable table, const VocabSource& source);
  void encode_plain(std::string_view text, std::vector<TokenId>& out) const;
  // The token for this spelling if text may become it by merging; -1 otherwise.
  TokenId piece(std::string_view spelling) const;

  TokenTable table_;
  SpecialMatcher specials_;
  std::vector<float> scores_;
  std::array<TokenId, 256> byte_tokens_{};
  bool add_space_prefix_ = true;
};

}  // namespace sluice
