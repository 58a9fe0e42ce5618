#include "client/daemon_link.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/text_escape.h"
#include "client/autostart.h"
#include "client/interrupt.h"
#include "daemon/protocol/json_text.h"
#include "daemon/protocol/native.h"

namespace sluice {
namespace {

constexpr int64_t kTickMs = 100;  // how often `while_waiting` is called
constexpr int64_t kSendTimeoutMs = 30'000;

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string request_text(const Address& address,
                         std::string_view method,
                         std::string_view target,
                         std::string_view body) {
  std::string text = fmt::format(
      "{} {} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sluice\r\nConnection: close\r\n",
      method,
      target);
  const std::string token = address.path.empty() ? variable("SLUICE_TOKEN") : "";
  const bool printable =
      std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < 0x7F; });
  if (!token.empty() && printable) text += fmt::format("Authorization: Bearer {}\r\n", token);
  if (!body.empty()) text += "Content-Type: application/json\r\n";
  if (!body.empty() || method == "POST" || method == "PUT")
    text += fmt::format("Content-Length: {}\r\n", body.size());
  text += "\r\n";
  text += body;
  return text;
}

// Reads until the head is there.
Result<void> read_head(Connection& connection,
                       HttpReader& reader,
                       std::string& body,
                       int64_t timeout_ms,
                       const std::function<void()>& while_waiting) {
  const int64_t deadline = deadline_after(timeout_ms);
  char buffer[16384];
  while (!reader.has_head()) {
    const int64_t left = time_left(deadline);
    const bool tick = while_waiting && (left == kForever || left > kTickMs);
    auto n = connection.read_some(buffer, sizeof(buffer), tick ? kTickMs : left);
    if (!n) {
      if (n.error().code != kTimedOut || !tick) return std::move(n).error();
      while_waiting();
      continue;
    }
    if (n.value() == 0) return reader.finish();
    SLUICE_TRY(reader.feed(std::string_view(buffer, n.value()), body));
  }
  return success();
}

}  // namespace

Result<std::string> AnswerStream::next(int64_t timeout_ms) {
  char buffer[16384];
  while (body_.empty()) {
    if (reader_.done()) return std::string();
    SLUICE_TRY(const size_t n, connection_.read_some(buffer, sizeof(buffer), timeout_ms));
    if (n == 0) {
      SLUICE_TRY(reader_.finish());
      return std::string();
    }
    SLUICE_TRY(reader_.feed(std::string_view(buffer, n), body_));
  }
  return std::exchange(body_, {});
}

Result<std::string> AnswerStream::rest(int64_t timeout_ms) {
  std::string whole;
  for (;;) {
    SLUICE_TRY(const std::string piece, next(timeout_ms));
    if (piece.empty()) return whole;
    whole += piece;
    if (whole.size() > kMaxAnswerBytes) {
      return Error{"protocol",
                   fmt::format("the answer is larger than {} MiB", kMaxAnswerBytes >> 20)};
    }
  }
}

Answer<DaemonLink> DaemonLink::find(const Globals& globals, Start start) {
  SLUICE_TRY(const AddressList list, find_addresses(globals.host, variable("SLUICE_HOST")));
  std::optional<Error> first;
  for (const Address& address : list.candidates) {
    auto connection = Connection::open(address, globals.connect_timeout_ms);
    if (connection) return DaemonLink(address, globals);
    const Error& e = connection.error();
    if (e.code == kInterrupted) return e;
    if (!first) first = e;
    if (e.code != kUnreachable) break;  // there, but not for us: never look further
  }
  const bool may_start = start == Start::kIfNeeded && !list.named && !globals.no_autostart;
  if (first->code != kUnreachable || !may_start) return *first;
  const std::string& path = list.candidates.front().path;
  SLUICE_TRY(start_daemon(globals, path, {"--listen", "unix://" + path, "--idle-exit", "15m"}));
  if (!globals.quiet && !globals.json)
    std::fprintf(stderr, "sluice: started sluiced (stops after 15m idle)\n");
  return DaemonLink(list.candidates.front(), globals);
}

Answer<AnswerStream> DaemonLink::send(std::string_view method,
                                      std::string_view target,
                                      std::string_view body,
                                      int64_t timeout_ms,
                                      const std::function<void()>& while_waiting) const {
  SLUICE_TRY(auto connection, Connection::open(address_, globals_.connect_timeout_ms));
  SLUICE_TRY(connection.write_all(request_text(address_, method, target, body), kSendTimeoutMs));
  HttpReader reader;
  std::string decoded;
  SLUICE_TRY(read_head(connection, reader, decoded, timeout_ms, while_waiting));
  return AnswerStream(std::move(connection), std::move(reader), std::move(decoded));
}

Answer<boost::json::value> DaemonLink::call(std::string_view method,
                                            std::string_view target,
                                            const std::optional<boost::json::value>& body,
                                            int64_t timeout_ms) const {
  SLUICE_TRY(auto stream, send(method, target, body ? json_text(*body) : "", timeout_ms));
  SLUICE_TRY(const std::string text, stream.rest(timeout_ms));
  if (stream.head().status >= 400) {
    Failure failure = failure_of(stream.head(), text);
    const bool native = target.starts_with("/sluice/") && failure.error.code == "unknown_url";
    return native ? explain_missing_route(std::move(failure)) : failure;
  }
  auto value = parse_json(text);
  if (!value) return Error{kBadAnswer, "the daemon's answer is not JSON: " + value.error().what};
  return std::move(value).value();
}

Failure DaemonLink::explain_missing_route(Failure failure) const {
  auto answer = send("GET", "/sluice/v1/version", "", kAnswerTimeoutMs);
  if (!answer || answer.value().head().status != 200) return failure;
  auto text = answer.value().rest(kAnswerTimeoutMs);
  if (!text) return failure;
  auto value = parse_json(text.value());
  if (!value) return failure;
  auto version = version_from_json(value.value());
  if (!version || version.value().api == kApiVersion) return failure;
  return Error{"daemon_incompatible",
               fmt::format("the daemon ({}) speaks API {}, this client API {}",
                           escape_text(version.value().version),
                           version.value().api,
                           kApiVersion),
               "sluice daemon restart"};
}

std::string percent_encode(std::string_view text) {
  static constexpr std::string_view kPlain = "-._~";
  std::string out;
  for (const char c : text) {
    const bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (alnum || kPlain.find(c) != std::string_view::npos) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

std::string model_route(const std::string& model, std::string_view suffix) {
  return fmt::format("/sluice/v1/models/{}{}", percent_encode(model), suffix);
}

Failure failure_of(const ResponseHead& head, std::string_view body) {
  Failure failure(parse_error_document(body, head.status));
  failure.status = head.status;
  const std::string retry = head.header("retry-after");
  std::from_chars(retry.data(), retry.data() + retry.size(), failure.retry_after_s);
  return failure;
}

}  // namespace sluice
