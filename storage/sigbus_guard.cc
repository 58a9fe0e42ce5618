#include "storage/sigbus_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>

namespace sluice {
namespace {

struct Range {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};       // 0: free. Written last, cleared first.
  std::atomic<bool> cut_off{false};
};
static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

std::array<Range, SigbusGuard::kMaxRanges> g_ranges;
std::atomic<int> g_used{0};            // places ever taken: the handler looks no further
std::mutex g_mutex;
uintptr_t g_page = 4096;

void on_sigbus(int, siginfo_t* info, void*) {
  const int saved = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const int n = g_used.load(std::memory_order_acquire);
  for (int i = 0; i < n; ++i) {
    Range& r = g_ranges[static_cast<size_t>(i)];
    const uintptr_t end = r.end.load(std::memory_order_acquire);
    if (address >= end || address < r.begin.load(std::memory_order_acquire)) continue;
    void* page = reinterpret_cast<void*>(address / g_page * g_page);
    if (mmap(page, g_page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) break;
    r.cut_off.store(true, std::memory_order_release);
    errno = saved;
    return;
  }
  // Not ours: the instruction runs again and meets the default action.
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGBUS, &standard, nullptr);
}

void install() {
  static const bool installed = [] {
    g_page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  (void)installed;
}

}  // namespace

SigbusGuard::SigbusGuard(const void* begin, uint64_t n_bytes) {
  if (begin == nullptr || n_bytes == 0) return;
  install();
  const std::lock_guard lock(g_mutex);
  for (int i = 0; i < kMaxRanges; ++i) {
    Range& r = g_ranges[static_cast<size_t>(i)];
    if (r.end.load(std::memory_order_relaxed) != 0) continue;
    const auto address = reinterpret_cast<uintptr_t>(begin);
    r.cut_off.store(false, std::memory_order_relaxed);
    r.begin.store(address, std::memory_order_relaxed);
    // The last page counts whole: what lies behind the file's end in it reads as zero without a signal.
    r.end.store((address + n_bytes + g_page - 1) / g_page * g_page, std::memory_order_release);
    if (i >= g_used.load(std::memory_order_relaxed)) g_used.store(i + 1, std::memory_order_release);
    place_ = i;
    return;
  }
}

SigbusGuard::~SigbusGuard() {
  if (place_ < 0) return;
  const std::lock_guard lock(g_mutex);
  g_ranges[static_cast<size_t>(place_)].end.store(0, std::memory_order_release);
}

bool SigbusGuard::cut_off() const { return place_ >= 0 && g_ranges[static_cast<size_t>(place_)].cut_off.load(std::memory_order_acquire); }

}  // namespace sluice
