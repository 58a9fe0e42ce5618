#include "base/text_escape.h"

#include <cstdint>

namespace sluice {
namespace {

// One decoding step at text[i]: `length` bytes form a code point (valid) or a maximal invalid subpart.
// `truncated` is set when the text ended inside a sequence that was good so far.
struct Step {
  size_t length = 1;
  uint32_t code = 0;
  bool valid = false;
  bool truncated = false;
};

Step decode_at(std::string_view text, size_t i) {
  auto byte = [&](size_t k) { return static_cast<uint8_t>(text[k]); };
  const uint8_t b0 = byte(i);
  if (b0 < 0x80) return {1, b0, true, false};
  size_t need = 0;
  uint8_t lo = 0x80;
  uint8_t hi = 0xBF;
  uint32_t code = 0;
  if (b0 >= 0xC2 && b0 <= 0xDF) {
    need = 1;
    code = b0 & 0x1Fu;
  } else if (b0 >= 0xE0 && b0 <= 0xEF) {
    need = 2;
    code = b0 & 0x0Fu;
    if (b0 == 0xE0) lo = 0xA0;
    if (b0 == 0xED) hi = 0x9F;
  } else if (b0 >= 0xF0 && b0 <= 0xF4) {
    need = 3;
    code = b0 & 0x07u;
    if (b0 == 0xF0) lo = 0x90;
    if (b0 == 0xF4) hi = 0x8F;
  } else {
    return {1, 0, false, false};
  }
  for (size_t k = 1; k <= need; ++k) {
    if (i + k >= text.size()) return {k, 0, false, true};
    const uint8_t b = byte(i + k);
    if (b < lo || b > hi) return {k, 0, false, false};
    code = (code << 6) | (b & 0x3Fu);
    lo = 0x80;
    hi = 0xBF;
  }
  return {need + 1, code, true, false};
}

bool is_unsafe(uint32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == '"' || c == '\\' || c == 0x061C || c == 0x200E ||
         c == 0x200F || (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || c == 0xFEFF;
}

}  // namespace

std::string escape_text(std::string_view text, size_t max_bytes) {
  static const char* const kHex = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const Step step = decode_at(text, i);
    std::string piece;
    if (step.valid && !is_unsafe(step.code)) {
      piece.assign(text.substr(i, step.length));
    } else {
      for (size_t k = 0; k < step.length; ++k) {
        const auto b = static_cast<uint8_t>(text[i + k]);
        piece += "\\x";
        piece += kHex[b >> 4];
        piece += kHex[b & 15];
      }
    }
    if (out.size() + piece.size() > max_bytes) return out + "...";
    out += piece;
    i += step.length;
  }
  return out;
}

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Step step = decode_at(text, i);
    if (step.valid) {
      out.append(text.substr(i, step.length));
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += step.length;
  }
  return out;
}

size_t complete_utf8_prefix(std::string_view text) {
  const size_t start = text.size() < 4 ? 0 : text.size() - 4;
  for (size_t i = text.size(); i > start; --i) {
    const auto b = static_cast<uint8_t>(text[i - 1]);
    if ((b & 0xC0) == 0x80) continue;  // a continuation byte: look further left
    if (b < 0xC0) return text.size();
    return decode_at(text, i - 1).truncated ? i - 1 : text.size();
  }
  return text.size();
}

}  // namespace sluice
