#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/host_memory.h"
#include "base/runtime_paths.h"

namespace sluice {
namespace {

TEST(RuntimePaths, FollowTheXdgVariables) {
  ::setenv("XDG_RUNTIME_DIR", "/r", 1);
  ::setenv("XDG_STATE_HOME", "/s", 1);
  ::setenv("XDG_CONFIG_HOME", "/c", 1);
  EXPECT_EQ(default_socket_path(), "/r/sluice/sluice.sock");
  EXPECT_EQ(state_dir(), "/s/sluice");
  EXPECT_EQ(config_file(), "/c/sluice/sluiced.toml");
  ::setenv("XDG_STATE_HOME", "relative", 1);  // to be ignored
  ::setenv("HOME", "/h", 1);
  EXPECT_EQ(state_dir(), "/h/.local/state/sluice");
  EXPECT_EQ(expand_home("~/m"), "/h/m");
  EXPECT_EQ(expand_home("~x/m"), "~x/m");
}

TEST(RuntimePaths, WithoutARuntimeDirNeverATmpName) {
  ::unsetenv("XDG_RUNTIME_DIR");
  ::setenv("XDG_STATE_HOME", "/s", 1);
  const std::string run_user = "/run/user/" + std::to_string(::getuid());
  const std::string path = default_socket_path();
  EXPECT_TRUE(path == "/s/sluice/run/sluice.sock" || path == run_user + "/sluice/sluice.sock")
      << path;
}

class FakeCgroups : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-cgroup-XXXXXX";
    root_ = ::mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(FakeCgroups, TheSmallestLimitOnThePathCounts) {
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  write("/sys/fs/cgroup/a/memory.max", "1048576\n");
  EXPECT_EQ(cgroup_memory_limit(root_), 1048576u);
  write("/sys/fs/cgroup/a/b/memory.max", "4096\n");
  EXPECT_EQ(cgroup_memory_limit(root_), 4096u);
}

TEST_F(FakeCgroups, VersionOneIsReadToo) {
  write("/proc/self/cgroup", "9:cpu:/\n4:memory,hugetlb:/x\n0::/\n");
  write("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(cgroup_memory_limit(root_), kNoMemoryLimit);
  write("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2097152\n");
  EXPECT_EQ(cgroup_memory_limit(root_), 2097152u);
}

TEST_F(FakeCgroups, NothingReadableIsNoLimit) {
  EXPECT_EQ(cgroup_memory_limit(root_), kNoMemoryLimit);
  write("/proc/self/cgroup", "garbage\n::\n0::relative\n");
  EXPECT_EQ(cgroup_memory_limit(root_), kNoMemoryLimit);
}

TEST(HostMemory, TheCeilingIsPositive) { EXPECT_GT(memory_ceiling_bytes(), 0u); }

}  // namespace
}  // namespace sluice
