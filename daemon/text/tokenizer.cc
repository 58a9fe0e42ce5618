#include "daemon/text/tokenizer.h"

#include <algorithm>

#include "base/text_escape.h"
#include "daemon/text/byte_level_bpe.h"
#include "daemon/text/sentencepiece.h"

namespace sluice {
namespace {

// Ends of turns that vocabularies have without naming them in eos or eot: chat fine-tunes of base
// models.
constexpr std::string_view kEndOfTurn[] = {"<|im_end|>",
                                           "<|endoftext|>",
                                           "<|eot_id|>",
                                           "<|eom_id|>",
                                           "<|end_of_text|>",
                                           "<|end|>",
                                           "<end_of_turn>",
                                           "<|end_of_turn|>",
                                           "<EOT>",
                                           "<｜end▁of▁sentence｜>"};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::create(const VocabSource& source) {
  if (source.model == "gpt2") return ByteLevelBpe::create(source);
  if (source.model == "llama") return SentencePiece::create(source);
  return Error{.code = "model_unsupported",
               .what = "tokenizer '" + escape_text(source.model) + "' is not known",
               .hint = "known: gpt2 (byte-level BPE), llama (SentencePiece)",
               .field = "tokenizer.ggml.model"};
}

void Tokenizer::set_control_ids(const VocabSource& source) {
  const auto in_range = [&](TokenId id) { return id >= 0 && id < vocab_size() ? id : -1; };
  add_bos_ = source.add_bos;
  bos_ = in_range(source.bos);
  eos_ = in_range(source.eos);
  eot_ = in_range(source.eot);
  pad_ = in_range(source.pad);
  unk_ = in_range(source.unk);
  for (const TokenId id : {eos_, eot_}) {
    if (id >= 0) stop_tokens_.push_back(id);
  }
  for (const std::string_view text : kEndOfTurn) {
    const auto id = find(text);
    if (id && is_special(*id)) stop_tokens_.push_back(*id);
  }
  std::sort(stop_tokens_.begin(), stop_tokens_.end());
  stop_tokens_.erase(std::unique(stop_tokens_.begin(), stop_tokens_.end()), stop_tokens_.end());
  if (add_bos_ && bos_ < 0) add_bos_ = false;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (!(skip_special && is_control(id))) bytes += token_bytes(id);
  }
  return to_valid_utf8(bytes);
}

std::string StreamDecoder::push(TokenId id) {
  if (skip_special_ && tokenizer_.is_control(id)) return {};
  pending_ += tokenizer_.token_bytes(id);
  const size_t n = complete_utf8_prefix(pending_);
  std::string out = to_valid_utf8(std::string_view(pending_).substr(0, n));
  pending_.erase(0, n);
  return out;
}

std::string StreamDecoder::flush() {
  std::string out = to_valid_utf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace sluice
