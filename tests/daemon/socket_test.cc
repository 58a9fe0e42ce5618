#include "daemon/socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

namespace sluice {
namespace {

class Socket : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-sock-XXXXXX";
    dir_ = ::mkdtemp(name);
    path_ = dir_ + "/run/sluice.sock";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  static mode_t mode_of(const std::string& path) {
    struct stat st {};
    EXPECT_EQ(::lstat(path.c_str(), &st), 0) << path;
    return st.st_mode & 07777;
  }
  static int connect_to(const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    const int result = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
    ::close(fd);
    return result;
  }
  // A socket file without a daemon behind it.
  static void leave_stale(const std::string& path, bool listening_first) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    if (listening_first) {
      EXPECT_EQ(::listen(fd, 1), 0);
    }
    ::close(fd);
  }

  std::string dir_, path_;
};

TEST_F(Socket, IsPrivateWhateverTheUmask) {
  const mode_t old = ::umask(0);
  {
    auto socket = ListenSocket::open(path_);
    ASSERT_TRUE(socket) << socket.error().what;
    EXPECT_EQ(mode_of(path_), 0600u);
    EXPECT_EQ(mode_of(dir_ + "/run"), 0700u);
    EXPECT_EQ(mode_of(path_ + ".lock"), 0600u);
    EXPECT_EQ(::umask(0), 0u);  // restored
    EXPECT_EQ(connect_to(path_), 0);
  }
  ::umask(old);
  EXPECT_FALSE(std::filesystem::exists(path_));  // gone with its owner
}

TEST_F(Socket, ALiveOneIsNeverStolenAndItsHolderIsNamed) {
  auto first = ListenSocket::open(path_);
  ASSERT_TRUE(first);
  const auto second = ListenSocket::open(path_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, "already_running");
  EXPECT_NE(second.error().what.find(std::to_string(::getpid())), std::string::npos)
      << second.error().what;
  EXPECT_EQ(connect_to(path_), 0);
}

TEST_F(Socket, ALiveOneWithoutOurLockIsNotStolenEither) {
  ASSERT_TRUE(make_private_dir(dir_ + "/run"));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(fd, 1), 0);
  auto open = ListenSocket::open(path_);
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code, "already_running");
  EXPECT_TRUE(std::filesystem::exists(path_));
  ::close(fd);
}

TEST_F(Socket, AStaleOneIsReplaced) {
  for (const bool listening_first : {false, true}) {
    ASSERT_TRUE(make_private_dir(dir_ + "/run"));
    leave_stale(path_, listening_first);
    auto socket = ListenSocket::open(path_);
    ASSERT_TRUE(socket) << socket.error().what;
    EXPECT_EQ(connect_to(path_), 0);
  }
}

TEST_F(Socket, AKilledHolderLeavesNothingInTheWay) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto socket = ListenSocket::open(path_);
    const char ok = socket ? 1 : 0;
    if (::write(ready[1], &ok, 1) != 1) ::_exit(1);
    ::pause();
    ::_exit(0);
  }
  char ok = 0;
  ASSERT_EQ(::read(ready[0], &ok, 1), 1);
  ASSERT_EQ(ok, 1);
  EXPECT_FALSE(ListenSocket::open(path_));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(std::filesystem::exists(path_));
  auto again = ListenSocket::open(path_);
  EXPECT_TRUE(again) << again.error().what;
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(Socket, SymlinksAndOtherFilesAreRefused) {
  ASSERT_TRUE(make_private_dir(dir_ + "/run"));
  ASSERT_EQ(::symlink((dir_ + "/elsewhere").c_str(), path_.c_str()), 0);
  EXPECT_EQ(ListenSocket::open(path_).error().code, "not_permitted");
  ::unlink(path_.c_str());
  const int fd = ::open(path_.c_str(), O_CREAT | O_WRONLY, 0600);
  ASSERT_EQ(::write(fd, "keep", 4), 4);
  ::close(fd);
  EXPECT_EQ(ListenSocket::open(path_).error().code, "not_permitted");
  EXPECT_EQ(std::filesystem::file_size(path_), 4u);  // untouched
}

TEST_F(Socket, ASymlinkedLockIsRefused) {
  ASSERT_TRUE(make_private_dir(dir_ + "/run"));
  ASSERT_EQ(::symlink((dir_ + "/target").c_str(), (path_ + ".lock").c_str()), 0);
  EXPECT_EQ(ListenSocket::open(path_).error().code, "not_permitted");
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/target"));
}

TEST_F(Socket, AForeignSocketIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a file to another uid";
  ASSERT_TRUE(make_private_dir(dir_ + "/run"));
  leave_stale(path_, true);
  ASSERT_EQ(::chown(path_.c_str(), 65534, 65534), 0);
  EXPECT_EQ(ListenSocket::open(path_).error().code, "not_permitted");
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(Socket, AFolderThatOthersMayWriteIsRefused) {
  ASSERT_EQ(::mkdir((dir_ + "/run").c_str(), 0700), 0);
  ASSERT_EQ(::chmod((dir_ + "/run").c_str(), 0777), 0);
  EXPECT_EQ(ListenSocket::open(path_).error().code, "not_permitted");
  ASSERT_EQ(::chmod((dir_ + "/run").c_str(), 01777), 0);  // sticky, as /tmp
  EXPECT_TRUE(ListenSocket::open(path_));
}

TEST_F(Socket, TheLongestPathWorksAndOneMoreDoesNot) {
  const std::string longest = dir_ + "/" + std::string(107 - dir_.size() - 1, 'a');
  ASSERT_EQ(longest.size(), 107u);
  auto socket = ListenSocket::open(longest);
  ASSERT_TRUE(socket) << socket.error().what;
  const auto too_long = ListenSocket::open(longest + "a");
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().code, "invalid_socket_path");
  EXPECT_NE(too_long.error().what.find("108"), std::string::npos);
  EXPECT_LE(too_long.error().hint.size(), 107u);
}

TEST_F(Socket, OnlyOurOwnFileIsRemovedAtTheEnd) {
  {
    auto socket = ListenSocket::open(path_);
    ASSERT_TRUE(socket);
    ::unlink(path_.c_str());
    leave_stale(path_, false);  // somebody else's by now
  }
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(Socket, ActivationTakesOnlyWhatIsMeantForUs) {
  ::setenv("LISTEN_PID", std::to_string(::getpid() + 1).c_str(), 1);
  ::setenv("LISTEN_FDS", "1", 1);
  EXPECT_TRUE(activated_sockets().value().empty());
  EXPECT_EQ(::getenv("LISTEN_FDS"), nullptr);  // not inherited by anything
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("LISTEN_FDS", "1000", 1);
  EXPECT_FALSE(activated_sockets());
}

TEST_F(Socket, ReadinessReachesTheNotifySocket) {
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = dir_ + "/notify";
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  EXPECT_TRUE(notify_service_manager("READY=1"));
  char buffer[64] = {};
  EXPECT_EQ(::recv(fd, buffer, sizeof(buffer), 0), 7);
  EXPECT_STREQ(buffer, "READY=1");
  ::setenv("NOTIFY_SOCKET", "relative", 1);
  EXPECT_FALSE(notify_service_manager("READY=1"));
  ::unsetenv("NOTIFY_SOCKET");
  EXPECT_FALSE(notify_service_manager("READY=1"));
  ::close(fd);
}

}  // namespace
}  // namespace sluice
