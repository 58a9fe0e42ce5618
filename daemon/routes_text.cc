// Tokenizing and templates, under llama-server's names.
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <utility>

#include "base/text_escape.h"
#include "daemon/protocol/messages.h"
#include "daemon/routes.h"

namespace sluice {
namespace {

namespace json = boost::json;

// Reads the body and makes the answer, on a worker.
template <class Make>
Answer on_worker(App& app, HttpRequest request, Make make) {
  const std::string id = request.id;
  const bool large = request.body.size() >= kLargeBody;
  return answer_on(
      app.worker,
      [&app, request = std::move(request), make]() -> HttpResponse {
        const auto run = [&]() -> Result<HttpResponse> {
          SLUICE_TRY(
              const auto body,
              parse_json(request.body,
                         JsonLimits{app.options.http.json_depth, app.options.http.json_values}));
          SLUICE_TRY(auto response, make(app, body));
          return response;
        };
        auto made = run();
        if (!made) return error_response(std::move(made).error(), request.id);
        return std::move(made).value();
      },
      id,
      large,
      IfGone::kSkip);
}

Result<std::shared_ptr<const ModelText>> text_of(App& app, const std::string& model) {
  SLUICE_TRY(const auto entry, app.registry.find(model));
  auto text = app.registry.text(entry);
  app.keep_alive_changed();
  return text;
}

json::value piece_of(const std::string& bytes) {
  if (to_valid_utf8(bytes) == bytes) return json::value(bytes);
  json::array out;
  for (const char c : bytes) out.push_back(static_cast<int64_t>(static_cast<unsigned char>(c)));
  return out;
}

Result<HttpResponse> tokenize(App& app, const json::value& body) {
  SLUICE_TRY(const auto request, tokenize_request_from_json(body));
  SLUICE_TRY(const auto text, text_of(app, request.model));
  const Tokenizer& tokenizer = text->tokenizer();
  SLUICE_TRY(auto ids, tokenizer.encode(request.text, request.parse_special));
  if (request.add_special && tokenizer.add_bos() && tokenizer.bos() >= 0)
    ids.insert(ids.begin(), tokenizer.bos());
  json::array tokens;
  for (const TokenId id : ids) {
    if (request.with_pieces) {
      tokens.push_back(json::object{{"id", static_cast<int64_t>(id)},
                                    {"piece", piece_of(tokenizer.token_bytes(id))}});
    } else {
      tokens.push_back(static_cast<int64_t>(id));
    }
  }
  const auto count = static_cast<int64_t>(ids.size());
  return json_response(200, json::object{{"tokens", std::move(tokens)}, {"count", count}});
}

Result<HttpResponse> detokenize(App& app, const json::value& body) {
  SLUICE_TRY(const auto request, detokenize_request_from_json(body));
  SLUICE_TRY(const auto text, text_of(app, request.model));
  std::vector<TokenId> ids;
  for (const int64_t id : request.tokens) {
    if (id < 0 || id >= text->tokenizer().vocab_size()) {
      Error e{"invalid_request",
              "a token id is outside the vocabulary of " +
                  std::to_string(text->tokenizer().vocab_size())};
      e.field = "tokens";
      return e;
    }
    ids.push_back(static_cast<TokenId>(id));
  }
  return json_response(200, json::object{{"content", text->tokenizer().decode(ids, false)}});
}

Result<HttpResponse> apply_template(App& app, const json::value& body) {
  SLUICE_TRY(const auto request, template_request_from_json(body));
  SLUICE_TRY(const auto text, text_of(app, request.model));
  SLUICE_TRY(const std::string prompt, text->render(request.chat));
  return json_response(200, json::object{{"prompt", prompt}});
}

Answer handle_tokenize(App& app, HttpRequest r, std::string) {
  return on_worker(app, std::move(r), tokenize);
}
Answer handle_detokenize(App& app, HttpRequest r, std::string) {
  return on_worker(app, std::move(r), detokenize);
}
Answer handle_template(App& app, HttpRequest r, std::string) {
  return on_worker(app, std::move(r), apply_template);
}

constexpr Route kRoutes[] = {
    {"POST", "/tokenize", handle_tokenize},
    {"POST", "/detokenize", handle_detokenize},
    {"POST", "/apply-template", handle_template},
};

}  // namespace

std::span<const Route> text_routes() { return kRoutes; }

}  // namespace sluice
