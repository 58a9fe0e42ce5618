// Bounded admission: one job runs at a time on the queue's own thread, others wait. FIFO per uid,
// round-robin between uids, three priorities. Thread-safe. No callback runs under the queue's lock;
// what one throws is logged and swallowed.
//
// A running job may step aside: park(), and return. Others then run, and its work is called again,
// in its turn among those of its uid and class, after resume(). A parked job keeps its place in the
// limits: with it and the waiting ones there are never more than max_waiting + 1.
//
// Order. A higher priority goes first, but a class that was passed over kMaxPassedOver times in a
// row goes next. So a class with waiting jobs gets at least one of kMaxPassedOver + 2 turns: a job
// that finds k jobs of its class before it starts after fewer than (k + 1) * (kMaxPassedOver + 2)
// others, whatever arrives meanwhile. k is at most (j + 1) * n_uids - 1 when j of them are its own
// uid's.
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
  size_t max_waiting = 64;  // jobs that wait or are parked; the running one is not counted
  size_t max_waiting_per_uid = 8;
};

class RunQueue {
 public:
  static constexpr int kMaxPassedOver = 4;

  struct Job {
    std::string id;  // "r-0192": unique, made by submit()
    uint32_t uid = 0;
    Priority priority = Priority::kNormal;
    std::string model;                    // for listings
    std::shared_ptr<CancelToken> cancel;  // made by submit() when null
    std::function<void()> work;           // runs on the queue's thread; must look at *cancel
    // Called instead of work when the job was cancelled before it began or while it was parked: by
    // the thread that calls cancel() or shutdown(), or by the queue's own. Each admitted job ends
    // in exactly one call: of work that did not park, or of dropped.
    std::function<void()> dropped;
  };
  struct JobInfo {
    std::string id, model;
    uint32_t uid = 0;
    bool running = false;
    bool parked = false;
    size_t position = 0;  // 1 = next; 0 when running or parked
    double age_s = 0;     // since submit()
    Priority priority = Priority::kNormal;
  };
  using Clock = std::function<double()>;  // seconds, monotonic

  // Starts the thread. `clock` is for tests.
  explicit RunQueue(RunQueueLimits limits, Clock clock = nullptr);
  // Cancels everything, waits for the running job. Not from a callback of its own.
  ~RunQueue();
  RunQueue(const RunQueue&) = delete;
  RunQueue& operator=(const RunQueue&) = delete;

  // Returns the job's id and its position; 0: it starts at once. Errors: queue_full (this uid),
  // overloaded (all), shutting_down; the first two carry the numbers. A refused job is forgotten:
  // neither callback is called.
  struct Ticket {
    std::string id;
    size_t position;
  };
  Result<Ticket> submit(Job job);

  // True when a job of that id was waiting or running. uid 0 or `any_uid` may cancel others' jobs;
  // to anyone else they do not exist. A waiting job is dropped before this returns; a running one
  // has its token set.
  bool cancel(const std::string& id, uint32_t uid, bool any_uid);
  // From the running job's own work, which returns soon after.
  void park();
  // Makes a parked job wait for its turn again; also right after its park(). Nothing for others.
  void resume(const std::string& id);
  // The running job, the waiting ones by position, the parked ones.
  std::vector<JobInfo> list() const;
  size_t waiting() const;  // without the parked ones
  // Estimate for Retry-After: what is left of the running job and all waiting ones at the mean run
  // time (moving average; 5 s before any job has ended), clamped to 1..120 s.
  int retry_after_s() const;
  // No new jobs; those admitted go on for at most `drain_ms`, then waiting ones are dropped and the
  // running one's token is set. Returns when all have ended or have been told to. May be called
  // again.
  void shutdown(int64_t drain_ms);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice
