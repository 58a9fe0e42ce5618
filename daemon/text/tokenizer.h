// Text <-> token ids from the vocabulary in a GGUF file: byte-level BPE (model "gpt2") and
// SentencePiece ("llama"). Immutable after create; every method is const and may be called from any
// thread. Copies what it needs from the file's header, so the GgufFile may go. A 151,936-word
// vocabulary stays below 20 MiB (memory_bytes()).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "scheduler/model_loader.h"

namespace sluice {

// Longest text encode() accepts; longer is an error, so that one request cannot hold a core for
// minutes.
inline constexpr size_t kMaxEncodeBytes = 16 << 20;

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Errors: model_unsupported (tokenizer model, pre-tokenizer), gguf.tokenizer (arrays that do not
  // fit together).
  static Result<std::shared_ptr<const Tokenizer>> create(const VocabSource& source);

  // Ids of `text`; no BOS or EOS is added. Invalid UTF-8 is read as U+FFFD per maximal subpart.
  // Texts of user-defined tokens are always recognised; texts of control tokens ("<|im_end|>") only
  // with `parse_special`, otherwise they are encoded like any other text. Errors: text_too_long,
  // tokenizer.limit (regex limits).
  virtual Result<std::vector<TokenId>> encode(std::string_view text, bool parse_special) const = 0;

  // Whether a prompt starts with bos().
  bool add_bos() const { return add_bos_; }
  // -1 when the vocabulary names none.
  TokenId bos() const { return bos_; }
  TokenId eos() const { return eos_; }
  TokenId eot() const { return eot_; }
  TokenId pad() const { return pad_; }
  TokenId unk() const { return unk_; }
  // Tokens that end a generation, ascending: eos, eot and the known end-of-turn tokens (<|im_end|>,
  // <|eot_id|>, ...).
  const std::vector<TokenId>& stop_tokens() const { return stop_tokens_; }

  // The raw bytes a token stands for; may be a part of a code point. Empty for an id out of range.
  virtual std::string token_bytes(TokenId id) const = 0;
  // The token as the vocabulary spells it ("Ġhello"); always valid UTF-8.
  virtual std::string token_text(TokenId id) const = 0;
  // The token with exactly this spelling.
  virtual std::optional<TokenId> find(std::string_view token_text) const = 0;
  // Control or user-defined: written by a template, not by merging text.
  virtual bool is_special(TokenId id) const = 0;
  // Control (or unknown) only: what skip_special leaves out; <tool_call> and the like are text a
  // reader wants.
  virtual bool is_control(TokenId id) const = 0;
  // Always valid UTF-8; ids out of range stand for nothing.
  virtual std::string decode(std::span<const TokenId> ids, bool skip_special) const;

  virtual int64_t vocab_size() const = 0;
  // What the tables hold on the heap, in bytes.
  virtual uint64_t memory_bytes() const = 0;

 protected:
  Tokenizer() = default;
  // Fills the fields below from `source` and the spellings; for create().
  void set_control_ids(const VocabSource& source);

  bool add_bos_ = false;
  TokenId bos_ = -1, eos_ = -1, eot_ = -1, pad_ = -1, unk_ = -1;
  std::vector<TokenId> stop_tokens_;
};

// Tokens of one generation -> text, as they come. Only whole code points are given out; bytes that
// can never become one are U+FFFD per maximal subpart, as soon as that is known. One per
// generation, one thread at a time; the tokenizer must outlive it. Unlike decode(), a leading
// SentencePiece space is kept: the text continues a prompt.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // The text that became certain with this token; often empty in the middle of a character.
  std::string push(TokenId id);
  // What is left at the end: U+FFFD for an unfinished code point, or nothing.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  std::string pending_;  // at most 3 bytes: the start of a code point
};

}  // namespace sluice
