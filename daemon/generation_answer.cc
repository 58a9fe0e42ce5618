#include "daemon/generation_answer.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "daemon/protocol/json_text.h"
#include "daemon/random_id.h"
#include "daemon/sse.h"

namespace sluice {
namespace {

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::chrono::milliseconds ms(int64_t n) { return std::chrono::milliseconds(n); }

}  // namespace

GenerationAnswer::GenerationAnswer(App& app, std::shared_ptr<GenerationJob> job)
    : app_(app), job_(std::move(job)) {}

void GenerationAnswer::start(std::function<void()> wake) {
  started_ = last_sent_ = SteadyClock::now();
  job_->start(std::move(wake));
}

void GenerationAnswer::cancel(Gone why) {
  if (!ended_) job_->cancel(why);
  ended_ = true;
}

AnswerStep GenerationAnswer::wait_until(SteadyClock::time_point t) const {
  AnswerStep step;
  step.until = t;
  return step;
}

AnswerStep GenerationAnswer::error_before_head(const ApiError& error) {
  ended_ = true;
  AnswerStep step;
  step.kind = AnswerStep::Kind::kRespond;
  step.response = error_response(error, job_->request_id());
  const Snapshot s = job_->snapshot();
  if (!s.queue_id.empty()) step.response.headers.emplace_back("Sluice-Request-Id", s.queue_id);
  return step;
}

HeaderList GenerationAnswer::generation_headers(const Snapshot& s) const {
  HeaderList out;
  if (!s.queue_id.empty()) out.emplace_back("Sluice-Request-Id", s.queue_id);
  if (s.position > 0) {
    out.emplace_back("Sluice-Queue",
                     fmt::format("position={};eta={}", s.position, app_.queue.retry_after_s()));
  }
  if (s.spec != nullptr && !s.spec->params.ignored.empty()) {
    std::string names;
    for (const std::string& name : s.spec->params.ignored)
      names += (names.empty() ? "" : ", ") + name;
    out.emplace_back("Sluice-Warning", fmt::format("ignored: {}", names));
  }
  return out;
}

AnswerStep GenerationAnswer::head(const Snapshot& s, const char* content_type) {
  head_sent_ = true;
  last_sent_ = SteadyClock::now();
  AnswerStep step;
  step.kind = AnswerStep::Kind::kHead;
  step.response.headers = generation_headers(s);
  step.response.headers.emplace_back("Content-Type", content_type);
  step.response.headers.emplace_back("Cache-Control", "no-cache");
  return step;
}

const AnswerId& GenerationAnswer::answer_id(const GenerationSpec& spec) {
  if (!id_) {
    id_ = AnswerId{fmt::format("{}-{}", spec.chat ? "chatcmpl" : "cmpl", random_id()),
                   unix_seconds(),
                   spec.model};
    const auto n = static_cast<size_t>(spec.n_choices());
    role_sent_.resize(n);
    texts_.resize(n);
  }
  return *id_;
}

AnswerStep GenerationAnswer::next(SteadyClock::time_point now, bool can_chunk) {
  // The snapshot first: what it calls finished has all its deltas in the take that follows.
  const Snapshot s = job_->snapshot();
  std::vector<Delta> deltas = job_->take();
  if (s.spec == nullptr) {
    if (s.finished)
      return error_before_head(
          s.error.value_or(ApiError{.error = Error{"internal", "no answer was made"}}));
    return wait_until(now + std::chrono::hours(1));
  }
  answer_id(*s.spec);
  return s.spec->params.stream ? next_event(now, s, std::move(deltas))
                               : next_document(now, s, std::move(deltas), can_chunk);
}

AnswerStep GenerationAnswer::next_event(SteadyClock::time_point now,
                                        const Snapshot& s,
                                        std::vector<Delta> deltas) {
  AnswerStep step;
  std::string data = events_of(*s.spec, std::move(deltas));
  if (!head_sent_) {
    if (data.empty() && s.finished && s.error) return error_before_head(*s.error);
    const auto give_up = started_ + ms(app_.options.http.early_headers_ms);
    if (data.empty() && !s.finished && now < give_up) return wait_until(give_up);
    step = head(s, "text/event-stream");
    // Whatever there is goes with the head, in one write.
    step.data = data.empty() && !s.finished ? heartbeat(s) : std::move(data);
    return step;
  }
  if (data.empty() && s.finished) {
    ended_ = true;
    step.kind = s.error ? AnswerStep::Kind::kEndClose : AnswerStep::Kind::kEnd;
    // A failed stream never ends in [DONE].
    step.data = s.error ? sse_event(error_document(*s.error, job_->request_id())) : last_events(s);
    return step;
  }
  if (data.empty()) {
    const auto beat = last_sent_ + ms(app_.options.http.heartbeat_ms);
    if (now < beat) return wait_until(beat);
    data = heartbeat(s);
  }
  last_sent_ = now;
  step.kind = AnswerStep::Kind::kData;
  step.data = std::move(data);
  return step;
}

std::string GenerationAnswer::heartbeat(const Snapshot& s) const {
  const Progress& p = job_->progress();
  const Phase phase = p.phase.load(std::memory_order_relaxed);
  if (phase == Phase::kQueued || phase == Phase::kLoad) {
    return sse_comment(phase == Phase::kQueued ? fmt::format("sluice queued {}", s.position)
                                               : "sluice load");
  }
  return sse_comment(fmt::format("sluice {} {}/{}",
                                 phase_name(phase),
                                 p.done.load(std::memory_order_relaxed),
                                 p.total.load(std::memory_order_relaxed)));
}

std::string GenerationAnswer::events_of(const GenerationSpec& spec, std::vector<Delta> deltas) {
  std::string out;
  for (Delta& d : deltas) {
    const bool last = !d.finish.empty() && d.choice + 1 == spec.n_choices();
    if (last) {
      last_finish_ = std::move(d);
    } else {
      out += event_of(spec, d, nullptr);
    }
  }
  return out;
}

std::string GenerationAnswer::event_of(const GenerationSpec& spec,
                                       const Delta& d,
                                       const Timings* timings) {
  ChunkOptions o;
  o.choice = d.choice;
  o.with_usage_null = spec.params.include_usage;
  std::string out;
  if (spec.chat && !role_sent_[static_cast<size_t>(d.choice)]) {
    role_sent_[static_cast<size_t>(d.choice)] = true;
    out += sse_event(chat_chunk(*id_, {{"role", "assistant"}, {"content", ""}}, o));
  }
  if (!d.finish.empty()) o.finish = d.finish;
  if (spec.params.logprobs && d.finish.empty()) o.logprobs = &d.logprobs;
  o.timings = timings;
  if (!spec.chat) return out + sse_event(completion_chunk(*id_, d.text, o));
  boost::json::object delta;
  if (d.finish.empty()) delta["content"] = d.text;
  return out + sse_event(chat_chunk(*id_, std::move(delta), o));
}

std::string GenerationAnswer::last_events(const Snapshot& s) {
  std::string out;
  if (last_finish_) out += event_of(*s.spec, *last_finish_, &s.timings);
  if (s.spec->params.include_usage) out += sse_event(usage_chunk(*id_, s.spec->chat, s.usage));
  return out + std::string(kSseDone);
}

AnswerStep GenerationAnswer::next_document(SteadyClock::time_point now,
                                           const Snapshot& s,
                                           std::vector<Delta> deltas,
                                           bool can_chunk) {
  for (Delta& d : deltas) {
    ChoiceText& t = texts_[static_cast<size_t>(d.choice)];
    t.text += d.text;
    for (TokenLogprob& lp : d.logprobs) t.logprobs.push_back(std::move(lp));
    if (!d.finish.empty()) t.finish_reason = std::move(d.finish);
  }
  if (!s.finished) {
    const auto pad = last_sent_ + ms(app_.options.http.pad_json_ms);
    if (now < pad || !can_chunk) return wait_until(can_chunk ? pad : now + std::chrono::hours(1));
    AnswerStep step;
    if (!head_sent_) {
      step = head(s, "application/json");
    } else {
      step.kind = AnswerStep::Kind::kData;
    }
    step.data.assign(1, ' ');
    last_sent_ = now;
    return step;
  }
  AnswerStep step;
  if (s.error && !head_sent_) return error_before_head(*s.error);
  ended_ = true;
  if (s.error) {
    app_.failed_answers.remember(job_->key(), *s.error);
    step.kind = AnswerStep::Kind::kAbort;
    return step;
  }
  const bool logprobs = s.spec->params.logprobs;
  const auto doc = s.spec->chat ? chat_document(*id_, texts_, logprobs, s.usage, s.timings)
                                : completion_document(*id_, texts_, logprobs, s.usage, s.timings);
  if (head_sent_) {
    step.kind = AnswerStep::Kind::kEnd;
    step.data = json_text(doc);
    return step;
  }
  step.kind = AnswerStep::Kind::kRespond;
  step.response = json_response(200, doc);
  for (auto& header : generation_headers(s)) step.response.headers.push_back(std::move(header));
  return step;
}

}  // namespace sluice
