// sluice tokenize, detokenize.
#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <sstream>

#include "base/text_escape.h"
#include "client/client.h"
#include "client/json_fields.h"
#include "daemon/protocol/json_text.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct TextFlags {
  std::string model;
  std::vector<std::string> words;
  bool count = false, ids = false, with_template = false, add_special = false;
};

// What /apply-template makes of the text as one user message.
Answer<std::string> templated(const DaemonLink& link,
                              const std::string& model,
                              const std::string& text) {
  json::array messages;
  messages.push_back({{"role", "user"}, {"content", text}});
  SLUICE_TRY(
      const auto answer,
      link.call("POST", "/apply-template", json::object{{"model", model}, {"messages", messages}}));
  if (!answer.is_object() || !answer.get_object().contains("prompt")) {
    return Failure(Error{kBadAnswer, "/apply-template returned no prompt"});
  }
  return text_field(answer.get_object(), "prompt");
}

// A piece of the vocabulary, printable: bytes come as arrays when they are no valid UTF-8.
std::string piece_text(const json::value* piece) {
  if (piece == nullptr) return "";
  if (piece->is_string()) return escape_text(std::string_view(piece->get_string()), 200);
  std::string bytes;
  if (const json::array* values = piece->if_array()) {
    for (const json::value& v : *values)
      bytes += static_cast<char>(v.is_int64() ? v.get_int64() : '?');
  }
  return escape_text(bytes, 200);
}

std::string token_rows(const json::array& tokens, bool only_ids) {
  std::string text;
  for (const json::value& token : tokens) {
    const json::object* o = token.if_object();
    if (o == nullptr) {
      text += json_text(token) + (only_ids ? " " : "\n");
    } else {
      text +=
          fmt::format("{:>8}  \"{}\"\n", integer_field(*o, "id"), piece_text(field(*o, "piece")));
    }
  }
  if (only_ids && !text.empty()) text.back() = '\n';
  return text;
}

int tokenize(Client& client, const TextFlags& flags) {
  const char* what = "tokenize";
  std::string text = fmt::format("{}", fmt::join(flags.words, " "));
  if (flags.words.empty()) {
    auto input = read_stdin();
    if (!input) return report_failure(client.globals, what, input.error());
    text = std::move(input).value();
  }
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, what, link.error());
  auto model = resolve_model(link.value(), flags.model);
  if (!model) return report_failure(client.globals, what, model.error());
  if (flags.with_template) {
    auto prompt = templated(link.value(), model.value(), text);
    if (!prompt) return report_failure(client.globals, what, prompt.error());
    text = std::move(prompt).value();
  }
  const bool pieces = !flags.count && !flags.ids;
  const json::object body{{"model", model.value()},
                          {"content", text},
                          {"add_special", flags.add_special && !flags.with_template},
                          {"with_pieces", pieces}};
  auto answer = link.value().call("POST", "/tokenize", body);
  if (!answer) return report_failure(client.globals, what, answer.error());
  const json::object* document = answer.value().if_object();
  const json::array* tokens = document == nullptr ? nullptr : array_field(*document, "tokens");
  if (tokens == nullptr)
    return report_failure(client.globals, what, Error{kBadAnswer, "/tokenize returned no tokens"});
  if (client.globals.json) {
    json::object out{{"model", model.value()}, {"count", tokens->size()}};
    if (!flags.count) out["tokens"] = *tokens;
    return print_document(client.globals, "tokenize", std::move(out));
  }
  if (flags.count) return finish_stdout(client.globals, fmt::format("{}\n", tokens->size()));
  return finish_stdout(client.globals, token_rows(*tokens, flags.ids));
}

// Ids from the command line or stdin, separated by spaces, commas or brackets.
Result<json::array> parse_ids(const std::string& text) {
  json::array ids;
  size_t at = 0;
  while ((at = text.find_first_not_of(" \t\r\n,[]", at)) != std::string::npos) {
    const size_t end = std::min(text.find_first_of(" \t\r\n,[]", at), text.size());
    int64_t id = 0;
    const auto [stop, ec] = std::from_chars(text.data() + at, text.data() + end, id);
    if (ec != std::errc{} || stop != text.data() + end || id < 0) {
      return Error{"usage",
                   fmt::format("'{}' is not a token id", escape_text(text.substr(at, end - at)))};
    }
    ids.emplace_back(id);
    at = end;
  }
  return ids;
}

int detokenize(Client& client, const TextFlags& flags) {
  const char* what = "detokenize";
  std::string text = fmt::format("{}", fmt::join(flags.words, " "));
  if (flags.words.empty()) {
    auto input = read_stdin();
    if (!input) return report_failure(client.globals, what, input.error());
    text = std::move(input).value();
  }
  auto ids = parse_ids(text);
  if (!ids) return report_failure(client.globals, what, ids.error());
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, what, link.error());
  auto model = resolve_model(link.value(), flags.model);
  if (!model) return report_failure(client.globals, what, model.error());
  auto answer = link.value().call(
      "POST", "/detokenize", json::object{{"model", model.value()}, {"tokens", ids.value()}});
  if (!answer) return report_failure(client.globals, what, answer.error());
  const json::object* document = answer.value().if_object();
  std::string content = document == nullptr ? "" : text_field(*document, "content");
  if (client.globals.json) {
    return print_document(
        client.globals, "detokenize", {{"model", model.value()}, {"content", content}});
  }
  if (client.terminal.stdout_tty) {
    content = sanitise(content, client.terminal.utf8) + "\n";
  }
  return finish_stdout(client.globals, content);
}

}  // namespace

void add_text_verbs(CLI::App& app, Client& client) {
  auto flags = std::make_shared<TextFlags>();
  auto act = [&client, flags](CLI::App* verb, int (*function)(Client&, const TextFlags&)) {
    verb->callback([&client, flags, function] {
      client.action = [&client, flags, function] { return function(client, *flags); };
    });
  };
  CLI::App* to_ids = add_verb(app,
                              "tokenize",
                              "text to token ids; stdin without TEXT",
                              "  sluice tokenize qwen2.5-7b \"Hello, world\"\n  sluice tokenize "
                              "qwen2.5-7b --count < notes.txt");
  to_ids->add_option("MODEL", flags->model, "name or path")->required();
  to_ids->add_option("TEXT", flags->words, "");
  to_ids->add_flag("--count", flags->count, "only how many");
  to_ids->add_flag("--ids", flags->ids, "only the ids, on one line");
  to_ids->add_flag(
      "--template", flags->with_template, "as one user message in the model's chat template");
  to_ids->add_flag(
      "--special", flags->add_special, "add the model's BOS or EOS where it wants them");
  act(to_ids, tokenize);
  CLI::App* to_text = add_verb(app,
                               "detokenize",
                               "token ids to text; stdin without IDS",
                               "  sluice detokenize qwen2.5-7b 9707 11 1879\n  sluice tokenize m "
                               "--ids hi | sluice detokenize m");
  to_text->add_option("MODEL", flags->model, "name or path")->required();
  to_text->add_option("IDS", flags->words, "");
  act(to_text, detokenize);
}

}  // namespace sluice
