// The few Unicode operations that text needs, on valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

// The code point at text[i]; i moves past it. `text` must be valid UTF-8 and i a boundary below its
// size.
inline uint32_t next_code_point(std::string_view text, size_t& i) {
  const auto byte = [&](size_t k) { return static_cast<uint32_t>(static_cast<uint8_t>(text[k])); };
  const uint32_t b0 = byte(i);
  if (b0 < 0x80) {
    i += 1;
    return b0;
  }
  if (b0 < 0xE0) {
    i += 2;
    return ((b0 & 0x1Fu) << 6) | (byte(i - 1) & 0x3Fu);
  }
  if (b0 < 0xF0) {
    i += 3;
    return ((b0 & 0x0Fu) << 12) | ((byte(i - 2) & 0x3Fu) << 6) | (byte(i - 1) & 0x3Fu);
  }
  i += 4;
  return ((b0 & 0x07u) << 18) | ((byte(i - 3) & 0x3Fu) << 12) | ((byte(i - 2) & 0x3Fu) << 6) |
         (byte(i - 1) & 0x3Fu);
}

// Bytes of the code point that starts with `lead`.
inline size_t code_point_bytes(char lead) {
  const auto b = static_cast<uint8_t>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

void append_utf8(std::string& out, uint32_t code);
size_t count_code_points(std::string_view text);

// Python's str.isspace for one code point: what strip(), split() and \s in its regexes mean.
bool is_python_space(uint32_t code);

// Normalization form C. Linear in the text's length whatever it holds (long runs of combining marks
// too).
std::string to_nfc(std::string_view text);
// True only if `text` is certainly in form C already: a cheap look that spares most texts the work.
bool is_surely_nfc(std::string_view text);

}  // namespace sluice
