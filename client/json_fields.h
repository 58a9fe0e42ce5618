// Reading fields of documents that came from elsewhere: wrong types read as absent.
#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

inline const boost::json::value* field(const boost::json::object& o, std::string_view key) {
  return o.if_contains(key);
}

inline const boost::json::object* object_field(const boost::json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  return v == nullptr ? nullptr : v->if_object();
}

inline const boost::json::array* array_field(const boost::json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  return v == nullptr ? nullptr : v->if_array();
}

inline std::string text_field(const boost::json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  const auto* s = v == nullptr ? nullptr : v->if_string();
  return s == nullptr ? std::string() : std::string(s->data(), s->size());
}

inline double number_field(const boost::json::object& o, std::string_view key, double absent = 0) {
  const auto* v = o.if_contains(key);
  return v != nullptr && v->is_number() ? v->to_number<double>() : absent;
}

inline int64_t integer_field(const boost::json::object& o,
                             std::string_view key,
                             int64_t absent = 0) {
  const auto* v = o.if_contains(key);
  if (v == nullptr) return absent;
  if (const auto* i = v->if_int64()) return *i;
  return absent;
}

inline bool bool_field(const boost::json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  const auto* b = v == nullptr ? nullptr : v->if_bool();
  return b != nullptr && *b;
}

}  // namespace sluice
