// The watcher over a made-up /proc and /sys.
#include "daemon/memory_watch.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

namespace sluice {
namespace {

class MemoryWatchTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "watchXXXXXX";
    root_ = ::mkdtemp(pattern.data());
    psi(0, 0);
    file("/proc/meminfo", "MemAvailable:   8000000 kB\n");
    file("/proc/self/cgroup", "0::/a\n");
    file("/sys/fs/cgroup/a/memory.pressure", "some avg10=0.00\nfull avg10=0.00\n");
    file("/sys/fs/cgroup/a/memory.max", "max\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  // Whole or not at all, as the kernel's files are.
  void file(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path + ".new") << text;
    std::filesystem::rename(root_ + path + ".new", root_ + path);
  }
  void psi(int some, int full) {
    file("/proc/pressure/memory",
         "some avg10=" + std::to_string(some) + ".00 avg60=0\nfull avg10=" + std::to_string(full) +
             ".00 avg60=0\n");
  }
  template <class Until>
  static bool soon(Until until) {
    for (int i = 0; i < 500; ++i) {
      if (until()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  std::string root_;
};

TEST_F(MemoryWatchTest, PressureAndCgroupLimitsLowerWhatIsInEffectAndLeaveTheLimit) {
  constexpr uint64_t kLimit = 256u << 20;
  Budget budget(kLimit);
  ThreadPool pool(1);
  ProcessBase base(budget, 0);
  ModelRegistry registry(ModelRegistryOptions{}, budget, pool);
  RunQueue queue(RunQueueLimits{});
  BudgetControl control(budget, base, registry, queue);
  EventBus events;
  MemoryWatchOptions options;
  options.every_ms = 5;
  options.root = root_;
  options.pressure.recover_ms = 20;
  MemoryWatch watch(options, budget, control, registry, events);
  watch.start();
  EXPECT_FALSE(watch.triggered()) << "made-up files take no trigger";
  EXPECT_EQ(budget.effective(), kLimit);

  psi(10, 0);
  EXPECT_TRUE(soon([&] { return budget.effective() == kLimit * 3 / 4; }));
  EXPECT_EQ(watch.level(), PressureLevel::kSome);
  EXPECT_EQ(budget.limit(), kLimit);
  psi(10, 6);
  EXPECT_TRUE(soon([&] { return watch.level() == PressureLevel::kFull; }));
  EXPECT_TRUE(soon([&] { return budget.effective() == budget.used(); }));
  psi(0, 0);
  EXPECT_TRUE(soon([&] { return budget.effective() > budget.used(); })) << "recovers";

  file("/sys/fs/cgroup/a/memory.max", "134217728\n");
  EXPECT_TRUE(soon([&] { return control.history().back().cause == "cgroup"; }));
  EXPECT_FALSE(budget.reserve(134217728, MemoryClass::kKv));

  const auto history = control.history();
  ASSERT_GE(history.size(), 4u);
  EXPECT_EQ(history[1].cause, "pressure");
  EXPECT_EQ(history[1].new_bytes, static_cast<int64_t>(kLimit * 3 / 4));
  EventFilter only;
  only.types = {"pressure"};
  EXPECT_GE(events.read(0, only, SIZE_MAX).events.size(), 2u);
}

}  // namespace
}  // namespace sluice
