// GET /sluice/v1/residency?model=: where each block of a loaded model is (INTERFACE 3.6).
#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <functional>

#include "base/text_escape.h"
#include "daemon/protocol/messages.h"
#include "daemon/routes.h"

namespace sluice {
namespace {

namespace json = boost::json;

const char* state_name(const SliceBlockStats& s) {
  if (s.bytes > 0 && s.resident_bytes == s.bytes) return "ram";
  // Resident beyond what may stay: on its way out, or passing through the ring.
  if (s.resident_bytes > 0) return "partial";
  return s.loading_bytes > 0 ? "loading" : "disk";
}

json::object to_json(const BlockResidency& b) {
  const SliceBlockStats& s = b.stats;
  return {{"id", b.id},
          {"name", b.name},
          {"kind", block_kind_name(b.kind)},
          {"bytes", s.bytes},
          {"state", state_name(s)},
          {"resident_bytes", s.resident_bytes},
          {"gpu_bytes", 0},
          {"pinned", s.bytes > 0 && s.pin_bytes == s.bytes},
          {"pin_bytes", s.pin_bytes},
          {"hits", s.hit_bytes},
          {"misses", s.miss_bytes},
          {"evictions", s.evicted_bytes},
          {"read_bytes_total", s.read_bytes},
          {"stall_ms_total", static_cast<int64_t>(s.stall_s * 1000)}};
}

// Moves whenever the map does: every change of state comes with a read, a use or an eviction.
uint64_t sequence_of(const std::vector<BlockResidency>& blocks) {
  uint64_t seq = 0;
  for (const BlockResidency& b : blocks) {
    const SliceBlockStats& s = b.stats;
    seq += s.read_bytes + s.hit_bytes + s.miss_bytes + s.evicted_bytes + s.pin_bytes;
  }
  return seq;
}

Result<HttpResponse> residency_map(App& app, const HttpRequest& request) {
  SLUICE_TRY(const std::string name, query_value(request.query, "model"));
  SLUICE_TRY(const auto entry, app.registry.find(name));
  const auto blocks = app.registry.blocks(*entry);
  const std::string tag = fmt::format("\"{:x}-{}\"", sequence_of(blocks), blocks.size());
  if (request.header("if-none-match") == tag) {
    HttpResponse same;
    same.status = 304;
    same.headers.emplace_back("ETag", tag);
    return same;
  }
  json::array rows;
  for (const BlockResidency& b : blocks) rows.push_back(to_json(b));
  const BudgetStateDoc budget = app.budget_control.state();
  json::object limits{{"limit_bytes", nullptr}, {"effective_bytes", budget.effective_bytes}};
  if (budget.limit_bytes) limits["limit_bytes"] = *budget.limit_bytes;
  HttpResponse response = json_response(200,
                                        json::object{{"schema", "sluice.residency.v1"},
                                                     {"seq", sequence_of(blocks)},
                                                     {"model", entry->name},
                                                     {"loaded", !blocks.empty()},
                                                     {"trimmed", app.registry.trimmed(*entry)},
                                                     {"budget", std::move(limits)},
                                                     {"blocks", std::move(rows)}});
  response.headers.emplace_back("ETag", tag);
  return response;
}

Answer residency(App& app, HttpRequest request, std::string) {
  auto made = residency_map(app, request);
  if (!made) return error_response(std::move(made).error(), request.id);
  return std::move(made).value();
}

constexpr Route kRoutes[] = {{"GET", "/sluice/v1/residency", residency}};

}  // namespace

std::span<const Route> residency_routes() { return kRoutes; }

}  // namespace sluice
