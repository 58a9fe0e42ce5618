// Reads of an answer's fields, the client's side: what is absent or null keeps its default, the
// first field of another type is remembered with the way to it ("budget.limit_bytes") and is the
// error of the outermost reader's done(). The document must outlive it.
#pragma once

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace sluice {

class AnswerReader {
 public:
  // `what` names the document in the error: "the daemon's status has ...".
  AnswerReader(const boost::json::value& v, const char* what)
      : what_(what), object_(v.if_object()) {
    if (object_ == nullptr) bad_ = "(document)";
  }
  AnswerReader(const AnswerReader&) = delete;  // readers of parts point here
  AnswerReader& operator=(const AnswerReader&) = delete;

  void get(std::string_view key, std::string& out) {
    const auto* v = find(key);
    if (v == nullptr) return;
    if (!v->is_string()) return fail(key);
    out.assign(v->get_string().begin(), v->get_string().end());
  }
  void get(std::string_view key, int64_t& out) {
    const auto* v = find(key);
    if (v == nullptr) return;
    boost::json::error_code ec;
    if (!v->is_number()) return fail(key);
    const auto n = v->to_number<int64_t>(ec);
    if (ec) return fail(key);
    out = n;
  }
  void get(std::string_view key, double& out) {
    const auto* v = find(key);
    if (v == nullptr) return;
    if (!v->is_number()) return fail(key);
    out = v->to_number<double>();
  }
  void get(std::string_view key, bool& out) {
    const auto* v = find(key);
    if (v == nullptr) return;
    if (!v->is_bool()) return fail(key);
    out = v->get_bool();
  }
  template <class T>
  void get(std::string_view key, std::optional<T>& out) {
    if (find(key) == nullptr) return;
    T value{};
    get(key, value);
    out = std::move(value);
  }

  // The object below `key`; one without fields when it is absent.
  AnswerReader object(std::string_view key) {
    const auto* v = find(key);
    if (v != nullptr && !v->is_object()) fail(key);
    return AnswerReader(v == nullptr ? nullptr : v->if_object(), this, name(key) + ".");
  }
  // f(AnswerReader&) for each object of the array below `key`.
  template <class F>
  void each(std::string_view key, F&& f) {
    const auto* v = find(key);
    if (v == nullptr) return;
    if (!v->is_array()) return fail(key);
    size_t i = 0;
    for (const boost::json::value& item : v->get_array()) {
      const std::string at = fmt::format("{}[{}]", key, i++);
      if (!item.is_object()) return fail(at);
      AnswerReader reader(item.if_object(), this, name(at) + ".");
      f(reader);
    }
  }
  // f(name) for each field of this object.
  template <class F>
  void each_key(F&& f) {
    if (object_ == nullptr) return;
    for (const auto& item : *object_) f(std::string_view(item.key()));
  }

  // Of the outermost reader. Errors: protocol.
  Result<void> done() const {
    if (bad_.empty()) return success();
    return Error{
        "protocol",
        fmt::format("the daemon's {} has a field \"{}\" of an unexpected type", what_, bad_),
        "client and daemon are of different versions; restart the daemon"};
  }

 private:
  AnswerReader(const boost::json::object* object, AnswerReader* parent, std::string prefix)
      : object_(object),
        outermost_(parent->outermost_ == nullptr ? parent : parent->outermost_),
        prefix_(std::move(prefix)) {}

  const boost::json::value* find(std::string_view key) const {
    const auto* v = object_ == nullptr ? nullptr : object_->if_contains(key);
    return v == nullptr || v->is_null() ? nullptr : v;
  }
  std::string name(std::string_view key) const { return prefix_ + std::string(key); }
  void fail(std::string_view key) {
    std::string& bad = outermost_ == nullptr ? bad_ : outermost_->bad_;
    if (bad.empty()) bad = name(key);
  }

  const char* what_ = "";
  const boost::json::object* object_;
  AnswerReader* outermost_ = nullptr;  // null: this one
  std::string prefix_;
  std::string bad_;  // of the outermost
};

}  // namespace sluice
