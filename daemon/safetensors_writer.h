// Writes tensors as a safetensors file: 8-byte little-endian header length, JSON header, raw data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace sluice {

class SafetensorsWriter {
 public:
  void add(std::string name, std::vector<int64_t> shape, std::vector<float> data);
  void add(std::string name, std::vector<int64_t> shape, std::vector<int32_t> data);

  // Writes beside the target and renames. Errors: io.write.
  Result<void> write(const std::string& path) const;

 private:
  struct Entry {
    std::string name;
    const char* dtype;
    std::vector<int64_t> shape;
    std::vector<float> floats;
    std::vector<int32_t> ints;
  };
  std::vector<Entry> entries_;
};

}  // namespace sluice
