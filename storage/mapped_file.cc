#include "storage/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <boost/interprocess/exceptions.hpp>
#include <cerrno>

namespace sluice {
namespace {

namespace bip = boost::interprocess;

constexpr size_t kReadAheadBytes = 128u << 10;  // the smallest read-ahead window that is common

// What mapped_region asks of a mappable object, over a descriptor that is already open.
// file_mapping would open the path again, and the file behind a path may be another one by then.
class DescriptorMapping {
 public:
  explicit DescriptorMapping(int fd)
      : handle_(bip::ipcdetail::mapping_handle_from_file_handle(fd)) {}
  bip::mapping_handle_t get_mapping_handle() const noexcept { return handle_; }
  bip::mode_t get_mode() const noexcept { return bip::read_only; }

 private:
  bip::mapping_handle_t handle_;
};

}  // namespace

Result<MappedFile> MappedFile::map(const File& file, uint64_t bytes) {
  MappedFile mapped;
  if (bytes == 0) return mapped;  // an empty mapping is no mapping: data() is null
  if (bytes > static_cast<uint64_t>(INT64_MAX))
    return Error{.code = "io.map", .what = "file is too large to map"};
  try {
    const DescriptorMapping mapping(file.fd());
    bip::mapped_region region(mapping, bip::read_only, 0, static_cast<size_t>(bytes));
    mapped.region_.swap(region);
    mapped.guard_ = SigbusGuard(mapped.data(), bytes);
  } catch (const bip::interprocess_exception& e) {
    return errno_error("io.map", "map " + std::to_string(bytes) + " bytes", e.get_native_error());
  }
  return mapped;
}

Result<void> MappedFile::populate(uint64_t offset, uint64_t bytes) const {
  if (offset > size() || bytes > size() - offset) {
    return Error{.code = "io.read",
                 .what = "range ends past the " + std::to_string(size()) + " bytes mapped",
                 .offset = offset};
  }
  if (bytes == 0) return success();
#ifndef MADV_POPULATE_READ
  constexpr int MADV_POPULATE_READ = 22;  // Linux 5.14; older headers lack the name
#endif
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page;
  // The mapping is read-only; madvise takes a plain pointer all the same.
  auto* address = const_cast<std::byte*>(data() + begin);
  const auto length = static_cast<size_t>(offset + bytes - begin);
  // All of the range is on its way before populate waits for it and maps it. In pieces: the kernel cuts one request off at
  // the device's largest read, and what is missing would come page by page.
  for (size_t done = 0; done < length; done += kReadAheadBytes) {
    ::madvise(address + done, std::min<size_t>(kReadAheadBytes, length - done), MADV_WILLNEED);
  }
  for (;;) {
    if (::madvise(address, length, MADV_POPULATE_READ) == 0) return success();
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EINVAL) return success();  // an older kernel: it was asked to read ahead, more it cannot
    Error e = errno_error("io.read", "populate " + std::to_string(bytes) + " bytes", errno);
    e.offset = offset;
    return e;
  }
}

void MappedFile::drop(uint64_t offset, uint64_t bytes) const {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page;
  if (offset >= size() || bytes > size() - begin) return;
  ::madvise(const_cast<std::byte*>(data() + begin), static_cast<size_t>(offset + bytes - begin), MADV_DONTNEED);
}

void MappedFile::advise_random() const {
  if (size() > 0) ::madvise(const_cast<std::byte*>(data()), size(), MADV_RANDOM);
}

Error file_cut_off(const std::string& path) {
  return Error{.code = "io.changed", .what = "the file was cut off while it was read", .hint = "load the model again", .file = path};
}

}  // namespace sluice
