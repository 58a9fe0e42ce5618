// Strict HTTP/1.x reading without I/O: what is not exactly RFC 9112 is refused, since every
// leniency is a second way to read the same bytes. Errors carry the codes of protocol/errors.h;
// after one the connection must be closed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "daemon/http_limits.h"
#include "daemon/http_message.h"

namespace sluice {

// Looks at the bytes of a request's head as they come and stops at the first one that cannot belong
// to one.
class HeadScanner {
 public:
  explicit HeadScanner(const HttpLimits& limits) : limits_(limits) {}

  // `buffer` holds everything received since the request's start; bytes seen by earlier calls are
  // not looked at again. The value is the head's length (its empty line included), nullopt when
  // more is needed. Errors: invalid_request, uri_too_long, headers_too_large.
  Result<std::optional<size_t>> scan(std::string_view buffer);

  // True once a byte of the request itself (not an empty line before it) has come.
  bool started() const { return lines_ > 0 || line_bytes_ > 0; }

 private:
  const HttpLimits limits_;
  size_t at_ = 0;           // next byte to look at
  size_t line_bytes_ = 0;   // of the current line, without CR LF
  size_t lines_ = 0;        // complete non-empty lines
  size_t empty_lines_ = 0;  // before the request line
  size_t header_bytes_ = 0;
  bool cr_ = false;  // the last byte was a CR
};

struct BodyPlan {
  bool chunked = false;
  uint64_t length = 0;  // when not chunked
  bool expects_continue = false;
};

struct ParsedHead {
  HttpRequest request;  // body, uid and id not filled
  BodyPlan body;
};

// `head` as HeadScanner delimited it. Errors: invalid_request, http_version, not_supported
// (method), body_too_large, expectation_failed.
Result<ParsedHead> parse_head(std::string_view head, const HttpLimits& limits);

// Takes a chunked body apart. Extensions are skipped (at most 256 bytes a line), trailers dropped
// (at most 4 KiB).
class ChunkedReader {
 public:
  explicit ChunkedReader(uint64_t max_body_bytes) : max_body_bytes_(max_body_bytes) {}

  // Takes what it can from the front of `buffer`, appends data to `body`. True when the body is
  // complete; what is left in `buffer` then belongs to the next request. Errors: invalid_request,
  // body_too_large, headers_too_large.
  Result<bool> feed(std::string& buffer, std::string& body);

 private:
  enum class State : uint8_t { kSize, kData, kDataEnd, kTrailer, kDone };
  Result<void> size_line(std::string_view line);

  const uint64_t max_body_bytes_;
  State state_ = State::kSize;
  uint64_t left_ = 0;
  uint64_t total_ = 0;
  size_t trailer_bytes_ = 0;
};

// "%41b" -> "Ab". Errors: invalid_request for a broken escape.
Result<std::string> percent_decode(std::string_view text);
// The decoded value of a query parameter; nullopt when absent or broken.
std::optional<std::string> query_value(std::string_view query, std::string_view key);

}  // namespace sluice
