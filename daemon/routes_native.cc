// /sluice/v1, /health and /metrics. The shapes stand in protocol/native.h.
#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <iterator>
#include <utility>

#include "base/text_escape.h"
#include "daemon/protocol/messages.h"
#include "daemon/routes.h"
#include "kernels/kernels.h"

namespace sluice {
namespace {

namespace json = boost::json;

// An empty body counts as {}.
Result<json::value> body_of(const App& app, const HttpRequest& request) {
  if (request.body.empty()) return json::value(json::object());
  return parse_json(request.body,
                    JsonLimits{app.options.http.json_depth, app.options.http.json_values});
}

HttpResponse respond(Result<HttpResponse> made, const std::string& request_id) {
  if (!made) return error_response(std::move(made).error(), request_id);
  return std::move(made).value();
}

// `make`: Result<HttpResponse>(App&, const HttpRequest&, const std::string& id), on a worker.
template <class Make>
Answer on_worker(App& app, HttpRequest request, std::string id, Make make) {
  const std::string request_id = request.id;
  return answer_on(
      app.worker,
      [&app, request = std::move(request), id = std::move(id), make] {
        return respond(make(app, request, id), request.id);
      },
      request_id,
      /*large=*/true);  // model headers are
}

json::object model_document(const App& app, const ModelEntry& entry) {
  json::object out{{"schema", "sluice.model.v1"}};
  for (auto& item : to_json(app.registry.doc(entry))) out[item.key()] = item.value();
  return out;
}

Answer health(App& app, HttpRequest, std::string) {
  if (app.draining.load()) return json_response(503, json::object{{"status", "draining"}});
  return json_response(200, json::object{{"status", "ok"}});
}

Answer version(App& app, HttpRequest, std::string) {
  VersionDoc d;
  d.version = app.options.version;
  d.kernels = kernels::kernels().name;
  d.build = app.options.build;
  return json_response(200, to_json(d));
}

Answer status(App& app, HttpRequest request, std::string) {
  return json_response(200, to_json(app.status(request.uid)));
}

Answer config(App& app, HttpRequest, std::string) {
  return json_response(
      200, json::object{{"schema", "sluice.config.v1"}, {"config", app.options.config_doc}});
}

Answer requests(App& app, HttpRequest request, std::string) {
  json::array list;
  for (const RequestDoc& d : app.requests(request.uid)) list.push_back(to_json(d));
  return json_response(
      200, json::object{{"schema", "sluice.requests.v1"}, {"requests", std::move(list)}});
}

Answer cancel_request(App& app, HttpRequest request, std::string id) {
  // Another user's request looks like none at all.
  if (!app.queue.cancel(id, request.uid, app.may_manage(request.uid))) {
    return error_response(Error{"request_not_found",
                                fmt::format("there is no request {}", escape_text(id)),
                                "GET /sluice/v1/requests"},
                          request.id);
  }
  return json_response(
      200, json::object{{"schema", "sluice.request.v1"}, {"id", id}, {"cancelled", true}});
}

Answer list_models(App& app, HttpRequest, std::string) {
  json::array models;
  for (const auto& e : app.registry.list()) models.push_back(to_json(app.registry.doc(*e)));
  return json_response(200,
                       json::object{{"schema", "sluice.models.v1"}, {"models", std::move(models)}});
}

Answer show_model(App& app, HttpRequest request, std::string id) {
  return on_worker(app,
                   std::move(request),
                   std::move(id),
                   [](App& a, const HttpRequest&, const std::string& name) -> Result<HttpResponse> {
                     SLUICE_TRY(const auto entry, a.registry.find(name));
                     SLUICE_TRY(auto doc, a.registry.details(entry));
                     return json_response(200, doc);
                   });
}

Answer add_model(App& app, HttpRequest request, std::string id) {
  return on_worker(app,
                   std::move(request),
                   std::move(id),
                   [](App& a, const HttpRequest& r, const std::string&) -> Result<HttpResponse> {
                     SLUICE_TRY(const auto body, body_of(a, r));
                     SLUICE_TRY(const auto wanted, add_model_request_from_json(body));
                     SLUICE_TRY(const auto added, a.registry.add(wanted.path, wanted.name, true));
                     return json_response(added.created ? 201 : 200,
                                          model_document(a, *added.entry));
                   });
}

Answer remove_model(App& app, HttpRequest request, std::string id) {
  return on_worker(
      app,
      std::move(request),
      std::move(id),
      [](App& a, const HttpRequest& r, const std::string& name) -> Result<HttpResponse> {
        SLUICE_TRY(const auto body, body_of(a, r));
        SLUICE_TRY(const bool delete_file, delete_file_from_json(body));
        SLUICE_TRY(const auto removed, a.registry.remove(name, delete_file));
        return json_response(200,
                             json::object{{"schema", "sluice.model.v1"},
                                          {"name", name},
                                          {"removed", true},
                                          {"file_deleted", removed.file_deleted}});
      });
}

// Loading is work for the queue's thread, like a generation of no tokens.
Result<HttpResponse> submit_load(App& app, const HttpRequest& r, const std::string& name) {
  SLUICE_TRY(const auto body, body_of(app, r));
  SLUICE_TRY(const auto wanted, load_request_from_json(body));
  SLUICE_TRY(const auto entry, app.registry.find(name));
  SLUICE_TRY(app.registry.context_of(*entry, wanted.ctx));
  auto progress = std::make_shared<Progress>();
  RunQueue::Job job;
  job.uid = r.uid;
  job.model = entry->name;
  job.cancel = std::make_shared<CancelToken>();
  job.work = [&app, entry, wanted, progress] {
    progress->set(Phase::kLoad, 0, 0);
    auto loaded = app.registry.acquire(entry, wanted.ctx);
    if (loaded) app.registry.release(entry, wanted.keep_alive_ms, false);
    app.keep_alive_changed();
  };
  auto ticket = app.queue.submit(std::move(job));
  if (!ticket) return error_response(app.admission_error(std::move(ticket).error()), r.id);
  app.progress.add(ticket.value().id, progress);
  json::object doc = model_document(app, *entry);
  doc["request_id"] = ticket.value().id;
  HttpResponse response = json_response(202, doc);
  response.headers.emplace_back("Sluice-Request-Id", ticket.value().id);
  return response;
}

Answer load_model(App& app, HttpRequest request, std::string id) {
  return on_worker(app, std::move(request), std::move(id), submit_load);
}

Answer unload_model(App& app, HttpRequest request, std::string id) {
  return on_worker(app,
                   std::move(request),
                   std::move(id),
                   [](App& a, const HttpRequest&, const std::string& name) -> Result<HttpResponse> {
                     SLUICE_TRY(const auto entry, a.registry.find(name));
                     a.registry.unload(entry);
                     return json_response(200, model_document(a, *entry));
                   });
}

Answer shutdown(App& app, HttpRequest request, std::string) {
  const auto body = body_of(app, request);
  if (!body) return error_response(body.error(), request.id);
  const auto wanted = drain_ms_from_json(body.value());
  if (!wanted) return error_response(wanted.error(), request.id);
  if (!app.may_manage(request.uid)) {
    return error_response(Error{"not_permitted", "only the daemon's user and root may stop it"},
                          request.id);
  }
  const int64_t drain_ms = wanted.value().value_or(app.options.drain_ms);
  app.stop(drain_ms);
  return json_response(202, json::object{{"schema", "sluice.shutdown.v1"}, {"drain_ms", drain_ms}});
}

Answer metrics(App& app, HttpRequest request, std::string) {
  const StatusDoc s = app.status(request.uid);
  HttpResponse r;
  r.headers.emplace_back("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
  auto out = std::back_inserter(r.body);
  fmt::format_to(
      out,
      "# TYPE sluice_build_info gauge\nsluice_build_info{{version=\"{}\",kernels=\"{}\"}} 1\n",
      s.version,
      s.kernels);
  fmt::format_to(out,
                 "# TYPE sluice_process_resident_bytes gauge\nsluice_process_resident_bytes {}\n",
                 s.rss_bytes);
  if (s.budget.limit_bytes) {
    fmt::format_to(
        out,
        "# TYPE sluice_budget_limit_bytes gauge\nsluice_budget_limit_bytes{{device=\"ram\"}} {}\n",
        *s.budget.limit_bytes);
  }
  const auto gauge = [&](const char* name, const char* labels, double value) {
    fmt::format_to(out, "# TYPE {0} gauge\n{0}{1} {2}\n", name, labels, value);
  };
  gauge("sluice_budget_effective_bytes",
        "{device=\"ram\"}",
        static_cast<double>(s.budget.effective_bytes));
  gauge("sluice_budget_floor_bytes", "{device=\"ram\"}", static_cast<double>(s.budget.floor_bytes));
  if (s.cgroup_bytes) gauge("sluice_cgroup_memory_bytes", "", static_cast<double>(*s.cgroup_bytes));
  fmt::format_to(out,
                 "# TYPE sluice_pressure_ratio gauge\nsluice_pressure_ratio{{kind=\"some\"}} {}\n"
                 "sluice_pressure_ratio{{kind=\"full\"}} {}\n",
                 app.memory_watch.some() / 100,
                 app.memory_watch.full() / 100);
  fmt::format_to(out, "# TYPE sluice_memory_bytes gauge\n");
  for (const auto& [name, bytes] : s.budget.by_class) {
    fmt::format_to(out, "sluice_memory_bytes{{class=\"{}\",device=\"ram\"}} {}\n", name, bytes);
  }
  fmt::format_to(
      out, "# TYPE sluice_queue_length gauge\nsluice_queue_length {}\n", s.queue_waiting);
  fmt::format_to(
      out, "# TYPE sluice_models_loaded gauge\nsluice_models_loaded {}\n", s.models.size());
  return r;
}

constexpr Route kRoutes[] = {
    {"GET", "/health", health},
    {"GET", "/health/ready", health},
    {"GET", "/metrics", metrics},
    {"GET", "/sluice/v1/version", version},
    {"GET", "/sluice/v1/status", status},
    {"GET", "/sluice/v1/config", config},
    {"GET", "/sluice/v1/requests", requests},
    {"DELETE", "/sluice/v1/requests/{id}", cancel_request},
    {"GET", "/sluice/v1/models", list_models},
    {"POST", "/sluice/v1/models", add_model},
    {"GET", "/sluice/v1/models/{id}", show_model},
    {"DELETE", "/sluice/v1/models/{id}", remove_model},
    {"POST", "/sluice/v1/models/{id}/load", load_model},
    {"POST", "/sluice/v1/models/{id}/unload", unload_model},
    {"POST", "/sluice/v1/shutdown", shutdown},
};

}  // namespace

std::span<const Route> native_routes() { return kRoutes; }

}  // namespace sluice
