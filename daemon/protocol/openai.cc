#include "daemon/protocol/openai.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

#include "base/bytes.h"
#include "base/text_escape.h"
#include "daemon/protocol/fields.h"
#include "daemon/protocol/json_text.h"

namespace sluice {
namespace {

namespace json = boost::json;

Result<std::vector<std::string>> stop_strings(const json::value* v) {
  std::vector<std::string> out;
  if (v == nullptr) return out;
  const auto add = [&](const json::value& item) -> Result<void> {
    if (!item.is_string()) return wrong_kind("stop", item, "a string or an array of strings");
    if (item.get_string().empty()) return bad_parameter("stop", "a stop string is empty");
    if (item.get_string().size() > kMaxStopBytes) {
      return bad_parameter("stop",
                           fmt::format("a stop string has {} bytes, {} are allowed",
                                       item.get_string().size(),
                                       kMaxStopBytes));
    }
    out.emplace_back(item.get_string());
    return success();
  };
  if (!v->is_array()) {
    SLUICE_TRY(add(*v));
    return out;
  }
  if (v->get_array().size() > kMaxStopStrings) {
    return bad_parameter(
        "stop",
        fmt::format(
            "stop holds {} strings, {} are allowed", v->get_array().size(), kMaxStopStrings));
  }
  for (const auto& item : v->get_array()) {
    SLUICE_TRY(add(item));
  }
  return out;
}

Result<void> read_logit_bias(Fields& f, GenerationParams& p) {
  const auto* v = f.find("logit_bias");
  if (v == nullptr) return success();
  if (!v->is_object()) return wrong_kind("logit_bias", *v, "an object of token id to bias");
  if (v->get_object().size() > 1024)
    return bad_parameter("logit_bias", "logit_bias holds more than 1024 entries");
  for (const auto& item : v->get_object()) {
    const std::string_view key = item.key();
    int64_t id = -1;
    const auto [end, ec] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (ec != std::errc() || end != key.data() + key.size() || id < 0 ||
        id > std::numeric_limits<int32_t>::max()) {
      return bad_parameter(
          "logit_bias",
          fmt::format("logit_bias has the key \"{}\", a token id is expected", escape_text(key)));
    }
    if (!item.value().is_number())
      return wrong_kind("logit_bias", item.value(), "a number from -100 to 100");
    const double bias = item.value().to_number<double>();
    if (!(bias >= -100 && bias <= 100)) {
      return bad_parameter(
          "logit_bias",
          fmt::format("logit_bias of token {} is {}, -100 to 100 is allowed", id, bias));
    }
    p.logit_bias.emplace_back(id, bias);
  }
  return success();
}

Result<void> read_stream(Fields& f, GenerationParams& p) {
  SLUICE_TRY(p.stream, f.boolean("stream", false));
  const auto* v = f.find("stream_options");
  if (v == nullptr) return success();
  if (!v->is_object()) return wrong_kind("stream_options", *v, "an object");
  Fields options(v->get_object(), "stream_options.");
  SLUICE_TRY(p.include_usage, options.boolean("include_usage", false));
  options.harmless({"include_obfuscation", "continuous_usage_stats"}, p.ignored);
  return options.no_others();
}

Result<void> read_sluice(Fields& f, GenerationParams& p) {
  const auto* v = f.find("sluice");
  if (v == nullptr) return success();
  if (!v->is_object()) return wrong_kind("sluice", *v, "an object");
  Fields s(v->get_object(), "sluice.");
  SLUICE_TRY(p.session, s.text("session", 128));
  if (!p.session.empty())
    p.ignored.emplace_back("sluice.session");  // kept sessions are not built yet
  if (const auto* keep = s.find("keep_alive")) {
    SLUICE_TRY(const int64_t ms, keep_alive_from_json(*keep, "sluice.keep_alive"));
    p.keep_alive_ms = ms;
  }
  SLUICE_TRY(const std::string priority, s.text("priority", 16));
  if (priority == "high") {
    p.priority = RequestPriority::kHigh;
  } else if (priority == "low") {
    p.priority = RequestPriority::kLow;
  } else if (!priority.empty() && priority != "normal") {
    return bad_parameter("sluice.priority",
                         fmt::format("sluice.priority is {}, low, normal or high is allowed",
                                     escape_text(priority)));
  }
  SLUICE_TRY(p.ctx, s.integer("ctx", 1, int64_t{1} << 31));
  return s.no_others();
}

Result<void> read_seed(Fields& f, GenerationParams& p) {
  const auto* v = f.find("seed");
  if (v == nullptr) return success();
  if (v->is_int64()) {
    p.seed = static_cast<uint64_t>(v->get_int64());
  } else if (v->is_uint64()) {
    p.seed = v->get_uint64();
  } else {
    return wrong_kind("seed", *v, "a 64-bit integer");
  }
  return success();
}

Result<void> read_response_format(Fields& f) {
  const auto* v = f.find("response_format");
  if (v == nullptr) return success();
  if (!v->is_object()) return wrong_kind("response_format", *v, "an object");
  const auto* type = v->get_object().if_contains("type");
  if (type == nullptr || !type->is_string())
    return bad_parameter("response_format", "response_format needs a \"type\" string");
  const std::string_view name = type->get_string();
  if (name == "text") return success();
  if (name == "json_object" || name == "json_schema") {
    return unsupported_parameter("response_format",
                                 fmt::format("response_format {} is not supported yet", name),
                                 "ask for JSON in the prompt and use {\"type\":\"text\"}");
  }
  return bad_parameter("response_format",
                       fmt::format("response_format type {} is unknown", escape_text(name)));
}

// Parameters chat and completions share. `max_tokens_min`: 0 where scoring without output makes
// sense.
Result<GenerationParams> read_params(Fields& f, int64_t max_tokens_min) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  GenerationParams p;
  SLUICE_TRY(p.model, f.text("model", 4096));
  SLUICE_TRY(read_stream(f, p));
  SLUICE_TRY(p.max_tokens, f.integer("max_tokens", max_tokens_min, kMost));
  SLUICE_TRY(p.temperature, f.number("temperature", 1, 0, 2));
  SLUICE_TRY(p.top_p, f.number("top_p", 1, 0, 1));
  SLUICE_TRY(const auto top_k, f.integer("top_k", -1, kMost));
  p.top_k = std::max<int64_t>(0, top_k.value_or(0));  // -1 means off for some clients
  SLUICE_TRY(p.min_p, f.number("min_p", 0, 0, 1));
  SLUICE_TRY(p.typical_p, f.number("typical_p", 1, 0, 1));
  SLUICE_TRY(p.repetition_penalty, f.number("repetition_penalty", 1, 0.01, 100));
  SLUICE_TRY(p.repetition_penalty, f.number("repeat_penalty", p.repetition_penalty, 0.01, 100));
  SLUICE_TRY(p.presence_penalty, f.number("presence_penalty", 0, -2, 2));
  SLUICE_TRY(p.frequency_penalty, f.number("frequency_penalty", 0, -2, 2));
  SLUICE_TRY(read_logit_bias(f, p));
  SLUICE_TRY(read_seed(f, p));
  SLUICE_TRY(p.stop, stop_strings(f.find("stop")));
  SLUICE_TRY(const auto n, f.integer("n", 1, kMaxChoices));
  p.n = static_cast<int>(n.value_or(1));
  SLUICE_TRY(read_sluice(f, p));
  if (const auto* keep = f.find("keep_alive")) {
    SLUICE_TRY(const int64_t ms, keep_alive_from_json(*keep, "keep_alive"));
    p.keep_alive_ms = ms;
  }
  SLUICE_TRY(read_response_format(f));
  f.harmless({"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"},
             p.ignored);
  return p;
}

// String, or array of {"type":"text","text":...}: joined.
Result<std::string> content_text(const json::value& v, const std::string& param) {
  if (v.is_null()) return std::string();
  if (v.is_string()) return std::string(v.get_string());
  if (!v.is_array()) return wrong_kind(param, v, "a string or an array of text parts");
  std::string out;
  for (const auto& part : v.get_array()) {
    const auto* o = part.if_object();
    if (o == nullptr) return wrong_kind(param, part, "a text part");
    const auto* type = o->if_contains("type");
    if (type == nullptr || !type->is_string())
      return bad_parameter(param, fmt::format("a part of {} has no type", param));
    const std::string_view name = type->get_string();
    if (name == "image_url" || name == "input_audio" || name == "file") {
      return unsupported_parameter(
          param, fmt::format("{} parts are not supported", name), "send text parts only");
    }
    const auto* text = o->if_contains(name == "refusal" ? "refusal" : "text");
    if ((name != "text" && name != "refusal") || text == nullptr || !text->is_string()) {
      return bad_parameter(
          param,
          fmt::format("a part of {} is of type {}, {{\"type\":\"text\",\"text\":...}} is expected",
                      param,
                      escape_text(name)));
    }
    out += std::string_view(text->get_string());
  }
  return out;
}

// Templates want arguments as an object; OpenAI's clients send the JSON text.
Result<json::array> tool_calls_of(const json::value& v, const std::string& param) {
  json::array out;
  if (!v.is_array()) return wrong_kind(param, v, "an array");
  for (const auto& item : v.get_array()) {
    const auto* call = item.if_object();
    const auto* function = call == nullptr ? nullptr : call->if_contains("function");
    const auto* name = function == nullptr || !function->is_object()
                           ? nullptr
                           : function->get_object().if_contains("name");
    if (name == nullptr || !name->is_string())
      return bad_parameter(param, fmt::format("{} needs function.name in each call", param));
    json::object copy = *call;
    json::object& f = copy["function"].get_object();
    if (const auto* args = f.if_contains("arguments"); args != nullptr && args->is_string()) {
      auto parsed = parse_json(args->get_string());
      if (parsed && parsed.value().is_object()) f["arguments"] = std::move(parsed).value();
    } else if (args != nullptr && !args->is_object()) {
      return wrong_kind(param + ".function.arguments", *args, "a string of JSON or an object");
    }
    out.push_back(std::move(copy));
  }
  return out;
}

Result<json::object> message_from_json(const json::value& v, size_t i) {
  const std::string at = fmt::format("messages[{}]", i);
  const auto* o = v.if_object();
  if (o == nullptr) return wrong_kind(at, v, "an object");
  const auto* role = o->if_contains("role");
  if (role == nullptr) return bad_parameter(at, at + " has no role");
  if (!role->is_string()) return wrong_kind(at + ".role", *role, "a string");
  std::string_view name = role->get_string();
  if (name == "developer") name = "system";  // what templates know
  if (name != "system" && name != "user" && name != "assistant" && name != "tool") {
    return bad_parameter(
        at + ".role",
        fmt::format("{}.role is \"{}\", system, developer, user, assistant or tool is allowed",
                    at,
                    escape_text(name)));
  }
  json::object out{{"role", name}};
  const auto* calls = o->if_contains("tool_calls");
  if (calls != nullptr && (calls->is_null() || name != "assistant")) calls = nullptr;
  const auto* content = o->if_contains("content");
  if ((content == nullptr || content->is_null()) && name != "assistant") {
    return bad_parameter(at + ".content", fmt::format("{} of role {} has no content", at, name));
  }
  SLUICE_TRY(const std::string text,
             content_text(content == nullptr ? json::value() : *content, at + ".content"));
  out["content"] = text;
  if (calls != nullptr) {
    SLUICE_TRY(auto list, tool_calls_of(*calls, at + ".tool_calls"));
    if (!list.empty()) out["tool_calls"] = std::move(list);
  }
  for (const char* key : {"name", "tool_call_id", "reasoning_content"}) {
    const auto* extra = o->if_contains(key);
    if (extra == nullptr || extra->is_null()) continue;
    if (!extra->is_string()) return wrong_kind(fmt::format("{}.{}", at, key), *extra, "a string");
    out[key] = *extra;
  }
  return out;
}

Result<json::array> read_tools(Fields& f) {
  const auto* v = f.find("tools");
  const auto* choice = f.find("tool_choice");
  json::array out;
  if (v != nullptr) {
    if (!v->is_array()) return wrong_kind("tools", *v, "an array");
    for (const auto& tool : v->get_array()) {
      const auto* o = tool.if_object();
      const auto* type = o == nullptr ? nullptr : o->if_contains("type");
      const auto* function = o == nullptr ? nullptr : o->if_contains("function");
      if (type == nullptr || !type->is_string() || type->get_string() != "function" ||
          function == nullptr || !function->is_object()) {
        return bad_parameter("tools", "each tool is {\"type\":\"function\",\"function\":{...}}");
      }
      const auto* name = function->get_object().if_contains("name");
      if (name == nullptr || !name->is_string())
        return bad_parameter("tools", "each tool needs function.name");
    }
    out = v->get_array();
  }
  if (choice == nullptr) return out;
  if (choice->is_string() && choice->get_string() == "auto") return out;
  if (choice->is_string() && choice->get_string() == "none") return json::array();
  if (choice->is_object() || (choice->is_string() && choice->get_string() == "required")) {
    return unsupported_parameter(
        "tool_choice", "a forced tool_choice is not supported yet", "use \"auto\" or \"none\"");
  }
  return bad_parameter("tool_choice", "tool_choice is \"none\" or \"auto\"");
}

Result<ChatInput> read_chat(Fields& f) {
  ChatInput chat;
  const auto* v = f.find("messages");
  if (v == nullptr) return bad_parameter("messages", "messages is missing");
  if (!v->is_array()) return wrong_kind("messages", *v, "an array");
  if (v->get_array().empty()) return bad_parameter("messages", "messages is empty");
  size_t i = 0;
  for (const auto& m : v->get_array()) {
    SLUICE_TRY(auto message, message_from_json(m, i++));
    chat.messages.push_back(std::move(message));
  }
  SLUICE_TRY(chat.tools, read_tools(f));
  if (const auto* kwargs = f.find("chat_template_kwargs")) {
    if (!kwargs->is_object()) return wrong_kind("chat_template_kwargs", *kwargs, "an object");
    for (const auto& item : kwargs->get_object()) {
      const std::string_view key = item.key();
      if (key == "messages" || key == "tools" || key == "add_generation_prompt" ||
          key == "continue_final_message" || key == "bos_token" || key == "eos_token") {
        return bad_parameter("chat_template_kwargs",
                             fmt::format("chat_template_kwargs may not set {}", key));
      }
    }
    chat.template_kwargs = kwargs->get_object();
    if (const auto* thinking = chat.template_kwargs.if_contains("enable_thinking");
        thinking != nullptr && !thinking->is_bool()) {
      return wrong_kind("chat_template_kwargs.enable_thinking", *thinking, "true or false");
    }
  }
  if (const auto* thinking = f.find("enable_thinking")) {
    if (!thinking->is_bool()) return wrong_kind("enable_thinking", *thinking, "true or false");
    chat.template_kwargs["enable_thinking"] = *thinking;
  }
  SLUICE_TRY(chat.continue_final_message, f.boolean("continue_final_message", false));
  SLUICE_TRY(chat.add_generation_prompt,
             f.boolean("add_generation_prompt", !chat.continue_final_message));
  if (chat.continue_final_message) {
    if (chat.add_generation_prompt) {
      return bad_parameter("continue_final_message",
                           "continue_final_message and add_generation_prompt exclude each other");
    }
    if (chat.messages.back().at("role") != "assistant") {
      return bad_parameter("continue_final_message",
                           "continue_final_message needs a last message of role assistant");
    }
  }
  return chat;
}

Result<Prompt> ids_prompt(const json::array& a) {
  std::vector<int64_t> ids;
  for (const auto& item : a) {
    if (!item.is_int64()) return wrong_kind("prompt", item, "a token id");
    ids.push_back(item.get_int64());
  }
  return Prompt(std::move(ids));
}

Result<std::vector<Prompt>> read_prompts(Fields& f) {
  const auto* v = f.find("prompt");
  if (v == nullptr) return bad_parameter("prompt", "prompt is missing");
  std::vector<Prompt> out;
  if (v->is_string()) {
    out.emplace_back(std::string(v->get_string()));
    return out;
  }
  const auto* a = v->if_array();
  if (a == nullptr)
    return wrong_kind("prompt", *v, "a string, an array of strings, token ids, or arrays of them");
  if (a->empty()) return bad_parameter("prompt", "prompt is empty");
  if (a->front().is_number()) {
    SLUICE_TRY(auto prompt, ids_prompt(*a));
    out.push_back(std::move(prompt));
    return out;
  }
  if (a->size() > kMaxPrompts) {
    return bad_parameter(
        "prompt", fmt::format("prompt holds {} prompts, {} are allowed", a->size(), kMaxPrompts));
  }
  for (const auto& item : *a) {
    if (item.is_string()) {
      out.emplace_back(std::string(item.get_string()));
    } else if (item.is_array() && !item.get_array().empty()) {
      SLUICE_TRY(auto prompt, ids_prompt(item.get_array()));
      out.push_back(std::move(prompt));
    } else {
      return wrong_kind("prompt", item, "a string or a non-empty array of token ids");
    }
  }
  return out;
}

}  // namespace

Result<int64_t> keep_alive_from_json(const json::value& v, const std::string& param) {
  constexpr double kMaxSeconds = 1e9;
  if (v.is_string()) {
    auto ms = parse_duration_ms(v.get_string());
    if (ms) return ms;
    return bad_parameter(param,
                         fmt::format("{}: {}", param, ms.error().what),
                         "\"5m\", seconds, -1 for ever, 0 for now");
  }
  if (!v.is_number()) return wrong_kind(param, v, "a duration");
  const double seconds = v.to_number<double>();
  if (std::isnan(seconds) || seconds > kMaxSeconds)
    return bad_parameter(param, fmt::format("{} is too long", param));
  return seconds < 0 ? int64_t{-1} : static_cast<int64_t>(seconds * 1000);
}

Result<ChatRequest> chat_request_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  ChatRequest r;
  SLUICE_TRY(r.chat, read_chat(f));
  SLUICE_TRY(r.params, read_params(f, 1));
  SLUICE_TRY(const auto most,
             f.integer("max_completion_tokens", 1, std::numeric_limits<int32_t>::max()));
  if (most) r.params.max_tokens = most;
  SLUICE_TRY(r.params.logprobs, f.boolean("logprobs", false));
  SLUICE_TRY(const auto top, f.integer("top_logprobs", 0, 20));
  if (top.value_or(0) > 0 && !r.params.logprobs) {
    return bad_parameter("top_logprobs", "top_logprobs needs logprobs to be true");
  }
  r.params.top_logprobs = static_cast<int>(top.value_or(0));
  if (const auto* modalities = f.find("modalities")) {
    const auto* a = modalities->if_array();
    if (a == nullptr || a->size() != 1 || !a->front().is_string() ||
        a->front().get_string() != "text") {
      return unsupported_parameter(
          "modalities", "only text can be generated", "leave modalities out");
    }
  }
  f.harmless({"parallel_tool_calls"}, r.params.ignored);
  SLUICE_TRY(f.no_others());
  return r;
}

Result<CompletionRequest> completion_request_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  CompletionRequest r;
  SLUICE_TRY(r.prompts, read_prompts(f));
  SLUICE_TRY(r.params, read_params(f, 0));
  SLUICE_TRY(r.echo, f.boolean("echo", false));
  SLUICE_TRY(const auto logprobs, f.integer("logprobs", 0, 5));
  if (logprobs) {
    r.params.logprobs = true;
    r.params.top_logprobs = static_cast<int>(*logprobs);
  }
  if (const auto* suffix = f.find("suffix"); suffix != nullptr) {
    if (!suffix->is_string()) return wrong_kind("suffix", *suffix, "a string");
    return unsupported_parameter(
        "suffix", "suffix is not supported", "put the text after the gap into the prompt");
  }
  SLUICE_TRY(const auto best_of, f.integer("best_of", 1, 20));
  if (best_of && *best_of != r.params.n) {
    return unsupported_parameter(
        "best_of", "best_of other than n is not supported", "leave best_of out");
  }
  if (r.params.max_tokens == 0 && !r.echo) {
    return bad_parameter("max_tokens", "max_tokens is 0, at least 1 is needed unless echo is true");
  }
  if (r.prompts.size() * static_cast<size_t>(r.params.n) > kMaxPrompts) {
    return bad_parameter("n", fmt::format("prompts times n is more than {}", kMaxPrompts));
  }
  SLUICE_TRY(f.no_others());
  return r;
}

Result<TemplateRequest> template_request_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  TemplateRequest r;
  SLUICE_TRY(r.model, f.text("model", 4096));
  SLUICE_TRY(r.chat, read_chat(f));
  SLUICE_TRY(f.no_others());
  return r;
}

Result<TokenizeRequest> tokenize_request_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  TokenizeRequest r;
  SLUICE_TRY(r.model, f.text("model", 4096));
  int given = 0;
  for (const char* key : {"content", "text", "input"}) {
    const auto* text = f.find(key);
    if (text == nullptr) continue;
    if (!text->is_string()) return wrong_kind(key, *text, "a string");
    r.text = std::string(text->get_string());
    ++given;
  }
  if (given != 1)
    return bad_parameter("content", "exactly one of content, text and input is needed");
  SLUICE_TRY(r.add_special, f.boolean("add_special", false));
  SLUICE_TRY(r.parse_special, f.boolean("parse_special", true));
  SLUICE_TRY(r.with_pieces, f.boolean("with_pieces", false));
  SLUICE_TRY(f.no_others());
  return r;
}

Result<DetokenizeRequest> detokenize_request_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  DetokenizeRequest r;
  SLUICE_TRY(r.model, f.text("model", 4096));
  const auto* tokens = f.find("tokens");
  if (tokens == nullptr) return bad_parameter("tokens", "tokens is missing");
  if (!tokens->is_array()) return wrong_kind("tokens", *tokens, "an array of token ids");
  for (const auto& item : tokens->get_array()) {
    if (!item.is_int64()) return wrong_kind("tokens", item, "a token id");
    r.tokens.push_back(item.get_int64());
  }
  SLUICE_TRY(f.no_others());
  return r;
}

}  // namespace sluice
