// The text side of one model: its tokenizer and chat template, and how requests become prompts.
// Immutable, any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/protocol/openai.h"
#include "daemon/text/chat_template.h"
#include "daemon/text/tokenizer.h"
#include "scheduler/model_loader.h"
#include "storage/budget.h"

namespace sluice {

class ModelText {
 public:
  // Reserves the tokenizer's tables. A template that does not parse is an error of render() only:
  // completions need none. Errors: those of Tokenizer::create, budget_exceeded.
  static Result<std::shared_ptr<const ModelText>> create(const CheckedModel& checked,
                                                         Budget& budget);

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  int64_t file_ctx() const { return file_ctx_; }

  // Messages -> prompt text; ChatML when the file carries no template. A final message that is to be
  // continued ends the prompt, byte for byte. Errors: template.*, context_length_exceeded (with the
  // bytes).
  Result<std::string> render(const ChatInput& chat) const;

  // Ids of a rendered chat prompt: the template wrote what there is to write, nothing is added.
  Result<std::vector<TokenId>> encode_chat(const std::string& prompt) const;
  // Ids of a completion prompt: BOS first where the model wants one; given ids are checked against
  // the vocabulary. Errors: invalid_request, text_too_long.
  Result<std::vector<TokenId>> encode_prompt(const Prompt& prompt) const;

  // Stop strings a chat needs besides the stop tokens: ChatML's end when the vocabulary has no such
  // token.
  std::vector<std::string> extra_stops() const;
  // The template's source; nullopt when the file has none.
  const std::optional<std::string>& own_template() const { return own_template_; }

 private:
  ModelText() = default;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<Result<ChatTemplate>> template_;
  std::optional<std::string> own_template_;
  std::string bos_text_, eos_text_;
  int64_t file_ctx_ = 0;
  Reservation tables_;
};

}  // namespace sluice
