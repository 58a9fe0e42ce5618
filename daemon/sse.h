// Server-sent events: one JSON document per event, comments as heartbeats.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

namespace sluice {

// "data: {...}\n\n". JSON text holds no raw line ends, so one line is enough.
std::string sse_event(const boost::json::value& v);
// ": text\n\n"; `text` must hold no line ends.
std::string sse_comment(std::string_view text);
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

}  // namespace sluice
