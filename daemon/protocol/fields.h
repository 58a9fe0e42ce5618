// Typed, range-checked reads of a request's fields. Everything that is not asked for is refused at
// the end, with the nearest known name. Errors are invalid_request or unsupported_parameter,
// Error::field names the parameter.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_from.hpp>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sluice {

Error bad_parameter(std::string_view param, std::string what, std::string hint = {});
Error unsupported_parameter(std::string_view param, std::string what, std::string hint = {});
// "seed is a string, a 64-bit integer is expected".
Error wrong_kind(std::string_view param, const boost::json::value& v, const char* wanted);

// Reads of one object's fields. A null counts as absent, as OpenAI's clients send it. The object
// must outlive it.
class Fields {
 public:
  explicit Fields(const boost::json::object& o, std::string prefix = {})
      : object_(o), prefix_(std::move(prefix)) {}

  // Null when absent.
  const boost::json::value* find(std::string_view key);
  // The name as an error shows it: with the prefix.
  std::string name(std::string_view key) const { return prefix_ + std::string(key); }

  Result<bool> boolean(std::string_view key, bool absent);
  Result<double> number(std::string_view key, double absent, double lo, double hi);
  Result<std::optional<int64_t>> integer(std::string_view key, int64_t lo, int64_t hi);
  Result<std::string> text(std::string_view key, size_t max_bytes);
  // Accepts parameters that cannot change the text, and notes those that are there.
  void harmless(std::initializer_list<std::string_view> keys, std::vector<std::string>& ignored);
  // Refuses what none of the above asked for.
  Result<void> no_others() const;

 private:
  const boost::json::object& object_;
  const std::string prefix_;
  std::vector<std::string> known_;
};

// What our documents show for a value that may be absent.
template <class T>
boost::json::value or_null(const std::optional<T>& v) {
  if (!v) return nullptr;
  return boost::json::value_from(*v);
}

// The object a body must be.
Result<const boost::json::object*> body_object(const boost::json::value& v);

}  // namespace sluice
