// A read-only mapping of a file that is already open and checked (never by path).
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "storage/file.h"
#include "storage/sigbus_guard.h"

namespace sluice {

class MappedFile {
 public:
  // Maps the first `bytes` bytes of the file. Errors: io.map.
  static Result<MappedFile> map(const File& file, uint64_t bytes);

  const std::byte* data() const { return static_cast<const std::byte*>(region_.get_address()); }
  uint64_t size() const { return region_.get_size(); }

  // Asks the kernel to read a range ahead; faults are turned into an error, not a signal. Errors: io.read.
  Result<void> populate(uint64_t offset, uint64_t bytes) const;
  // Gives the pages that lie wholly or partly in the range back to the kernel; reading them again reads the file.
  void drop(uint64_t offset, uint64_t bytes) const;
  // No read-ahead around a fault: what populate() is asked for is what becomes resident.
  void advise_random() const;
  // The file became shorter than the mapping and zeros were read in its place.
  bool cut_off() const { return guard_.cut_off(); }

 private:
  boost::interprocess::mapped_region region_;
  SigbusGuard guard_;                  // goes before the region
};

// What a reader of zeros in place of a file's end says.
Error file_cut_off(const std::string& path);

}  // namespace sluice
