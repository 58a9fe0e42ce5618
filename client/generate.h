// One generation: the request, the stream of its answer on the screen or as NDJSON, and what it
// cost.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/client.h"

namespace sluice {

struct GenerationFlags {
  std::optional<int64_t> max_tokens, top_k, seed, ctx;
  std::optional<double> temperature, top_p, min_p, repeat_penalty;
  std::vector<std::string> stop;
  std::string keep_alive, priority;
  std::optional<int64_t> wait_ms;  // how long to wait for a place; < 0: for ever
  std::optional<bool> think;
  bool raw = false;  // no chat template
  bool stream = true;
  bool stats = false;
};

struct Generation {
  std::string text;
  std::string finish_reason;  // stop, length, tool_calls; interrupted
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  double ttft_ms = 0, total_ms = 0;
  double prefill_tps = 0,
         decode_tps = 0;  // the daemon's if it says them, else by our clock; 0: unknown

  std::string stats_line(bool utf8) const;
  boost::json::object document(const std::string& model) const;
};

struct GenerationFailure {
  Failure failure;
  Generation partial;
};

class Generator {
 public:
  Generator(const Client& client, const DaemonLink& link, std::string model, GenerationFlags flags)
      : client_(client), link_(link), model_(std::move(model)), flags_(std::move(flags)) {}

  // `verb` names the schema of --json output. The answer is printed as it comes; a signal or a
  // closed pipe ends the connection, which cancels the generation. On a failure `generation()`
  // holds what had come.
  // With `goes_on` the last message, the assistant's, is written on instead of being answered.
  Answer<void> chat(const boost::json::array& messages, const std::string& verb, bool goes_on = false);
  Answer<void> complete(const std::string& prompt, const std::string& verb);

  const Generation& generation() const { return generation_; }
  GenerationFlags& flags() { return flags_; }

 private:
  boost::json::object request() const;
  Answer<void> run(const std::string& target, boost::json::object body);
  Answer<void> run_once(const std::string& target, const std::string& body, int64_t wait_deadline);
  Answer<void> consume_stream(AnswerStream stream,
                              int64_t wait_deadline,
                              class ProgressLine& progress);
  Answer<void> consume_document(const std::string& text);
  Result<void> take_chunk(const boost::json::object& chunk);
  Result<void> print(const std::string& piece);
  void take_usage(const boost::json::object& chunk);
  Result<void> finish_text();

  const Client& client_;
  const DaemonLink& link_;
  std::string model_;
  GenerationFlags flags_;
  std::string verb_;
  Generation generation_;
  Sanitiser sanitiser_;
  int64_t start_ms_ = 0;
};

}  // namespace sluice
