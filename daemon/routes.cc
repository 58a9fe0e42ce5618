#include "daemon/routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "base/suggest.h"
#include "base/text_escape.h"
#include "daemon/http_parse.h"

namespace sluice {
namespace {

std::string_view next_segment(std::string_view& rest) {
  rest.remove_prefix(1);  // the slash
  const std::string_view segment = rest.substr(0, rest.find('/'));
  rest.remove_prefix(segment.size());
  return segment;
}

// The raw {id}, empty when the pattern has none; nullopt when the path is another.
std::optional<std::string_view> match(std::string_view pattern, std::string_view path) {
  std::string_view id;
  while (!pattern.empty() && !path.empty()) {
    const std::string_view want = next_segment(pattern);
    const std::string_view have = next_segment(path);
    if (want == "{id}") {
      if (have.empty()) return std::nullopt;
      id = have;
    } else if (want != have) {
      return std::nullopt;
    }
  }
  if (!pattern.empty() || !path.empty()) return std::nullopt;
  return id;
}

std::vector<const Route*> all_routes() {
  std::vector<const Route*> out;
  for (const auto family : {openai_routes(),
                            text_routes(),
                            native_routes(),
                            budget_routes(),
                            plan_routes(),
                            residency_routes(),
                            event_routes()}) {
    for (const Route& r : family) out.push_back(&r);
  }
  return out;
}

HttpResponse unknown_url(const HttpRequest& request, const std::vector<const Route*>& routes) {
  std::vector<std::string> paths;
  for (const Route* r : routes) paths.emplace_back(r->pattern);
  const std::string near = nearest_word(request.path, paths);
  return error_response(Error{"unknown_url",
                              fmt::format("there is nothing at {}", escape_text(request.path)),
                              near.empty() ? "GET /sluice/v1/status, POST /v1/chat/completions, ..."
                                           : fmt::format("did you mean {}?", near)},
                        request.id);
}

}  // namespace

Result<std::string> query_value(const std::string& query, std::string_view wanted) {
  std::string_view rest = query;
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(pair.size() + 1, rest.size()));
    if (pair.substr(0, pair.find('=')) != wanted) continue;
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos) return std::string();
    return percent_decode(pair.substr(equals + 1));
  }
  return std::string();
}

Result<std::optional<uint64_t>> sequence_number(std::string_view text, const char* name) {
  if (text.empty()) return std::optional<uint64_t>();
  uint64_t n = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (ec == std::errc{} && end == text.data() + text.size()) return std::optional<uint64_t>(n);
  Error e{"invalid_request",
          fmt::format("{} is \"{}\", a sequence number is expected", name, escape_text(text))};
  e.field = name;
  return e;
}

Answer route(App& app, HttpRequest request) {
  static const std::vector<const Route*> routes = all_routes();
  const std::string_view method =
      request.method == "HEAD" ? "GET" : std::string_view(request.method);
  std::string allowed;
  if (request.path.starts_with('/')) {
    for (const Route* r : routes) {
      const auto raw_id = match(r->pattern, request.path);
      if (!raw_id) continue;
      if (method != r->method) {
        allowed += (allowed.empty() ? "" : ", ") + std::string(r->method);
        continue;
      }
      auto id = percent_decode(*raw_id);
      if (!id) return error_response(std::move(id).error(), request.id);
      return r->handle(app, std::move(request), std::move(id).value());
    }
  }
  if (allowed.empty()) return unknown_url(request, routes);
  HttpResponse response = error_response(
      Error{"method_not_allowed",
            fmt::format("{} is not allowed at {}", request.method, escape_text(request.path)),
            allowed},
      request.id);
  response.headers.emplace_back("Allow", allowed);
  return response;
}

}  // namespace sluice
