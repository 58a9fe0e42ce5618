// SIGHUP, SIGUSR1, SIGUSR2 of a running daemon, on a thread of their own. SIGTERM and SIGINT belong
// to the Server.
#pragma once

#include <atomic>
#include <boost/json/object.hpp>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "daemon/options.h"

namespace sluice {

// SIGHUP reads the settings again: a bad file is logged with line and column and nothing changes; a
// good one sets the log level and says what needs a restart. SIGUSR1 logs one line about the
// process. SIGUSR2 toggles debug logging. Construct before other threads start: they inherit the
// mask that keeps these signals here.
class ReloadThread {
 public:
  explicit ReloadThread(const DaemonCommand& command);
  ~ReloadThread();
  ReloadThread(const ReloadThread&) = delete;
  ReloadThread& operator=(const ReloadThread&) = delete;

  // Told of each reload that took effect; called on the thread of our own. Null: nobody.
  using OnReload = std::function<void(boost::json::object what)>;
  void set_on_reload(OnReload on_reload);

 private:
  void run();
  void reload();

  const DaemonCommand& command_;  // outlives us
  std::string level_;             // owned by the thread
  std::mutex mutex_;
  OnReload on_reload_;  // guarded by mutex_, also while it runs
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace sluice
