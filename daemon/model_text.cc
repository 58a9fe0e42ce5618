#include "daemon/model_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "daemon/random_id.h"

namespace sluice {
namespace {

constexpr const char* kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
constexpr const char* kChatMlEnd = "<|im_end|>";

size_t bytes_of_contents(const boost::json::array& messages) {
  size_t n = 0;
  for (const auto& m : messages) {
    const auto* content = m.get_object().if_contains("content");
    if (content != nullptr && content->is_string()) n += content->get_string().size();
  }
  return n;
}

// Where the last message ends in the rendered prompt. Random, so that no message holds it by accident or on purpose.
std::string end_mark_of_message() { return "[end-of-message " + random_id() + "]"; }

}  // namespace

Result<std::shared_ptr<const ModelText>> ModelText::create(const CheckedModel& checked,
                                                           Budget& budget) {
  std::shared_ptr<ModelText> text(new ModelText());
  SLUICE_TRY(text->tokenizer_, Tokenizer::create(checked.vocab));
  SLUICE_TRY(text->tables_,
             budget.reserve(text->tokenizer_->memory_bytes(), MemoryClass::kTokenizer));
  const Tokenizer& t = *text->tokenizer_;
  if (t.bos() >= 0) text->bos_text_ = t.token_text(t.bos());
  if (t.eos() >= 0) text->eos_text_ = t.token_text(t.eos());
  text->file_ctx_ = checked.hparams.max_seq_len;
  if (!checked.vocab.chat_template.empty())
    text->own_template_ = std::string(checked.vocab.chat_template);
  text->template_.emplace(ChatTemplate::parse(text->own_template_.value_or(kChatMl)));
  return std::shared_ptr<const ModelText>(std::move(text));
}

Result<std::string> ModelText::render(const ChatInput& chat) const {
  if (!*template_) return template_->error();
  const size_t content_bytes = bytes_of_contents(chat.messages);
  constexpr uint64_t kMostBytes = TemplateLimits{}.output_bytes;
  if (content_bytes > kMostBytes) {
    Error e{"context_length_exceeded",
            fmt::format("the messages hold {} bytes of text, a prompt may have {}",
                        content_bytes,
                        kMostBytes),
            "shorten the messages"};
    e.field = "messages";
    return e;
  }
  boost::json::object context = chat.template_kwargs;
  context["messages"] = chat.messages;
  std::string end_mark;
  if (chat.continue_final_message) {
    end_mark = end_mark_of_message();
    auto& content = context["messages"].as_array().back().at("content").as_string();
    content += end_mark;
  }
  // None when there are none, as transformers passes it: templates ask `tools is not none`.
  context["tools"] = chat.tools.empty() ? boost::json::value(nullptr) : boost::json::value(chat.tools);
  context["add_generation_prompt"] = chat.add_generation_prompt;
  context["bos_token"] = bos_text_;
  context["eos_token"] = eos_text_;
  SLUICE_TRY(std::string prompt, template_->value().render(context));
  if (!end_mark.empty()) {
    const size_t end = prompt.rfind(end_mark);
    if (end == std::string::npos) {
      return Error{"template.error",
                   "the chat template leaves the last message out: it cannot be continued",
                   "send the text so far to /v1/completions"};
    }
    prompt.resize(end);
    // A template that shows a message twice would leave a mark behind.
    for (size_t at; (at = prompt.find(end_mark)) != std::string::npos;)
      prompt.erase(at, end_mark.size());
  }
  return prompt;
}

Result<std::vector<TokenId>> ModelText::encode_chat(const std::string& prompt) const {
  SLUICE_TRY(auto ids, tokenizer_->encode(prompt, true));
  if (ids.empty()) return Error{"invalid_request", "the chat template rendered an empty prompt"};
  return ids;
}

Result<std::vector<TokenId>> ModelText::encode_prompt(const Prompt& prompt) const {
  std::vector<TokenId> ids;
  if (const auto* given = std::get_if<std::vector<int64_t>>(&prompt)) {
    const int64_t vocab = tokenizer_->vocab_size();
    for (const int64_t id : *given) {
      if (id < 0 || id >= vocab) {
        Error e{"invalid_request", fmt::format("token id {} is outside 0..{}", id, vocab - 1)};
        e.field = "prompt";
        return e;
      }
      ids.push_back(static_cast<TokenId>(id));
    }
    return ids;
  }
  SLUICE_TRY(ids, tokenizer_->encode(std::get<std::string>(prompt), true));
  if (tokenizer_->add_bos() && tokenizer_->bos() >= 0 &&
      (ids.empty() || ids.front() != tokenizer_->bos())) {
    ids.insert(ids.begin(), tokenizer_->bos());
  }
  // An empty prompt asks for text from nothing: something must stand before the first token.
  if (ids.empty()) {
    const TokenId start = tokenizer_->bos() >= 0 ? tokenizer_->bos() : tokenizer_->eos();
    if (start < 0) {
      Error e{"invalid_request", "the prompt holds no tokens and the model has no start token"};
      e.field = "prompt";
      return e;
    }
    ids.push_back(start);
  }
  return ids;
}

std::vector<std::string> ModelText::extra_stops() const {
  if (own_template_ || tokenizer_->find(kChatMlEnd)) return {};
  return {kChatMlEnd};
}

}  // namespace sluice
