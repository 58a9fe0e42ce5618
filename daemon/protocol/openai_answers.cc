#include "daemon/protocol/openai_answers.h"

#include <algorithm>
#include <cmath>

#include "base/text_escape.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr double kNegligible = -9999.0;  // OpenAI's word for "practically impossible"

double shown(double logprob) {
  return std::isfinite(logprob) ? std::max(logprob, kNegligible) : kNegligible;
}

json::array byte_array(const std::string& bytes) {
  json::array out;
  for (const char c : bytes) out.push_back(static_cast<int64_t>(static_cast<unsigned char>(c)));
  return out;
}

json::object token_object(const std::string& bytes, double logprob) {
  return {
      {"token", to_valid_utf8(bytes)}, {"logprob", shown(logprob)}, {"bytes", byte_array(bytes)}};
}

json::value logprobs_value(const ChunkOptions& o, bool chat) {
  if (o.logprobs == nullptr) return nullptr;
  return chat ? chat_logprobs(*o.logprobs) : completion_logprobs(*o.logprobs);
}

json::value finish_value(const std::optional<std::string>& finish) {
  if (!finish) return nullptr;
  return json::value(*finish);
}

json::object envelope(const AnswerId& id, const char* object) {
  return {{"id", id.id}, {"object", object}, {"created", id.created}, {"model", id.model}};
}

void add_tail(json::object& chunk, const ChunkOptions& o) {
  if (o.with_usage_null) chunk["usage"] = nullptr;
  if (o.timings != nullptr) chunk["sluice"] = to_json(*o.timings);
}

double rounded(double v) { return std::round(v * 100) / 100; }

}  // namespace

json::object to_json(const Usage& u) {
  return {{"prompt_tokens", u.prompt_tokens},
          {"completion_tokens", u.completion_tokens},
          {"total_tokens", u.prompt_tokens + u.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", u.cached_tokens}}}};
}

json::object to_json(const Timings& t) {
  return {{"request_id", t.request_id},
          {"queue_ms", t.queue_ms},
          {"load_ms", t.load_ms},
          {"prefill_ms", t.prefill_ms},
          {"decode_ms", t.decode_ms},
          {"ttft_ms", t.ttft_ms},
          {"prefill_tps", rounded(t.prefill_tps)},
          {"decode_tps", rounded(t.decode_tps)}};
}

json::object chat_logprobs(const std::vector<TokenLogprob>& tokens) {
  json::array content;
  for (const TokenLogprob& t : tokens) {
    json::object item = token_object(t.bytes, t.logprob.value_or(0));
    json::array top;
    for (const TokenAlternative& a : t.top) top.push_back(token_object(a.bytes, a.logprob));
    item["top_logprobs"] = std::move(top);
    content.push_back(std::move(item));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

json::object completion_logprobs(const std::vector<TokenLogprob>& tokens) {
  json::array texts, logprobs, tops, offsets;
  for (const TokenLogprob& t : tokens) {
    const std::string text = to_valid_utf8(t.bytes);
    texts.push_back(json::value(text));
    offsets.push_back(t.text_offset);
    if (!t.logprob) {
      logprobs.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    logprobs.push_back(shown(*t.logprob));
    json::object top;
    for (const TokenAlternative& a : t.top) {
      const std::string key = to_valid_utf8(a.bytes);
      if (!top.contains(key)) top[key] = shown(a.logprob);  // the likelier of two that look alike
    }
    if (!top.contains(text)) top[text] = shown(*t.logprob);
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

json::object chat_chunk(const AnswerId& id, json::object delta, const ChunkOptions& o) {
  json::object chunk = envelope(id, "chat.completion.chunk");
  json::object choice{{"index", o.choice},
                      {"delta", std::move(delta)},
                      {"logprobs", logprobs_value(o, true)},
                      {"finish_reason", finish_value(o.finish)}};
  chunk["choices"] = json::array{std::move(choice)};
  add_tail(chunk, o);
  return chunk;
}

json::object completion_chunk(const AnswerId& id, std::string text, const ChunkOptions& o) {
  json::object chunk = envelope(id, "text_completion");
  json::object choice{{"index", o.choice},
                      {"text", std::move(text)},
                      {"logprobs", logprobs_value(o, false)},
                      {"finish_reason", finish_value(o.finish)}};
  chunk["choices"] = json::array{std::move(choice)};
  add_tail(chunk, o);
  return chunk;
}

json::object usage_chunk(const AnswerId& id, bool chat, const Usage& usage) {
  json::object chunk = envelope(id, chat ? "chat.completion.chunk" : "text_completion");
  chunk["choices"] = json::array();
  chunk["usage"] = to_json(usage);
  return chunk;
}

json::object chat_document(const AnswerId& id,
                           const std::vector<ChoiceText>& choices,
                           bool logprobs,
                           const Usage& usage,
                           const Timings& timings) {
  json::object doc = envelope(id, "chat.completion");
  json::array list;
  int64_t index = 0;
  for (const ChoiceText& c : choices) {
    json::value lp = nullptr;
    if (logprobs) lp = chat_logprobs(c.logprobs);
    json::object message{{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
    json::object choice{{"index", index++},
                        {"message", std::move(message)},
                        {"logprobs", std::move(lp)},
                        {"finish_reason", c.finish_reason}};
    list.push_back(std::move(choice));
  }
  doc["choices"] = std::move(list);
  doc["usage"] = to_json(usage);
  doc["sluice"] = to_json(timings);
  return doc;
}

json::object completion_document(const AnswerId& id,
                                 const std::vector<ChoiceText>& choices,
                                 bool logprobs,
                                 const Usage& usage,
                                 const Timings& timings) {
  json::object doc = envelope(id, "text_completion");
  json::array list;
  int64_t index = 0;
  for (const ChoiceText& c : choices) {
    json::value lp = nullptr;
    if (logprobs) lp = completion_logprobs(c.logprobs);
    json::object choice{{"index", index++},
                        {"text", c.text},
                        {"logprobs", std::move(lp)},
                        {"finish_reason", c.finish_reason}};
    list.push_back(std::move(choice));
  }
  doc["choices"] = std::move(list);
  doc["usage"] = to_json(usage);
  doc["sluice"] = to_json(timings);
  return doc;
}

}  // namespace sluice
