// Path and method -> handler. Matching is on the raw path; a {id} segment is decoded afterwards, so
// that an encoded slash stays inside it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "daemon/answer.h"
#include "daemon/app.h"
#include "daemon/http_message.h"

namespace sluice {

struct Route {
  const char* method;
  const char* pattern;  // "/v1/models/{id}"
  Answer (*handle)(App& app, HttpRequest request, std::string id);
};

std::span<const Route> openai_routes();
std::span<const Route> text_routes();
std::span<const Route> native_routes();
std::span<const Route> budget_routes();
std::span<const Route> plan_routes();
std::span<const Route> residency_routes();
std::span<const Route> event_routes();

// The first `wanted` of "a=1&b=2", percent-decoded; empty when absent.
Result<std::string> query_value(const std::string& query, std::string_view wanted);
// A number such as ?since= takes; nullopt when `text` is empty. Errors: invalid_request.
Result<std::optional<uint64_t>> sequence_number(std::string_view text, const char* name);

// Runs on the io thread: handlers that read bodies or files answer from a worker. Unknown paths are
// 404 unknown_url with the nearest known one, known ones with another method 405 with Allow. HEAD
// is GET; the session drops the body.
Answer route(App& app, HttpRequest request);

}  // namespace sluice
