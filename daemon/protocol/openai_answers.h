// Answers of the OpenAI routes: chunks of a stream and whole documents, exactly as INTERFACE 3.3
// wants them.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sluice {

struct TokenAlternative {
  std::string bytes;  // raw; may be a part of a code point
  double logprob = 0;
};

struct TokenLogprob {
  std::string bytes;
  std::optional<double> logprob;      // none: the first token of an echoed prompt
  std::vector<TokenAlternative> top;  // most likely first
  int64_t text_offset = 0;            // code points before it in the choice's text (completions)
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
};

// The "sluice" object of a final chunk or answer. Rates are 0 when nothing was measured.
struct Timings {
  std::string request_id;  // "r-0192"
  int64_t queue_ms = 0;
  int64_t load_ms = 0;
  int64_t prefill_ms = 0;
  int64_t decode_ms = 0;
  int64_t ttft_ms = 0;  // from the request's arrival to the first token
  double prefill_tps = 0;
  double decode_tps = 0;
};

// What every chunk and document of one answer shares.
struct AnswerId {
  std::string id;  // "chatcmpl-..." | "cmpl-..."
  int64_t created = 0;
  std::string model;
};

struct ChoiceText {
  std::string text;
  std::vector<TokenLogprob> logprobs;
  std::string finish_reason;  // stop | length
};

boost::json::object to_json(const Usage& u);
boost::json::object to_json(const Timings& t);

// {"content":[{token,logprob,bytes,top_logprobs}],"refusal":null}
boost::json::object chat_logprobs(const std::vector<TokenLogprob>& tokens);
// {tokens,token_logprobs,top_logprobs,text_offset}
boost::json::object completion_logprobs(const std::vector<TokenLogprob>& tokens);

// One chunk. `delta` is {"role":..}, {"content":..} or {}; finish null unless given.
// with_usage_null: the stream asked for usage, so that every chunk but the last has "usage":null.
struct ChunkOptions {
  int64_t choice = 0;
  std::optional<std::string> finish{};
  const std::vector<TokenLogprob>* logprobs = nullptr;
  bool with_usage_null = false;
  const Timings* timings = nullptr;
};
boost::json::object chat_chunk(const AnswerId& id,
                               boost::json::object delta,
                               const ChunkOptions& o);
boost::json::object completion_chunk(const AnswerId& id, std::string text, const ChunkOptions& o);
// choices:[] and the usage.
boost::json::object usage_chunk(const AnswerId& id, bool chat, const Usage& usage);

boost::json::object chat_document(const AnswerId& id,
                                  const std::vector<ChoiceText>& choices,
                                  bool logprobs,
                                  const Usage& usage,
                                  const Timings& timings);
boost::json::object completion_document(const AnswerId& id,
                                        const std::vector<ChoiceText>& choices,
                                        bool logprobs,
                                        const Usage& usage,
                                        const Timings& timings);

}  // namespace sluice
