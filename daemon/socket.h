// The daemon's place in the file system: lock, listening socket, activation, readiness
// (INTERFACE 2.2, 2.3). Used at start, before any other thread runs (bind needs the process's
// umask).
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sluice {

// Creates `path` with mode 0700, parents included (they get 0700 too). A directory that is already
// there must belong to us or root and must not be writable by others, unless it is sticky like
// /tmp. Errors: not_permitted, io_error.
Result<void> make_private_dir(const std::string& path);

// An flock held for life, on a file that is never removed (removing it would let two daemons lock
// two files of one name). The file holds our pid. Errors: already_running, naming the holder's pid;
// not_permitted; io_error.
class LockFile {
 public:
  static Result<LockFile> acquire(const std::string& path);
  LockFile(LockFile&& o) noexcept;
  LockFile& operator=(LockFile&&) = delete;
  ~LockFile();

 private:
  explicit LockFile(int fd) : fd_(fd) {}
  int fd_ = -1;
};

// A bound and listening AF_UNIX socket of mode 0600 with its lock. The socket file goes when this
// ends, if it is still the one we made.
class ListenSocket {
 public:
  // A stale socket of ours is replaced, under the lock only; a live one, a symlink, another kind of
  // file or a file of another uid is refused. Errors: already_running, not_permitted,
  // invalid_socket_path, io_error.
  static Result<ListenSocket> open(const std::string& path);
  ListenSocket(ListenSocket&& o) noexcept;
  ListenSocket& operator=(ListenSocket&&) = delete;
  ~ListenSocket();

  int release_fd();  // the caller closes it; lock and path stay ours
  const std::string& path() const { return path_; }

 private:
  ListenSocket(LockFile lock, std::string path) : lock_(std::move(lock)), path_(std::move(path)) {}
  LockFile lock_;
  std::string path_;
  int fd_ = -1;
  dev_t device_ = 0;  // of the socket file; inode_ 0: nothing to remove
  ino_t inode_ = 0;
};

// Sockets passed by the service manager (LISTEN_PID, LISTEN_FDS), close-on-exec set and the
// variables removed; empty when there are none or they are meant for another process. Only
// listening AF_UNIX stream sockets are returned; another kind is an Error (invalid_request).
Result<std::vector<int>> activated_sockets();

// The path a listening AF_UNIX socket is bound to; empty if it is none or has no path.
std::string bound_path(int fd);

// Sends `state` ("READY=1\nSTATUS=...") to $NOTIFY_SOCKET. false when there is no such socket or it
// did not take it.
bool notify_service_manager(std::string_view state);

}  // namespace sluice
