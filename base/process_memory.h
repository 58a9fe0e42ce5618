// What the kernel says this process holds.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>

namespace sluice {

// Anonymous and file pages resident in this process; 0 if unknown. From statm, the cheap one: it is asked on every status.
inline uint64_t process_resident_bytes() {
  std::FILE* f = std::fopen("/proc/self/statm", "re");
  if (f == nullptr) return 0;
  unsigned long long size = 0;
  unsigned long long resident = 0;
  const int n = std::fscanf(f, "%llu %llu", &size, &resident);
  std::fclose(f);
  return n == 2 ? resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

// The same, counted page by page when it is asked for (statm's counters are kept per CPU and lag): milliseconds per GiB.
inline uint64_t process_resident_bytes_exact() {
  std::FILE* f = std::fopen("/proc/self/smaps_rollup", "re");
  if (f == nullptr) return process_resident_bytes();
  char line[256];
  unsigned long long kib = 0;
  bool found = false;
  while (!found && std::fgets(line, sizeof line, f) != nullptr) found = std::sscanf(line, "Rss: %llu kB", &kib) == 1;
  std::fclose(f);
  return found ? kib << 10 : process_resident_bytes();
}

}  // namespace sluice
