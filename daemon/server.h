// The HTTP side of sluiced: owns the listening socket it is given, the model registry, the run
// queue and the io thread. Constructed and run on one thread; stop() may be called from any thread.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "daemon/http_limits.h"
#include "daemon/pressure.h"
#include "scheduler/kv_cache.h"
#include "scheduler/run_queue.h"
#include "storage/budget.h"

namespace sluice {

struct ModelOption {
  std::string name;  // empty: the file's stem in lower case
  std::string path;  // absolute
};

// The configuration's side of the budget; empty functions: there is none.
struct BudgetSettings {
  std::string origin;                               // where today's value came from
  std::function<Result<std::string>()> configured;  // the value a restart would find
  // Writes a file that the next start reads; returns its path.
  std::function<Result<std::string>(const std::string& value)> save;
  std::function<Result<void>()> forget;  // removes it
};

struct ServerOptions {
  int listen_fd = -1;       // bound and listening AF_UNIX stream socket; owned from here on
  std::string socket_path;  // for status and log only
  std::string state_dir;    // absolute, exists, 0700; holds models.json
  std::vector<uint32_t> allowed_uids;  // besides our own uid and root
  RunQueueLimits queue;
  HttpLimits http;
  int n_threads = 0;  // compute threads; 0: what the process may use
  uint64_t budget_bytes = Budget::kUnlimited;
  BudgetSettings budget_settings;
  PressureLimits pressure;
  int64_t default_ctx = 0;                // 0: the engine's default
  std::vector<ModelOption> models;        // registered at start, in place
  IoOptions io;                           // how weights are read
  KvType kv_type = KvType::kF16;
  int64_t keep_alive_ms = 5 * 60 * 1000;  // < 0: for ever, 0: unload after each request
  int64_t idle_trim_ms = 60'000;          // an idle model's pins stay this long; < 0: as it does
  int64_t idle_exit_ms = -1;              // < 0: never
  int64_t drain_ms = 10'000;              // of SIGTERM and of a shutdown that names none
  boost::json::object config_doc;         // answered by GET /sluice/v1/config as "config"
  std::string version = "0.1.0";
  std::string build;  // "release gcc-12.2", shown by version
};

class Server {
 public:
  // Reads models.json, registers `models`, raises the soft file limit. Errors: io.*, gguf.* and
  // model_unsupported of a model given in the options (one that came from models.json only loses
  // its place with a log line).
  static Result<std::unique_ptr<Server>> create(ServerOptions options);
  ~Server();

  // Serves until stopped; call once. SIGTERM and SIGINT drain, a second one ends at once; SIGPIPE
  // is ignored. Returns the process's exit code: 0 after a drain or an idle exit, 143/130 when a
  // second signal cut it short. `ready` (may be empty) is called on this thread once connections
  // are being accepted: the place for READY=1.
  int run(const std::function<void()>& ready = {});

  // Any thread: no new work, running generations get `drain_ms` to end, then are cancelled. < 0:
  // the option's.
  void stop(int64_t drain_ms = -1);

  // Any thread: an event for everybody who watches.
  void publish(std::string_view type, boost::json::object data);

 private:
  Server();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
