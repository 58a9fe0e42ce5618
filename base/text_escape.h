// Text from files and clients on its way to a log, a terminal or an error line.
#pragma once

#include <string>
#include <string_view>

namespace sluice {

// C0, C1, DEL, bidi controls, quotes, backslash and invalid UTF-8 become \xNN; the result is cut at
// `max_bytes` with "..." so that one hostile string cannot fill a line.
std::string escape_text(std::string_view text, size_t max_bytes = 80);

// Replaces every maximal invalid subpart by U+FFFD (as Python's and Rust's lossy decoders do).
std::string to_valid_utf8(std::string_view text);

// Length of the longest prefix that does not end inside a UTF-8 code point: what a stream may send now.
size_t complete_utf8_prefix(std::string_view text);

}  // namespace sluice
