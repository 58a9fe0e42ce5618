#include "daemon/answer.h"

#include <fmt/format.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "base/log.h"
#include "daemon/protocol/json_text.h"
#include "daemon/worker.h"

namespace sluice {
namespace {

class WorkerAnswer final : public LongAnswer, public std::enable_shared_from_this<WorkerAnswer> {
 public:
  WorkerAnswer(Worker& worker,
               std::function<HttpResponse()> make,
               std::string request_id,
               bool large,
               IfGone if_gone)
      : worker_(worker),
        make_(std::move(make)),
        request_id_(std::move(request_id)),
        large_(large),
        if_gone_(if_gone) {}

  void start(std::function<void()> wake) override {
    worker_.post(
        [self = shared_from_this(), wake = std::move(wake)] {
          if (self->gone_.load() && self->if_gone_ == IfGone::kSkip) return;
          HttpResponse made = self->run();
          {
            const std::lock_guard lock(self->mutex_);
            self->made_ = std::move(made);
          }
          wake();
        },
        large_);
  }

  AnswerStep next(SteadyClock::time_point now, bool /*can_chunk*/) override {
    const std::lock_guard lock(mutex_);
    AnswerStep step;
    if (made_) {
      step.kind = AnswerStep::Kind::kRespond;
      step.response = std::move(*made_);
    } else {
      step.until = now + std::chrono::hours(1);
    }
    return step;
  }

  void cancel(Gone) override { gone_.store(true); }

 private:
  HttpResponse run() {
    try {
      return make_();
    } catch (const std::exception& e) {
      spdlog::error("a request failed: {} request={}", e.what(), request_id_);
      return error_response(
          Error{"internal", "the daemon failed on this request; its log says more"}, request_id_);
    }
  }

  Worker& worker_;
  const std::function<HttpResponse()> make_;
  const std::string request_id_;
  const bool large_;
  const IfGone if_gone_;
  std::atomic<bool> gone_{false};
  std::mutex mutex_;
  std::optional<HttpResponse> made_;  // guarded by mutex_
};

}  // namespace

std::shared_ptr<LongAnswer> answer_on(Worker& worker,
                                      std::function<HttpResponse()> make,
                                      std::string request_id,
                                      bool large,
                                      IfGone if_gone) {
  return std::make_shared<WorkerAnswer>(
      worker, std::move(make), std::move(request_id), large, if_gone);
}

HttpResponse json_response(int status, const boost::json::value& body) {
  HttpResponse r;
  r.status = status;
  r.headers.emplace_back("Content-Type", "application/json");
  r.body = json_text(body);
  r.body += '\n';
  return r;
}

HttpResponse error_response(const ApiError& error, std::string_view request_id) {
  HttpResponse r = json_response(error.http_status(), error_document(error, request_id));
  if (error.retry_after_s > 0)
    r.headers.emplace_back("Retry-After", fmt::format("{}", error.retry_after_s));
  if (error.no_retry || error.http_status() == 501)
    r.headers.emplace_back("x-should-retry", "false");
  return r;
}

const char* status_text(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Request Cancelled";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

}  // namespace sluice
