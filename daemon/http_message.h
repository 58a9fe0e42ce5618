// One HTTP request and one plain answer, as the routes see them.
#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/protocol/errors.h"

namespace sluice {

using HeaderList = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;       // raw (not percent-decoded), without the query
  std::string query;      // raw, without '?'
  int minor_version = 1;  // HTTP/1.0 or HTTP/1.1
  HeaderList headers;     // names in lower case, values trimmed
  std::string body;
  uint32_t uid = 0;  // of the peer, at connect time
  std::string id;    // X-Request-Id
  bool keep_alive = true;
  // The body's part of the ledger. Goes with the body and what is made of it, on whatever thread
  // that ends.
  std::shared_ptr<const void> hold;

  // The first header of that (lower-case) name; empty when absent.
  std::string_view header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
};

struct HttpResponse {
  int status = 200;
  HeaderList headers;  // besides Content-Length, Connection, X-Request-Id
  std::string body;
};

HttpResponse json_response(int status, const boost::json::value& body);
// The error's JSON with its status, Retry-After and x-should-retry.
HttpResponse error_response(const ApiError& error, std::string_view request_id);
inline HttpResponse error_response(Error error, std::string_view request_id) {
  return error_response(ApiError{.error = std::move(error)}, request_id);
}

const char* status_text(int status);

}  // namespace sluice
