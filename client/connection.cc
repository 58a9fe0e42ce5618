#include "client/connection.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "client/failure.h"
#include "client/interrupt.h"

namespace sluice {
namespace {

constexpr int kMaxWaitMs = 60'000;

bool stdout_is_pipe() {
  static const bool kIsPipe = [] {
    struct stat st {};
    return ::fstat(STDOUT_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
  }();
  return kIsPipe;
}

// Waits for `events` on fd until `deadline` (kForever: no deadline).
Result<void> wait_for(int fd, short events, int64_t deadline) {
  for (;;) {
    if (pending_signal() != 0) return interrupted_error();
    int wait = kMaxWaitMs;
    if (deadline != kForever) {
      const int64_t left = time_left(deadline);
      if (left == 0) return Error{kTimedOut, "the daemon did not answer in time"};
      wait = static_cast<int>(std::min<int64_t>(left, kMaxWaitMs));
    }
    // A pipe whose reader left shows POLLERR without being asked about.
    pollfd fds[3] = {{fd, events, 0},
                     {interrupt_fd(), POLLIN, 0},
                     {stdout_is_pipe() ? STDOUT_FILENO : -1, 0, 0}};
    const int n = ::poll(fds, 3, wait);
    if (n < 0 && errno != EINTR) return errno_error(kConnectionLost, "poll", errno);
    if (n <= 0) continue;
    if (fds[1].revents != 0) return interrupted_error();
    if ((fds[2].revents & POLLERR) != 0) return Error{kPipeClosed, "the reader closed the pipe"};
    if (fds[0].revents != 0) return success();
  }
}

Error unreachable(const Address& address, int errnum) {
  const bool starting = errnum == ENOENT || errnum == ECONNREFUSED;
  const char* why = errnum == ENOENT ? "no such file" : std::strerror(errnum);
  const bool denied = errnum == EACCES || errnum == EPERM;
  return Error{denied ? "not_permitted" : kUnreachable,
               fmt::format("cannot reach sluiced at {}: {}", address.text(), why),
               starting ? "sluice daemon start" : "sluice doctor"};
}

Result<int> connected_socket(const Address& address, int64_t deadline) {
  sockaddr_storage storage{};
  socklen_t length = 0;
  if (!address.path.empty()) {
    auto* un = reinterpret_cast<sockaddr_un*>(&storage);
    un->sun_family = AF_UNIX;
    std::memcpy(
        un->sun_path, address.path.data(), std::min(address.path.size(), sizeof(un->sun_path) - 1));
    length = sizeof(sockaddr_un);
  } else if (address.host == "::1") {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&storage);
    in6->sin6_family = AF_INET6;
    in6->sin6_addr = in6addr_loopback;
    in6->sin6_port = htons(address.port);
    length = sizeof(sockaddr_in6);
  } else {
    auto* in4 = reinterpret_cast<sockaddr_in*>(&storage);
    in4->sin_family = AF_INET;
    in4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in4->sin_port = htons(address.port);
    length = sizeof(sockaddr_in);
  }
  const int fd = ::socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return unreachable(address, errno);
  for (;;) {
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&storage), length) == 0) return fd;
    int errnum = errno;
    if (errnum == EINPROGRESS) {
      auto ready = wait_for(fd, POLLOUT, deadline);
      socklen_t size = sizeof(errnum);
      if (ready && ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &size) == 0 && errnum == 0)
        return fd;
      if (!ready) errnum = ETIMEDOUT;
    }
    // A full accept queue: AF_UNIX connects answer EAGAIN at once instead of waiting.
    if (errnum == EAGAIN && time_left(deadline) != 0 && pending_signal() == 0) {
      ::poll(nullptr, 0, 20);
      continue;
    }
    ::close(fd);
    if (pending_signal() != 0) return interrupted_error();
    return unreachable(address, errnum);
  }
}

// Another user could wait at a path we trust and read our prompts.
Result<void> check_peer(int fd, const Address& address) {
  if (address.path.empty()) return success();
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return errno_error("not_permitted", "SO_PEERCRED of " + address.path, errno);
  }
  if (peer.uid == ::geteuid() || peer.uid == 0) return success();
  return Error{"not_permitted",
               fmt::format("{} is served by uid {}, which is neither root nor you (uid {})",
                           address.path,
                           peer.uid,
                           ::geteuid())};
}

}  // namespace

int64_t now_ms() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
}

int64_t deadline_after(int64_t timeout_ms, int64_t now) {
  return timeout_ms == kForever || timeout_ms > INT64_MAX - now ? kForever : now + timeout_ms;
}

int64_t time_left(int64_t deadline, int64_t now) {
  return deadline == kForever ? kForever : std::max<int64_t>(0, deadline - now);
}

Result<Connection> Connection::open(const Address& address, int64_t timeout_ms) {
  SLUICE_TRY(const int fd, connected_socket(address, deadline_after(timeout_ms)));
  Connection connection(fd);
  SLUICE_TRY(check_peer(fd, address));
  return connection;
}

Connection::Connection(Connection&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}

Connection::~Connection() {
  if (fd_ >= 0) ::close(fd_);
}

Result<void> Connection::write_all(std::string_view bytes, int64_t timeout_ms) {
  const int64_t deadline = deadline_after(timeout_ms);
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      SLUICE_TRY(wait_for(fd_, POLLOUT, deadline));
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return success();  // an early answer (413, 503) may be waiting to be read
    } else if (errno != EINTR) {
      return errno_error(kConnectionLost, "send", errno);
    }
  }
  return success();
}

Result<size_t> Connection::read_some(char* buffer, size_t size, int64_t timeout_ms) {
  const int64_t deadline = deadline_after(timeout_ms);
  for (;;) {
    if (pending_signal() != 0) return interrupted_error();
    const ssize_t n = ::recv(fd_, buffer, size, 0);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      SLUICE_TRY(wait_for(fd_, POLLIN, deadline));
    } else if (errno == ECONNRESET) {
      return size_t{0};
    } else if (errno != EINTR) {
      return errno_error(kConnectionLost, "recv", errno);
    }
  }
}

}  // namespace sluice
