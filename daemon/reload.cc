#include "daemon/reload.h"

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <boost/json/array.hpp>
#include <csignal>
#include <utility>

#include "base/log.h"
#include "base/text_escape.h"

extern char** environ;

namespace sluice {
namespace {

sigset_t our_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&set, number);
  return set;
}

}  // namespace

ReloadThread::ReloadThread(const DaemonCommand& command)
    : command_(command), level_(command.config.get("log.level").value) {
  const sigset_t set = our_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { run(); });
}

ReloadThread::~ReloadThread() {
  stopping_ = true;
  ::pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

void ReloadThread::set_on_reload(OnReload on_reload) {
  const std::lock_guard lock(mutex_);
  on_reload_ = std::move(on_reload);
}

void ReloadThread::run() {
  const sigset_t set = our_signals();
  bool debug = false;
  for (;;) {
    int number = 0;
    if (::sigwait(&set, &number) != 0) continue;
    if (stopping_) return;
    if (number == SIGHUP) reload();
    if (number == SIGUSR1)
      spdlog::info("state pid={} log_level={}", ::getpid(), debug ? "debug" : level_);
    if (number == SIGUSR2) {
      debug = !debug;
      init_log(debug ? "debug" : level_);
      spdlog::info("debug logging {}", debug ? "on" : "off");
    }
  }
}

void ReloadThread::reload() {
  auto loaded = load_config(command_.config_path, command_.config_named, environ);
  if (!loaded) {
    spdlog::error("reload failed, settings kept: {}", escape_text(loaded.error().what, 400));
    return;
  }
  const Config& config = loaded.value();
  boost::json::array restart;
  for (const KeySpec& spec : Config::keys()) {
    const Setting& now = command_.config.get(spec.name);
    if (now.origin.starts_with("flag ") || config.get(spec.name).value == now.value) continue;
    if (std::string_view(spec.name) == "log.level") continue;
    restart.push_back(boost::json::value(spec.name));
    spdlog::warn("reload: takes effect after a restart key={}", spec.name);
  }
  if (!command_.config.get("log.level").origin.starts_with("flag "))
    level_ = config.get("log.level").value;
  init_log(level_);
  spdlog::info("reloaded config={}", escape_text(command_.config_path, 200));
  const std::lock_guard lock(mutex_);
  if (on_reload_) {
    on_reload_({{"config", to_valid_utf8(command_.config_path)},
                {"log_level", level_},
                {"needs_restart", std::move(restart)}});
  }
}

}  // namespace sluice
