// GET /sluice/v1/events?types=&since=&end=1: server-sent events (INTERFACE 3.7).
#include <fmt/format.h>

#include <optional>
#include <utility>

#include "base/text_escape.h"
#include "daemon/http_parse.h"
#include "daemon/protocol/json_text.h"
#include "daemon/routes.h"
#include "daemon/sse.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr size_t kBatchBytes = 64u << 10;

std::string frame(uint64_t seq, std::string_view type, std::string_view data) {
  return fmt::format("id: {}\nevent: {}\ndata: {}\n\n", seq, type, data);
}

class EventsAnswer final : public LongAnswer {
 public:
  // `to_now`: the stream ends with what has happened when it begins.
  EventsAnswer(App& app,
               EventFilter filter,
               std::optional<uint64_t> since,
               bool to_now,
               std::string request_id)
      : app_(app),
        filter_(std::move(filter)),
        request_id_(std::move(request_id)),
        to_now_(to_now),
        at_(since.value_or(app.events.last())) {}
  ~EventsAnswer() override { cancel(Gone::kLeft); }

  void start(std::function<void()> wake) override {
    reader_ = app_.events.join(std::move(wake));
    app_.memory_watch.nudge();  // it tells of blocks while somebody reads
  }

  AnswerStep next(SteadyClock::time_point now, bool /*can_chunk*/) override {
    AnswerStep step;
    if (!reader_) {
      step.kind = AnswerStep::Kind::kRespond;
      ApiError e{.error = Error{"overloaded", "too many readers of events"}};
      e.retry_after_s = 5;
      step.response = error_response(e, request_id_);
      return step;
    }
    if (!head_sent_) {
      head_sent_ = true;
      last_sent_ = now;
      step.kind = AnswerStep::Kind::kHead;
      step.response.headers.emplace_back("Content-Type", "text/event-stream");
      step.response.headers.emplace_back("Cache-Control", "no-cache");
      const uint64_t seq = app_.events.last();
      at_ = std::min(at_, seq);
      end_ = seq;
      step.data = frame(
          at_, "hello", json_text(json::object{{"type", "hello"}, {"seq", seq}, {"since", at_}}));
      return step;
    }
    app_.events.arm(*reader_);  // before reading: what comes in between wakes us
    const bool draining = app_.draining.load();
    const auto batch = app_.events.read(at_, filter_, kBatchBytes);
    at_ = batch.next;
    if (batch.dropped > 0) {
      step.data = frame(
          at_, "dropped", json_text(json::object{{"type", "dropped"}, {"count", batch.dropped}}));
    }
    for (const Event& e : batch.events) step.data += frame(e.seq, e.type, e.data);
    const auto beat = last_sent_ + std::chrono::milliseconds(app_.options.http.heartbeat_ms);
    if (step.data.empty() && (draining || (to_now_ && at_ >= end_))) {
      step.kind = AnswerStep::Kind::kEnd;
      cancel(Gone::kLeft);
    } else if (step.data.empty() && now < beat) {
      step.until = beat;
    } else {
      if (step.data.empty()) step.data = sse_comment("sluice");
      last_sent_ = now;
      step.kind = AnswerStep::Kind::kData;
    }
    return step;
  }

  void cancel(Gone) override {
    if (reader_) app_.events.leave(*std::exchange(reader_, std::nullopt));
  }

 private:
  App& app_;
  const EventFilter filter_;
  const std::string request_id_;
  const bool to_now_;
  uint64_t end_ = 0;  // with to_now_
  uint64_t at_;
  std::optional<uint64_t> reader_;
  bool head_sent_ = false;
  SteadyClock::time_point last_sent_{};
};

Result<bool> query_flag(const std::string& query, const char* name) {
  auto value = query_value(query, name);
  if (!value) return std::move(value).error();
  return value.value() == "1";
}

Result<Answer> open_events(App& app, const HttpRequest& request) {
  EventFilter filter;
  filter.uid = request.uid;
  filter.all_users = app.may_manage(request.uid);
  SLUICE_TRY(const std::string types, query_value(request.query, "types"));
  for (size_t at = 0; at < types.size() && filter.types.size() < 32;) {
    const size_t end = std::min(types.find(',', at), types.size());
    if (end > at) filter.types.push_back(types.substr(at, end - at));
    at = end + 1;
  }
  SLUICE_TRY(const std::string since, query_value(request.query, "since"));
  SLUICE_TRY(auto after, sequence_number(since, "since"));
  if (!after) {
    SLUICE_TRY(after, sequence_number(request.header("last-event-id"), "Last-Event-ID"));
  }
  SLUICE_TRY(const bool to_now, query_flag(request.query, "end"));
  return Answer(std::make_shared<EventsAnswer>(app, std::move(filter), after, to_now, request.id));
}

Answer events(App& app, HttpRequest request, std::string) {
  if (request.method == "HEAD") {
    HttpResponse r;
    r.headers.emplace_back("Content-Type", "text/event-stream");
    return r;
  }
  auto answer = open_events(app, request);
  if (!answer) return error_response(std::move(answer).error(), request.id);
  return std::move(answer).value();
}

constexpr Route kRoutes[] = {{"GET", "/sluice/v1/events", events}};

}  // namespace

std::span<const Route> event_routes() { return kRoutes; }

}  // namespace sluice
