// Error codes, once: which HTTP status, OpenAI type and client exit code belong to a code
// (INTERFACE 1.2, 3.5), and the JSON of an error both ways.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sluice {

// HTTP status of an error code; gguf.* and template.* are 422, io.* and unknown codes 500.
int http_status_of(std::string_view code);

// Exit code of the client for an error code; `http_status` decides for codes this client does not
// know.
int exit_code_of(std::string_view code, int http_status = 0);

// An error as an answer carries it. `param` names the request's field, when one is to blame.
struct ApiError {
  Error error;
  std::string param{};
  std::string holds{};    // what stands in the way, class by class
  int status = 0;         // 0: http_status_of(error.code)
  int retry_after_s = 0;  // > 0: a Retry-After header
  bool no_retry = false;  // an x-should-retry: false header

  int http_status() const { return status != 0 ? status : http_status_of(error.code); }
};

// {"error":{"message","type","param","code","hint","request_id"[,"holds"][,"file","offset","field"]}}; absent
// texts are null. The message of an error in a file begins with file, offset and field.
boost::json::value error_document(const ApiError& e, std::string_view request_id);

// What the client reads back; a body of another shape becomes code "internal" with the start of the
// body.
ApiError parse_error_document(std::string_view body, int http_status);

}  // namespace sluice
