// Sizes: parse "512M", "1.5G", "2GiB", "40%"; print MiB/GiB; checked arithmetic for numbers from files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sluice {

// K/M/G/T are binary, with or without "iB"/"B"; fractions allowed. `percent_of` is what "40%" refers to
// (0 = percentages are refused). Errors: invalid_size, naming what was found and what is allowed.
Result<uint64_t> parse_size(std::string_view text, uint64_t percent_of = 0);

// "512 B", "38 MiB", "4.0 GiB": what people read.
std::string format_bytes(uint64_t n);

// "300ms", "5m", "1h30m", bare seconds -> milliseconds. Negative = forever (-1). Errors: invalid_duration.
Result<int64_t> parse_duration_ms(std::string_view text);

// true on success; false when the result does not fit (out is then unspecified).
[[nodiscard]] inline bool checked_add(uint64_t a, uint64_t b, uint64_t& out) {
  return !__builtin_add_overflow(a, b, &out);
}
[[nodiscard]] inline bool checked_mul(uint64_t a, uint64_t b, uint64_t& out) {
  return !__builtin_mul_overflow(a, b, &out);
}

// The next multiple of `align` (a power of two); false on overflow.
[[nodiscard]] inline bool checked_align(uint64_t a, uint64_t align, uint64_t& out) {
  if (!checked_add(a, align - 1, out)) return false;
  out &= ~(align - 1);
  return true;
}

}  // namespace sluice
