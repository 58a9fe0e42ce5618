// Documents of the native routes (/sluice/v1/...). Each struct is one JSON object, field for field,
// in this order; `schema` is added by the whole documents. Optional fields are written as null.
// Only ever extended.
//
//   GET    version             VersionDoc
//   GET    status              StatusDoc
//   GET    config              {"schema":"sluice.config.v1","config":{...}}
//   GET    requests            {"schema":"sluice.requests.v1","requests":[RequestDoc]}
//   DELETE requests/{id}       {"schema":"sluice.request.v1","id","cancelled":true};
//                              404 request_not_found
//   GET    models              {"schema":"sluice.models.v1","models":[ModelDoc]}
//   GET    models/{id}         ModelDoc and {"schema":"sluice.model.v1","metadata":{key:value},
//                              "tensors":[{"name","type","dims":[..],"bytes","offset"}],
//                              "template":string or null}; arrays of more than 16 values are
//                              {"type":"array","of":"string","count":N}
//   POST   models              {"path":"/abs/file.gguf","name"?} -> 201 ModelDoc,
//                              200 when it was there already
//   DELETE models/{id}         {"delete_file"?:bool} or no body ->
//                              {"schema","name","removed":true,"file_deleted":bool}
//   POST   models/{id}/load    {"ctx"?,"keep_alive"?} -> 202 ModelDoc and
//                              {"schema","request_id":"r-0001"}: poll requests until it is gone,
//                              then models ("load_error" when it failed)
//   POST   models/{id}/unload  {} -> ModelDoc and {"schema"}
//   POST   shutdown            {"drain_ms"?} -> 202 {"schema":"sluice.shutdown.v1","drain_ms"}
//
// Model names in paths are percent-encoded. Errors have the shape of errors.h.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace sluice {

inline constexpr int64_t kApiVersion = 1;

struct VersionDoc {  // schema sluice.version.v1
  std::string version;
  int64_t api = kApiVersion;
  std::string kernels;  // "avx2"
  std::string build;
};

struct RequestDoc {
  std::string id;  // "r-0192"
  std::string model;
  std::string state;     // running | queued | paused (its client does not read)
  std::string phase;     // queued | load | prefill | decode
  int64_t done = 0;      // tokens of the phase
  int64_t total = 0;     // 0: not known
  int64_t position = 0;  // 0: running; 1: next
  int64_t age_ms = 0;
};

struct ModelDoc {
  std::string name;
  std::string path;
  std::string arch;
  std::string quantization;
  int64_t file_bytes = 0;
  int64_t parameters = 0;
  int64_t ctx = 0;  // the file's context length
  int64_t blocks = 0;
  bool loaded = false;
  int64_t created = 0;                    // unix seconds of registration
  std::optional<std::string> load_error;  // last failed load, cleared by a good one
};

struct LoadedModelDoc {  // in StatusDoc
  std::string name;
  std::string path;
  std::string state;  // loaded (never used) | idle | running
  int64_t file_bytes = 0;
  int64_t resident_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t pinned_bytes = 0;              // weights that stay between passes
  bool trimmed = false;                  // idle for so long that it gave them back
  int64_t ctx = 0;                       // tokens one generation may hold
  std::optional<int64_t> expires_in_ms;  // null: never, or running
};

struct BudgetDoc {
  std::optional<int64_t> limit_bytes;  // null: unlimited
  int64_t effective_bytes = 0;
  int64_t floor_bytes = 0;
  int64_t used_bytes = 0;
  std::vector<std::pair<std::string, int64_t>> by_class;  // an object in JSON
};

struct StatusDoc {  // schema sluice.status.v1
  std::string version;
  int64_t pid = 0;
  int64_t uptime_s = 0;
  std::string mode = "user";
  std::string socket;
  int64_t threads = 0;
  std::string kernels;
  bool draining = false;
  BudgetDoc budget;
  int64_t rss_bytes = 0;
  std::optional<int64_t> cgroup_bytes;        // of our own group; null: unknown
  std::optional<int64_t> cgroup_limit_bytes;  // the smallest above us; null: none
  int64_t gap_bytes = 0;                      // rss - used
  std::vector<LoadedModelDoc> models;
  std::vector<RequestDoc> requests;
  int64_t queue_waiting = 0;  // "queue":{"waiting","max"}
  int64_t queue_max = 0;
};

boost::json::object to_json(const VersionDoc& d);
boost::json::object to_json(const RequestDoc& d);
boost::json::object to_json(const ModelDoc& d);  // without schema
boost::json::object to_json(const LoadedModelDoc& d);
boost::json::object to_json(const StatusDoc& d);

// Bodies of the native POST and DELETE routes. Errors: invalid_request, unsupported_parameter
// (unknown fields).
struct AddModelRequest {
  std::string path;
  std::string name;  // empty: from the file's name
};
Result<AddModelRequest> add_model_request_from_json(const boost::json::value& v);
struct LoadRequest {
  std::optional<int64_t> ctx;
  std::optional<int64_t> keep_alive_ms;
};
Result<LoadRequest> load_request_from_json(const boost::json::value& v);
Result<bool> delete_file_from_json(const boost::json::value& v);
Result<std::optional<int64_t>> drain_ms_from_json(const boost::json::value& v);

// The client's side. Unknown fields are ignored, missing ones keep their defaults; a field of
// another type is Error protocol (the daemon is of another kind).
Result<VersionDoc> version_from_json(const boost::json::value& v);
Result<StatusDoc> status_from_json(const boost::json::value& v);
Result<ModelDoc> model_from_json(const boost::json::value& v);
Result<std::vector<ModelDoc>> models_from_json(const boost::json::value& v);
Result<std::vector<RequestDoc>> requests_from_json(const boost::json::value& v);

}  // namespace sluice
