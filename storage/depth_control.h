// How many reads are best in flight. Climbs one step at a time towards more bytes per second of
// busy time: now and then a neighbour of the present depth is tried in turns with it, and taken
// where it was clearly faster. Pure: no clock, no threads; whoever reads tells what came in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

namespace sluice {

class DepthControl {
 public:
  static constexpr int kLeast = 1;
  static constexpr int kMost = 8;

  // `first` is brought within the bounds.
  explicit DepthControl(int first);

  // What is to be in flight now, and what it comes back to after a trial.
  int depth() const { return trying_ ? other_ : home_; }
  int home() const { return home_; }

  // `bytes` came in during `busy_s` seconds with at least one read in flight and depth() in force.
  // Returns the depth for what follows.
  int add(uint64_t bytes, double busy_s);

 private:
  // A window is long enough for a few tens of MiB of a fast disk; a trial is kPairs of them at home
  // and elsewhere by turns, so that a disk that changes under both changes no verdict.
  static constexpr double kWindow_s = 0.2;
  static constexpr double kSettle_s = 0.03;  // of a window: reads begun at another depth
  static constexpr int kPairs = 6;
  // A gain counts if it is more than this, and more than so many of its own standard errors.
  static constexpr double kGain = 0.05;
  static constexpr double kErrors = 3;
  static constexpr double kFirstRest_s = 2;  // busy seconds between trials that changed nothing
  static constexpr double kLongestRest_s = 256;
  static constexpr double kLook_s = 1;    // at home, while resting
  static constexpr double kDrift = 0.25;  // as much more or less than in the last trial ends a rest

  void begin_window(bool trying);
  void begin_trial(int direction);
  void end_trial();
  void rest();

  int home_;
  int other_ = 0;
  int direction_ = 1;
  bool turned_ = false;    // the other direction was tried since the last move
  bool in_trial_ = false;  // else resting
  bool trying_ = false;    // this window is the other depth's
  int pairs_ = 0;
  std::array<double, kPairs> home_rates_{}, other_rates_{};
  double window_s_ = 0;  // of this window, settling included
  double counted_s_ = 0;
  double counted_bytes_ = 0;
  double rest_s_ = kFirstRest_s, rested_s_ = 0;
  double home_rate_ = 0;  // in the last trial
};

// Depths that were found, by device: where the next queue begins. Thread-safe.
class DepthBook {
 public:
  static constexpr size_t kMostDevices = 64;  // more are not remembered

  std::optional<int> find(uint64_t device) const;
  void keep(uint64_t device, int depth);

 private:
  mutable std::mutex mutex_;
  std::map<uint64_t, int> depths_;  // guarded by mutex_
};

}  // namespace sluice
