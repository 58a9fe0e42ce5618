// Threads for what may take longer than the io thread can wait: JSON, templates, tokenizing, model
// headers, fsync. Jobs start in the order they were posted. Of each connection one waits at
// most; those whose client has gone wait on, with what they hold still in the ledger, and are soon
// done.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sluice {

class Worker {
 public:
  explicit Worker(int n_threads);
  ~Worker();  // runs what is running, drops what waits
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Any thread. An exception that leaves `job` is logged. `large`: it needs much memory for a
  // moment; what the heap kept of it is given back afterwards.
  void post(std::function<void()> job, bool large = false);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  struct Job {
    std::function<void()> run;
    bool large = false;
  };
  std::deque<Job> jobs_;   // guarded by mutex_
  bool stopping_ = false;  // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace sluice
