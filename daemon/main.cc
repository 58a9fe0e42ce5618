// sluiced: settings -> Server; or one of the offline commands. Exit codes: INTERFACE 1.2.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>

#include "base/bytes.h"
#include "base/host_memory.h"
#include "base/log.h"
#include "base/runtime_paths.h"
#include "base/text_escape.h"
#include "daemon/budget_file.h"
#include "daemon/options.h"
#include "daemon/protocol/errors.h"
#include "daemon/protocol/json_text.h"
#include "daemon/reload.h"
#include "daemon/server.h"
#include "daemon/socket.h"
#include "scheduler/kernel_choice.h"
#include "scheduler/kv_cache.h"
#include "storage/io_fault.h"
#if __has_include("daemon/check_command.h")
#include "daemon/check_command.h"
#define SLUICED_HAS_CHECK 1
#endif
#if __has_include("daemon/forward_command.h")
#include "daemon/forward_command.h"
#define SLUICED_HAS_FORWARD 1
#endif

extern char** environ;

namespace sluice {
namespace {

namespace json = boost::json;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int64_t kActivatedIdleExitMs = 15 * 60 * 1000;

int exit_code(const Error& e) {
  if (e.code == "usage" || e.code == "invalid_config" || e.code == "invalid_socket_path")
    return kExitUsage;
  if (e.code == "already_running") return kExitFailure;
  return exit_code_of(e.code);
}

// `what` is the step that failed; the grammar is that of every error line.
int fail(const char* what, const Error& e, bool as_json = false) {
  if (as_json) {
    std::fprintf(stderr, "%s\n", json_text(error_document(ApiError{e}, "")).c_str());
    return exit_code(e);
  }
  std::fprintf(stderr, "sluiced: %s failed: %s   [%s]\n", what, e.what.c_str(), e.code.c_str());
  if (!e.hint.empty()) std::fprintf(stderr, "  try:    %s\n", e.hint.c_str());
  return exit_code(e);
}

std::string build_text() {
  std::string compiler = "gcc";
#ifdef __clang__
  compiler = "clang";
#endif
  return fmt::format("{} {}-{}.{}", SLUICE_BUILD_TYPE, compiler, __GNUC__, __GNUC_MINOR__);
}

// A daemon holds other people's words: no core files, no new privileges, private files.
void harden() {
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  ::umask(0077);
}

HttpLimits http_limits(const Config& config) {
  HttpLimits limits;
  limits.body_bytes = config.size("http.body_limit");
  limits.heartbeat_ms = config.duration_ms("http.heartbeat");
  limits.early_headers_ms = std::max<int64_t>(0, config.duration_ms("http.early_headers"));
  limits.pad_json_ms = config.duration_ms("http.pad_json");
  limits.write_ms = config.duration_ms("http.write_timeout");
  return limits;
}

// `command` outlives the server.
BudgetSettings budget_settings(const DaemonCommand& command) {
  BudgetSettings settings;
  settings.origin = command.config.get("budget.ram").origin;
  settings.configured = [&command]() -> Result<std::string> {
    const Setting& given = command.config.get("budget.ram");
    if (given.origin.starts_with("flag ")) return given.value;
    SLUICE_TRY(const Config now, load_config(command.config_path, command.config_named, environ));
    return now.get("budget.ram").value;
  };
  settings.save = [&command](const std::string& value) {
    return save_budget(command.config_path, value);
  };
  settings.forget = [&command] { return forget_budget(command.config_path); };
  return settings;
}

Result<ServerOptions> server_options(const DaemonCommand& command) {
  const Config& config = command.config;
  if (!config.get("listen.tcp").value.empty()) {
    return Error{"not_supported",
                 "listen.tcp: this version listens on Unix sockets only",
                 "remove listen.tcp"};
  }
  ServerOptions options;
  options.version = SLUICE_VERSION;
  options.build = build_text();
  options.config_doc = config.document();
  options.http = http_limits(config);
  options.queue.max_waiting = static_cast<size_t>(config.integer("queue.max"));
  options.queue.max_waiting_per_uid = static_cast<size_t>(config.integer("queue.per_user"));
  options.n_threads = static_cast<int>(config.integer("daemon.threads"));
  SLUICE_TRY(options.io.mode, io_mode_from_name(config.get("stream.io").value));
  options.io.page_cache = config.is_auto("stream.io");
  const bool found = config.is_auto("stream.io_threads");
  options.io.n_threads = found ? 0 : static_cast<int>(config.integer("stream.io_threads"));
  SLUICE_TRY(options.kv_type, kv_type_from_name(config.get("kv.type").value));
  options.keep_alive_ms = config.duration_ms("models.keep_alive");
  // A hundred years are as good as for ever, and no clock overflows.
  constexpr int64_t kCentury_ms = int64_t{100} * 365 * 24 * 3600 * 1000;
  options.idle_trim_ms = std::min(config.duration_ms("models.idle_trim"), kCentury_ms);
  options.drain_ms = std::max<int64_t>(0, config.duration_ms("daemon.drain"));
  if (!config.is_auto("daemon.idle_exit"))
    options.idle_exit_ms = config.duration_ms("daemon.idle_exit");
  const Setting& budget = config.get("budget.ram");
  SLUICE_TRY(const RamBudget ram, ram_budget(budget.value, memory_ceiling_bytes()));
  if (ram.lowered) {
    spdlog::warn("budget lowered to what this process may use at all asked={} limit={}",
                 budget.value,
                 format_bytes(ram.bytes));
  }
  options.budget_bytes = ram.bytes;
  options.budget_settings = budget_settings(command);
  options.pressure.react = config.boolean("pressure.react");
  options.pressure.some_percent = static_cast<double>(config.integer("pressure.some"));
  options.pressure.full_percent = static_cast<double>(config.integer("pressure.full"));
  options.pressure.recover_ms = std::max<int64_t>(0, config.duration_ms("pressure.recover"));
  options.pressure.reserve_bytes = config.size("budget.reserve");
  for (const ModelArgument& model : command.models) {
    std::error_code ec;
    const auto path = std::filesystem::absolute(expand_home(model.path), ec);
    options.models.push_back(
        ModelOption{model.name, ec ? model.path : path.lexically_normal().string()});
  }
  return options;
}

Result<std::string> prepare_state_dir(const Config& config) {
  std::string dir = config.is_auto("daemon.state_dir")
                        ? state_dir()
                        : expand_home(config.get("daemon.state_dir").value);
  std::error_code ec;
  dir = std::filesystem::absolute(dir, ec).lexically_normal().string();
  if (dir.size() > 1 && dir.back() == '/') dir.pop_back();
  SLUICE_TRY(make_private_dir(dir));
  return dir;
}

// The socket we serve on: one that the service manager passed, else our own with its lock.
struct Listener {
  std::vector<ListenSocket> own;  // at most one
  int fd = -1;
  std::string path;
  bool activated = false;
};

Result<Listener> open_listener(const DaemonCommand& command) {
  Listener listener;
  SLUICE_TRY(const std::vector<int> passed, activated_sockets());
  if (passed.size() > 1)
    return Error{"invalid_config", "more than one socket was passed; one is supported"};
  if (command.activated && passed.empty()) {
    return Error{"invalid_config",
                 "flag --listen: fd:// needs sockets passed by the service manager (LISTEN_FDS)"};
  }
  if (!passed.empty()) {
    listener.fd = passed.front();
    listener.path = bound_path(listener.fd);
    listener.activated = true;
    return listener;
  }
  SLUICE_TRY(std::string path, unix_listen_path(command.config.get("listen.unix").value));
  if (path == "auto") path = default_socket_path();
  SLUICE_TRY(auto socket, ListenSocket::open(path));
  listener.path = path;
  listener.fd = socket.release_fd();
  listener.own.push_back(std::move(socket));
  return listener;
}

int serve(const DaemonCommand& command) {
  init_log(command.config.get("log.level").value);
  harden();
  if (auto faults = IoFault::check_environment(); !faults) return fail("start", faults.error());
  if (auto kernels = check_kernel_choice(); !kernels) return fail("start", kernels.error());
  auto options = server_options(command);
  if (!options) return fail("start", options.error());
  auto dir = prepare_state_dir(command.config);
  if (!dir) return fail("start", dir.error());
  auto state_lock = LockFile::acquire(dir.value() + "/sluiced.lock");
  if (!state_lock) return fail("start", state_lock.error());
  auto listener = open_listener(command);
  if (!listener) return fail("start", listener.error());
  for (const std::string& key : command.config.without_effect()) {
    spdlog::warn("setting has no effect in this version key={}", escape_text(key));
  }

  ServerOptions& o = options.value();
  o.state_dir = dir.value();
  o.listen_fd = listener.value().fd;
  o.socket_path = listener.value().path;
  if (listener.value().activated && command.config.is_auto("daemon.idle_exit"))
    o.idle_exit_ms = kActivatedIdleExitMs;
  const std::string socket_path = o.socket_path;
  ReloadThread reload(
      command);  // before any other thread, so that all of them inherit its signal mask
  auto server = Server::create(std::move(o));
  if (!server) return fail("start", server.error());
  reload.set_on_reload(
      [&](json::object what) { server.value()->publish("config.reloaded", std::move(what)); });
  const int code = server.value()->run([&] {
    spdlog::info("listening socket={} pid={}", escape_text(socket_path, 200), ::getpid());
    notify_service_manager("READY=1\nSTATUS=listening");
  });
  notify_service_manager("STOPPING=1");
  reload.set_on_reload(nullptr);  // the server goes before it does
  return code;
}

int check_config_file(const DaemonCommand& command) {
  Config config;
  const std::string path = command.file.empty() ? command.config_path : command.file;
  auto merged = config.merge_file(path, command.config_named || !command.file.empty());
  if (merged && command.file.empty()) merged = config.merge_drop_ins(path);
  if (!merged) return fail("config check", merged.error(), command.json);
  const bool there = ::access(path.c_str(), F_OK) == 0;
  if (command.json) {
    const json::object doc{
        {"schema", "sluice.config.v1"}, {"path", path}, {"exists", there}, {"ok", true}};
    std::printf("%s\n", json_text(doc).c_str());
  } else {
    std::printf("%s: %s\n", path.c_str(), there ? "ok" : "not there; built-in values are used");
  }
  return 0;
}

int show_config(const DaemonCommand& command) {
  if (command.json) {
    const json::object doc{{"schema", "sluice.config.v1"},
                           {"path", command.config_path},
                           {"config", command.config.document()}};
    std::printf("%s\n", json_text(doc).c_str());
  } else {
    std::fputs(command.config.toml(command.origins).c_str(), stdout);
  }
  return 0;
}

int print_path(const DaemonCommand& command) {
  if (command.json) {
    const bool there = ::access(command.config_path.c_str(), F_OK) == 0;
    const json::object doc{
        {"schema", "sluice.config.v1"}, {"path", command.config_path}, {"exists", there}};
    std::printf("%s\n", json_text(doc).c_str());
  } else {
    std::printf("%s\n", command.config_path.c_str());
  }
  return 0;
}

int print_example(const DaemonCommand& command) {
  if (command.json) {
    const json::object doc{{"schema", "sluice.config.v1"}, {"example", Config::example()}};
    std::printf("%s\n", json_text(doc).c_str());
  } else {
    std::fputs(Config::example().c_str(), stdout);
  }
  return 0;
}

int print_version(const DaemonCommand& command) {
  if (command.json) {
    const json::object doc{
        {"schema", "sluice.version.v1"}, {"version", SLUICE_VERSION}, {"build", build_text()}};
    std::printf("%s\n", json_text(doc).c_str());
  } else {
    std::printf("sluiced %s (%s)\n", SLUICE_VERSION, build_text().c_str());
  }
  return 0;
}

int check_model(const DaemonCommand& command) {
#ifdef SLUICED_HAS_CHECK
  return check_command(command.file, command.json);
#else
  return fail("check", Error{"not_supported", "this build has no model checker"}, command.json);
#endif
}

int dispatch(int argc, char** argv) {
#ifdef SLUICED_HAS_FORWARD
  if (argc >= 2 && std::string_view(argv[1]) == "forward")
    return forward_command(argc - 2, argv + 2);
#endif
  auto parsed = parse_daemon_command(argc, argv, environ);
  if (!parsed) {
    const bool as_json = std::any_of(
        argv + 1, argv + argc, [](const char* a) { return std::string_view(a) == "--json"; });
    const bool usage = parsed.error().code == "usage";
    return fail(usage ? "command line" : "config", parsed.error(), as_json);
  }
  const DaemonCommand& command = parsed.value();
  switch (command.verb) {
    case DaemonVerb::kHelp:
      std::fputs(command.text.c_str(), stdout);
      return 0;
    case DaemonVerb::kVersion:
      return print_version(command);
    case DaemonVerb::kCheck:
      return check_model(command);
    case DaemonVerb::kConfigShow:
      return show_config(command);
    case DaemonVerb::kConfigCheck:
      return check_config_file(command);
    case DaemonVerb::kConfigPath:
      return print_path(command);
    case DaemonVerb::kConfigExample:
      return print_example(command);
    case DaemonVerb::kRun:
      return serve(command);
  }
  return kExitFailure;
}

}  // namespace
}  // namespace sluice

// Boost and std may throw; this thread's entry is where that ends.
int main(int argc, char** argv) {
  try {
    return sluice::dispatch(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sluiced: start failed: %s   [internal]\n", e.what());
    return 1;
  }
}
