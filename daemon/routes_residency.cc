// GET /sluice/v1/residency?model=&since=: where each block of a loaded model is (INTERFACE 3.6), or
// what of that is new. load_ms_p50 is of the reads of a block's slices, the unit that is read.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <chrono>
#include <cmath>
#include <functional>

#include "base/text_escape.h"
#include "daemon/protocol/fields.h"
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

int64_t ms_since(SteadyClock::time_point then, SteadyClock::time_point now) {
  return std::max<int64_t>(
      0, std::chrono::duration_cast<std::chrono::milliseconds>(now - then).count());
}

// Where the pass is: the block that was used last, or before the first one when none runs.
size_t place_of_pass(const std::vector<BlockResidency>& blocks, bool running) {
  size_t at = 0;
  for (size_t i = 1; running && i < blocks.size(); ++i) {
    if (blocks[i].stats.last_use > blocks[at].stats.last_use) at = i;
  }
  return at;
}

json::object to_json(const BlockResidency& b,
                     size_t blocks_until_use,
                     SteadyClock::time_point now) {
  const SliceBlockStats& s = b.stats;
  const bool used = s.last_use != SteadyClock::time_point{};
  const bool pinned = s.bytes > 0 && s.pin_bytes == s.bytes;
  const double load_ms = s.reads.median_ms();
  return {{"id", b.id},
          {"name", b.name},
          {"kind", block_kind_name(b.kind)},
          {"bytes", s.bytes},
          {"state", state_name(s)},
          {"resident_bytes", s.resident_bytes},
          {"gpu_bytes", 0},
          {"pinned", pinned},
          {"pin_bytes", s.pin_bytes},
          // Nobody can ask for pins yet: what stays, stays by the plan.
          {"pin_reason", s.pin_bytes > 0 ? json::value("plan") : json::value(nullptr)},
          {"refs", s.refs},
          {"hits", s.hit_bytes},
          {"misses", s.miss_bytes},
          {"evictions", s.evicted_bytes},
          {"last_use_ms_ago", used ? json::value(ms_since(s.last_use, now)) : json::value(nullptr)},
          {"load_ms_p50",
           load_ms > 0 ? json::value(std::round(load_ms * 100) / 100) : json::value(nullptr)},
          {"read_bytes_total", s.read_bytes},
          {"stall_ms_total", static_cast<int64_t>(s.stall_s * 1000)},
          {"next_use_in_blocks", blocks_until_use}};
}

Result<HttpResponse> residency_map(App& app, const HttpRequest& request) {
  SLUICE_TRY(const std::string name, query_value(request.query, "model"));
  SLUICE_TRY(const std::string since_text, query_value(request.query, "since"));
  SLUICE_TRY(const auto since, sequence_number(since_text, "since"));
  SLUICE_TRY(const auto entry, app.registry.find(name));
  const auto blocks = app.registry.blocks(*entry);
  const auto news = app.residency_log.look(entry->name, blocks, since);
  const std::string tag = fmt::format("\"{:x}\"", news.seq);
  if (request.header("if-none-match") == tag) {
    HttpResponse same;
    same.status = 304;
    same.headers.emplace_back("ETag", tag);
    return same;
  }
  const auto now = SteadyClock::now();
  const size_t at = place_of_pass(blocks, app.registry.running(*entry));
  json::array rows;
  for (const size_t i : news.rows)
    rows.push_back(to_json(blocks[i], (i + blocks.size() - at) % blocks.size(), now));
  const BudgetStateDoc budget = app.budget_control.state();
  json::object limits{{"limit_bytes", nullptr}, {"effective_bytes", budget.effective_bytes}};
  if (budget.limit_bytes) limits["limit_bytes"] = *budget.limit_bytes;
  // A map that is not "full" holds the rows that differ from those of `since`; an id names a row.
  HttpResponse response = json_response(200,
                                        json::object{{"schema", "sluice.residency.v1"},
                                                     {"seq", news.seq},
                                                     {"since", or_null(since)},
                                                     {"full", news.full},
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
