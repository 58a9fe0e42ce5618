#include "client/sse_parser.h"

#include <utility>

namespace sluice {

Result<void> SseParser::feed(std::string_view bytes, std::vector<SseEvent>& events) {
  while (!bytes.empty()) {
    if (std::exchange(after_cr_, false) && bytes.front() == '\n') {
      bytes.remove_prefix(1);
      continue;
    }
    const size_t end = bytes.find_first_of("\r\n");
    const size_t n = end == std::string_view::npos ? bytes.size() : end;
    if (line_.size() + n > kMaxLine)
      return Error{"protocol", "a line of the event stream is longer than 1 MiB"};
    line_.append(bytes.substr(0, n));
    if (end == std::string_view::npos) return success();
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    SLUICE_TRY(end_line(events));
    line_.clear();
  }
  return success();
}

Result<void> SseParser::end_line(std::vector<SseEvent>& events) {
  if (line_.empty()) {
    if (has_data_)
      events.push_back({false, std::move(data_), event_.empty() ? "message" : std::move(event_)});
    data_.clear();
    event_.clear();
    has_data_ = false;
    return success();
  }
  const std::string_view line(line_);
  const size_t colon = line.find(':');
  const std::string_view field = line.substr(0, colon);
  std::string_view value =
      colon == std::string_view::npos ? std::string_view() : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (colon == 0) {
    events.push_back({true, std::string(value), ""});
  } else if (field == "data") {
    if (data_.size() + value.size() + 1 > kMaxData)
      return Error{"protocol", "an event is larger than 4 MiB"};
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  } else if (field == "event") {
    event_ = value;
  }
  return success();
}

}  // namespace sluice
