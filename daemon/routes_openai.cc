// /v1: the routes OpenAI's clients use.
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <utility>

#include "daemon/generation_answer.h"
#include "daemon/routes.h"

namespace sluice {
namespace {

namespace json = boost::json;

Answer generate(App& app, HttpRequest request, bool chat) {
  // The same request again after its answer broke off under a 200: the true status, without doing
  // the work again.
  if (auto failed = app.failed_answers.find(request_key(request)))
    return error_response(*failed, request.id);
  auto job = std::make_shared<GenerationJob>(app, std::move(request), chat);
  return std::shared_ptr<LongAnswer>(std::make_shared<GenerationAnswer>(app, std::move(job)));
}

Answer chat_completions(App& app, HttpRequest request, std::string) {
  return generate(app, std::move(request), true);
}

Answer completions(App& app, HttpRequest request, std::string) {
  return generate(app, std::move(request), false);
}

json::object model_object(const ModelEntry& e) {
  return {{"id", e.name}, {"object", "model"}, {"created", e.created}, {"owned_by", "sluice"}};
}

Answer list_models(App& app, HttpRequest, std::string) {
  json::array data;
  for (const auto& e : app.registry.list()) data.push_back(model_object(*e));
  return json_response(200, json::object{{"object", "list"}, {"data", std::move(data)}});
}

Answer get_model(App& app, HttpRequest request, std::string id) {
  auto entry = app.registry.find(id);
  if (!entry) return error_response(std::move(entry).error(), request.id);
  return json_response(200, model_object(*entry.value()));
}

constexpr Route kRoutes[] = {
    {"POST", "/v1/chat/completions", chat_completions},
    {"POST", "/v1/completions", completions},
    {"GET", "/v1/models", list_models},
    {"GET", "/v1/models/{id}", get_model},
};

}  // namespace

std::span<const Route> openai_routes() { return kRoutes; }

}  // namespace sluice
