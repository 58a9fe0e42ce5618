#include "daemon/socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/runtime_paths.h"
#include "base/text_escape.h"

namespace sluice {
namespace {

// More than the 1,024 connections the server keeps, so that a burst waits in the kernel instead of
// failing.
constexpr int kBacklog = 1024;
constexpr int kFirstActivatedFd = 3;
constexpr int kMaxActivatedFds = 16;

Error not_permitted(const std::string& path, const char* why) {
  return Error{"not_permitted", fmt::format("'{}' {}", escape_text(path, 200), why)};
}

// The caller has checked the length.
sockaddr_un unix_address(std::string_view path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

socklen_t address_length(std::string_view path) {
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
}

// How a connect to `address` ends: 0 or errno. EAGAIN (its accept queue is full) is a sign of life.
int probe(const sockaddr_un& address, pid_t& peer_pid) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  int result = 0;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    result = errno;
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (result == 0 && ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0)
    peer_pid = peer.pid;
  ::close(fd);
  return result;
}

Error already_running(const std::string& path, long pid) {
  const std::string who =
      pid > 0 ? fmt::format("another sluiced (pid {})", pid) : "another sluiced";
  return Error{"already_running",
               fmt::format("{} holds '{}'", who, escape_text(path, 200)),
               "sluice status"};
}

// Called under the lock: whatever lies at `path` must be a dead socket of ours, which goes.
Result<void> clear_stale_socket(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) {
    if (errno == ENOENT) return success();
    return errno_error("io_error", "stat " + path, errno);
  }
  if (S_ISLNK(st.st_mode))
    return not_permitted(path, "is a symbolic link; a socket path must be the socket itself");
  if (!S_ISSOCK(st.st_mode)) return not_permitted(path, "exists and is not a socket");
  if (st.st_uid != ::geteuid()) return not_permitted(path, "belongs to another user");
  pid_t peer_pid = 0;
  const int state = probe(unix_address(path), peer_pid);
  if (state == 0 || state == EAGAIN) return already_running(path, peer_pid);
  if (state != ECONNREFUSED && state != ENOENT)
    return errno_error("io_error", "connect " + path, state);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return errno_error("io_error", "unlink " + path, errno);
  return success();
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

Result<void> make_private_dir(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) {
    if (errno != ENOENT) return errno_error("io_error", "stat " + path, errno);
    if (path.size() > 1) {
      SLUICE_TRY(make_private_dir(parent_of(path)));
    }
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
      return errno_error(errno == EACCES ? "not_permitted" : "io_error", "mkdir " + path, errno);
    }
    if (::stat(path.c_str(), &st) != 0) return errno_error("io_error", "stat " + path, errno);
  }
  if (!S_ISDIR(st.st_mode)) return not_permitted(path, "is not a directory");
  if (st.st_uid != ::geteuid() && st.st_uid != 0)
    return not_permitted(path, "belongs to another user");
  const bool shared = (st.st_mode & 0022) != 0 && (st.st_mode & S_ISVTX) == 0;
  if (shared)
    return not_permitted(path, "is writable by others; chmod 700 it, or choose another directory");
  return success();
}

Result<LockFile> LockFile::acquire(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (fd < 0) {
    const bool denied = errno == EACCES || errno == ELOOP || errno == EPERM;
    return errno_error(denied ? "not_permitted" : "io_error", "open " + path, errno);
  }
  LockFile lock(fd);
  struct stat st {};
  if (::fstat(fd, &st) != 0) return errno_error("io_error", "stat " + path, errno);
  if (!S_ISREG(st.st_mode)) return not_permitted(path, "is not a regular file");
  if (st.st_uid != ::geteuid()) return not_permitted(path, "belongs to another user");
  char text[32] = {};
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return errno_error("io_error", "flock " + path, errno);
    long pid = 0;
    const ssize_t n = ::pread(fd, text, sizeof(text) - 1, 0);
    if (n > 0) std::from_chars(text, text + n, pid);
    return already_running(path, pid);
  }
  // The pid is for people; a disk too full to take it does not matter to the lock.
  const std::string pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) < 0) errno = 0;
  return lock;
}

LockFile::LockFile(LockFile&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}

LockFile::~LockFile() {
  if (fd_ >= 0) ::close(fd_);
}

Result<ListenSocket> ListenSocket::open(const std::string& path) {
  SLUICE_TRY(check_socket_path(path));
  SLUICE_TRY(make_private_dir(parent_of(path)));
  SLUICE_TRY(auto lock, LockFile::acquire(path + ".lock"));
  SLUICE_TRY(clear_stale_socket(path));

  ListenSocket socket(std::move(lock), path);
  socket.fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket.fd_ < 0) return errno_error("io_error", "socket", errno);
  const sockaddr_un address = unix_address(path);
  const mode_t old_mask = ::umask(0177);
  const int bound =
      ::bind(socket.fd_, reinterpret_cast<const sockaddr*>(&address), address_length(path));
  const int bind_errno = errno;
  ::umask(old_mask);
  if (bound != 0) {
    return errno_error(
        bind_errno == EACCES ? "not_permitted" : "io_error", "bind " + path, bind_errno);
  }
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) return errno_error("io_error", "stat " + path, errno);
  socket.device_ = st.st_dev;
  socket.inode_ = st.st_ino;
  if (::listen(socket.fd_, kBacklog) != 0) return errno_error("io_error", "listen " + path, errno);
  return socket;
}

ListenSocket::ListenSocket(ListenSocket&& o) noexcept
    : lock_(std::move(o.lock_)),
      path_(std::move(o.path_)),
      fd_(std::exchange(o.fd_, -1)),
      device_(o.device_),
      inode_(std::exchange(o.inode_, 0)) {}

ListenSocket::~ListenSocket() {
  struct stat st {};
  const bool ours = inode_ != 0 && ::lstat(path_.c_str(), &st) == 0 && st.st_dev == device_ &&
                    st.st_ino == inode_;
  if (ours) ::unlink(path_.c_str());
  if (fd_ >= 0) ::close(fd_);
}

int ListenSocket::release_fd() { return std::exchange(fd_, -1); }

Result<std::vector<int>> activated_sockets() {
  const char* pid_text = std::getenv("LISTEN_PID");
  const char* count_text = std::getenv("LISTEN_FDS");
  const bool ours =
      pid_text != nullptr && count_text != nullptr && std::atol(pid_text) == ::getpid();
  const int count = ours ? std::atoi(count_text) : 0;
  ::unsetenv("LISTEN_PID");
  ::unsetenv("LISTEN_FDS");
  ::unsetenv("LISTEN_FDNAMES");
  if (count < 0 || count > kMaxActivatedFds) {
    return Error{"invalid_request",
                 fmt::format("LISTEN_FDS is {}; allowed: 0..{}", count, kMaxActivatedFds)};
  }
  std::vector<int> fds;
  for (int fd = kFirstActivatedFd; fd < kFirstActivatedFd + count; ++fd) {
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
      return errno_error("io_error", fmt::format("passed fd {}", fd), errno);
    int listening = 0;
    int type = 0;
    int domain = 0;
    socklen_t length = sizeof(int);
    ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
    ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length);
    ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
    if (listening == 0 || type != SOCK_STREAM || domain != AF_UNIX) {
      return Error{"invalid_request",
                   fmt::format("passed fd {} is not a listening AF_UNIX stream socket", fd)};
    }
    fds.push_back(fd);
  }
  return fds;
}

std::string bound_path(int fd) {
  sockaddr_un address{};
  socklen_t length = sizeof(address);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "";
  if (length <= offsetof(sockaddr_un, sun_path) || address.sun_path[0] == '\0') return "";
  return std::string(address.sun_path, ::strnlen(address.sun_path, sizeof(address.sun_path)));
}

bool notify_service_manager(std::string_view state) {
  const char* target = std::getenv("NOTIFY_SOCKET");
  if (target == nullptr || (target[0] != '/' && target[0] != '@')) return false;
  const std::string_view path(target);
  if (path.size() > kMaxSocketPath) return false;
  sockaddr_un address = unix_address(path);
  if (path[0] == '@') address.sun_path[0] = '\0';  // abstract
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const ssize_t sent = ::sendto(fd,
                                state.data(),
                                state.size(),
                                MSG_NOSIGNAL,
                                reinterpret_cast<const sockaddr*>(&address),
                                address_length(path));
  ::close(fd);
  return sent == static_cast<ssize_t>(state.size());
}

}  // namespace sluice
