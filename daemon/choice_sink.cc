#include "daemon/choice_sink.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

int64_t count_code_points(std::string_view valid_utf8) {
  return std::count_if(
      valid_utf8.begin(), valid_utf8.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

ChoiceSink::ChoiceSink(
    const Tokenizer& tokenizer, Options options, Emit emit, OnPrefill on_prefill, OnCount on_count)
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      emit_(std::move(emit)),
      on_prefill_(std::move(on_prefill)),
      on_count_(std::move(on_count)),
      decoder_(tokenizer, /*skip_special=*/true),
      matcher_(options_.stops),
      prompt_logprobs_(options_.prompt.size()) {}

TokenLogprob ChoiceSink::describe(const Sampled& token) const {
  TokenLogprob out;
  out.bytes = tokenizer_.token_bytes(token.id);
  out.logprob = static_cast<double>(token.logprob);
  for (const auto& [id, logprob] : token.top) {
    out.top.push_back({tokenizer_.token_bytes(id), static_cast<double>(logprob)});
  }
  return out;
}

void ChoiceSink::on_prefill(int64_t done, int64_t total) { on_prefill_(done, total); }

void ChoiceSink::on_prompt_logprob(int64_t i, const Sampled& token) {
  if (i > 0 && static_cast<size_t>(i) < prompt_logprobs_.size())
    prompt_logprobs_[static_cast<size_t>(i)] = token;
}

void ChoiceSink::emit_echo() {
  if (!options_.echo || std::exchange(echoed_, true)) return;
  std::vector<TokenLogprob> logprobs;
  if (options_.logprobs) {
    StreamDecoder decoder(tokenizer_, /*skip_special=*/false);
    int64_t at = 0;
    for (size_t i = 0; i < options_.prompt.size(); ++i) {
      const TokenId id = options_.prompt[i];
      TokenLogprob t;
      if (prompt_logprobs_[i]) {
        t = describe(*prompt_logprobs_[i]);
      } else {
        t.bytes = tokenizer_.token_bytes(id);
      }
      t.text_offset = at;
      at += count_code_points(decoder.push(id));
      logprobs.push_back(std::move(t));
    }
  }
  code_points_ = count_code_points(options_.echo_text);
  emit_(options_.echo_text, std::move(logprobs));
}

bool ChoiceSink::on_token(const Sampled& token) {
  on_count_(++n_tokens_);
  emit_echo();
  std::string piece = decoder_.push(token.id);
  if (options_.logprobs) {
    Pending p{describe(token), bytes_in_};
    p.token.text_offset = code_points_;
    pending_.push_back(std::move(p));
  }
  bytes_in_ += piece.size();
  code_points_ += count_code_points(piece);
  return release(matcher_.push(piece)) && !matcher_.matched();
}

// Gives `text` away with the tokens that begin before its end.
bool ChoiceSink::release(std::string text) {
  bytes_out_ += text.size();
  const bool all = bytes_out_ == bytes_in_ && !matcher_.matched();
  std::vector<TokenLogprob> logprobs;
  while (!pending_.empty() && (all || pending_.front().start < bytes_out_)) {
    logprobs.push_back(std::move(pending_.front().token));
    pending_.pop_front();
  }
  if (text.empty() && logprobs.empty()) return true;
  return emit_(std::move(text), std::move(logprobs));
}

void ChoiceSink::finish() {
  emit_echo();
  if (matcher_.matched()) return;
  const std::string rest = decoder_.flush();
  bytes_in_ += rest.size();
  std::string text = matcher_.push(rest);
  if (!matcher_.matched()) text += matcher_.flush();
  release(std::move(text));
}

}  // namespace sluice
