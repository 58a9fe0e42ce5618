// Tokens of one choice -> pieces of text with their log-probabilities: whole code points only, stop
// strings found across token borders, the text ending before them. Used by the generating thread
// alone.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "daemon/protocol/openai_answers.h"
#include "daemon/stop_matcher.h"
#include "daemon/text/tokenizer.h"
#include "scheduler/engine.h"

namespace sluice {

class ChoiceSink final : public TokenSink {
 public:
  struct Options {
    std::vector<std::string> stops;
    bool logprobs = false;
    bool echo = false;  // the prompt's text comes first
    std::string echo_text;
    std::vector<TokenId> prompt;  // with echo and logprobs
  };
  // Gives a piece away; false when the request was cancelled.
  using Emit = std::function<bool(std::string text, std::vector<TokenLogprob> logprobs)>;
  using OnPrefill = std::function<void(int64_t done, int64_t total)>;
  using OnCount =
      std::function<void(int64_t tokens)>;  // of every token, also those whose text is held back

  ChoiceSink(const Tokenizer& tokenizer,
             Options options,
             Emit emit,
             OnPrefill on_prefill,
             OnCount on_count);

  bool on_token(const Sampled& token) override;
  void on_prefill(int64_t done, int64_t total) override;
  void on_prompt_logprob(int64_t i, const Sampled& token) override;
  bool stopped() const { return matcher_.matched(); }  // a stop string has ended it
  // After the last token: what was held back.
  void finish();

 private:
  struct Pending {
    TokenLogprob token;
    size_t start = 0;  // byte of the raw text where the token's own text begins
  };
  TokenLogprob describe(const Sampled& token) const;
  void emit_echo();
  bool release(std::string text);

  const Tokenizer& tokenizer_;
  const Options options_;
  const Emit emit_;
  const OnPrefill on_prefill_;
  const OnCount on_count_;
  int64_t n_tokens_ = 0;
  StreamDecoder decoder_;
  StopMatcher matcher_;
  std::vector<std::optional<Sampled>> prompt_logprobs_;
  bool echoed_ = false;
  std::deque<Pending> pending_;
  size_t bytes_in_ = 0;      // text that came from the decoder
  size_t bytes_out_ = 0;     // text given away
  int64_t code_points_ = 0;  // of the echo and of bytes_in_
};

}  // namespace sluice
