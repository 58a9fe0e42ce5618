// Bounded admission: one job runs at a time on the queue's own thread, others wait. FIFO per uid, round-robin between
// uids, three priorities. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "scheduler/engine.h"

namespace sluice {

enum class Priority : uint8_t { kHigh, kNormal, kLow };

struct RunQueueLimits {
  size_t max_waiting = 64;
  size_t max_waiting_per_uid = 8;
};

class RunQueue {
 public:
  struct Job {
    std::string id;                      // "r-0192": unique, made by submit()
    uint32_t uid = 0;
    Priority priority = Priority::kNormal;
    std::string model;                   // for listings
    std::shared_ptr<CancelToken> cancel;
    std::function<void()> work;          // runs on the queue's thread; must look at *cancel
    std::function<void()> dropped;       // called instead of work when cancelled while waiting
  };
  struct JobInfo {
    std::string id, model;
    uint32_t uid = 0;
    bool running = false;
    size_t position = 0;                 // 1 = next; 0 when running
    double age_s = 0;
  };

  explicit RunQueue(RunQueueLimits limits);
  ~RunQueue();                           // cancels everything, waits for the running job

  // Returns the job's id and its position. Errors: queue_full (this uid), overloaded (all), shutting_down.
  struct Ticket { std::string id; size_t position; };
  Result<Ticket> submit(Job job);

  // True when a job of that id was waiting or running. uid 0 or `any_uid` may cancel others' jobs.
  bool cancel(const std::string& id, uint32_t uid, bool any_uid);
  std::vector<JobInfo> list() const;
  size_t waiting() const;
  // Estimate for Retry-After: waiting jobs times the mean run time, clamped to 1..120 s.
  int retry_after_s() const;
  // No new jobs; waiting ones are dropped after `drain_ms`, the running one is cancelled then.
  void shutdown(int64_t drain_ms);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice
