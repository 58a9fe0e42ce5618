#include "daemon/protocol/native.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/value_to.hpp>
#include <string_view>

#include "daemon/protocol/answer_reader.h"
#include "daemon/protocol/fields.h"
#include "daemon/protocol/openai.h"

namespace sluice {
namespace {

namespace json = boost::json;

json::array requests_array(const std::vector<RequestDoc>& requests) {
  json::array out;
  for (const RequestDoc& r : requests) out.push_back(to_json(r));
  return out;
}

RequestDoc request_of(AnswerReader& r) {
  RequestDoc d;
  r.get("id", d.id);
  r.get("model", d.model);
  r.get("state", d.state);
  r.get("phase", d.phase);
  r.get("done", d.done);
  r.get("total", d.total);
  r.get("position", d.position);
  r.get("age_ms", d.age_ms);
  return d;
}

LoadedModelDoc loaded_of(AnswerReader& r) {
  LoadedModelDoc d;
  r.get("name", d.name);
  r.get("path", d.path);
  r.get("state", d.state);
  r.get("file_bytes", d.file_bytes);
  r.get("resident_bytes", d.resident_bytes);
  r.get("kv_bytes", d.kv_bytes);
  r.get("pinned_bytes", d.pinned_bytes);
  r.get("trimmed", d.trimmed);
  r.get("ctx", d.ctx);
  r.get("expires_in_ms", d.expires_in_ms);
  return d;
}

ModelDoc model_of(AnswerReader& r) {
  ModelDoc d;
  r.get("name", d.name);
  r.get("path", d.path);
  r.get("arch", d.arch);
  r.get("quantization", d.quantization);
  r.get("file_bytes", d.file_bytes);
  r.get("parameters", d.parameters);
  r.get("ctx", d.ctx);
  r.get("blocks", d.blocks);
  r.get("loaded", d.loaded);
  r.get("created", d.created);
  r.get("load_error", d.load_error);
  return d;
}

}  // namespace

json::object to_json(const VersionDoc& d) {
  return {{"schema", "sluice.version.v1"},
          {"version", d.version},
          {"api", d.api},
          {"kernels", d.kernels},
          {"build", d.build}};
}

json::object to_json(const RequestDoc& d) {
  return {{"id", d.id},
          {"model", d.model},
          {"state", d.state},
          {"phase", d.phase},
          {"done", d.done},
          {"total", d.total},
          {"position", d.position},
          {"age_ms", d.age_ms}};
}

json::object to_json(const ModelDoc& d) {
  return {{"name", d.name},
          {"path", d.path},
          {"arch", d.arch},
          {"quantization", d.quantization},
          {"file_bytes", d.file_bytes},
          {"parameters", d.parameters},
          {"ctx", d.ctx},
          {"blocks", d.blocks},
          {"loaded", d.loaded},
          {"created", d.created},
          {"load_error", or_null(d.load_error)}};
}

json::object to_json(const LoadedModelDoc& d) {
  return {{"name", d.name},
          {"path", d.path},
          {"state", d.state},
          {"file_bytes", d.file_bytes},
          {"resident_bytes", d.resident_bytes},
          {"kv_bytes", d.kv_bytes},
          {"pinned_bytes", d.pinned_bytes},
          {"trimmed", d.trimmed},
          {"ctx", d.ctx},
          {"expires_in_ms", or_null(d.expires_in_ms)}};
}

json::object to_json(const StatusDoc& d) {
  json::object by_class;
  for (const auto& [name, bytes] : d.budget.by_class) by_class[name] = bytes;
  json::array models;
  for (const LoadedModelDoc& m : d.models) models.push_back(to_json(m));
  return {{"schema", "sluice.status.v1"},
          {"version", d.version},
          {"pid", d.pid},
          {"uptime_s", d.uptime_s},
          {"mode", d.mode},
          {"socket", d.socket},
          {"threads", d.threads},
          {"kernels", d.kernels},
          {"draining", d.draining},
          {"budget",
           {{"limit_bytes", or_null(d.budget.limit_bytes)},
            {"effective_bytes", d.budget.effective_bytes},
            {"floor_bytes", d.budget.floor_bytes},
            {"used_bytes", d.budget.used_bytes},
            {"by_class", std::move(by_class)}}},
          {"rss_bytes", d.rss_bytes},
          {"cgroup_bytes", or_null(d.cgroup_bytes)},
          {"cgroup_limit_bytes", or_null(d.cgroup_limit_bytes)},
          {"gap_bytes", d.gap_bytes},
          {"models", std::move(models)},
          {"requests", requests_array(d.requests)},
          {"queue", {{"waiting", d.queue_waiting}, {"max", d.queue_max}}}};
}

Result<VersionDoc> version_from_json(const json::value& v) {
  VersionDoc d;
  AnswerReader r(v, "version");
  r.get("version", d.version);
  r.get("api", d.api);
  r.get("kernels", d.kernels);
  r.get("build", d.build);
  SLUICE_TRY(r.done());
  return d;
}

Result<StatusDoc> status_from_json(const json::value& v) {
  StatusDoc d;
  AnswerReader r(v, "status");
  r.get("version", d.version);
  r.get("pid", d.pid);
  r.get("uptime_s", d.uptime_s);
  r.get("mode", d.mode);
  r.get("socket", d.socket);
  r.get("threads", d.threads);
  r.get("kernels", d.kernels);
  r.get("draining", d.draining);
  r.get("rss_bytes", d.rss_bytes);
  r.get("cgroup_bytes", d.cgroup_bytes);
  r.get("cgroup_limit_bytes", d.cgroup_limit_bytes);
  r.get("gap_bytes", d.gap_bytes);
  auto budget = r.object("budget");
  budget.get("limit_bytes", d.budget.limit_bytes);
  budget.get("effective_bytes", d.budget.effective_bytes);
  budget.get("floor_bytes", d.budget.floor_bytes);
  budget.get("used_bytes", d.budget.used_bytes);
  auto by_class = budget.object("by_class");
  by_class.each_key([&](std::string_view name) {
    int64_t bytes = 0;
    by_class.get(name, bytes);
    d.budget.by_class.emplace_back(std::string(name), bytes);
  });
  auto queue = r.object("queue");
  queue.get("waiting", d.queue_waiting);
  queue.get("max", d.queue_max);
  r.each("models", [&](AnswerReader& m) { d.models.push_back(loaded_of(m)); });
  r.each("requests", [&](AnswerReader& q) { d.requests.push_back(request_of(q)); });
  SLUICE_TRY(r.done());
  return d;
}

Result<ModelDoc> model_from_json(const json::value& v) {
  AnswerReader r(v, "model");
  ModelDoc d = model_of(r);
  SLUICE_TRY(r.done());
  return d;
}

Result<std::vector<ModelDoc>> models_from_json(const json::value& v) {
  AnswerReader r(v, "model list");
  std::vector<ModelDoc> out;
  r.each("models", [&](AnswerReader& m) { out.push_back(model_of(m)); });
  SLUICE_TRY(r.done());
  return out;
}

Result<std::vector<RequestDoc>> requests_from_json(const json::value& v) {
  AnswerReader r(v, "request list");
  std::vector<RequestDoc> out;
  r.each("requests", [&](AnswerReader& q) { out.push_back(request_of(q)); });
  SLUICE_TRY(r.done());
  return out;
}

Result<AddModelRequest> add_model_request_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  AddModelRequest r;
  SLUICE_TRY(r.path, f.text("path", 4096));
  if (r.path.empty()) return bad_parameter("path", "path is missing");
  SLUICE_TRY(r.name, f.text("name", 4096));
  SLUICE_TRY(f.no_others());
  return r;
}

Result<LoadRequest> load_request_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  LoadRequest r;
  SLUICE_TRY(r.ctx, f.integer("ctx", 1, int64_t{1} << 31));
  if (const auto* keep = f.find("keep_alive")) {
    SLUICE_TRY(const int64_t ms, keep_alive_from_json(*keep, "keep_alive"));
    r.keep_alive_ms = ms;
  }
  SLUICE_TRY(f.no_others());
  return r;
}

Result<bool> delete_file_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  SLUICE_TRY(const bool delete_file, f.boolean("delete_file", false));
  SLUICE_TRY(f.no_others());
  return delete_file;
}

Result<std::optional<int64_t>> drain_ms_from_json(const json::value& v) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  SLUICE_TRY(const auto ms, f.integer("drain_ms", 0, int64_t{24} * 3600 * 1000));
  SLUICE_TRY(f.no_others());
  return ms;
}

}  // namespace sluice
