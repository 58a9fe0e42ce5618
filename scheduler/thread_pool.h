// Compute threads: persistent, spin briefly then sleep; the calling thread is worker 0.
#pragma once

#include <memory>

#include "kernels/parallel.h"

namespace sluice {

// CPUs this process may use: affinity mask and cgroup quota (v1, v2), at least 1.
int usable_cpus();

class ThreadPool final : public kernels::ParallelFor {
 public:
  explicit ThreadPool(int n_threads);    // 0: usable_cpus(); capped at 256
  ~ThreadPool() override;
  int n_threads() const noexcept override;
  // Not reentrant: one caller at a time.
  void run(int64_t n, int64_t grain, RangeFn fn, void* ctx) noexcept override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice
