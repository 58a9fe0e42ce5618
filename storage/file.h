// RAII file descriptor with positioned reads.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/result.h"

namespace sluice {

// What identifies a file's content between two looks at it.
struct FileIdentity {
  uint64_t dev = 0, ino = 0, size = 0;
  int64_t mtime_ns = 0, ctime_ns = 0;
  bool operator==(const FileIdentity&) const = default;
};

class File {
 public:
  File() = default;
  explicit File(int fd) : fd_(fd) {}
  File(File&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  File& operator=(File&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~File();

  // Opens a regular file for reading; never blocks on a FIFO. Errors: io.open (errno), io.not_regular.
  static Result<File> open_regular(const std::string& path);

  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  Result<FileIdentity> identity() const;

  // Reads exactly n bytes at offset, looping over short reads and EINTR. Errors: io.read (offset, errno,
  // or "file ends at").
  Result<void> pread_exact(void* dst, size_t n, uint64_t offset) const;

 private:
  int fd_ = -1;
};

}  // namespace sluice
