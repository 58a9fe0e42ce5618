// What the kernel says this process holds.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace sluice {

// Anonymous and file pages resident in this process (smaps_rollup's Rss); 0 if unknown.
inline uint64_t process_resident_bytes() {
  std::FILE* f = std::fopen("/proc/self/smaps_rollup", "r");
  if (f == nullptr) return 0;
  char line[256];
  unsigned long long kb = 0;
  while (std::fgets(line, sizeof line, f) != nullptr) {
    if (std::strncmp(line, "Rss:", 4) == 0) {
      std::sscanf(line + 4, "%llu", &kb);
      break;
    }
  }
  std::fclose(f);
  return kb * 1024;
}

}  // namespace sluice
