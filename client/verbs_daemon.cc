// sluice daemon run|start|stop|restart, serve, config.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <memory>

#include "base/bytes.h"
#include "client/autostart.h"
#include "client/client.h"
#include "client/interrupt.h"
#include "daemon/protocol/native.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr int64_t kStopExtraMs = 5'000;  // past the drain time
constexpr int64_t kStopPollMs = 50;

struct DaemonFlags {
  std::vector<std::string> rest;  // for sluiced
  std::string drain = "10s", file;
  bool origins = false;
};

// Becomes sluiced. Returns only when that failed.
int become_sluiced(const Client& client, const char* what, std::vector<std::string> arguments) {
  auto program = find_sluiced();
  if (!program) return report_failure(client.globals, what, program.error());
  arguments.insert(arguments.begin(), program.value());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::signal(SIGPIPE, SIG_DFL);  // an ignored signal stays ignored across exec
  ::execv(argv[0], argv.data());
  return report_failure(
      client.globals, what, errno_error("io_error", "exec " + program.value(), errno));
}

// The flags that name a socket, if the person gave none to sluiced itself.
Answer<std::vector<std::string>> with_listen(const Client& client,
                                             const DaemonFlags& flags,
                                             std::string& socket) {
  std::vector<std::string> arguments = flags.rest;
  const char* variable = std::getenv("SLUICE_HOST");
  SLUICE_TRY(const AddressList list,
             find_addresses(client.globals.host, variable == nullptr ? "" : variable));
  socket = list.candidates.front().path;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string value;
    if (arguments[i] == "--listen" && i + 1 < arguments.size()) value = arguments[i + 1];
    if (arguments[i].starts_with("--listen=")) value = arguments[i].substr(9);
    if (value.empty()) continue;
    SLUICE_TRY(const Address address, parse_address(value));
    socket = address.path;
    return arguments;
  }
  if (socket.empty())
    return Failure(Error{"usage",
                         "a daemon is started on a Unix socket, not on TCP",
                         "sluice -H unix:///PATH daemon start"});
  arguments.insert(arguments.begin(), {"--listen", "unix://" + socket});
  return arguments;
}

int daemon_run(Client& client, const DaemonFlags& flags) {
  std::vector<std::string> arguments = flags.rest;
  if (!client.globals.host.empty()) {
    std::string socket;
    auto with = with_listen(client, flags, socket);
    if (!with) return report_failure(client.globals, "daemon run", with.error());
    arguments = with.value();
  }
  return become_sluiced(client, "daemon run", arguments);
}

int say_running(const Client& client, const DaemonLink& link, const char* verb) {
  auto answer = link.call("GET", "/sluice/v1/status");
  if (!answer) return report_failure(client.globals, verb, answer.error());
  auto status = status_from_json(answer.value());
  if (!status) return report_failure(client.globals, verb, status.error());
  if (client.globals.json) {
    return print_document(
        client.globals,
        "daemon",
        {{"running", true}, {"pid", status.value().pid}, {"socket", status.value().socket}});
  }
  return finish_stdout(
      client.globals,
      fmt::format(
          "sluiced runs: pid {} at {}\n", status.value().pid, one_line(status.value().socket)));
}

int daemon_start(Client& client, const DaemonFlags& flags) {
  const char* what = "daemon start";
  std::string socket;
  auto arguments = with_listen(client, flags, socket);
  if (!arguments) return report_failure(client.globals, what, arguments.error());
  Globals globals = client.globals;
  globals.host = socket;
  auto there = DaemonLink::find(globals, DaemonLink::Start::kNever);
  if (there) return say_running(client, there.value(), what);
  if (there.error().error.code != kUnreachable)
    return report_failure(client.globals, what, there.error());
  auto started = start_daemon(globals, socket, arguments.value());
  if (!started) {
    // The daemon's own complaint about its flags is a usage error; that it did not come up is a
    // failure.
    Failure failure(started.error());
    report_failure(client.globals, what, failure);
    return failure.error.what.find("[usage]") != std::string::npos ||
                   failure.error.what.find("[invalid_config]") != std::string::npos
               ? kExitUsage
               : exit_code_for(failure);
  }
  auto link = DaemonLink::find(globals, DaemonLink::Start::kNever);
  if (!link) return report_failure(client.globals, what, link.error());
  return say_running(client, link.value(), what);
}

// Waits until the process `pid` has gone: its socket goes first, its lock last.
Result<bool> wait_until_gone(int64_t pid, int64_t timeout_ms) {
  const int64_t deadline = now_ms() + timeout_ms;
  while (now_ms() < deadline) {
    if (::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) return true;
    SLUICE_TRY(interruptible_sleep(kStopPollMs));
  }
  return false;
}

Answer<int64_t> stop_daemon(const Client& client, const std::string& drain) {
  SLUICE_TRY(const DaemonLink link, DaemonLink::find(client.globals, DaemonLink::Start::kNever));
  SLUICE_TRY(const auto answer, link.call("GET", "/sluice/v1/status"));
  SLUICE_TRY(const StatusDoc status, status_from_json(answer));
  SLUICE_TRY(const int64_t drain_ms, parse_duration_ms(drain));
  SLUICE_TRY(link.call(
      "POST", "/sluice/v1/shutdown", json::object{{"drain_ms", std::max<int64_t>(0, drain_ms)}}));
  SLUICE_TRY(const bool gone,
             wait_until_gone(status.pid, std::max<int64_t>(0, drain_ms) + kStopExtraMs));
  if (!gone) {
    return Failure(
        Error{kTimedOut, fmt::format("sluiced (pid {}) still runs", status.pid), "sluice status"});
  }
  return status.pid;
}

int daemon_stop(Client& client, const DaemonFlags& flags) {
  auto stopped = stop_daemon(client, flags.drain);
  if (!stopped) return report_failure(client.globals, "daemon stop", stopped.error());
  if (client.globals.json) {
    return print_document(client.globals, "daemon", {{"running", false}, {"pid", stopped.value()}});
  }
  return finish_stdout(client.globals, fmt::format("sluiced stopped: pid {}\n", stopped.value()));
}

int daemon_restart(Client& client, const DaemonFlags& flags) {
  auto stopped = stop_daemon(client, flags.drain);
  if (!stopped && stopped.error().error.code != kUnreachable) {
    return report_failure(client.globals, "daemon restart", stopped.error());
  }
  return daemon_start(client, flags);
}

int config_verb(Client& client, const std::string& name, const DaemonFlags& flags) {
  std::vector<std::string> arguments{"config", name};
  if (client.globals.json) arguments.push_back("--json");
  if (flags.origins) arguments.push_back("--origin");
  if (!flags.file.empty()) arguments.push_back(flags.file);
  return become_sluiced(client, "config", arguments);
}

int check_verb(Client& client, const DaemonFlags& flags) {
  std::vector<std::string> arguments{"check", flags.file};
  if (client.globals.json) arguments.push_back("--json");
  return become_sluiced(client, "check", arguments);
}

}  // namespace

void add_daemon_verbs(CLI::App& app, Client& client) {
  auto flags = std::make_shared<DaemonFlags>();
  auto act = [&client, flags](CLI::App* verb, int (*function)(Client&, const DaemonFlags&)) {
    verb->callback([&client, flags, function] {
      client.action = [&client, flags, function] {
        flags->rest = client.extras;
        return function(client, *flags);
      };
    });
  };
  CLI::App* daemon = add_verb(app,
                              "daemon",
                              "run, start or stop sluiced",
                              "  sluice daemon start --budget 2G\n  sluice daemon stop");
  daemon->require_subcommand(1);
  CLI::App* run = add_verb(*daemon,
                           "run",
                           "in the foreground; other flags go to sluiced",
                           "  sluice daemon run --budget 2G --model ./m.gguf");
  run->allow_extras();
  act(run, daemon_run);
  CLI::App* serve = add_verb(app, "serve", "daemon run", "  sluice serve --budget 2G");
  serve->allow_extras();
  act(serve, daemon_run);
  CLI::App* start = add_verb(*daemon,
                             "start",
                             "in the background; other flags go to sluiced",
                             "  sluice daemon start --budget 2G");
  start->allow_extras();
  act(start, daemon_start);
  CLI::App* stop =
      add_verb(*daemon, "stop", "let it finish and end", "  sluice daemon stop --drain 30s");
  stop->add_option("--drain", flags->drain, "time for running answers")->check(check_duration);
  act(stop, daemon_stop);
  CLI::App* restart = add_verb(*daemon,
                               "restart",
                               "stop, then start with the given flags",
                               "  sluice daemon restart --budget 4G");
  restart->add_option("--drain", flags->drain, "time for running answers")->check(check_duration);
  restart->allow_extras();
  act(restart, daemon_restart);

  CLI::App* check = add_verb(
      app, "check", "validate a model file; works without a daemon", "  sluice check ./model.gguf");
  check->add_option("FILE", flags->file, "a .gguf file")->required();
  act(check, check_verb);

  CLI::App* config = add_verb(
      app,
      "config",
      "sluiced's settings; works without a daemon",
      "  sluice config show --origin\n  sluice config example > ~/.config/sluice/sluiced.toml");
  config->require_subcommand(1);
  auto add_config = [&](const char* name, const char* help, const char* examples) {
    CLI::App* verb = add_verb(*config, name, help, examples);
    verb->callback([&client, flags, name] {
      client.action = [&client, flags, name] { return config_verb(client, name, *flags); };
    });
    return verb;
  };
  add_config("show", "the settings in force", "  sluice config show --origin")
      ->add_flag("--origin", flags->origins, "and where each comes from");
  add_config("check", "validate a settings file", "  sluice config check ./sluiced.toml")
      ->add_option("FILE", flags->file, "default: the one that would be read");
  add_config("path", "which file is read", "  sluice config path");
  add_config("example", "a commented file of all keys", "  sluice config example");
}

}  // namespace sluice
