// How kernels ask for threads. The scheduler's pool implements it; SerialFor serves tests and tools.
#pragma once

#include <cstdint>

namespace sluice::kernels {

class ParallelFor {
 public:
  virtual ~ParallelFor() = default;
  virtual int n_threads() const noexcept = 0;

  // Calls fn(ctx, begin, end, thread) on disjoint ranges that cover [0, n), and returns when all are
  // done (a barrier). Ranges are cut at multiples of `grain`; 0 <= thread < n_threads().
  using RangeFn = void (*)(void* ctx, int64_t begin, int64_t end, int thread);
  virtual void run(int64_t n, int64_t grain, RangeFn fn, void* ctx) noexcept = 0;
};

// par(begin, end, thread): a lambda instead of a function and a context.
template <class F>
void parallel_for(ParallelFor& par, int64_t n, int64_t grain, F&& fn) noexcept {
  par.run(
      n,
      grain,
      [](void* ctx, int64_t begin, int64_t end, int thread) {
        (*static_cast<F*>(ctx))(begin, end, thread);
      },
      &fn);
}

class SerialFor final : public ParallelFor {
 public:
  int n_threads() const noexcept override { return 1; }
  void run(int64_t n, int64_t, RangeFn fn, void* ctx) noexcept override {
    if (n > 0) fn(ctx, 0, n, 0);
  }
};

}  // namespace sluice::kernels
