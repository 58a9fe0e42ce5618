#include "client/generate.h"

#include <fmt/format.h>

#include <algorithm>

#include "client/interrupt.h"
#include "client/json_fields.h"
#include "client/sse_parser.h"
#include "daemon/protocol/json_text.h"
#include "daemon/protocol/native.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr int64_t kTickMs = 100;
constexpr int64_t kAskMs = 500;  // between two looks at the request's progress
constexpr int64_t kMaxRetryPauseMs = 10'000;

// A comment of the stream: "sluice prefill 312/1024", "sluice queued position=2".
std::string phase_of(const std::string& comment) {
  return comment.starts_with("sluice ") ? comment.substr(7) : "";
}

// "queued 2", "prefill 312/1024": where the request is now. Empty when it is not there or nobody
// answers.
std::string phase_of_request(const DaemonLink& link, const std::string& id) {
  auto answer = link.call("GET", "/sluice/v1/requests");
  auto requests = answer ? requests_from_json(answer.value())
                         : Result<std::vector<RequestDoc>>(answer.error().error);
  if (!requests) return "";
  for (const RequestDoc& r : requests.value()) {
    if (r.id != id) continue;
    if (r.state == "queued") return fmt::format("queued {}", r.position);
    return r.total > 0 ? fmt::format("{} {}/{}", r.phase, r.done, r.total) : r.phase;
  }
  return "";
}

Error wait_over() {
  return Error{
      "wait_over", "other requests were still in front when --wait ran out", "sluice requests ls"};
}

}  // namespace

std::string Generation::stats_line(bool utf8) const {
  const char* dot = utf8 ? " \u00B7 " : " | ";
  auto rate = [](double tps) {
    return tps > 0 ? fmt::format(" {:.1f} tok/s", tps) : std::string();
  };
  return fmt::format("  {} prompt ({} cached){}{}{} out{}{}TTFT {:.2f} s\n",
                     prompt_tokens,
                     cached_tokens,
                     rate(prefill_tps),
                     dot,
                     completion_tokens,
                     rate(decode_tps),
                     dot,
                     ttft_ms / 1000);
}

json::object Generation::document(const std::string& model) const {
  return {{"model", model},
          {"text", text},
          {"finish_reason", finish_reason},
          {"usage",
           {{"prompt_tokens", prompt_tokens},
            {"cached_tokens", cached_tokens},
            {"completion_tokens", completion_tokens}}},
          {"ttft_ms", static_cast<int64_t>(ttft_ms)},
          {"total_ms", static_cast<int64_t>(total_ms)},
          {"prefill_tps", prefill_tps},
          {"decode_tps", decode_tps}};
}

json::object Generator::request() const {
  json::object body{{"model", model_}, {"stream", flags_.stream}};
  if (flags_.stream) body["stream_options"] = json::object{{"include_usage", true}};
  auto add = [&](const char* key, const auto& value) {
    if (value) body[key] = *value;
  };
  add("max_tokens", flags_.max_tokens);
  add("temperature", flags_.temperature);
  add("top_p", flags_.top_p);
  add("top_k", flags_.top_k);
  add("min_p", flags_.min_p);
  add("repetition_penalty", flags_.repeat_penalty);
  add("seed", flags_.seed);
  if (!flags_.stop.empty()) body["stop"] = json::array(flags_.stop.begin(), flags_.stop.end());
  json::object ours;
  if (!flags_.keep_alive.empty()) ours["keep_alive"] = flags_.keep_alive;
  if (!flags_.priority.empty()) ours["priority"] = flags_.priority;
  if (flags_.ctx) ours["ctx"] = *flags_.ctx;
  if (!ours.empty()) body["sluice"] = std::move(ours);
  return body;
}

Answer<void> Generator::chat(const json::array& messages, const std::string& verb, bool goes_on) {
  verb_ = verb;
  json::object body = request();
  body["messages"] = messages;
  if (goes_on) body["continue_final_message"] = true;
  if (flags_.think) body["chat_template_kwargs"] = json::object{{"enable_thinking", *flags_.think}};
  return run("/v1/chat/completions", std::move(body));
}

Answer<void> Generator::complete(const std::string& prompt, const std::string& verb) {
  verb_ = verb;
  json::object body = request();
  body["prompt"] = prompt;
  return run("/v1/completions", std::move(body));
}

Answer<void> Generator::run(const std::string& target, json::object body) {
  generation_ = {};
  sanitiser_ = Sanitiser(client_.terminal.utf8);
  start_ms_ = now_ms();
  const bool limited = flags_.wait_ms && *flags_.wait_ms >= 0;
  const int64_t deadline = limited ? start_ms_ + *flags_.wait_ms : kForever;
  const std::string text = json_text(body);
  if (flags_.wait_ms == 0) {
    SLUICE_TRY(const auto answer, link_.call("GET", "/sluice/v1/requests"));
    SLUICE_TRY(const auto requests, requests_from_json(answer));
    if (!requests.empty()) return Failure(wait_over());
  }
  for (;;) {
    auto done = run_once(target, text, deadline);
    generation_.total_ms = static_cast<double>(now_ms() - start_ms_);
    if (done) return success();
    const Failure& failure = done.error();
    // With --wait a full queue is asked again; without it the person decides.
    const bool busy = failure.status == 429 || failure.status == 503;
    if (!busy || !flags_.wait_ms || !generation_.text.empty()) return done;
    const int64_t left = deadline == kForever ? kMaxRetryPauseMs : deadline - now_ms();
    if (left <= 0) return Failure(wait_over());
    SLUICE_TRY(interruptible_sleep(
        std::clamp<int64_t>(failure.retry_after_s * 1000, 100, std::min(left, kMaxRetryPauseMs))));
  }
}

Answer<void> Generator::run_once(const std::string& target,
                                 const std::string& body,
                                 int64_t wait_deadline) {
  ProgressLine progress(client_.terminal);
  const bool can_time_out = flags_.stream && wait_deadline != kForever;
  // The daemon holds a stream's head while nothing has been decided, so waiting in the queue may
  // show only here.
  const int64_t head_ms =
      can_time_out ? std::max<int64_t>(0, wait_deadline - now_ms()) + 10'000 : kForever;
  auto sent = link_.send("POST", target, body, head_ms, [&] { progress.show("  waiting"); });
  if (!sent) {
    progress.clear();
    return sent.error().error.code == kTimedOut ? Failure(wait_over()) : std::move(sent).error();
  }
  AnswerStream& stream = sent.value();
  if (stream.head().status >= 400) {
    progress.clear();
    SLUICE_TRY(const std::string text, stream.rest(kAnswerTimeoutMs));
    return failure_of(stream.head(), text);
  }
  if (stream.head().is_event_stream())
    return consume_stream(std::move(stream), wait_deadline, progress);
  auto text = stream.rest(kForever);
  progress.clear();
  if (!text) return Failure(std::move(text).error());
  return consume_document(text.value());
}

Answer<void> Generator::consume_stream(AnswerStream stream,
                                       int64_t wait_deadline,
                                       ProgressLine& progress) {
  SseParser parser;
  std::vector<SseEvent> events;
  const std::string place =
      stream.head().header("sluice-queue");  // "position=2;eta=40"; absent: it has begun
  std::string phase = place.empty() ? "working" : "queued " + place;
  bool began = false;
  int64_t asked_ms = now_ms();
  for (;;) {
    auto piece = stream.next(kTickMs);
    if (!piece) {
      if (piece.error().code != kTimedOut) {
        progress.clear();
        if (auto finished = finish_text(); !finished) return Failure(finished.error());
        if (pending_signal() != 0) generation_.finish_reason = "interrupted";
        return Failure(std::move(piece).error());
      }
      if (began) continue;
      progress.show("  " + phase);
      const bool out_of_time = wait_deadline != kForever && now_ms() > wait_deadline;
      const bool due = client_.terminal.progress && now_ms() - asked_ms > kAskMs;
      if (!out_of_time && !due) continue;
      // Comments come after seconds of silence only; asking tells sooner.
      asked_ms = now_ms();
      const std::string now_in = phase_of_request(link_, stream.head().header("sluice-request-id"));
      if (!now_in.empty()) phase = now_in;
      if (!out_of_time) continue;
      if (phase.starts_with("queued")) {
        progress.clear();
        return Failure(wait_over());
      }
      wait_deadline = kForever;  // it has begun: from here on there is nothing to wait out
      continue;
    }
    if (piece.value().empty()) {
      progress.clear();
      SLUICE_TRY(finish_text());
      return Failure(Error{kConnectionLost,
                           "the daemon ended the stream before the answer was whole",
                           "sluice status"});
    }
    events.clear();
    SLUICE_TRY(parser.feed(piece.value(), events));
    for (const SseEvent& event : events) {
      if (event.is_comment) {
        if (!phase_of(event.data).empty()) phase = phase_of(event.data);
        continue;
      }
      if (event.data == "[DONE]") {
        progress.clear();
        SLUICE_TRY(finish_text());
        return success();
      }
      auto value = parse_json(event.data);
      const json::object* chunk = value ? value.value().if_object() : nullptr;
      if (chunk == nullptr)
        return Failure(Error{kBadAnswer, "an event of the stream is not a JSON object"});
      if (chunk->contains("error")) {
        progress.clear();
        SLUICE_TRY(finish_text());
        return Failure(parse_error_document(event.data, 500));
      }
      if (!began) {
        progress.clear();
        began = !generation_.text.empty();
      }
      SLUICE_TRY(take_chunk(*chunk));
    }
  }
}

Answer<void> Generator::consume_document(const std::string& text) {
  auto value = parse_json(text);
  const json::object* document = value ? value.value().if_object() : nullptr;
  if (document == nullptr) return Failure(Error{kBadAnswer, "the answer is not a JSON object"});
  const json::array* choices = array_field(*document, "choices");
  const json::object* choice =
      choices == nullptr || choices->empty() ? nullptr : choices->front().if_object();
  if (choice == nullptr) return Failure(Error{kBadAnswer, "the answer holds no choice"});
  const json::object* message = object_field(*choice, "message");
  generation_.text =
      message == nullptr ? text_field(*choice, "text") : text_field(*message, "content");
  generation_.finish_reason = text_field(*choice, "finish_reason");
  generation_.ttft_ms = static_cast<double>(now_ms() - start_ms_);
  take_usage(*document);
  if (client_.globals.json) return success();
  const bool tty = client_.terminal.stdout_tty;
  SLUICE_TRY(write_stdout(tty ? sanitiser_.feed(generation_.text) : generation_.text));
  SLUICE_TRY(finish_text());
  return success();
}

void Generator::take_usage(const json::object& chunk) {
  if (const json::object* usage = object_field(chunk, "usage")) {
    generation_.prompt_tokens = integer_field(*usage, "prompt_tokens");
    generation_.completion_tokens = integer_field(*usage, "completion_tokens");
    const json::object* details = object_field(*usage, "prompt_tokens_details");
    if (details != nullptr) generation_.cached_tokens = integer_field(*details, "cached_tokens");
  }
  if (const json::object* ours = object_field(chunk, "sluice")) {
    generation_.prefill_tps = number_field(*ours, "prefill_tps");
    generation_.decode_tps = number_field(*ours, "decode_tps");
  }
}

Result<void> Generator::take_chunk(const json::object& chunk) {
  take_usage(chunk);
  const json::array* choices = array_field(chunk, "choices");
  const json::object* choice =
      choices == nullptr || choices->empty() ? nullptr : choices->front().if_object();
  if (choice == nullptr) return success();
  const std::string reason = text_field(*choice, "finish_reason");
  if (!reason.empty()) generation_.finish_reason = reason;
  const json::object* delta = object_field(*choice, "delta");
  const std::string piece =
      delta == nullptr ? text_field(*choice, "text") : text_field(*delta, "content");
  if (piece.empty()) return success();
  if (generation_.text.empty()) generation_.ttft_ms = static_cast<double>(now_ms() - start_ms_);
  generation_.text += piece;
  return print(piece);
}

Result<void> Generator::print(const std::string& piece) {
  if (client_.globals.json) {
    return write_stdout(json_text(with_schema(verb_, {{"type", "delta"}, {"text", piece}})) + "\n");
  }
  return write_stdout(client_.terminal.stdout_tty ? sanitiser_.feed(piece) : piece);
}

// Ends the line on a terminal; a pipe gets the text and nothing else.
Result<void> Generator::finish_text() {
  if (client_.globals.json || !client_.terminal.stdout_tty || generation_.text.empty())
    return success();
  const std::string rest = sanitiser_.finish();
  return write_stdout(rest + (generation_.text.ends_with('\n') ? "" : "\n"));
}

}  // namespace sluice
