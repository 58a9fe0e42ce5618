#include "daemon/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

namespace sluice {

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t b) { out += static_cast<char>(static_cast<uint8_t>(b)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0u | (code >> 6));
    put(0x80u | (code & 0x3Fu));
  } else if (code < 0x10000) {
    put(0xE0u | (code >> 12));
    put(0x80u | ((code >> 6) & 0x3Fu));
    put(0x80u | (code & 0x3Fu));
  } else {
    put(0xF0u | (code >> 18));
    put(0x80u | ((code >> 12) & 0x3Fu));
    put(0x80u | ((code >> 6) & 0x3Fu));
    put(0x80u | (code & 0x3Fu));
  }
}

size_t count_code_points(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

bool is_python_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_surely_nfc(std::string_view text) {
  // Ranges whose members are all NFC_Quick_Check=Yes with combining class 0; a text made of them
  // alone is in form C.
  struct Range {
    uint32_t first, last;
  };
  static constexpr std::array kStable = {Range{0x0000, 0x02FF},
                                         Range{0x0400, 0x0482},
                                         Range{0x048A, 0x0590},
                                         Range{0x2010, 0x2027},
                                         Range{0x3000, 0x3029},
                                         Range{0x3041, 0x3098},
                                         Range{0x309B, 0x30FF},
                                         Range{0x3400, 0x4DBF},
                                         Range{0x4E00, 0x9FFF},
                                         Range{0xAC00, 0xD7A3},
                                         Range{0xFF00, 0xFFEF}};
  for (size_t i = 0; i < text.size();) {
    if (static_cast<uint8_t>(text[i]) < 0xCC) {  // everything below U+0300
      i += code_point_bytes(text[i]);
      continue;
    }
    const uint32_t c = next_code_point(text, i);
    const auto it = std::upper_bound(
        kStable.begin(), kStable.end(), c, [](uint32_t v, const Range& r) { return v < r.first; });
    if (c > std::prev(it)->last) return false;
  }
  return true;
}

std::string to_nfc(std::string_view text) {
  // utf8proc's own driver orders marks by swapping neighbours, which is quadratic in a run of
  // marks; so it is only asked to decompose single code points and to compose, and the runs are
  // sorted here.
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<utf8proc_int32_t>(next_code_point(text, i));
    std::array<utf8proc_int32_t, 32> parts{};
    int last_boundary = 0;
    const utf8proc_ssize_t n = utf8proc_decompose_char(
        c, parts.data(), static_cast<utf8proc_ssize_t>(parts.size()), options, &last_boundary);
    if (n <= 0 || n > static_cast<utf8proc_ssize_t>(parts.size())) {
      codes.push_back(c);
      continue;
    }
    codes.insert(codes.end(), parts.begin(), parts.begin() + n);
  }
  const auto combining = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  for (size_t i = 0; i < codes.size();) {
    if (combining(codes[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < codes.size() && combining(codes[end]) != 0) ++end;
    std::stable_sort(codes.begin() + static_cast<ptrdiff_t>(i),
                     codes.begin() + static_cast<ptrdiff_t>(end),
                     [&](auto a, auto b) { return combining(a) < combining(b); });
    i = end;
  }
  const utf8proc_ssize_t n =
      utf8proc_normalize_utf32(codes.data(),
                               static_cast<utf8proc_ssize_t>(codes.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (n < 0) return std::string(text);
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    append_utf8(out, static_cast<uint32_t>(codes[i]));
  }
  return out;
}

}  // namespace sluice
