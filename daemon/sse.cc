#include "daemon/sse.h"

#include "daemon/protocol/json_text.h"

namespace sluice {

std::string sse_event(const boost::json::value& v) { return "data: " + json_text(v) + "\n\n"; }

std::string sse_comment(std::string_view text) { return ": " + std::string(text) + "\n\n"; }

}  // namespace sluice
