#include "daemon/protocol/native.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/value_to.hpp>
#include <string_view>

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

// Reads fields of one object; remembers the first of a wrong type.
class Reader {
 public:
  Reader(const json::value& v, const char* what) : what_(what), object_(v.if_object()) {
    if (object_ == nullptr) bad_ = "(document)";
  }

  const json::value* find(std::string_view key) const {
    return object_ == nullptr ? nullptr : object_->if_contains(key);
  }
  void get(std::string_view key, std::string& out) {
    const auto* v = find(key);
    if (v == nullptr || v->is_null()) return;
    if (!v->is_string()) return fail(key);
    out.assign(v->get_string().begin(), v->get_string().end());
  }
  void get(std::string_view key, int64_t& out) {
    const auto* v = find(key);
    if (v == nullptr || v->is_null()) return;
    json::error_code ec;
    if (!v->is_number()) return fail(key);
    const auto n = v->to_number<int64_t>(ec);
    if (ec) return fail(key);
    out = n;
  }
  void get(std::string_view key, bool& out) {
    const auto* v = find(key);
    if (v == nullptr || v->is_null()) return;
    if (!v->is_bool()) return fail(key);
    out = v->get_bool();
  }
  template <class T>
  void get(std::string_view key, std::optional<T>& out) {
    const auto* v = find(key);
    if (v == nullptr || v->is_null()) return;
    T value{};
    get(key, value);
    out = std::move(value);
  }
  const json::array* array(std::string_view key) {
    const auto* v = find(key);
    if (v == nullptr) return nullptr;
    if (!v->is_array()) fail(key);
    return v->if_array();
  }
  void fail(std::string_view key) {
    if (bad_.empty()) bad_ = key;
  }
  Result<void> done() const {
    if (bad_.empty()) return success();
    return Error{
        "protocol",
        fmt::format("the daemon's {} has a field \"{}\" of an unexpected type", what_, bad_),
        "client and daemon are of different versions; restart the daemon"};
  }

 private:
  const char* what_;
  const json::object* object_;
  std::string bad_;
};

Result<RequestDoc> request_from_json(const json::value& v) {
  RequestDoc d;
  Reader r(v, "request");
  r.get("id", d.id);
  r.get("model", d.model);
  r.get("state", d.state);
  r.get("phase", d.phase);
  r.get("done", d.done);
  r.get("total", d.total);
  r.get("position", d.position);
  r.get("age_ms", d.age_ms);
  SLUICE_TRY(r.done());
  return d;
}

Result<LoadedModelDoc> loaded_from_json(const json::value& v) {
  LoadedModelDoc d;
  Reader r(v, "status");
  r.get("name", d.name);
  r.get("path", d.path);
  r.get("state", d.state);
  r.get("file_bytes", d.file_bytes);
  r.get("resident_bytes", d.resident_bytes);
  r.get("kv_bytes", d.kv_bytes);
  r.get("ctx", d.ctx);
  r.get("expires_in_ms", d.expires_in_ms);
  SLUICE_TRY(r.done());
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
  Reader r(v, "version");
  r.get("version", d.version);
  r.get("api", d.api);
  r.get("kernels", d.kernels);
  r.get("build", d.build);
  SLUICE_TRY(r.done());
  return d;
}

Result<StatusDoc> status_from_json(const json::value& v) {
  StatusDoc d;
  Reader r(v, "status");
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
  if (const auto* b = r.find("budget")) {
    Reader budget(*b, "status");
    budget.get("limit_bytes", d.budget.limit_bytes);
    budget.get("effective_bytes", d.budget.effective_bytes);
    budget.get("floor_bytes", d.budget.floor_bytes);
    budget.get("used_bytes", d.budget.used_bytes);
    if (const auto* classes = budget.find("by_class"); classes != nullptr && classes->is_object()) {
      Reader by_class(*classes, "status");
      for (const auto& item : classes->get_object()) {
        int64_t bytes = 0;
        by_class.get(item.key(), bytes);
        d.budget.by_class.emplace_back(std::string(item.key()), bytes);
      }
      SLUICE_TRY(by_class.done());
    }
    SLUICE_TRY(budget.done());
  }
  if (const auto* q = r.find("queue")) {
    Reader queue(*q, "status");
    queue.get("waiting", d.queue_waiting);
    queue.get("max", d.queue_max);
    SLUICE_TRY(queue.done());
  }
  if (const auto* models = r.array("models")) {
    for (const auto& m : *models) {
      SLUICE_TRY(auto doc, loaded_from_json(m));
      d.models.push_back(std::move(doc));
    }
  }
  if (const auto* requests = r.array("requests")) {
    for (const auto& q : *requests) {
      SLUICE_TRY(auto doc, request_from_json(q));
      d.requests.push_back(std::move(doc));
    }
  }
  SLUICE_TRY(r.done());
  return d;
}

Result<ModelDoc> model_from_json(const json::value& v) {
  ModelDoc d;
  Reader r(v, "model");
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
  SLUICE_TRY(r.done());
  return d;
}

Result<std::vector<ModelDoc>> models_from_json(const json::value& v) {
  Reader r(v, "model list");
  std::vector<ModelDoc> out;
  if (const auto* models = r.array("models")) {
    for (const auto& m : *models) {
      SLUICE_TRY(auto doc, model_from_json(m));
      out.push_back(std::move(doc));
    }
  }
  SLUICE_TRY(r.done());
  return out;
}

Result<std::vector<RequestDoc>> requests_from_json(const json::value& v) {
  Reader r(v, "request list");
  std::vector<RequestDoc> out;
  if (const auto* requests = r.array("requests")) {
    for (const auto& q : *requests) {
      SLUICE_TRY(auto doc, request_from_json(q));
      out.push_back(std::move(doc));
    }
  }
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
