#include "daemon/worker.h"

#include <malloc.h>

#include <exception>
#include <utility>

#include "base/log.h"

namespace sluice {

Worker::Worker(int n_threads) {
  for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { run(); });
}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void Worker::post(std::function<void()> job, bool large) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back({std::move(job), large});
  }
  changed_.notify_one();
}

void Worker::run() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    try {
      job.run();
    } catch (const std::exception& e) {
      spdlog::error("a worker job failed: {}", e.what());
    }
    job.run = nullptr;
    if (job.large) ::malloc_trim(0);
  }
}

}  // namespace sluice
