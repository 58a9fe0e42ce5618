#include "daemon/protocol/budget.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/value_from.hpp>
#include <chrono>
#include <cmath>

#include "daemon/protocol/fields.h"
#include "daemon/protocol/json_text.h"

namespace sluice {
namespace {

namespace json = boost::json;

json::array evicted_array(const std::vector<EvictedDoc>& evicted) {
  json::array out;
  for (const EvictedDoc& e : evicted) {
    out.push_back(
        json::object{{"model", e.model}, {"kind", e.kind}, {"idle", e.idle}, {"bytes", e.bytes}});
  }
  return out;
}

// A size of bytes as text, so that one reader judges both forms.
Result<std::string> ram_text(const json::value& v) {
  if (v.is_string()) {
    if (v.get_string().size() > 40) return bad_parameter("ram_bytes", "ram_bytes is too long");
    return std::string(v.get_string());
  }
  const bool whole = v.is_int64() || v.is_uint64();
  if (!v.is_number())
    return wrong_kind("ram_bytes", v, "a number of bytes or a size such as \"2G\"");
  if (!whole && v.get_double() != std::floor(v.get_double()))
    return wrong_kind("ram_bytes", v, "a whole number of bytes");
  const double d = v.to_number<double>();
  if (!(d >= 1 && d <= 9e18)) {
    return bad_parameter(
        "ram_bytes",
        fmt::format("ram_bytes is {}; allowed: a number of bytes, or a size such as \"2G\" or "
                    "\"40%\"",
                    json_text(v)));
  }
  return fmt::format("{}", v.to_number<uint64_t>());
}

}  // namespace

std::string rfc3339(int64_t unix_ms) {
  const std::time_t seconds = unix_ms / 1000;
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(seconds), unix_ms % 1000);
}

int64_t unix_ms_now() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

json::object to_json(const BudgetStateDoc& d) {
  json::object accounted;
  for (const auto& [name, bytes] : d.accounted) accounted[name] = bytes;
  return {{"schema", "sluice.budget.v1"},
          {"limit_bytes", or_null(d.limit_bytes)},
          {"effective_bytes", d.effective_bytes},
          {"floor_bytes", d.floor_bytes},
          {"used_bytes", d.used_bytes},
          {"accounted", std::move(accounted)},
          {"rss_bytes", d.rss_bytes},
          {"cgroup_bytes", or_null(d.cgroup_bytes)},
          {"cgroup_limit_bytes", or_null(d.cgroup_limit_bytes)},
          {"gap_bytes", d.gap_bytes},
          {"gap_is_defect", d.gap_is_defect},
          {"pressure", d.pressure}};
}

json::object to_json(const BudgetStateDoc& d, const BudgetChangedDoc& c) {
  json::object out = to_json(d);
  out["old_bytes"] = or_null(c.old_bytes);
  out["new_bytes"] = c.new_bytes;
  out["dry_run"] = c.dry_run;
  out["lowered"] = c.lowered;
  out["evicted"] = evicted_array(c.evicted);
  out["cancelled"] = json::value_from(c.cancelled);
  out["kernel_confirmed"] = c.kernel_confirmed;
  out["deadline_missed"] = c.deadline_missed;
  out["elapsed_ms"] = c.elapsed_ms;
  out["saved"] = or_null(c.saved);
  out["note"] = or_null(c.note);
  return out;
}

json::object to_json(const BudgetChangeDoc& d) {
  return {{"at", rfc3339(d.at_ms)},
          {"cause", d.cause},
          {"uid", d.uid},
          {"old_bytes", or_null(d.old_bytes)},
          {"new_bytes", or_null(d.new_bytes)},
          {"elapsed_ms", d.elapsed_ms}};
}

Result<BudgetRequest> budget_request_from_json(const json::value& v) {
  constexpr int64_t kMaxTimeout_ms = 10 * 60 * 1000;
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  BudgetRequest r;
  if (const auto* ram = f.find("ram_bytes")) {
    SLUICE_TRY(r.ram, ram_text(*ram));
  }
  if (const auto* gpu = f.find("gpu_bytes")) {
    const bool zero = (gpu->is_number() && gpu->to_number<double>() == 0) ||
                      (gpu->is_string() && gpu->get_string() == "0");
    if (!zero) {
      return unsupported_parameter(
          "gpu_bytes", "gpu_bytes: this version keeps no weights in GPU memory; only 0 is allowed");
    }
  }
  if (f.find("model") != nullptr) {
    return unsupported_parameter("model", "model: all models share one budget in this version");
  }
  SLUICE_TRY(r.reset, f.boolean("reset", false));
  SLUICE_TRY(r.force, f.boolean("force", false));
  SLUICE_TRY(r.save, f.boolean("save", false));
  SLUICE_TRY(r.dry_run, f.boolean("dry_run", false));
  SLUICE_TRY(const auto timeout, f.integer("timeout_ms", 0, kMaxTimeout_ms));
  r.timeout_ms = timeout.value_or(r.timeout_ms);
  SLUICE_TRY(f.no_others());
  if (r.ram && r.reset) return bad_parameter("reset", "ram_bytes and reset exclude each other");
  if (!r.ram && !r.reset) return bad_parameter("ram_bytes", "ram_bytes is missing");
  return r;
}

}  // namespace sluice
