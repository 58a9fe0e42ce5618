#include "base/host_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

namespace sluice {
namespace {

uint64_t meminfo_bytes(const char* key) {
  std::ifstream in("/proc/meminfo");
  std::string name;
  uint64_t kib = 0;
  std::string rest;
  while (in >> name >> kib && std::getline(in, rest)) {
    if (name == key) return kib * 1024;
  }
  return 0;
}

// "max", an unreadable file or v1's "no limit" (a number near 2^63) all mean none.
uint64_t read_limit(const std::string& path) {
  std::ifstream in(path);
  std::string text;
  if (!(in >> text)) return kNoMemoryLimit;
  uint64_t value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc{} || end != text.data() + text.size()) return kNoMemoryLimit;
  return value >= (uint64_t{1} << 62) ? kNoMemoryLimit : value;
}

// Walks from `group` up to the mount's root. In a container the path may name a group that the
// mount does not show; missing files are no limit, and the root is always looked at.
uint64_t smallest_on_path(const std::string& mount, std::string group, const char* file) {
  uint64_t limit = read_limit(mount + "/" + file);
  while (group.size() > 1) {
    limit = std::min(limit, read_limit(mount + group + "/" + file));
    group.resize(group.find_last_of('/'));
  }
  return limit;
}

}  // namespace

uint64_t mem_total_bytes() { return meminfo_bytes("MemTotal:"); }
uint64_t mem_available_bytes() { return meminfo_bytes("MemAvailable:"); }

uint64_t cgroup_memory_limit(const std::string& root) {
  uint64_t limit = kNoMemoryLimit;
  std::ifstream in(root + "/proc/self/cgroup");
  std::string line;  // "4:memory:/a/b" (v1) or "0::/a/b" (v2)
  while (std::getline(in, line)) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos || second + 1 >= line.size() || line[second + 1] != '/')
      continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (controllers.empty()) {
      limit = std::min(limit, smallest_on_path(root + "/sys/fs/cgroup", group, "memory.max"));
      limit =
          std::min(limit, smallest_on_path(root + "/sys/fs/cgroup/unified", group, "memory.max"));
      continue;
    }
    std::stringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
      if (name != "memory") continue;
      const std::string mount = root + "/sys/fs/cgroup/memory";
      limit = std::min(limit, smallest_on_path(mount, group, "memory.limit_in_bytes"));
    }
  }
  return limit;
}

uint64_t memory_ceiling_bytes() { return std::min(mem_total_bytes(), cgroup_memory_limit()); }

}  // namespace sluice
