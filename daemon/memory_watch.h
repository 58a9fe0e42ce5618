// One thread that looks at the machine's memory: pressure, cgroup limits above us, and whether the
// kernel agrees with the ledger; and, while somebody reads events, at what blocks are doing.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "daemon/budget_control.h"
#include "daemon/event_bus.h"
#include "daemon/model_registry.h"
#include "daemon/pressure.h"

namespace sluice {

struct MemoryWatchOptions {
  PressureLimits pressure;
  int64_t every_ms = 1000;
  int64_t block_events_ms = 100;  // while events are read: at most 20 frames of a kind a second
  std::string root;               // prefixes /proc and /sys, for tests
};

class MemoryWatch {
 public:
  MemoryWatch(MemoryWatchOptions options,
              Budget& budget,
              BudgetControl& control,
              ModelRegistry& registry,
              EventBus& events);
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  // Once, when whoever is told of changes is known.
  void start();

  // Makes it look at once.
  void nudge();

  PressureLevel level() const { return level_.load(); }
  // Percent, as judged; for metrics.
  double some() const { return some_.load(); }
  double full() const { return full_.load(); }
  // 1: the kernel wakes us under pressure; 0: looked at every second only.
  bool triggered() const { return trigger_ >= 0; }

 private:
  void run();
  void open_trigger();
  bool sleep(int64_t ms);  // false: the end
  void look(bool triggered);
  void apply(const PressureState& state, uint64_t ceiling);
  void tell_blocks();

  const MemoryWatchOptions options_;
  Budget& budget_;
  BudgetControl& control_;
  ModelRegistry& registry_;
  EventBus& events_;
  PressureLadder ladder_;
  int trigger_ = -1;
  int wake_ = -1;         // eventfd
  bool pressed_ = false;  // the trigger fired since the last look
  uint64_t ceiling_ = Budget::kUnlimited, pressure_ = Budget::kUnlimited;
  std::map<std::string, std::vector<SliceBlockStats>> told_;  // by model: at the last block events
  bool telling_ = false;
  std::atomic<PressureLevel> level_{PressureLevel::kNone};
  std::atomic<double> some_{0}, full_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace sluice
