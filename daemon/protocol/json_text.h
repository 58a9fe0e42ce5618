// JSON from the wire and to it: bounded before it is parsed, plain numbers when printed.
#pragma once

#include <boost/json/value.hpp>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sluice {

struct JsonLimits {
  size_t depth = 64;
  size_t values = 1u << 20;  // commas and brackets, a measure of the parsed tree's size
};

// Iterative look at the brackets outside strings, before anything recursive sees the text.
// Errors: invalid_request with the byte where the limit was passed.
Result<void> check_json_limits(std::string_view text, const JsonLimits& limits);

// Strict JSON (UTF-8 checked, no comments, no trailing commas, no lone surrogates).
// Errors: invalid_request with the byte offset.
Result<boost::json::value> parse_json(std::string_view text, const JsonLimits& limits = {});

// Compact text. Integers print as integers, doubles in the shortest form that reads back
// (0.5, 12.25, 1e+30); NaN and infinities as null; strings with invalid UTF-8 get U+FFFD.
std::string json_text(const boost::json::value& v);

}  // namespace sluice
