#include "scheduler/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace sluice {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kSpinRounds = 2000;  // about 20-50 us of pause instructions, then futex

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The smallest cpu quota on the way up from our cgroup, in whole CPUs; 0 = none.
int cgroup_quota_cpus() {
  int best = 0;
  auto consider = [&best](double quota, double period) {
    if (quota > 0 && period > 0) {
      const int cpus = std::max(1, static_cast<int>(quota / period + 0.5));
      best = best == 0 ? cpus : std::min(best, cpus);
    }
  };
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const auto c1 = line.find(':');
    const auto c2 = line.find(':', c1 + 1);
    if (c1 == std::string::npos || c2 == std::string::npos) continue;
    const std::string controllers = line.substr(c1 + 1, c2 - c1 - 1);
    std::string path = line.substr(c2 + 1);
    const bool v2 = controllers.empty();
    if (!v2 && controllers.find("cpu") == std::string::npos) continue;
    for (int depth = 0; depth < 32; ++depth) {
      if (v2) {
        std::ifstream f("/sys/fs/cgroup" + path + "/cpu.max");
        std::string quota;
        double period = 0;
        if (f >> quota >> period && quota != "max") consider(std::atof(quota.c_str()), period);
      } else {
        std::ifstream fq("/sys/fs/cgroup/cpu" + path + "/cpu.cfs_quota_us");
        std::ifstream fp("/sys/fs/cgroup/cpu" + path + "/cpu.cfs_period_us");
        double quota = 0;
        double period = 0;
        if (fq >> quota && fp >> period) consider(quota, period);
      }
      const auto slash = path.rfind('/');
      if (path.size() <= 1 || slash == std::string::npos) break;
      path = slash == 0 ? "/" : path.substr(0, slash);
    }
  }
  return best;
}

}  // namespace

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  if (const int quota = cgroup_quota_cpus(); quota > 0) n = std::min(n, quota);
  return std::clamp(n, 1, kMaxThreads);
}

// Work is handed out in chunks from a shared counter, each a share of what is left: large ones first, small ones
// last, so that threads of unequal speed end together. A job's gate is open from its start until its
// chunks are all handed out; a worker that wakes later finds it closed and goes back to sleep, so that
// a job never waits for a thread that the kernel has not scheduled yet. The plain fields are written
// only while the gate is closed and nobody is inside.
struct ThreadPool::State {
  static constexpr uint32_t kOpen = 1u << 31;

  alignas(64) std::atomic<uint32_t> epoch{0};   // one more per job: what idle workers watch
  alignas(64) std::atomic<uint32_t> gate{0};    // kOpen, and the number of workers inside
  alignas(64) std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  int64_t n = 0;
  int64_t grain = 1;
  int64_t parts = 1;                            // of what is left, one is a chunk
  RangeFn fn = nullptr;
  void* ctx = nullptr;
  int spin_rounds = kSpinRounds;                // constant after construction
  std::vector<std::thread> workers;

  void drain(int thread) {
    int64_t begin = next.load(std::memory_order_relaxed);
    for (;;) {
      if (begin >= n) return;
      const int64_t chunk = std::max<int64_t>((n - begin) / parts / grain, 1) * grain;
      const int64_t end = std::min(n, begin + chunk);
      if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      fn(ctx, begin, end, thread);
      begin = next.load(std::memory_order_relaxed);
    }
  }

  bool enter() {
    uint32_t g = gate.load(std::memory_order_relaxed);
    while ((g & kOpen) != 0) {
      if (gate.compare_exchange_weak(g, g + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
    }
    return false;
  }

  void leave() {
    // 1: closed, and we are the last one inside.
    if (gate.fetch_sub(1, std::memory_order_release) == 1) gate.notify_one();
  }

  void close_and_wait() {
    uint32_t inside = gate.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
    for (int i = 0; i < spin_rounds && inside != 0; ++i) {
      cpu_pause();
      inside = gate.load(std::memory_order_acquire);
    }
    while (inside != 0) {
      gate.wait(inside, std::memory_order_acquire);
      inside = gate.load(std::memory_order_acquire);
    }
  }

  void worker(int thread) {
    uint32_t seen = 0;
    for (;;) {
      for (int i = 0; i < spin_rounds && epoch.load(std::memory_order_relaxed) == seen; ++i) cpu_pause();
      epoch.wait(seen, std::memory_order_acquire);
      seen = epoch.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      if (!enter()) continue;
      drain(thread);
      leave();
    }
  }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
  const int cpus = usable_cpus();
  const int n = n_threads <= 0 ? cpus : std::min(n_threads, kMaxThreads);
  // With more threads than CPUs a spinning one keeps another from its work.
  if (n > cpus) state_->spin_rounds = 0;
  for (int i = 1; i < n; ++i) {
    state_->workers.emplace_back([s = state_.get(), i] { s->worker(i); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_release);
  state_->epoch.fetch_add(1, std::memory_order_release);
  state_->epoch.notify_all();
  for (auto& t : state_->workers) t.join();
}

int ThreadPool::n_threads() const noexcept { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(int64_t n, int64_t grain, RangeFn fn, void* ctx) noexcept {
  if (n <= 0) return;
  State& s = *state_;
  const int threads = n_threads();
  grain = std::max<int64_t>(grain, 1);
  if (threads == 1 || n <= grain) {
    fn(ctx, 0, n, 0);
    return;
  }
  s.grain = grain;
  s.parts = 2 * threads;
  s.n = n;
  s.fn = fn;
  s.ctx = ctx;
  s.next.store(0, std::memory_order_relaxed);
  s.gate.store(State::kOpen, std::memory_order_release);
  s.epoch.fetch_add(1, std::memory_order_release);
  s.epoch.notify_all();
  s.drain(0);
  s.close_and_wait();
}

}  // namespace sluice
