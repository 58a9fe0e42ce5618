#include "daemon/http_session.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "base/log.h"
#include "base/text_escape.h"
#include "daemon/random_id.h"
#include "daemon/routes.h"

namespace sluice {
namespace {

constexpr size_t kReadBytes = 64u << 10;

std::string lower(std::string_view s) {
  std::string out(s);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

// Bodies are JSON in UTF-8; anything else is told so before it is read.
Result<void> check_content(const ParsedHead& head) {
  const bool has_body = head.body.chunked || head.body.length > 0;
  if (!has_body) return success();
  const std::string coding = lower(head.request.header("content-encoding"));
  if (!coding.empty() && coding != "identity") {
    return Error{"unsupported_media_type",
                 fmt::format("Content-Encoding {} is not understood", escape_text(coding))};
  }
  const std::string type = lower(head.request.header("content-type"));
  if (head.request.method != "POST" || type.empty()) return success();
  std::string_view media = std::string_view(type).substr(0, type.find(';'));
  while (!media.empty() && media.back() == ' ') media.remove_suffix(1);
  // `curl -d` without a header sends the second; what counts is whether the body is JSON.
  if (media != "application/json" && media != "application/x-www-form-urlencoded") {
    return Error{"unsupported_media_type",
                 fmt::format("Content-Type {} is not understood", escape_text(type)),
                 "send Content-Type: application/json"};
  }
  const size_t charset = type.find("charset=");
  if (charset != std::string::npos &&
      !std::string_view(type).substr(charset + 8).starts_with("utf-8") &&
      !std::string_view(type).substr(charset + 8).starts_with("\"utf-8\"")) {
    return Error{"unsupported_media_type", "JSON is read as UTF-8 only"};
  }
  return success();
}

}  // namespace

// Bytes in flight are those of connections; the ledger's part lives as long as the body and what is
// made of it, which a worker may have when the connection has gone.
class HttpSession::BodyHold {
 public:
  explicit BodyHold(SessionShared& shared)
      : memory(std::make_shared<HttpHold>(shared.app.http_memory)), shared_(shared) {}
  ~BodyHold() { shared_.bodies_in_flight_bytes -= bytes_; }
  BodyHold(const BodyHold&) = delete;
  BodyHold& operator=(const BodyHold&) = delete;

  Result<void> grow_to(uint64_t bytes, uint64_t limit) {
    if (bytes <= bytes_) return success();
    if (shared_.bodies_in_flight_bytes + (bytes - bytes_) > limit) {
      return Error{"overloaded", "too many request bodies are being received at once"};
    }
    shared_.bodies_in_flight_bytes += bytes - bytes_;
    bytes_ = bytes;
    return success();
  }

  const std::shared_ptr<HttpHold> memory;

 private:
  SessionShared& shared_;
  uint64_t bytes_ = 0;
};

HttpSession::HttpSession(LocalSocket socket, SessionShared& shared, uint32_t uid)
    : socket_(std::move(socket)),
      shared_(shared),
      limits_(shared.app.options.http),
      uid_(uid),
      stage_since_(SteadyClock::now()),
      wake_(socket_.get_executor()) {
  boost::system::error_code ec;
  socket_.non_blocking(true, ec);
}

HttpSession::~HttpSession() = default;

void HttpSession::start(std::function<void()> on_end) {
  asio::co_spawn(socket_.get_executor(),
                 serve(),
                 [self = shared_from_this(), on_end = std::move(on_end)](std::exception_ptr e) {
                   // Our own handlers catch theirs; what comes here is the library's or memory's.
                   if (e) {
                     try {
                       std::rethrow_exception(e);
                     } catch (const std::exception& ex) {
                       spdlog::error("a connection failed: {}", ex.what());
                     }
                   }
                   self->close();
                   on_end();
                 });
}

void HttpSession::set_stage(Stage stage) {
  stage_ = stage;
  stage_since_ = SteadyClock::now();
}

void HttpSession::set_deadline(int64_t ms) {
  deadline_ = SteadyClock::now() + std::chrono::milliseconds(ms);
}

void HttpSession::sweep(SteadyClock::time_point now) {
  if (now < deadline_) return;
  deadline_ = SteadyClock::time_point::max();
  timed_out_ = true;
  boost::system::error_code ec;
  socket_.cancel(ec);
}

void HttpSession::close() {
  boost::system::error_code ec;
  socket_.close(ec);
  wake_.cancel();
}

// Waits for input with no buffer of its own, so that an idle connection costs no memory.
asio::awaitable<bool> HttpSession::fill() {
  static std::array<char, kReadBytes> scratch;  // io thread only; not held over a suspension
  for (;;) {
    boost::system::error_code ec;
    const size_t n = socket_.read_some(asio::buffer(scratch), ec);
    if (!ec) {
      buffer_.append(scratch.data(), n);
      co_return true;
    }
    if (ec != asio::error::would_block && ec != asio::error::try_again) co_return false;
    const auto [wait_ec] = co_await socket_.async_wait(LocalSocket::wait_read, kAwait);
    if (wait_ec || timed_out_) co_return false;
  }
}

asio::awaitable<Result<std::optional<ParsedHead>>> HttpSession::read_head() {
  HeadScanner scanner(limits_);
  set_stage(Stage::kIdle);
  set_deadline(limits_.keep_alive_idle_ms);
  for (;;) {
    auto end = scanner.scan(buffer_);
    if (!end) co_return std::move(end).error();
    if (end.value()) {
      auto head = parse_head(std::string_view(buffer_).substr(0, *end.value()), limits_);
      buffer_.erase(0, *end.value());
      if (!head) co_return std::move(head).error();
      co_return std::optional<ParsedHead>(std::move(head).value());
    }
    // The clock runs from the first byte, however slowly the others come.
    if (!buffer_.empty() && stage_ == Stage::kIdle) {
      set_stage(Stage::kHead);
      set_deadline(limits_.header_ms);
    }
    const bool more = co_await fill();
    if (more) continue;
    if (timed_out_ && stage_ == Stage::kHead)
      co_return Error{"request_timeout", "the request's head did not come in time"};
    if (!timed_out_ && scanner.started())
      co_return Error{"invalid_request", "the request's head ends early"};
    co_return std::optional<ParsedHead>();
  }
}

// The ledger may take as long as a slow disk: this thread answers everybody else meanwhile.
asio::awaitable<Result<void>> HttpSession::on_worker(std::function<Result<void>()> work) {
  deadline_ = SteadyClock::time_point::max();  // our time, not the client's
  // Outlives a session that ends meanwhile.
  auto done = std::make_shared<std::optional<Result<void>>>();
  const auto executor = socket_.get_executor();
  shared_.app.worker.post([work = std::move(work), done, executor, weak = weak_from_this()] {
    Result<void> result = work();
    asio::post(executor, [done, result = std::move(result), weak] {
      *done = result;
      if (const auto self = weak.lock()) self->wake_.cancel();
    });
  });
  while (!*done && socket_.is_open()) {
    wake_.expires_at(SteadyClock::time_point::max());
    co_await wake_.async_wait(kAwait);
  }
  if (!*done) co_return Error{"cancelled", "the connection ended"};
  co_return **done;
}

// Room in the budget for `bytes` of a body. Pins and idle models make it, on a worker.
asio::awaitable<Result<void>> HttpSession::reserve_body(BodyHold& hold, uint64_t bytes) {
  const uint64_t want = bytes * HttpMemory::kBodyCopies;
  if (hold.memory->take_to(want)) co_return success();
  std::function<Result<void>()> grow = [memory = hold.memory, want] {
    return memory->grow_to(want);
  };
  co_return co_await on_worker(std::move(grow));
}

// Room is made as bytes come, a step ahead of them: what is only claimed takes nothing from
// anybody, and a claim that could not be met is refused before it comes.
asio::awaitable<Result<bool>> HttpSession::read_body(const BodyPlan& plan,
                                                     BodyHold& hold,
                                                     std::string& body) {
  constexpr uint64_t kStep = 256u << 10;
  set_stage(Stage::kBody);
  if (!plan.chunked && plan.length > kStep) {
    const uint64_t all = plan.length * HttpMemory::kBodyCopies;
    std::function<Result<void>()> ask = [memory = hold.memory, all] {
      return memory->could_grow_to(all);
    };
    auto possible = co_await on_worker(std::move(ask));
    if (!possible) co_return std::move(possible).error();
  }
  const uint64_t most = plan.chunked ? limits_.body_bytes + kStep : plan.length;
  const auto total = SteadyClock::now() + std::chrono::milliseconds(limits_.body_total_ms);
  if (plan.expects_continue) {
    const bool sent = co_await write("HTTP/1.1 100 Continue\r\n\r\n");
    if (!sent) co_return Error{"cancelled", "the client left"};
  }
  ChunkedReader chunks(limits_.body_bytes);
  for (;;) {
    bool complete = false;
    if (plan.chunked) {
      auto done = chunks.feed(buffer_, body);
      if (!done) co_return std::move(done).error();
      complete = done.value();
    } else {
      const size_t n =
          static_cast<size_t>(std::min<uint64_t>(plan.length - body.size(), buffer_.size()));
      body.append(buffer_, 0, n);
      buffer_.erase(0, n);
      complete = body.size() == plan.length;
    }
    // What follows a complete body is the next request's.
    const uint64_t come = body.size() + (complete ? 0 : buffer_.size());
    if (!complete) {
      if (auto held = hold.grow_to(come, limits_.bodies_in_flight_bytes); !held)
        co_return std::move(held).error();
    }
    const uint64_t next = come < kReadBytes ? kReadBytes : (come / kStep + 1) * kStep;
    const uint64_t room = complete ? come : std::min(next, most);
    if (room > 0) {
      auto reserved = co_await reserve_body(hold, room);
      if (!reserved) co_return std::move(reserved).error();
    }
    if (complete) co_return true;
    deadline_ =
        std::min(total, SteadyClock::now() + std::chrono::milliseconds(limits_.body_idle_ms));
    const bool more = co_await fill();
    if (more) continue;
    if (timed_out_) co_return Error{"request_timeout", "the request's body did not come in time"};
    co_return Error{"invalid_request", "the request's body ends early"};
  }
}

asio::awaitable<void> HttpSession::serve() {
  const auto self = shared_from_this();
  for (;;) {
    const bool again = co_await serve_one();
    if (!again) break;
    // A client that pipelines and reads could otherwise keep this thread to itself.
    co_await asio::post(socket_.get_executor(), asio::use_awaitable);
  }
  close();
}

// One request. False: the connection is done.
asio::awaitable<bool> HttpSession::serve_one() {
  auto head = co_await read_head();
  deadline_ = SteadyClock::time_point::max();
  if (!head) co_return co_await refuse(std::move(head).error());
  if (!head.value()) co_return false;
  ParsedHead parsed = std::move(*head.value());
  if (auto ok = check_content(parsed); !ok) co_return co_await refuse(std::move(ok).error());
  BodyHold hold(shared_);
  auto body = co_await read_body(parsed.body, hold, parsed.request.body);
  deadline_ = SteadyClock::time_point::max();
  if (!body) co_return co_await refuse(std::move(body).error());
  parsed.request.hold = hold.memory;
  parsed.request.uid = uid_;
  parsed.request.id = "req_" + random_id();
  set_stage(Stage::kAnswer);
  ++shared_.answering;
  const bool keep = co_await answer(std::move(parsed.request));
  --shared_.answering;
  co_return keep && !timed_out_;
}

asio::awaitable<bool> HttpSession::answer(HttpRequest request) {
  const auto begun = SteadyClock::now();
  HttpRequest line;  // what is needed after the route has taken the request
  line.method = request.method;
  line.path = request.path;
  line.minor_version = request.minor_version;
  line.keep_alive = request.keep_alive;
  line.id = request.id;
  std::optional<Answer> made;
  try {
    made = route(shared_.app, std::move(request));
  } catch (const std::exception& e) {
    spdlog::error("a request failed: {} request={}", e.what(), line.id);
    made = error_response(Error{"internal", "the daemon failed on this request; its log says more"},
                          line.id);
  }
  bool keep = false;
  if (auto* response = std::get_if<HttpResponse>(&*made)) {
    keep = co_await respond(*response, line);
  } else {
    keep = co_await run_long(std::get<std::shared_ptr<LongAnswer>>(*made), line);
  }
  spdlog::debug(
      "answered method={} path={} uid={} ms={} request={}",
      line.method,
      escape_text(line.path),
      uid_,
      std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begun).count(),
      line.id);
  co_return keep;
}

asio::awaitable<bool> HttpSession::run_long(std::shared_ptr<LongAnswer> answer,
                                            const HttpRequest& request) {
  if (!watching_) {
    watching_ = true;
    asio::co_spawn(
        socket_.get_executor(), watch_hangup(), [self = shared_from_this()](std::exception_ptr) {});
  }
  const auto executor = socket_.get_executor();
  // Posted to this thread, so that it cannot fall between looking at the answer and waiting for it.
  answer->start([weak = weak_from_this(), executor] {
    asio::post(executor, [weak] {
      if (const auto self = weak.lock()) self->wake_.cancel();
    });
  });
  const bool chunked = request.minor_version == 1;
  const auto framed = [&](std::string_view data) {
    if (data.empty()) return std::string();
    return chunked ? fmt::format("{:x}\r\n{}\r\n", data.size(), data) : std::string(data);
  };
  bool keep = true;
  for (;;) {
    if (peer_gone_ || !socket_.is_open()) break;
    AnswerStep step = answer->next(SteadyClock::now(), chunked);
    bool last = true;
    bool sent = false;
    switch (step.kind) {
      case AnswerStep::Kind::kWait: {
        wake_.expires_at(step.until);
        co_await wake_.async_wait(kAwait);
        continue;
      }
      case AnswerStep::Kind::kRespond: {
        const bool again = co_await respond(step.response, request);
        co_return again;
      }
      case AnswerStep::Kind::kHead: {
        keep = request.keep_alive && chunked;
        std::string out = head_text(
            step.response, request, chunked ? "Transfer-Encoding: chunked\r\n" : "", !keep);
        out += framed(step.data);
        sent = co_await write(out);
        last = false;
        break;
      }
      case AnswerStep::Kind::kData:
        sent = co_await write(framed(step.data));
        last = false;
        break;
      case AnswerStep::Kind::kEnd:
      case AnswerStep::Kind::kEndClose:
        sent = co_await write(framed(step.data) + (chunked ? "0\r\n\r\n" : ""));
        if (step.kind == AnswerStep::Kind::kEndClose) keep = false;
        break;
      case AnswerStep::Kind::kAbort:
        break;
    }
    if (last) co_return sent&& keep;
    if (!sent) break;
  }
  // Gone, or not reading for too long: either way nobody waits for this answer.
  answer->cancel(timed_out_ ? Gone::kTooSlow : Gone::kLeft);
  co_return false;
}

std::string HttpSession::head_text(const HttpResponse& response,
                                   const HttpRequest& request,
                                   std::string_view framing,
                                   bool close) const {
  std::string out =
      fmt::format("HTTP/1.1 {} {}\r\n", response.status, status_text(response.status));
  for (const auto& [name, value] : response.headers)
    fmt::format_to(std::back_inserter(out), "{}: {}\r\n", name, value);
  out += framing;
  fmt::format_to(std::back_inserter(out),
                 "X-Request-Id: {}\r\nConnection: {}\r\n\r\n",
                 request.id,
                 close ? "close" : "keep-alive");
  return out;
}

asio::awaitable<bool> HttpSession::respond(const HttpResponse& response,
                                           const HttpRequest& request) {
  const bool keep = request.keep_alive && request.minor_version == 1;
  std::string out = head_text(
      response, request, fmt::format("Content-Length: {}\r\n", response.body.size()), !keep);
  if (request.method != "HEAD") out += response.body;
  const bool sent = co_await write(out);
  co_return sent&& keep;
}

// The bytes that follow cannot be trusted: the answer is the last one.
asio::awaitable<bool> HttpSession::refuse(Error error) {
  HttpRequest request;
  request.id = "req_" + random_id();
  request.keep_alive = false;
  timed_out_ = false;
  ApiError e{.error = std::move(error)};
  // A body there is no room for now; later there may be.
  if (e.error.code == "budget_exceeded") e.status = 503;
  if (e.http_status() == 503) e.retry_after_s = 1;
  co_await respond(error_response(e, request.id), request);
  co_return false;
}

asio::awaitable<bool> HttpSession::write(std::string_view data) {
  bool ok = true;
  while (!data.empty()) {
    boost::system::error_code ec;
    const size_t n = socket_.write_some(asio::buffer(data.data(), data.size()), ec);
    if (!ec) {
      data.remove_prefix(n);
      continue;
    }
    ok = ec == asio::error::would_block || ec == asio::error::try_again;
    if (!ok) break;
    set_deadline(limits_.write_ms);  // without progress
    const auto [wait_ec] = co_await socket_.async_wait(LocalSocket::wait_write, kAwait);
    ok = !wait_ec && !timed_out_;
    if (!ok) break;
  }
  deadline_ = SteadyClock::time_point::max();
  co_return ok;
}

bool HttpSession::peer_hung_up() {
  pollfd p{};
  p.fd = socket_.native_handle();
  return ::poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

// A closed connection is seen while we only wait, in whatever phase; a client that merely stopped
// sending (half-close) still reads and is served.
asio::awaitable<void> HttpSession::watch_hangup() {
  const auto self = shared_from_this();
  asio::steady_timer pause(socket_.get_executor());
  while (socket_.is_open()) {
    if (peer_hung_up()) break;
    const auto [ec] = co_await socket_.async_wait(LocalSocket::wait_error, kAwait);
    if (ec) co_return;
    if (peer_hung_up()) break;
    // Urgent data and the like: not ours to read, and no reason to spin.
    pause.expires_after(std::chrono::milliseconds(100));
    co_await pause.async_wait(kAwait);
  }
  peer_gone_ = true;
  wake_.cancel();
}

}  // namespace sluice
