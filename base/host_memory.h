// How much memory this process may use at all: the machine's, and the smallest cgroup limit above
// us.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sluice {

inline constexpr uint64_t kNoMemoryLimit = UINT64_MAX;

uint64_t mem_total_bytes();  // MemTotal; 0 if /proc is not readable
// MemAvailable; 0 if unknown. `root` ("" = the real one), here and below, prefixes /proc and /sys,
// for tests.
uint64_t mem_available_bytes(const std::string& root = "");

// The smallest memory limit on this process's path, v2 memory.max and memory.high, v1
// memory.limit_in_bytes, every parent looked at; kNoMemoryLimit when there is none.
uint64_t cgroup_memory_limit(const std::string& root = "");
// What the kernel charges to our own group, other processes in it included.
std::optional<uint64_t> cgroup_memory_current(const std::string& root = "");
// memory.pressure of our own group (v2); empty when there is none.
std::string cgroup_pressure_file(const std::string& root = "");

// min(MemTotal, cgroup limit): what "40%" refers to.
uint64_t memory_ceiling_bytes();

}  // namespace sluice
