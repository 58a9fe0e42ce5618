// sluice ps, status, requests ls|cancel, version.
#include <fmt/format.h>
#include <poll.h>

#include <memory>

#include "base/bytes.h"
#include "base/text_escape.h"
#include "client/client.h"
#include "client/interrupt.h"
#include "daemon/protocol/json_text.h"
#include "daemon/protocol/native.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct StateFlags {
  std::string watch, id;
};

uint64_t bytes_of(int64_t n) { return static_cast<uint64_t>(std::max<int64_t>(0, n)); }

json::object object_of(json::value value) {
  return value.is_object() ? std::move(value.get_object()) : json::object();
}

std::string until_text(const LoadedModelDoc& m) {
  if (m.state == "running") return "running";
  return m.expires_in_ms ? format_duration(std::max<int64_t>(0, *m.expires_in_ms)) : "forever";
}

std::string progress_text(const RequestDoc& r) {
  if (r.state == "queued") return "-";
  return r.total > 0 ? fmt::format("{}/{}", r.done, r.total) : fmt::format("{}", r.done);
}

std::string request_rows(const std::vector<RequestDoc>& requests, int width) {
  std::vector<std::vector<std::string>> rows{{"REQ", "MODEL", "PHASE", "PROGRESS", "QUEUE", "AGE"}};
  for (const RequestDoc& r : requests) {
    rows.push_back({one_line(r.id),
                    one_line(r.model),
                    one_line(r.state == "paused" ? r.state : r.phase),
                    progress_text(r),
                    r.position > 0 ? fmt::format("{}", r.position) : "-",
                    format_duration(r.age_ms)});
  }
  return format_table(rows, width);
}

std::string ps_text(const StatusDoc& status, int width) {
  std::vector<std::vector<std::string>> rows{
      {"MODEL", "STATE", "SIZE", "RESIDENT", "KV", "CTX", "UNTIL"}};
  for (const LoadedModelDoc& m : status.models) {
    rows.push_back({one_line(m.name),
                    one_line(m.state),
                    format_bytes(bytes_of(m.file_bytes)),
                    format_bytes(bytes_of(m.resident_bytes)),
                    format_bytes(bytes_of(m.kv_bytes)),
                    fmt::format("{}", m.ctx),
                    until_text(m)});
  }
  std::string text = format_table(rows, width);
  if (!status.requests.empty()) text += request_rows(status.requests, width);
  return text;
}

struct Status {
  StatusDoc doc;
  json::object raw;
};

Answer<Status> fetch_status(const DaemonLink& link) {
  SLUICE_TRY(auto answer, link.call("GET", "/sluice/v1/status"));
  SLUICE_TRY(auto doc, status_from_json(answer));
  return Status{std::move(doc), object_of(std::move(answer))};
}

// Sleeps, false when a signal or a closed pipe ends the watching.
bool watch_pause(int64_t ms) {
  pollfd fds[2] = {{interrupt_fd(), POLLIN, 0}, {1, 0, 0}};
  const int n = ::poll(fds, 2, static_cast<int>(std::clamp<int64_t>(ms, 100, 3'600'000)));
  return n == 0 || (pending_signal() == 0 && (fds[1].revents & POLLERR) == 0);
}

int ps(Client& client, const StateFlags& flags, bool watching) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, "ps", link.error());
  const int64_t every_ms = flags.watch.empty() ? 1000 : parse_duration_ms(flags.watch).value();
  const bool tty = client.terminal.stdout_tty;
  for (;;) {
    auto status = fetch_status(link.value());
    if (!status) return report_failure(client.globals, "ps", status.error());
    int code = 0;
    if (client.globals.json) {
      code = print_document(
          client.globals,
          "ps",
          {{"models", status.value().raw["models"]}, {"requests", status.value().raw["requests"]}});
    } else {
      const std::string clear = watching && tty ? "\x1b[H\x1b[2J" : "";
      code = finish_stdout(client.globals,
                           clear + ps_text(status.value().doc, tty ? client.terminal.width() : 0));
    }
    if (code != 0 || !watching) return code;
    if (!watch_pause(every_ms))
      return pending_signal() != 0 ? exit_code_for(interrupted_error()) : kExitPipeClosed;
  }
}

int status(Client& client, const StateFlags&) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, "status", link.error());
  auto fetched = fetch_status(link.value());
  if (!fetched) return report_failure(client.globals, "status", fetched.error());
  if (client.globals.json)
    return print_document(client.globals, "status", std::move(fetched.value().raw));
  const StatusDoc& s = fetched.value().doc;
  std::string text;
  auto row = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<10}{}\n", name, one_line(value));
  };
  row("daemon",
      fmt::format("sluiced {}  pid {}  up {}  {}{}",
                  s.version,
                  s.pid,
                  format_duration(s.uptime_s * 1000),
                  s.mode,
                  s.draining ? "  draining" : ""));
  row("socket", s.socket);
  row("compute", fmt::format("{} threads, {}", s.threads, s.kernels));
  const std::string limit =
      s.budget.limit_bytes ? format_bytes(bytes_of(*s.budget.limit_bytes)) : "no limit";
  row("budget",
      fmt::format("{} of {}  effective {}  floor {}",
                  format_bytes(bytes_of(s.budget.used_bytes)),
                  limit,
                  format_bytes(bytes_of(s.budget.effective_bytes)),
                  format_bytes(bytes_of(s.budget.floor_bytes))));
  for (const auto& [name, bytes] : s.budget.by_class) {
    if (bytes > 0) row("", fmt::format("{:<16}{}", name, format_bytes(bytes_of(bytes))));
  }
  std::string kernel = fmt::format("rss {}", format_bytes(bytes_of(s.rss_bytes)));
  if (s.cgroup_bytes) kernel += "  cgroup " + format_bytes(bytes_of(*s.cgroup_bytes));
  if (s.cgroup_limit_bytes) kernel += " of " + format_bytes(bytes_of(*s.cgroup_limit_bytes));
  if (s.gap_bytes > 0) kernel += "  gap " + format_bytes(bytes_of(s.gap_bytes));
  row("kernel", kernel);
  row("queue", fmt::format("{} waiting (at most {})", s.queue_waiting, s.queue_max));
  for (const LoadedModelDoc& m : s.models) {
    row("model",
        fmt::format("{}  {}{}  {} resident, {} kv, {}",
                    m.name,
                    m.state,
                    m.trimmed ? ", pins given back" : "",
                    format_bytes(bytes_of(m.resident_bytes)),
                    format_bytes(bytes_of(m.kv_bytes)),
                    until_text(m)));
  }
  return finish_stdout(client.globals, text);
}

int requests_ls(Client& client, const StateFlags&) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, "requests ls", link.error());
  auto answer = link.value().call("GET", "/sluice/v1/requests");
  if (!answer) return report_failure(client.globals, "requests ls", answer.error());
  if (client.globals.json)
    return print_document(client.globals, "requests", object_of(std::move(answer).value()));
  auto requests = requests_from_json(answer.value());
  if (!requests) return report_failure(client.globals, "requests ls", requests.error());
  return finish_stdout(
      client.globals,
      request_rows(requests.value(), client.terminal.stdout_tty ? client.terminal.width() : 0));
}

int requests_cancel(Client& client, const StateFlags& flags) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, "requests cancel", link.error());
  auto answer = link.value().call("DELETE", "/sluice/v1/requests/" + percent_encode(flags.id));
  if (!answer) return report_failure(client.globals, "requests cancel", answer.error());
  if (client.globals.json)
    return print_document(client.globals, "request", object_of(std::move(answer).value()));
  return finish_stdout(client.globals, one_line(flags.id) + " cancelled\n");
}

// Works without a daemon: then it says so and still ends well.
int version(Client& client, const StateFlags&) {
  json::object document{{"client", SLUICE_VERSION}, {"api", kApiVersion}, {"daemon", nullptr}};
  std::string text = fmt::format("sluice   {}  (API {})\n", SLUICE_VERSION, kApiVersion);
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  auto answer = link ? link.value().call("GET", "/sluice/v1/version", std::nullopt, 3000)
                     : Answer<json::value>(link.error());
  auto doc = answer ? version_from_json(answer.value()) : Result<VersionDoc>(answer.error().error);
  bool compatible = true;
  if (doc) {
    const VersionDoc& v = doc.value();
    compatible = v.api == kApiVersion;
    document["daemon"] = json::object{
        {"version", v.version}, {"api", v.api}, {"kernels", v.kernels}, {"build", v.build}};
    text += fmt::format("sluiced  {}  (API {}, kernels {}, {})\n",
                        one_line(v.version),
                        v.api,
                        one_line(v.kernels),
                        one_line(v.build));
  } else {
    const Error& e = doc.error();
    if (e.code == kInterrupted) return report_failure(client.globals, "version", e);
    text += e.code == kUnreachable ? "sluiced  not running\n"
                                   : fmt::format("sluiced  {}\n", one_line(e.what));
  }
  const int code = client.globals.json
                       ? print_document(client.globals, "version", std::move(document))
                       : finish_stdout(client.globals, text);
  return code == 0 && !compatible ? kExitIncompatible : code;
}

}  // namespace

void add_state_verbs(CLI::App& app, Client& client) {
  auto flags = std::make_shared<StateFlags>();
  auto act = [&client, flags](CLI::App* verb, int (*function)(Client&, const StateFlags&)) {
    verb->callback([&client, flags, function] {
      client.action = [&client, flags, function] { return function(client, *flags); };
    });
  };
  CLI::App* ps_verb = add_verb(app,
                               "ps",
                               "loaded models, running and waiting requests",
                               "  sluice ps\n  sluice ps -w 2s\n  sluice ps --json");
  auto* watch = ps_verb->add_option("-w,--watch", flags->watch, "again every DURATION (1s)")
                    ->expected(0, 1)
                    ->check(check_duration);
  ps_verb->callback([&client, flags, watch] {
    client.action = [&client, flags, watch] { return ps(client, *flags, watch->count() > 0); };
  });
  act(add_verb(app,
               "status",
               "daemon, budget, queue on one screen; exit 3 if it is down",
               "  sluice status\n  sluice status --json"),
      status);
  CLI::App* requests = add_verb(app,
                                "requests",
                                "running and waiting requests",
                                "  sluice requests ls\n  sluice requests cancel r-0192");
  requests->require_subcommand(1);
  act(add_verb(*requests, "ls", "list them", "  sluice requests ls"), requests_ls);
  CLI::App* cancel = add_verb(*requests, "cancel", "end one", "  sluice requests cancel r-0192");
  cancel->add_option("ID", flags->id, "as `requests ls` shows it")->required();
  act(cancel, requests_cancel);
  act(add_verb(app,
               "version",
               "client, daemon, API, kernels; works without a daemon",
               "  sluice version --json"),
      version);
}

}  // namespace sluice
