#include "daemon/protocol/json_text.h"

#include <fmt/format.h>

#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <iterator>

#include "base/text_escape.h"

namespace sluice {
namespace {

void append_string(std::string& out, std::string_view text) {
  out += boost::json::serialize(boost::json::string_view(to_valid_utf8(text)));
}

// Recursion is bounded: what we print is either ours or passed check_json_limits.
void append_value(std::string& out, const boost::json::value& v) {
  switch (v.kind()) {
    case boost::json::kind::null:
      out += "null";
      break;
    case boost::json::kind::bool_:
      out += v.get_bool() ? "true" : "false";
      break;
    case boost::json::kind::int64:
      fmt::format_to(std::back_inserter(out), "{}", v.get_int64());
      break;
    case boost::json::kind::uint64:
      fmt::format_to(std::back_inserter(out), "{}", v.get_uint64());
      break;
    case boost::json::kind::double_: {
      const double d = v.get_double();
      if (!std::isfinite(d)) {
        out += "null";
        break;
      }
      const size_t at = out.size();
      fmt::format_to(std::back_inserter(out), "{}", d);
      // A double stays one for the reader: 1 is written 1.0.
      if (out.find_first_of(".eE", at) == std::string::npos) out += ".0";
      break;
    }
    case boost::json::kind::string:
      append_string(out, v.get_string());
      break;
    case boost::json::kind::array: {
      out += '[';
      const char* comma = "";
      for (const auto& item : v.get_array()) {
        out += comma;
        append_value(out, item);
        comma = ",";
      }
      out += ']';
      break;
    }
    case boost::json::kind::object: {
      out += '{';
      const char* comma = "";
      for (const auto& item : v.get_object()) {
        out += comma;
        append_string(out, item.key());
        out += ':';
        append_value(out, item.value());
        comma = ",";
      }
      out += '}';
      break;
    }
  }
}

}  // namespace

Result<void> check_json_limits(std::string_view text, const JsonLimits& limits) {
  size_t depth = 0;
  size_t values = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        break;
      case '[':
      case '{':
        ++values;
        if (++depth > limits.depth) {
          return Error{
              "invalid_request",
              fmt::format("the JSON is nested deeper than {} levels at byte {}", limits.depth, i)};
        }
        break;
      case ']':
      case '}':
        if (depth > 0) --depth;
        break;
      case ',':
        if (++values > limits.values) {
          return Error{
              "invalid_request",
              fmt::format("the JSON holds more than {} values at byte {}", limits.values, i)};
        }
        break;
      default:
        break;
    }
  }
  return success();
}

Result<boost::json::value> parse_json(std::string_view text, const JsonLimits& limits) {
  SLUICE_TRY(check_json_limits(text, limits));
  if (text.empty()) return Error{"invalid_request", "the body is empty, JSON is expected"};
  boost::json::parse_options options;
  options.max_depth = limits.depth + 1;
  boost::json::parser parser({}, options);
  boost::system::error_code ec;
  const size_t n = parser.write_some(text.data(), text.size(), ec);
  if (ec) {
    return Error{"invalid_request",
                 fmt::format("the body is not valid JSON at byte {}: {}", n, ec.message())};
  }
  for (size_t i = n; i < text.size(); ++i) {
    if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r' && text[i] != '\n') {
      return Error{"invalid_request",
                   fmt::format("the body goes on after the JSON value at byte {}", i)};
    }
  }
  return parser.release();
}

std::string json_text(const boost::json::value& v) {
  std::string out;
  append_value(out, v);
  return out;
}

}  // namespace sluice
