// Requests of the OpenAI routes, checked field by field. What a field may be is decided here, once:
// unknown ones are refused with the nearest known name, harmless ones are accepted and named in
// `ignored` (a Sluice-Warning header), ones that would change the text but are not built are
// unsupported_parameter. Error::field names the parameter.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace sluice {

inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 4096;  // of one stop string
inline constexpr size_t kMaxChoices = 4;
inline constexpr size_t kMaxPrompts = 128;  // prompts times choices of one completion request

enum class RequestPriority : uint8_t { kHigh, kNormal, kLow };

// What chat and completion requests share.
struct GenerationParams {
  std::string model;  // empty: the only one there is
  bool stream = false;
  bool include_usage = false;
  std::optional<int64_t> max_tokens;
  double temperature = 1;
  double top_p = 1;
  int64_t top_k = 0;
  double min_p = 0;
  double typical_p = 1;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::vector<std::pair<int64_t, double>> logit_bias;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  int n = 1;
  bool logprobs = false;
  int top_logprobs = 0;
  // "sluice":{...}
  std::string session;
  std::optional<int64_t> keep_alive_ms;
  RequestPriority priority = RequestPriority::kNormal;
  std::optional<int64_t> ctx;

  std::vector<std::string> ignored;
};

// What a chat template is given.
struct ChatInput {
  boost::json::array
      messages;              // role, content (a string), tool_calls with arguments as objects, ...
  boost::json::array tools;  // empty: none, or tool_choice "none"
  boost::json::object template_kwargs;  // enable_thinking and the like
  // How the prompt ends (transformers' names): with the opening of the assistant's next turn, or inside
  // the last message, which is the assistant's and is written on. At most one of the two.
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

struct ChatRequest {
  GenerationParams params;
  ChatInput chat;
};

using Prompt = std::variant<std::string, std::vector<int64_t>>;

struct CompletionRequest {
  GenerationParams params;
  std::vector<Prompt> prompts;  // at least one
  bool echo = false;
};

// Errors: invalid_request, unsupported_parameter.
Result<ChatRequest> chat_request_from_json(const boost::json::value& v);
Result<CompletionRequest> completion_request_from_json(const boost::json::value& v);
// {messages, tools?, tool_choice?, chat_template_kwargs?, enable_thinking?, add_generation_prompt?,
// continue_final_message?, model?}
struct TemplateRequest {
  std::string model;
  ChatInput chat;
};
Result<TemplateRequest> template_request_from_json(const boost::json::value& v);

// {content | text | input, model?, add_special?, parse_special?, with_pieces?} ->
// {"tokens":[id...],"count"}, with pieces {"tokens":[{"id","piece"}...],"count"} where a piece that
// is no UTF-8 is an array of bytes.
struct TokenizeRequest {
  std::string model;
  std::string text;
  bool add_special = false;   // BOS, where the model wants one
  bool parse_special = true;  // texts of control tokens become those tokens
  bool with_pieces = false;
};
Result<TokenizeRequest> tokenize_request_from_json(const boost::json::value& v);

// {tokens:[id...], model?} -> {"content"}
struct DetokenizeRequest {
  std::string model;
  std::vector<int64_t> tokens;
};
Result<DetokenizeRequest> detokenize_request_from_json(const boost::json::value& v);

// A duration as a request may give it: "5m", 300 (seconds), -1 (for ever: negative), 0 (now).
Result<int64_t> keep_alive_from_json(const boost::json::value& v, const std::string& param);

}  // namespace sluice
