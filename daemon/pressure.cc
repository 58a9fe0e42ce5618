#include "daemon/pressure.h"

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "base/host_memory.h"

namespace sluice {
namespace {

constexpr double kShareUnderSome = 0.75;
constexpr double kGrowth = 0.1;
constexpr int64_t kGrowEvery_ms = 10'000;
constexpr int64_t kTrimEvery_ms = 10'000;

// "some avg10=1.23 avg60=..." and a second line for full.
void read_psi(const std::string& path, std::optional<double>& some, std::optional<double>& full) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    double avg10 = 0;
    if (std::sscanf(line.c_str(), "some avg10=%lf", &avg10) == 1) some = avg10;
    if (std::sscanf(line.c_str(), "full avg10=%lf", &avg10) == 1) full = avg10;
  }
}

}  // namespace

const char* pressure_level_name(PressureLevel level) {
  switch (level) {
    case PressureLevel::kNone:
      return "none";
    case PressureLevel::kSome:
      return "some";
    case PressureLevel::kFull:
      return "full";
  }
  return "";
}

PressureState PressureLadder::step(const PressureSample& s) {
  PressureState next = state_;
  next.trim = next.moved = false;
  if (!limits_.react) return next;
  const bool short_of_memory = s.available_bytes < limits_.reserve_bytes;
  // What we stall on ourselves is no reason to shrink. Where our own share is not known, a
  // neighbour's thrashing in a small cgroup of its own must not shrink us: it counts only while the
  // machine is really short.
  const auto judged = [&](std::optional<double> system, std::optional<double> own) {
    if (!system) return 0.0;
    if (own) return std::max(0.0, *system - *own);
    return short_of_memory ? *system : 0.0;
  };
  next.some = judged(s.some, s.own_some);
  next.full = judged(s.full, s.own_full);
  if (next.full >= limits_.full_percent) {
    next.level = PressureLevel::kFull;
    next.share = 0;
  } else if (next.some >= limits_.some_percent) {
    next.level = PressureLevel::kSome;
    next.share = std::min(next.share, kShareUnderSome);
  } else {
    next.level = PressureLevel::kNone;
  }
  if (short_of_memory && (!trimmed_ms_ || s.now_ms - *trimmed_ms_ >= kTrimEvery_ms)) {
    next.trim = true;
    trimmed_ms_ = s.now_ms;
  }
  if (next.level != PressureLevel::kNone || short_of_memory) {
    calm_since_ms_.reset();
    grown_ms_.reset();
  } else if (!calm_since_ms_) {
    calm_since_ms_ = s.now_ms;
  }
  const bool calm = calm_since_ms_ && s.now_ms - *calm_since_ms_ >= limits_.recover_ms;
  if (calm && next.share < 1 && (!grown_ms_ || s.now_ms - *grown_ms_ >= kGrowEvery_ms)) {
    // From what is really in effect: below the floor a step up would change nothing.
    next.share = std::max(next.share, std::clamp(s.floor_share, 0.0, 1.0)) + kGrowth;
    if (next.share > 1 - 1e-9) next.share = 1;
    grown_ms_ = s.now_ms;
  }
  next.moved = next.level != state_.level || next.share != state_.share;
  state_ = next;
  return next;
}

PressureSample read_pressure(const std::string& root) {
  PressureSample s;
  read_psi(root + "/proc/pressure/memory", s.some, s.full);
  if (const std::string own = cgroup_pressure_file(root); !own.empty())
    read_psi(own, s.own_some, s.own_full);
  if (const uint64_t n = mem_available_bytes(root); n > 0) s.available_bytes = n;
  return s;
}

}  // namespace sluice
