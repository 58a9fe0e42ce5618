#include "daemon/text/python_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "daemon/text/unicode.h"

namespace sluice {
namespace {

// Start of the code point that ends before `i` > 0.
size_t previous_boundary(std::string_view s, size_t i) {
  do {
    --i;
  } while (i > 0 && (static_cast<uint8_t>(s[i]) & 0xC0) == 0x80);
  return i;
}

template <class Predicate>
std::string_view strip_left_if(std::string_view s, Predicate&& drop) {
  size_t i = 0;
  while (i < s.size()) {
    size_t next = i;
    next_code_point(s, next);
    if (!drop(s.substr(i, next - i))) break;
    i = next;
  }
  return s.substr(i);
}

template <class Predicate>
std::string_view strip_right_if(std::string_view s, Predicate&& drop) {
  size_t end = s.size();
  while (end > 0) {
    const size_t i = previous_boundary(s, end);
    if (!drop(s.substr(i, end - i))) break;
    end = i;
  }
  return s.substr(0, end);
}

bool space_character(std::string_view c) {
  size_t i = 0;
  return is_python_space(next_code_point(c, i));
}

// Both are valid UTF-8, so a match starts at a boundary.
auto member_of(std::string_view chars) {
  return [chars](std::string_view c) { return chars.find(c) != std::string_view::npos; };
}

utf8proc_category_t category(uint32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_letter(uint32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
         k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_LO;
}

bool is_cased(uint32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

void append_upper(std::string& out, uint32_t c) {
  if (c == 0xDF) {
    out += "SS";  // the one special case of full upper-casing that occurs in plain text
  } else {
    append_utf8(out, static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_lower(std::string& out, uint32_t c) {
  if (c == 0x130) {
    out += "i\xCC\x87";  // the only letter whose lower case is two code points
    return;
  }
  append_utf8(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

void append_title(std::string& out, uint32_t c) {
  if (c == 0xDF) {
    out += "Ss";
  } else {
    append_utf8(out, static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

template <class Predicate>
bool all_code_points(std::string_view s, Predicate&& good) {
  for (size_t i = 0; i < s.size();) {
    if (!good(next_code_point(s, i))) return false;
  }
  return !s.empty();
}

// str.isprintable for one code point.
bool is_printable(uint32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

void append_hex(std::string& out, uint32_t value, int digits) {
  static const char* const kHex = "0123456789abcdef";
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out += kHex[(value >> shift) & 15];
}

// Underscores between digits are allowed in Python's numbers.
std::optional<std::string> without_underscores(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '_') {
      out += s[i];
      continue;
    }
    const auto alnum = [&](size_t k) {
      return k < s.size() &&
             ((s[k] >= '0' && s[k] <= '9') || ((s[k] | 0x20) >= 'a' && (s[k] | 0x20) <= 'z'));
    };
    if (i == 0 || !alnum(i - 1) || !alnum(i + 1)) return std::nullopt;
  }
  return out;
}

}  // namespace

std::string_view strip_left(std::string_view s) { return strip_left_if(s, space_character); }
std::string_view strip_right(std::string_view s) { return strip_right_if(s, space_character); }
std::string_view strip_left(std::string_view s, std::string_view chars) {
  return strip_left_if(s, member_of(chars));
}
std::string_view strip_right(std::string_view s, std::string_view chars) {
  return strip_right_if(s, member_of(chars));
}

std::string to_upper(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < s.size();) append_upper(out, next_code_point(s, i));
  return out;
}

std::string to_lower(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < s.size();) append_lower(out, next_code_point(s, i));
  return out;
}

std::string capitalize(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < s.size();) {
    const bool first = i == 0;
    const uint32_t c = next_code_point(s, i);
    if (first) {
      append_title(out, c);
    } else {
      append_lower(out, c);
    }
  }
  return out;
}

std::string title_case(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  bool inside = false;
  for (size_t i = 0; i < s.size();) {
    const uint32_t c = next_code_point(s, i);
    if (inside) {
      append_lower(out, c);
    } else {
      append_title(out, c);
    }
    inside = is_cased(c);
  }
  return out;
}

std::vector<std::string_view> split_space(std::string_view s, int64_t max_splits) {
  std::vector<std::string_view> out;
  for (s = strip_left(s); !s.empty(); s = strip_left(s)) {
    if (max_splits >= 0 && out.size() >= static_cast<uint64_t>(max_splits)) {
      out.push_back(s);  // with its trailing white space, as Python has it
      break;
    }
    size_t end = 0;
    while (end < s.size()) {
      size_t next = end;
      if (is_python_space(next_code_point(s, next))) break;
      end = next;
    }
    out.push_back(s.substr(0, end));
    s.remove_prefix(end);
  }
  return out;
}

std::vector<std::string_view> rsplit_space(std::string_view s, int64_t max_splits) {
  std::vector<std::string_view> out;
  for (s = strip_right(s); !s.empty(); s = strip_right(s)) {
    if (max_splits >= 0 && out.size() >= static_cast<uint64_t>(max_splits)) {
      out.push_back(s);
      break;
    }
    size_t begin = s.size();
    while (begin > 0) {
      const size_t i = previous_boundary(s, begin);
      size_t k = i;
      if (is_python_space(next_code_point(s, k))) break;
      begin = i;
    }
    out.push_back(s.substr(begin));
    s.remove_suffix(s.size() - begin);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split(std::string_view s,
                                    std::string_view separator,
                                    int64_t max_splits) {
  std::vector<std::string_view> out;
  size_t from = 0;
  for (size_t at = s.find(separator); at != std::string_view::npos; at = s.find(separator, from)) {
    if (max_splits >= 0 && out.size() >= static_cast<uint64_t>(max_splits)) break;
    out.push_back(s.substr(from, at - from));
    from = at + separator.size();
  }
  out.push_back(s.substr(from));
  return out;
}

std::vector<std::string_view> rsplit(std::string_view s,
                                     std::string_view separator,
                                     int64_t max_splits) {
  std::vector<std::string_view> out;
  while (max_splits < 0 || out.size() < static_cast<uint64_t>(max_splits)) {
    const size_t at = s.rfind(separator);
    if (at == std::string_view::npos) break;
    out.push_back(s.substr(at + separator.size()));
    s = s.substr(0, at);
  }
  out.push_back(s);
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_lines(std::string_view s, bool keep_ends) {
  std::vector<std::string_view> out;
  size_t from = 0;
  for (size_t i = 0; i < s.size();) {
    const size_t at = i;
    const uint32_t c = next_code_point(s, i);
    const bool ends = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    if (c == '\r' && i < s.size() && s[i] == '\n') ++i;
    out.push_back(s.substr(from, (keep_ends ? i : at) - from));
    from = i;
  }
  if (from < s.size()) out.push_back(s.substr(from));
  return out;
}

bool is_alpha(std::string_view s) { return all_code_points(s, is_letter); }
bool is_digit(std::string_view s) {
  return all_code_points(s, [](uint32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; });
}
bool is_alnum(std::string_view s) {
  return all_code_points(s, [](uint32_t c) {
    const auto k = category(c);
    return is_letter(c) || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL ||
           k == UTF8PROC_CATEGORY_NO;
  });
}
bool is_space(std::string_view s) { return all_code_points(s, is_python_space); }

bool is_upper(std::string_view s) {
  bool any = false;
  for (size_t i = 0; i < s.size();) {
    const uint32_t c = next_code_point(s, i);
    if (category(c) == UTF8PROC_CATEGORY_LL || category(c) == UTF8PROC_CATEGORY_LT) return false;
    any = any || category(c) == UTF8PROC_CATEGORY_LU;
  }
  return any;
}

bool is_lower(std::string_view s) {
  bool any = false;
  for (size_t i = 0; i < s.size();) {
    const uint32_t c = next_code_point(s, i);
    if (category(c) == UTF8PROC_CATEGORY_LU || category(c) == UTF8PROC_CATEGORY_LT) return false;
    any = any || category(c) == UTF8PROC_CATEGORY_LL;
  }
  return any;
}

std::string format_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  // The shortest digits that read back as the same number, then Python's rule for where the
  // exponent starts.
  std::array<char, 40> buffer{};
  const auto result = std::to_chars(
      buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string_view text(buffer.data(), static_cast<size_t>(result.ptr - buffer.data()));
  const bool negative = text[0] == '-';
  const size_t e = text.find('e');
  std::string digits;
  for (const char c : text.substr(negative ? 1 : 0, e - (negative ? 1 : 0))) {
    if (c != '.') digits += c;
  }
  int exponent = 0;
  const std::string_view power = text.substr(e + 1);
  const size_t sign = power[0] == '+' ? 1 : 0;  // from_chars does not take a plus
  std::from_chars(power.data() + sign, power.data() + power.size(), exponent);
  std::string out = negative ? "-" : "";
  const int n = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (n > 1) out += "." + digits.substr(1);
    out += exponent < 0 ? "e-" : "e+";
    const int magnitude = std::abs(exponent);
    if (magnitude < 10) out += '0';
    return out + std::to_string(magnitude);
  }
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (n <= exponent + 1) {
    return out + digits + std::string(static_cast<size_t>(exponent + 1 - n), '0') + ".0";
  }
  const auto whole = static_cast<size_t>(exponent + 1);
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

char python_quote(std::string_view s) {
  const bool has_single = s.find('\'') != std::string_view::npos;
  return has_single && s.find('"') == std::string_view::npos ? '"' : '\'';
}

void append_python_escaped(std::string& out, std::string_view s, char quote) {
  for (size_t i = 0; i < s.size();) {
    const size_t begin = i;
    const uint32_t c = next_code_point(s, i);
    if (c == static_cast<uint8_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += s.substr(begin, i - begin);
    } else if (c < 0x100) {
      out += "\\x";
      append_hex(out, c, 2);
    } else if (c < 0x10000) {
      out += "\\u";
      append_hex(out, c, 4);
    } else {
      out += "\\U";
      append_hex(out, c, 8);
    }
  }
}

void append_json_escaped(std::string& out, std::string_view s, bool ensure_ascii) {
  for (size_t i = 0; i < s.size();) {
    const size_t begin = i;
    const uint32_t c = next_code_point(s, i);
    switch (c) {
      case '"':
        out += "\\\"";
        continue;
      case '\\':
        out += "\\\\";
        continue;
      case '\n':
        out += "\\n";
        continue;
      case '\r':
        out += "\\r";
        continue;
      case '\t':
        out += "\\t";
        continue;
      case '\f':
        out += "\\f";
        continue;
      case '\b':
        out += "\\b";
        continue;
      default:
        break;
    }
    if (c >= 0x20 && (c < 0x7F || !ensure_ascii)) {
      out += s.substr(begin, i - begin);
    } else if (c < 0x10000) {
      out += "\\u";
      append_hex(out, c, 4);
    } else {
      out += "\\u";
      append_hex(out, 0xD800 + ((c - 0x10000) >> 10), 4);
      out += "\\u";
      append_hex(out, 0xDC00 + ((c - 0x10000) & 0x3FF), 4);
    }
  }
}

std::optional<int64_t> parse_int(std::string_view s, int base) {
  const auto plain = without_underscores(strip_left(strip_right(s)));
  if (!plain || plain->empty()) return std::nullopt;
  std::string_view digits = *plain;
  const bool negative = digits[0] == '-';
  if (negative || digits[0] == '+') digits.remove_prefix(1);
  const auto prefixed = [&](char c) {
    return digits.size() > 2 && digits[0] == '0' && (digits[1] | 0x20) == c;
  };
  if ((base == 16 || base == 0) && prefixed('x')) {
    digits.remove_prefix(2);
    base = 16;
  } else if ((base == 8 || base == 0) && prefixed('o')) {
    digits.remove_prefix(2);
    base = 8;
  } else if ((base == 2 || base == 0) && prefixed('b')) {
    digits.remove_prefix(2);
    base = 2;
  } else if (base == 0) {
    base = 10;
  }
  if (base < 2 || base > 36 || digits.empty() || digits[0] == '-' || digits[0] == '+')
    return std::nullopt;
  const std::string text = (negative ? "-" : "") + std::string(digits);
  int64_t value = 0;
  const auto r = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (r.ec != std::errc{} || r.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_float(std::string_view s) {
  const auto plain = without_underscores(strip_left(strip_right(s)));
  if (!plain || plain->empty()) return std::nullopt;
  std::string_view text = *plain;
  if (text[0] == '+') text.remove_prefix(1);
  if (text.empty() || text[0] == '+') return std::nullopt;
  if (text.find('(') != std::string_view::npos) return std::nullopt;  // from_chars takes nan(...)
  double value = 0;
  const auto r = std::from_chars(text.data(), text.data() + text.size(), value);
  if (r.ptr != text.data() + text.size()) return std::nullopt;
  if (r.ec == std::errc::result_out_of_range) {
    const bool tiny =
        text.find("e-") != std::string_view::npos || text.find("E-") != std::string_view::npos;
    return (text[0] == '-' ? -1.0 : 1.0) * (tiny ? 0.0 : HUGE_VAL);
  }
  if (r.ec != std::errc{}) return std::nullopt;
  return value;
}

}  // namespace sluice
