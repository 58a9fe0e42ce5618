// Server-sent events from bytes as they come; comments are kept, they carry the daemon's progress.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sluice {

struct SseEvent {
  bool is_comment = false;
  std::string data;   // of a comment: its text
  std::string event;  // "message" unless named
};

class SseParser {
 public:
  static constexpr size_t kMaxLine = 1u << 20;
  static constexpr size_t kMaxData = 4u << 20;

  // Appends the events that `bytes` completes. CR, LF and CRLF end lines. Errors: protocol when a
  // limit is passed.
  Result<void> feed(std::string_view bytes, std::vector<SseEvent>& events);

 private:
  Result<void> end_line(std::vector<SseEvent>& events);

  std::string line_;
  std::string data_;
  std::string event_;
  bool has_data_ = false;
  bool after_cr_ = false;  // a LF that follows belongs to that line end
};

}  // namespace sluice
