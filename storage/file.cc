#include "storage/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/text_escape.h"

namespace sluice {
namespace {

Error not_regular(const std::string& path, mode_t mode) {
  const char* kind = S_ISDIR(mode)                    ? "a folder"
                     : S_ISFIFO(mode)                 ? "a FIFO"
                     : S_ISSOCK(mode)                 ? "a socket"
                     : S_ISCHR(mode) || S_ISBLK(mode) ? "a device"
                                                      : "something else";
  return Error{.code = "io.not_regular",
               .what = std::string("found ") + kind + ", allowed a regular file",
               .file = path,
               .field = "file"};
}

Error open_error(const std::string& path, int errnum) {
  Error e = errno_error("io.open", "open " + escape_text(path, 4096), errnum);
  e.file = path;
  return e;
}

}  // namespace

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

Result<File> File::open_regular(const std::string& path) {
  if (path.find('\0') != std::string::npos)
    return open_error(path.substr(0, path.find('\0')), EINVAL);
  // Looked at first, because opening some devices already does something; looked at again through
  // the descriptor, because the path may have changed hands. Symbolic links are followed: download
  // caches keep their models behind them, and what is checked is what the descriptor leads to.
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return open_error(path, errno);
  if (!S_ISREG(st.st_mode)) return not_regular(path, st.st_mode);
  File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return open_error(path, errno);
  if (::fstat(file.fd(), &st) != 0) return open_error(path, errno);
  if (!S_ISREG(st.st_mode)) return not_regular(path, st.st_mode);
  // Only what is asked for: the kernel's read-ahead (up to 8 MiB a time) would be charged to us.
  ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_RANDOM);
  return file;
}

Result<FileIdentity> File::identity() const {
  struct stat st {};
  if (::fstat(fd_, &st) != 0) return errno_error("io.read", "fstat", errno);
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  return FileIdentity{.dev = st.st_dev,
                      .ino = st.st_ino,
                      .size = static_cast<uint64_t>(std::max<off_t>(st.st_size, 0)),
                      .mtime_ns = st.st_mtim.tv_sec * kNsPerSecond + st.st_mtim.tv_nsec,
                      .ctime_ns = st.st_ctim.tv_sec * kNsPerSecond + st.st_ctim.tv_nsec};
}

Result<void> File::pread_exact(void* dst, size_t n, uint64_t offset) const {
  if (offset > static_cast<uint64_t>(INT64_MAX) || n > static_cast<uint64_t>(INT64_MAX) - offset) {
    return Error{.code = "io.read", .what = "read past 2^63 bytes", .offset = offset};
  }
  auto* out = static_cast<std::byte*>(dst);
  size_t done = 0;
  while (done < n) {
    const ssize_t got = ::pread(fd_, out + done, n - done, static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      Error e = errno_error("io.read", "read " + std::to_string(n) + " bytes", errno);
      e.offset = offset + done;
      return e;
    }
    if (got == 0) {
      return Error{.code = "io.read",
                   .what = "file ends at " + std::to_string(offset + done) + ", needed " +
                           std::to_string(n - done) + " bytes more",
                   .offset = offset + done};
    }
    done += static_cast<size_t>(got);
  }
  return success();
}

}  // namespace sluice
