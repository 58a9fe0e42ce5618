// A read-only mapping of a file that is already open and checked (never by path).
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "storage/file.h"

namespace sluice {

class MappedFile {
 public:
  // Maps the first `bytes` bytes of the file. Errors: io.map.
  static Result<MappedFile> map(const File& file, uint64_t bytes);

  const std::byte* data() const { return static_cast<const std::byte*>(region_.get_address()); }
  uint64_t size() const { return region_.get_size(); }

  // Asks the kernel to read a range ahead; faults are turned into an error, not a signal. Errors: io.read.
  Result<void> populate(uint64_t offset, uint64_t bytes) const;

 private:
  boost::interprocess::mapped_region region_;
};

}  // namespace sluice
