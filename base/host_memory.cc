#include "base/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>
#include <vector>

namespace sluice {
namespace {

uint64_t meminfo_bytes(const char* key, const std::string& root = "") {
  std::ifstream in(root + "/proc/meminfo");
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
uint64_t mem_available_bytes(const std::string& root) {
  return meminfo_bytes("MemAvailable:", root);
}

namespace {

// Where this process's memory is accounted: at most one group of each version.
struct MemoryGroup {
  std::string mount, group;
  bool v2 = false;

  // A file of the group itself; in a container the path may name a group that the mount does not
  // show, whose own root is then ours.
  std::string file(const char* name) const {
    const std::string own = mount + (group == "/" ? "" : group) + "/" + name;
    return ::access(own.c_str(), F_OK) == 0 ? own : mount + "/" + name;
  }
};

std::vector<MemoryGroup> memory_groups(const std::string& root) {
  std::vector<MemoryGroup> groups;
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
      groups.push_back({root + "/sys/fs/cgroup", group, true});
      groups.push_back({root + "/sys/fs/cgroup/unified", group, true});
      continue;
    }
    std::stringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
      if (name == "memory") groups.push_back({root + "/sys/fs/cgroup/memory", group, false});
    }
  }
  return groups;
}

}  // namespace

uint64_t cgroup_memory_limit(const std::string& root) {
  uint64_t limit = kNoMemoryLimit;
  for (const MemoryGroup& g : memory_groups(root)) {
    limit = std::min(
        limit, smallest_on_path(g.mount, g.group, g.v2 ? "memory.max" : "memory.limit_in_bytes"));
    // Past memory.high we are made to wait instead of killed, which is no better for anybody.
    if (g.v2) limit = std::min(limit, smallest_on_path(g.mount, g.group, "memory.high"));
  }
  return limit;
}

std::optional<uint64_t> cgroup_memory_current(const std::string& root) {
  for (const MemoryGroup& g : memory_groups(root)) {
    const uint64_t n = read_limit(g.file(g.v2 ? "memory.current" : "memory.usage_in_bytes"));
    if (n != kNoMemoryLimit) return n;
  }
  return std::nullopt;
}

std::string cgroup_pressure_file(const std::string& root) {
  for (const MemoryGroup& g : memory_groups(root)) {
    if (!g.v2 || g.group == "/") continue;  // the root's is the system's
    const std::string path = g.mount + g.group + "/memory.pressure";
    if (::access(path.c_str(), R_OK) == 0) return path;
  }
  return {};
}

uint64_t memory_ceiling_bytes() { return std::min(mem_total_bytes(), cgroup_memory_limit()); }

}  // namespace sluice
