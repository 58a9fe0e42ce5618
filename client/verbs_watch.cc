// sluice residency, events, metrics: what the daemon tells those who watch.
#include <fmt/format.h>

#include <memory>

#include "base/bytes.h"
#include "client/client.h"
#include "client/interrupt.h"
#include "client/json_fields.h"
#include "client/sse_parser.h"
#include "daemon/protocol/json_text.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct WatchFlags {
  std::string model, types;
  bool follow = false;
};

std::string size_text(const json::object& o, std::string_view key) {
  return format_bytes(static_cast<uint64_t>(std::max<int64_t>(0, integer_field(o, key))));
}

std::string residency_rows(const json::object& doc, int width) {
  std::vector<std::vector<std::string>> rows{
      {"BLOCK", "SIZE", "STATE", "RESIDENT", "PINNED", "HIT", "READ", "STALL"}};
  const auto* blocks = array_field(doc, "blocks");
  if (blocks == nullptr || blocks->empty())
    return fmt::format("{} is not loaded\n", one_line(text_field(doc, "model")));
  for (const json::value& value : *blocks) {
    const auto* b = value.if_object();
    if (b == nullptr) continue;
    const auto hits = static_cast<double>(integer_field(*b, "hits"));
    const double uses = hits + static_cast<double>(integer_field(*b, "misses"));
    rows.push_back({one_line(text_field(*b, "name")),
                    size_text(*b, "bytes"),
                    one_line(text_field(*b, "state")),
                    size_text(*b, "resident_bytes"),
                    bool_field(*b, "pinned") ? "all" : size_text(*b, "pin_bytes"),
                    uses > 0 ? fmt::format("{:.0f}%", 100 * hits / uses) : "-",
                    size_text(*b, "read_bytes_total"),
                    format_duration(integer_field(*b, "stall_ms_total"))});
  }
  return format_table(rows, width);
}

int residency(Client& client, const WatchFlags& flags) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, "residency", link.error());
  const std::string target =
      "/sluice/v1/residency" + (flags.model.empty() ? "" : "?model=" + percent_encode(flags.model));
  auto answer = link.value().call("GET", target);
  if (!answer) return report_failure(client.globals, "residency", answer.error());
  json::object doc =
      answer.value().is_object() ? std::move(answer.value().get_object()) : json::object();
  if (client.globals.json) return print_document(client.globals, "residency", std::move(doc));
  return finish_stdout(
      client.globals,
      residency_rows(doc, client.terminal.stdout_tty ? client.terminal.width() : 0));
}

// One JSON document a line, until the daemon ends the stream.
int print_events(Client& client, AnswerStream& stream) {
  constexpr int64_t kSilence_ms = 60'000;  // heartbeats come every few seconds
  SseParser parser;
  for (;;) {
    auto piece = stream.next(kSilence_ms);
    if (!piece) return report_failure(client.globals, "events", piece.error());
    if (piece.value().empty()) return 0;
    std::vector<SseEvent> arrived;
    if (auto fed = parser.feed(piece.value(), arrived); !fed)
      return report_failure(client.globals, "events", fed.error());
    std::string lines;
    for (const SseEvent& event : arrived) {
      if (event.is_comment || event.event == "hello") continue;
      const auto parsed = parse_json(event.data);
      if (!parsed || !parsed.value().is_object()) continue;
      lines += json_text(with_schema("event", parsed.value().get_object())) + "\n";
    }
    if (lines.empty()) continue;
    if (const int code = finish_stdout(client.globals, lines); code != 0) return code;
  }
}

int events(Client& client, const WatchFlags& flags) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, "events", link.error());
  std::string target = "/sluice/v1/events?types=" + percent_encode(flags.types);
  if (!flags.follow) target += "&since=0&end=1";
  auto stream = link.value().send("GET", target, "", kAnswerTimeoutMs);
  if (!stream) return report_failure(client.globals, "events", stream.error());
  if (stream.value().head().status != 200) {
    auto body = stream.value().rest(kAnswerTimeoutMs);
    return report_failure(
        client.globals,
        "events",
        body ? failure_of(stream.value().head(), body.value()) : Failure(body.error()));
  }
  return print_events(client, stream.value());
}

int metrics(Client& client, const WatchFlags&) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, "metrics", link.error());
  auto stream = link.value().send("GET", "/metrics", "", kAnswerTimeoutMs);
  if (!stream) return report_failure(client.globals, "metrics", stream.error());
  auto text = stream.value().rest(kAnswerTimeoutMs);
  if (!text) return report_failure(client.globals, "metrics", text.error());
  if (stream.value().head().status != 200)
    return report_failure(
        client.globals, "metrics", failure_of(stream.value().head(), text.value()));
  if (client.globals.json)
    return print_document(client.globals, "metrics", {{"text", text.value()}});
  return finish_stdout(client.globals, text.value());
}

}  // namespace

void add_watch_verbs(CLI::App& app, Client& client) {
  auto flags = std::make_shared<WatchFlags>();
  const auto act = [&client, flags](CLI::App* verb, int (*function)(Client&, const WatchFlags&)) {
    verb->callback([&client, flags, function] {
      client.action = [&client, flags, function] { return function(client, *flags); };
    });
  };
  CLI::App* map = add_verb(app,
                           "residency",
                           "where each block of a loaded model is",
                           "  sluice residency\n  sluice residency qwen --json");
  map->add_option("MODEL", flags->model, "as `models ls` shows it; else the one that is loaded");
  act(map, residency);
  CLI::App* watch = add_verb(app,
                             "events",
                             "what happened, one JSON document a line",
                             "  sluice events\n  sluice events -f --type budget,model");
  watch->add_flag("-f,--follow", flags->follow, "and what will happen, until Ctrl-C");
  watch->add_option("--type", flags->types, "only these, separated by commas: block,budget,stall");
  act(watch, events);
  act(add_verb(
          app, "metrics", "the daemon's counters in Prometheus's text format", "  sluice metrics"),
      metrics);
}

}  // namespace sluice
