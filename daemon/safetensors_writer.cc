#include "daemon/safetensors_writer.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace sluice {

void SafetensorsWriter::add(std::string name, std::vector<int64_t> shape, std::vector<float> data) {
  entries_.push_back({std::move(name), "F32", std::move(shape), std::move(data), {}});
}

void SafetensorsWriter::add(std::string name, std::vector<int64_t> shape, std::vector<int32_t> data) {
  entries_.push_back({std::move(name), "I32", std::move(shape), {}, std::move(data)});
}

Result<void> SafetensorsWriter::write(const std::string& path) const {
  std::string header = "{";
  uint64_t offset = 0;
  for (const Entry& e : entries_) {
    const uint64_t bytes = 4 * (e.floats.size() + e.ints.size());
    header += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          header.size() > 1 ? "," : "",
                          e.name,
                          e.dtype,
                          fmt::join(e.shape, ","),
                          offset,
                          offset + bytes);
    offset += bytes;
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');

  const std::string tmp = path + ".tmp";
  std::FILE* f = std::fopen(tmp.c_str(), "wb");
  if (f == nullptr) return errno_error("io.write", "open " + tmp, errno);
  const uint64_t n = header.size();
  bool ok = std::fwrite(&n, 8, 1, f) == 1 && std::fwrite(header.data(), 1, n, f) == n;
  for (const Entry& e : entries_) {
    // One of both is empty, and fwrite takes no null pointer even for nothing.
    ok = ok && (e.floats.empty() || std::fwrite(e.floats.data(), 4, e.floats.size(), f) == e.floats.size());
    ok = ok && (e.ints.empty() || std::fwrite(e.ints.data(), 4, e.ints.size(), f) == e.ints.size());
  }
  const int write_errno = errno;
  ok = std::fclose(f) == 0 && ok;
  if (!ok || std::rename(tmp.c_str(), path.c_str()) != 0) {
    std::remove(tmp.c_str());
    return errno_error("io.write", "write " + path, write_errno != 0 ? write_errno : errno);
  }
  return success();
}

}  // namespace sluice
