#include "daemon/protocol/errors.h"

#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <iterator>

#include "base/text_escape.h"

namespace sluice {
namespace {

struct CodeRow {
  std::string_view code;
  int status;
  int exit_code;
};

constexpr CodeRow kCodes[] = {
    {"invalid_request", 400, 1},
    {"unsupported_parameter", 400, 1},
    {"context_length_exceeded", 400, 1},
    {"text_too_long", 400, 1},
    {"bad_schema", 400, 1},
    {"invalid_token", 401, 4},
    {"not_permitted", 403, 4},
    {"origin_denied", 403, 4},
    {"model_not_found", 404, 5},
    {"session_not_found", 404, 5},
    {"request_not_found", 404, 5},
    {"unknown_url", 404, 5},
    {"method_not_allowed", 405, 1},
    {"request_timeout", 408, 1},
    {"budget_below_floor", 409, 6},
    {"name_taken", 409, 1},
    {"body_too_large", 413, 1},
    {"uri_too_long", 414, 1},
    {"unsupported_media_type", 415, 1},
    {"expectation_failed", 417, 1},
    {"model_does_not_fit", 422, 6},
    {"budget_exceeded", 422, 6},
    {"model_changed", 422, 1},
    {"model_unsupported", 422, 1},
    {"io.open", 422, 1},  // the file that was named, not our disk
    {"io.not_regular", 422, 1},
    {"numeric.nan", 422, 1},
    {"headers_too_large", 431, 1},
    {"queue_full", 429, 7},
    {"cancelled", 499, 130},
    {"client_too_slow", 408, 1},
    {"not_supported", 501, 1},
    {"overloaded", 503, 7},
    {"memory_pressure", 503, 7},
    {"shutting_down", 503, 7},
    {"http_version", 505, 1},
    {"daemon_unreachable", 0, 3},
    {"daemon_incompatible", 0, 9},
    {"protocol", 0, 9},
    {"usage", 0, 2},
    {"invalid_size", 400, 2},
    {"invalid_duration", 400, 2},
    {"invalid_config", 0, 2},
};

const CodeRow* find_code(std::string_view code) {
  for (const CodeRow& row : kCodes) {
    if (row.code == code) return &row;
  }
  return nullptr;
}

// OpenAI's coarse classes.
const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

boost::json::value text_or_null(const std::string& text) {
  if (text.empty()) return nullptr;
  return boost::json::string(to_valid_utf8(text));
}

std::string text_field(const boost::json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  if (v == nullptr || !v->is_string()) return {};
  return std::string(v->get_string());
}

// An error in a model file says where: "m.gguf: offset 12: general.alignment: found 7, allowed a
// power of two".
std::string message_of(const Error& e, bool in_file) {
  if (!in_file) return to_valid_utf8(e.what);
  std::string out;
  if (!e.file.empty()) out += escape_text(e.file, 400) + ": ";
  if (e.offset != Error::kNoOffset) out += fmt::format("offset {}: ", e.offset);
  if (!e.field.empty()) out += escape_text(e.field) + ": ";
  return out + to_valid_utf8(e.what);
}

}  // namespace

int http_status_of(std::string_view code) {
  if (const CodeRow* row = find_code(code); row != nullptr && row->status != 0) return row->status;
  if (code.starts_with("gguf.") || code.starts_with("template.") || code.starts_with("tokenizer."))
    return 422;
  return 500;
}

int exit_code_of(std::string_view code, int http_status) {
  if (const CodeRow* row = find_code(code)) return row->exit_code;
  switch (http_status) {
    case 401:
    case 403:
      return 4;
    case 404:
      return 5;
    case 429:
    case 503:
      return 7;
    default:
      return 1;
  }
}

boost::json::value error_document(const ApiError& e, std::string_view request_id) {
  const Error& error = e.error;
  // In a request's error `field` is the parameter; in a model file's it has a file beside it.
  const bool in_file = !error.file.empty() || error.offset != Error::kNoOffset;
  boost::json::object body;
  body["message"] = message_of(error, in_file);
  body["type"] = type_of(e.http_status());
  body["param"] = text_or_null(e.param.empty() && !in_file ? error.field : e.param);
  body["code"] = error.code;
  body["hint"] = text_or_null(error.hint);
  body["request_id"] = text_or_null(std::string(request_id));
  if (!e.holds.empty()) body["holds"] = e.holds;
  if (in_file) {
    body["file"] = text_or_null(error.file);
    if (error.offset != Error::kNoOffset) body["offset"] = error.offset;
    body["field"] = text_or_null(error.field);
  }
  return boost::json::object{{"error", std::move(body)}};
}

ApiError parse_error_document(std::string_view body, int http_status) {
  ApiError out;
  out.status = http_status;
  boost::system::error_code ec;
  const boost::json::value doc = boost::json::parse(body, ec);
  const boost::json::object* o = nullptr;
  if (!ec && doc.is_object()) {
    if (const auto* e = doc.get_object().if_contains("error")) o = e->if_object();
  }
  if (o == nullptr) {
    out.error = Error{"internal", fmt::format("HTTP {}: {}", http_status, escape_text(body, 200))};
    return out;
  }
  out.error.code = text_field(*o, "code");
  if (out.error.code.empty()) out.error.code = "internal";
  out.error.what = text_field(*o, "message");
  out.error.hint = text_field(*o, "hint");
  out.error.file = text_field(*o, "file");
  out.error.field = text_field(*o, "field");
  out.param = text_field(*o, "param");
  out.holds = text_field(*o, "holds");
  if (const auto* offset = o->if_contains("offset"); offset != nullptr && offset->is_number()) {
    boost::system::error_code bad;
    const auto n = offset->to_number<uint64_t>(bad);
    if (!bad) out.error.offset = n;
  }
  return out;
}

}  // namespace sluice
