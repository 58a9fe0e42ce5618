// What every route may use; owned by the Server, alive longer than any request. Its parts guard
// themselves.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/budget_control.h"
#include "daemon/event_bus.h"
#include "daemon/http_memory.h"
#include "daemon/http_message.h"
#include "daemon/measurements.h"
#include "daemon/memory_watch.h"
#include "daemon/model_registry.h"
#include "daemon/protocol/native.h"
#include "daemon/residency_log.h"
#include "daemon/server.h"
#include "daemon/worker.h"
#include "scheduler/run_queue.h"
#include "scheduler/thread_pool.h"
#include "storage/budget.h"

namespace sluice {

enum class Phase : uint8_t { kQueued, kLoad, kPrefill, kDecode };
const char* phase_name(Phase p);

// How far a request is; written by the thread that works on it, read by listings and heartbeats.
struct Progress {
  std::atomic<Phase> phase{Phase::kQueued};
  std::atomic<int64_t> done{0};
  std::atomic<int64_t> total{0};

  void set(Phase p, int64_t d, int64_t t) {
    done.store(d, std::memory_order_relaxed);
    total.store(t, std::memory_order_relaxed);
    phase.store(p, std::memory_order_relaxed);
  }
};

// Progress of admitted requests by id. Entries go with their requests.
class ProgressTable {
 public:
  void add(const std::string& id, const std::shared_ptr<const Progress>& progress);
  std::shared_ptr<const Progress> find(const std::string& id) const;

 private:
  mutable std::mutex mutex_;
  std::unordered_map<std::string, std::weak_ptr<const Progress>> by_id_;  // guarded by mutex_
};

// Recognises a request that is sent again.
struct RequestKey {
  uint32_t uid = 0;
  size_t hash = 0;
  size_t bytes = 0;
  bool operator==(const RequestKey&) const = default;
};
RequestKey request_key(const HttpRequest& request);

// Answers that failed after their 200 had been sent: the client sends the request again, and is
// told the true status at once (INTERFACE 3.4). Kept for 120 s, at most 64.
class FailedAnswers {
 public:
  void remember(const RequestKey& key, const ApiError& error);
  std::optional<ApiError> find(const RequestKey& key);

 private:
  struct Item {
    RequestKey key;
    std::chrono::steady_clock::time_point until;
    ApiError error;
  };
  std::mutex mutex_;
  std::vector<Item> items_;  // guarded by mutex_; oldest first
};

struct App {
  App(ServerOptions o, int threads);
  ~App();

  const ServerOptions options;
  const std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  Budget budget;
  EventBus events;
  ResidencyLog residency_log;
  ProcessBase base;  // the process itself and the ledger's headroom
  HttpMemory http_memory;
  ThreadPool pool;
  Measurements measurements;  // before the registry: I/O queues end with it
  FillShare fill_share;
  ModelRegistry registry;
  ProgressTable progress;
  FailedAnswers failed_answers;
  std::atomic<bool> draining{false};
  // Set by the server before anything runs; both callable from any thread.
  std::function<void(int64_t drain_ms)> stop;
  std::function<void()> keep_alive_changed;  // a model's time to unload may have moved
  RunQueue queue;                            // after what its jobs use
  BudgetControl budget_control;
  MemoryWatch memory_watch;
  Worker budget_worker{1};  // changes of the budget, one after the other
  Worker worker;            // last: its jobs use all of the above

  // Whether `uid` may see and cancel other users' requests.
  bool may_manage(uint32_t uid) const;
  std::vector<RequestDoc> requests(uint32_t uid) const;
  StatusDoc status(uint32_t uid) const;
  // The HTTP face of an error from queue.submit().
  ApiError admission_error(Error error) const;
  // The kernels' drivers as they are best on this host for the types of this model: what is not
  // known yet is measured, if there is memory for it.
  void tune_drivers(const Model& model);
  std::string pressure_level() const { return pressure_level_name(memory_watch.level()); }
};

}  // namespace sluice
