#include "base/bytes.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>

namespace sluice {
namespace {

constexpr double kMaxSize = 9.0e18;  // below 2^63, so that sums of a few sizes cannot wrap

Error bad_size(std::string_view text, const char* why) {
  return Error{"invalid_size",
               fmt::format("size '{}' {}; allowed: a number with K, M, G or T, as in 512M, 1.5G, 2GiB, 40%",
                           text.substr(0, 40),
                           why),
               "try 512M or 2G"};
}

}  // namespace

Error errno_error(const std::string& code, const std::string& what, int errnum) {
  return Error{code, fmt::format("{}: {}", what, std::strerror(errnum))};
}

Result<uint64_t> parse_size(std::string_view text, uint64_t percent_of) {
  double value = 0;
  const char* end = text.data() + text.size();
  auto [rest, ec] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (ec != std::errc{} || rest == text.data()) return bad_size(text, "is not a number with a unit");
  if (!std::isfinite(value) || value < 0) return bad_size(text, "is out of range");
  std::string_view unit(rest, static_cast<size_t>(end - rest));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  if (unit == "%") {
    if (percent_of == 0) return bad_size(text, "is a percentage, which means nothing here");
    if (value > 100) return bad_size(text, "is more than 100%");
    return static_cast<uint64_t>(value / 100 * static_cast<double>(percent_of));
  }
  double factor = 1;
  if (!unit.empty()) {
    switch (std::toupper(static_cast<unsigned char>(unit.front()))) {
      case 'K': factor = 1024.0; unit.remove_prefix(1); break;
      case 'M': factor = 1048576.0; unit.remove_prefix(1); break;
      case 'G': factor = 1073741824.0; unit.remove_prefix(1); break;
      case 'T': factor = 1099511627776.0; unit.remove_prefix(1); break;
      default: break;
    }
  }
  if (!unit.empty() && unit != "B" && unit != "iB" && unit != "b" && unit != "ib") {
    return bad_size(text, "has an unknown unit");
  }
  if (value * factor > kMaxSize) return bad_size(text, "is too large");
  return static_cast<uint64_t>(value * factor);
}

std::string format_bytes(uint64_t n) {
  if (n < 1024) return fmt::format("{} B", n);
  if (n < 1048576) return fmt::format("{:.0f} KiB", static_cast<double>(n) / 1024);
  if (n < 1073741824) return fmt::format("{:.0f} MiB", static_cast<double>(n) / 1048576);
  return fmt::format("{:.2f} GiB", static_cast<double>(n) / 1073741824);
}

Result<int64_t> parse_duration_ms(std::string_view text) {
  const Error bad{"invalid_duration",
                  fmt::format("duration '{}' is not understood; allowed: 300ms, 5m, 1h30m, or seconds",
                              text.substr(0, 40)),
                  "try 5m"};
  if (text.empty()) return bad;
  if (text.front() == '-') return int64_t{-1};
  double total_ms = 0;
  while (!text.empty()) {
    double value = 0;
    const char* end = text.data() + text.size();
    auto [rest, ec] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
    if (ec != std::errc{} || value < 0) return bad;
    text = std::string_view(rest, static_cast<size_t>(end - rest));
    double unit_ms = 1000;
    if (text.substr(0, 2) == "ms") {
      unit_ms = 1;
      text.remove_prefix(2);
    } else if (!text.empty()) {
      switch (text.front()) {
        case 's': unit_ms = 1e3; break;
        case 'm': unit_ms = 6e4; break;
        case 'h': unit_ms = 3.6e6; break;
        case 'd': unit_ms = 8.64e7; break;
        default: return bad;
      }
      text.remove_prefix(1);
    }
    total_ms += value * unit_ms;
    if (!(total_ms < 3.2e12)) return bad;  // a century
  }
  return static_cast<int64_t>(total_ms);
}

}  // namespace sluice
