// The budget of a running daemon: who may move it how far, what a change took, and what the kernel
// says about it. The ledger keeps the rules; this decides, waits, confirms and remembers. state()
// and history() from any thread, change() from one (it may take as long as a slow disk).
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "daemon/model_registry.h"
#include "daemon/protocol/budget.h"
#include "daemon/protocol/errors.h"
#include "scheduler/residency.h"
#include "scheduler/run_queue.h"
#include "storage/budget.h"

namespace sluice {

struct BudgetOrder {
  uint64_t limit_bytes = 0;
  bool force = false;    // cancels requests that have begun where nothing else helps
  bool dry_run = false;  // says what would happen
  int64_t timeout_ms = 10'000;
  uint32_t uid = 0;
};

// Bytes that cannot be given back now, and the smallest limit that holds them.
struct BudgetFloor {
  uint64_t kv = 0;  // of running requests, what they will take soon included
  uint64_t ring = 0;
  uint64_t activations = 0;
  uint64_t other = 0;  // tokenizers, models on their way in, buffers
  uint64_t process = 0;
  uint64_t headroom = 0;
  uint64_t bytes = 0;                // the floor
  std::vector<std::string> running;  // models, those of requests that stand aside included

  std::string holds() const;  // "KV 224 MiB · ring 32 MiB · ..."
};

class BudgetControl {
 public:
  static constexpr size_t kHistory = 256;

  BudgetControl(Budget& budget, ProcessBase& base, ModelRegistry& registry, RunQueue& queue);

  BudgetStateDoc state() const;
  // What runs, or stands aside, counts as if it could not be stopped, unless `idle`.
  BudgetFloor floor(bool idle = false) const;
  std::vector<BudgetChangeDoc> history() const;

  // budget_below_floor with ApiError::holds, and the old limit stays.
  std::variant<BudgetChangedDoc, ApiError> change(const BudgetOrder& order);

  // What others leave of the limit: a cgroup's limit and memory pressure, both kUnlimited when
  // there is none. Returns when pins and caches were given back; noted in the history when it has a
  // cause. One caller at a time.
  void constrain(uint64_t ceiling_bytes, uint64_t pressure_bytes, const char* cause);

  // Compares the ledger with the kernel; logs a gap once, until it has gone. Not while something is
  // being loaded.
  void check_gap();

  // Told of every change, on the thread that made it. Set before anything runs.
  std::function<void(const BudgetChangeDoc&)> on_change;

 private:
  using Clock = std::chrono::steady_clock;
  ApiError below_floor(uint64_t bytes, bool force) const;
  // Those that stand aside, and those that run.
  void cancel_begun(std::vector<std::string>& cancelled, bool running_too);
  // True when what is resident fits in time.
  bool wait_for_kernel(uint64_t limit_bytes, Clock::time_point deadline) const;
  std::vector<EvictedDoc> foreseen(uint64_t limit_bytes) const;
  void note(std::string cause, uint32_t uid, uint64_t before, uint64_t after, int64_t elapsed_ms);

  Budget& budget_;
  ProcessBase& base_;
  ModelRegistry& registry_;
  RunQueue& queue_;
  mutable std::mutex history_mutex_;
  std::deque<BudgetChangeDoc> history_;  // guarded by history_mutex_; oldest first
  bool gap_reported_ = false;            // of check_gap()'s thread
  uint64_t constrained_ = 0;             // of constrain()'s thread: effective bytes last noted
};

}  // namespace sluice
