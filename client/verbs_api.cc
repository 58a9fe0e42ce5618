// sluice api, env.
#include <fmt/format.h>
#include <strings.h>

#include <algorithm>
#include <memory>

#include "base/text_escape.h"
#include "client/client.h"
#include "client/json_fields.h"
#include "daemon/protocol/json_text.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct ApiFlags {
  std::string method, path, data;
  bool python = false;
};

// "@file", "@-" or the body itself.
Result<std::string> body_of(const std::string& data) {
  if (data.starts_with("@")) return read_file(data.substr(1));
  return data;
}

int print_json_answer(const Client& client,
                      const ResponseHead& head,
                      const std::string& body,
                      int code) {
  json::object headers;
  for (const auto& [name, value] : head.headers) headers[name] = to_valid_utf8(value);
  auto value = parse_json(body);
  const json::value content = value ? std::move(value).value() : json::value(to_valid_utf8(body));
  const int printed = print_document(
      client.globals, "api", {{"status", head.status}, {"headers", headers}, {"body", content}});
  return printed != 0 ? printed : code;
}

int api(Client& client, const ApiFlags& flags) {
  auto body = body_of(flags.data);
  if (!body) return report_failure(client.globals, "api", body.error());
  std::string method = flags.method;
  if (method.empty()) method = flags.data.empty() ? "GET" : "POST";
  std::transform(method.begin(), method.end(), method.begin(), [](unsigned char c) {
    return static_cast<char>(std::toupper(c));
  });
  const bool clean =
      std::all_of(method.begin(), method.end(), [](char c) { return c >= 'A' && c <= 'Z'; }) &&
      std::all_of(
          flags.path.begin(), flags.path.end(), [](char c) { return c > ' ' && c != 0x7F; });
  if (!clean || !flags.path.starts_with("/")) {
    return report_failure(
        client.globals,
        "api",
        Error{"usage", "PATH begins with / and holds no spaces", "sluice api /sluice/v1/status"});
  }
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, "api", link.error());
  auto sent = link.value().send(method, flags.path, body.value(), kForever);
  if (!sent) return report_failure(client.globals, "api", sent.error());
  AnswerStream& stream = sent.value();
  const int status = stream.head().status;
  std::string error_body;
  std::string whole;
  for (;;) {
    auto piece = stream.next(kForever);
    if (!piece) return report_failure(client.globals, "api", piece.error());
    if (piece.value().empty()) break;
    if (status >= 400 && error_body.size() < 65536) error_body += piece.value();
    if (client.globals.json) {
      whole += piece.value();
      if (whole.size() > kMaxAnswerBytes)
        return report_failure(client.globals, "api", Error{kBadAnswer, "the answer is too large"});
      continue;
    }
    auto written = write_stdout(piece.value());
    if (!written) return report_failure(client.globals, "api", written.error());
  }
  const Failure failure = failure_of(stream.head(), error_body);
  const int code = status >= 400 ? exit_code_for(failure) : 0;
  if (client.globals.json) return print_json_answer(client, stream.head(), whole, code);
  if (client.terminal.stdout_tty) write_stderr("\n");
  if (code != 0 && !client.globals.quiet) {
    write_stderr(fmt::format("sluice: {} {} answered {}   [{}]\n",
                             method,
                             one_line(flags.path),
                             status,
                             one_line(failure.error.code)));
  }
  return code;
}

// Address of the daemon's TCP listener as its settings say it; empty when there is none.
Answer<std::string> tcp_listener(const DaemonLink& link) {
  SLUICE_TRY(const auto answer, link.call("GET", "/sluice/v1/config"));
  const json::object* document = answer.if_object();
  const json::object* config = document == nullptr ? nullptr : object_field(*document, "config");
  const json::object* listen = config == nullptr ? nullptr : object_field(*config, "listen");
  const json::object* tcp = listen == nullptr ? nullptr : object_field(*listen, "tcp");
  return tcp == nullptr ? std::string() : text_field(*tcp, "value");
}

std::string python_snippet(const std::string& socket) {
  const std::string quoted = json_text(json::value(socket));
  return fmt::format(
      "import httpx2, openai  # openai 3; with openai 2: httpx and DefaultHttpxClient\n"
      "client = openai.OpenAI(base_url=\"http://localhost/v1\", api_key=\"-\",\n"
      "    http_client=openai.DefaultHttpx2Client(transport=httpx2.HTTPTransport(uds={})))\n",
      quoted);
}

int env(Client& client, const ApiFlags& flags) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, "env", link.error());
  const std::string socket = link.value().address().path;
  if (flags.python && !client.globals.json) {
    if (socket.empty())
      return report_failure(client.globals,
                            "env",
                            Error{"usage", "the daemon was reached over TCP, not over a socket"});
    return finish_stdout(client.globals, python_snippet(socket));
  }
  auto tcp = tcp_listener(link.value());
  if (!tcp) return report_failure(client.globals, "env", tcp.error());
  std::string base = tcp.value().empty() ? "" : "http://" + tcp.value();
  if (socket.empty()) base = link.value().address().text();
  if (client.globals.json) {
    json::object document{
        {"socket", socket.empty() ? json::value() : json::value(socket)},
        {"base_url", base.empty() ? json::value() : json::value(base + "/v1")},
        {"python", socket.empty() ? json::value() : json::value(python_snippet(socket))}};
    return print_document(client.globals, "env", std::move(document));
  }
  if (base.empty()) {
    return report_failure(
        client.globals,
        "env",
        Error{"not_supported",
              "the daemon listens on a Unix socket only, which these variables cannot name",
              "sluice env --python"});
  }
  const char* token = std::getenv("SLUICE_TOKEN");
  const std::string key = token == nullptr || token[0] == '\0' ? "-" : token;
  return finish_stdout(client.globals,
                       fmt::format("export OPENAI_BASE_URL='{0}/v1'\nexport OPENAI_API_KEY='{1}'\n"
                                   "export OLLAMA_HOST='{0}'\nexport OLLAMA_API_KEY='{1}'\n",
                                   base,
                                   key));
}

}  // namespace

void add_api_verbs(CLI::App& app, Client& client) {
  auto flags = std::make_shared<ApiFlags>();
  CLI::App* api_verb =
      add_verb(app,
               "api",
               "one raw request over the socket",
               "  sluice api /v1/models\n  sluice api -X POST /tokenize -d @body.json\n"
               "  sluice api /tokenize -d '{\"model\":\"m\",\"content\":\"hi\"}'");
  api_verb->add_option("PATH", flags->path, "begins with /")->required();
  api_verb->add_option("-X,--method", flags->method, "GET, or POST with -d");
  api_verb->add_option("-d,--data", flags->data, "body; @FILE reads it, @- from stdin");
  api_verb->callback(
      [&client, flags] { client.action = [&client, flags] { return api(client, *flags); }; });
  CLI::App* env_verb = add_verb(
      app, "env", "settings for other tools", "  eval \"$(sluice env)\"\n  sluice env --python");
  env_verb->add_flag("--python", flags->python, "a snippet that uses the socket");
  env_verb->callback(
      [&client, flags] { client.action = [&client, flags] { return env(client, *flags); }; });
}

}  // namespace sluice
