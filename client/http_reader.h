// The client's half of HTTP/1.1: reads one answer from bytes as they come. Pure: no sockets, no
// clock. Built for a hostile server: every length has a limit, and what passes it is an error
// (protocol), never memory.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sluice {

struct ResponseHead {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; of repeated ones the last

  std::string header(const std::string& name) const;
  bool is_event_stream() const { return header("content-type").starts_with("text/event-stream"); }
};

class HttpReader {
 public:
  static constexpr size_t kMaxHeadBytes = 64u << 10;
  static constexpr size_t kMaxHeaders = 128;
  static constexpr size_t kMaxChunkLine = 256;
  static constexpr size_t kMaxTrailerBytes = 16u << 10;
  static constexpr int kMaxInterim = 8;  // 1xx answers before the real one

  // Consumes everything; decoded body bytes are appended to `body`. Bytes after the end of the
  // answer are an error.
  Result<void> feed(std::string_view bytes, std::string& body);
  // The connection ended. Errors: connection_lost if the answer is not whole.
  Result<void> finish() const;

  bool has_head() const { return state_ > State::kHead; }
  bool done() const { return state_ == State::kDone; }
  const ResponseHead& head() const { return head_; }

 private:
  enum class State : uint8_t {
    kHead,
    kFixed,
    kUntilClose,
    kChunkSize,
    kChunkData,
    kChunkEnd,
    kTrailers,
    kDone
  };

  Result<void> parse_head(std::string_view text);
  Result<void> choose_framing();
  Result<void> chunk_size_line(std::string_view line);
  // Takes one line out of `bytes` into line_; false when more bytes are needed.
  Result<bool> take_line(std::string_view& bytes, size_t limit);

  State state_ = State::kHead;
  ResponseHead head_;
  std::string line_;        // unfinished head, chunk-size line or trailer line
  uint64_t remaining_ = 0;  // of the fixed body or the chunk
  size_t trailer_bytes_ = 0;
  int n_interim_ = 0;
};

}  // namespace sluice
