// The way to the daemon: finds it (and starts it where that is wanted), sends requests, reads
// answers.
#pragma once

#include <boost/json/value.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "client/connection.h"
#include "client/failure.h"
#include "client/globals.h"
#include "client/http_reader.h"

namespace sluice {

inline constexpr size_t kMaxAnswerBytes = 64u << 20;  // of an answer that is kept whole
inline constexpr int64_t kAnswerTimeoutMs = 30'000;   // silence of a route that computes nothing

// One answer on its way, head already read.
class AnswerStream {
 public:
  AnswerStream(Connection connection, HttpReader reader, std::string body)
      : connection_(std::move(connection)), reader_(std::move(reader)), body_(std::move(body)) {}

  const ResponseHead& head() const { return reader_.head(); }
  // The next piece of the body; empty text = the end. Errors: timed_out (the stream stays usable),
  // interrupted, pipe_closed, connection_lost, protocol.
  Result<std::string> next(int64_t timeout_ms);
  // The rest as one text, at most kMaxAnswerBytes.
  Result<std::string> rest(int64_t timeout_ms);

 private:
  Connection connection_;
  HttpReader reader_;
  std::string body_;  // decoded, not yet taken
};

class DaemonLink {
 public:
  enum class Start : uint8_t { kNever, kIfNeeded };

  // Finds a daemon that accepts connections; with kIfNeeded starts one when nothing was named and
  // none runs (unless
  // --no-autostart). Errors: daemon_unreachable, not_permitted, invalid_host.
  static Answer<DaemonLink> find(const Globals& globals, Start start);

  // Sends one request on a connection of its own and reads the head. `timeout_ms` is for the head.
  Answer<AnswerStream> send(std::string_view method,
                            std::string_view target,
                            std::string_view body,
                            int64_t timeout_ms,
                            const std::function<void()>& while_waiting = {}) const;

  // A JSON request with a JSON answer; an answer of 400 and up is a Failure with the daemon's code.
  Answer<boost::json::value> call(std::string_view method,
                                  std::string_view target,
                                  const std::optional<boost::json::value>& body = std::nullopt,
                                  int64_t timeout_ms = kAnswerTimeoutMs) const;

  const Address& address() const { return address_; }

 private:
  DaemonLink(Address address, const Globals& globals)
      : address_(std::move(address)), globals_(globals) {}
  // A native route that is not there: is the daemon of another API version? Keeps `failure` when it
  // is not.
  Failure explain_missing_route(Failure failure) const;

  Address address_;
  Globals globals_;
};

// "/sluice/v1/models/" + percent-encoded name.
std::string model_route(const std::string& model, std::string_view suffix = "");
std::string percent_encode(std::string_view text);

// An answer's failure, read from its error body.
Failure failure_of(const ResponseHead& head, std::string_view body);

}  // namespace sluice
