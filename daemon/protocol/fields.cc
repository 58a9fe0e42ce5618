#include "daemon/protocol/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/suggest.h"
#include "base/text_escape.h"
#include "daemon/protocol/json_text.h"

namespace sluice {

namespace json = boost::json;

namespace {

const char* kind_name(const json::value& v) {
  switch (v.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "a boolean";
    case json::kind::int64:
    case json::kind::uint64:
      return "an integer";
    case json::kind::double_:
      return "a number";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "an array";
    case json::kind::object:
      return "an object";
  }
  return "something else";
}

}  // namespace

Error bad_parameter(std::string_view param, std::string what, std::string hint) {
  Error e{"invalid_request", std::move(what), std::move(hint)};
  e.field = std::string(param.substr(0, 80));
  return e;
}

Error unsupported_parameter(std::string_view param, std::string what, std::string hint) {
  Error e = bad_parameter(param, std::move(what), std::move(hint));
  e.code = "unsupported_parameter";
  return e;
}

Error wrong_kind(std::string_view param, const json::value& v, const char* wanted) {
  return bad_parameter(
      param, fmt::format("{} is {}, {} is expected", escape_text(param), kind_name(v), wanted));
}

const json::value* Fields::find(std::string_view key) {
  known_.emplace_back(key);
  const auto* v = object_.if_contains(key);
  return v == nullptr || v->is_null() ? nullptr : v;
}

Result<bool> Fields::boolean(std::string_view key, bool absent) {
  const auto* v = find(key);
  if (v == nullptr) return absent;
  if (!v->is_bool()) return wrong_kind(name(key), *v, "true or false");
  return v->get_bool();
}

Result<double> Fields::number(std::string_view key, double absent, double lo, double hi) {
  const auto* v = find(key);
  if (v == nullptr) return absent;
  if (!v->is_number()) return wrong_kind(name(key), *v, "a number");
  const double d = v->to_number<double>();
  if (!(d >= lo && d <= hi)) {
    return bad_parameter(name(key),
                         fmt::format("{} is {}, {} to {} is allowed", name(key), d, lo, hi));
  }
  return d;
}

Result<std::optional<int64_t>> Fields::integer(std::string_view key, int64_t lo, int64_t hi) {
  const auto* v = find(key);
  if (v == nullptr) return std::optional<int64_t>();
  json::error_code ec;
  if (!v->is_number() || (v->is_double() && v->get_double() != std::floor(v->get_double()))) {
    return wrong_kind(name(key), *v, "an integer");
  }
  const auto n = v->to_number<int64_t>(ec);
  if (ec || n < lo || n > hi) {
    return bad_parameter(
        name(key), fmt::format("{} is {}, {} to {} is allowed", name(key), json_text(*v), lo, hi));
  }
  return std::optional<int64_t>(n);
}

Result<std::string> Fields::text(std::string_view key, size_t max_bytes) {
  const auto* v = find(key);
  if (v == nullptr) return std::string();
  if (!v->is_string()) return wrong_kind(name(key), *v, "a string");
  if (v->get_string().size() > max_bytes) {
    return bad_parameter(
        name(key),
        fmt::format(
            "{} has {} bytes, {} are allowed", name(key), v->get_string().size(), max_bytes));
  }
  return std::string(v->get_string());
}

void Fields::harmless(std::initializer_list<std::string_view> keys,
                      std::vector<std::string>& ignored) {
  for (const auto key : keys) {
    if (find(key) != nullptr) ignored.emplace_back(key);
  }
}

Result<void> Fields::no_others() const {
  for (const auto& item : object_) {
    const std::string_view key = item.key();
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    const std::string near = nearest_word(key, known_);
    return unsupported_parameter(name(key),
                                 fmt::format("unknown parameter {}", escape_text(name(key))),
                                 near.empty() ? "" : fmt::format("did you mean {}?", name(near)));
  }
  return success();
}

Result<const json::object*> body_object(const json::value& v) {
  const auto* o = v.if_object();
  if (o == nullptr) return wrong_kind("body", v, "an object");
  return o;
}

}  // namespace sluice
