// One connection: reads requests strictly, one after the other, and writes their answers in order.
// Lives on the io thread only. Everything it waits for has a deadline, which the server's sweep
// enforces.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/answer.h"
#include "daemon/app.h"
#include "daemon/asio.h"
#include "daemon/http_parse.h"

namespace sluice {

// What sessions share; owned by the server, io thread only.
struct SessionShared {
  App& app;
  uint64_t bodies_in_flight_bytes = 0;
  size_t answering = 0;  // sessions that owe an answer
};

class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(LocalSocket socket, SessionShared& shared, uint32_t uid);
  ~HttpSession();

  // Runs until the connection ends; `on_end` is called once then.
  void start(std::function<void()> on_end);

  uint32_t uid() const { return uid_; }
  // Between requests, or still sending its head: may be closed in favour of a new connection.
  bool evictable() const { return stage_ == Stage::kIdle || stage_ == Stage::kHead; }
  std::chrono::steady_clock::time_point waiting_since() const { return stage_since_; }
  // Ends what waits past its deadline.
  void sweep(std::chrono::steady_clock::time_point now);
  // Ends the connection now.
  void close();

 private:
  enum class Stage : uint8_t { kIdle, kHead, kBody, kAnswer };
  // Body bytes counted while a request holds them.
  class BodyHold;

  asio::awaitable<void> serve();
  asio::awaitable<bool> serve_one();
  asio::awaitable<bool> fill();  // false: end of input, error or deadline
  asio::awaitable<Result<std::optional<ParsedHead>>> read_head();  // nullopt: the client is done
  asio::awaitable<Result<void>> on_worker(std::function<Result<void>()> work);
  asio::awaitable<Result<void>> reserve_body(BodyHold& hold, uint64_t bytes);
  asio::awaitable<Result<bool>> read_body(const BodyPlan& plan, BodyHold& hold, std::string& body);
  asio::awaitable<bool> answer(HttpRequest request);
  asio::awaitable<bool> run_long(std::shared_ptr<LongAnswer> answer, const HttpRequest& request);
  asio::awaitable<bool> respond(const HttpResponse& response, const HttpRequest& request);
  asio::awaitable<bool> refuse(Error error);
  asio::awaitable<bool> write(std::string_view data);
  asio::awaitable<void> watch_hangup();
  std::string head_text(const HttpResponse& response,
                        const HttpRequest& request,
                        std::string_view framing,
                        bool close) const;
  void set_stage(Stage stage);
  void set_deadline(int64_t ms);
  bool peer_hung_up();

  LocalSocket socket_;
  SessionShared& shared_;
  const HttpLimits& limits_;
  const uint32_t uid_;
  std::string buffer_;  // received, not yet taken
  Stage stage_ = Stage::kIdle;
  std::chrono::steady_clock::time_point stage_since_;
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::time_point::max();
  bool timed_out_ = false;
  bool peer_gone_ = false;
  bool watching_ = false;
  asio::steady_timer wake_;  // of a long answer
};

}  // namespace sluice
