// How memory pressure moves the budget (INTERFACE 2.5): a ladder that is fed with samples and knows
// nothing of files, threads or clocks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sluice {

struct PressureLimits {
  bool react = true;
  double some_percent = 10;
  double full_percent = 5;
  int64_t recover_ms = 30'000;          // calm before growing again
  uint64_t reserve_bytes = 256u << 20;  // what the machine keeps free
};

struct PressureSample {
  int64_t now_ms = 0;  // monotonic
  // Percent of the time in which some or all tasks waited for memory; none: the kernel does not
  // say.
  std::optional<double> some, full;          // of the whole system
  std::optional<double> own_some, own_full;  // of our own cgroup
  uint64_t available_bytes = UINT64_MAX;     // MemAvailable
  double floor_share = 0;                    // of the limit: what cannot be given back
};

enum class PressureLevel : uint8_t { kNone, kSome, kFull };
const char* pressure_level_name(PressureLevel level);

struct PressureState {
  PressureLevel level = PressureLevel::kNone;
  double share = 1;           // of the limit that may be in effect
  bool trim = false;          // idle models give back what they have, now
  bool moved = false;         // level or share changed with this sample
  double some = 0, full = 0;  // as judged: ours taken off
};

class PressureLadder {
 public:
  explicit PressureLadder(PressureLimits limits) : limits_(limits) {}
  PressureState step(const PressureSample& sample);

 private:
  const PressureLimits limits_;
  PressureState state_;
  std::optional<int64_t> calm_since_ms_;
  std::optional<int64_t> grown_ms_;  // last step up
  std::optional<int64_t> trimmed_ms_;
};

// Reads what a sample needs, but for time and floor. `root` prefixes /proc and /sys.
PressureSample read_pressure(const std::string& root = "");

}  // namespace sluice
