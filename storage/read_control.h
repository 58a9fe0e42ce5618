// How many reads are best in flight, and how large. One step at a time towards more bytes per
// second of busy time: now and then a neighbour of the present value is tried in turns with it, and
// taken where it was clearly faster. Pure: no clock, no threads; whoever reads tells what came in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

namespace sluice {

// How a disk is asked for a slice: so many requests at once, each of at most so many bytes.
struct ReadShape {
  static constexpr int kLeastDepth = 1, kMostDepth = 8;
  static constexpr uint64_t kLeastRequest = 256u << 10, kMostRequest = 2u << 20;  // the latter: whole slices

  int depth = 4;
  uint64_t request_bytes = kMostRequest;

  bool operator==(const ReadShape&) const = default;
};

// The search along one line of whole numbers, least..most.
class StepControl {
 public:
  // `first` is brought within the bounds.
  StepControl(int least, int most, int first);

  // What is in force now, and what it comes back to after a trial.
  int value() const { return trying_ ? other_ : home_; }
  int home() const { return home_; }
  bool in_trial() const { return in_trial_; }

  // `bytes` came in during `busy_s` seconds with at least one read in flight and value() in force.
  void add(uint64_t bytes, double busy_s);

 private:
  // A window is long enough for a few tens of MiB of a fast disk; a trial is kPairs of them at home
  // and elsewhere by turns, so that a disk that changes under both changes no verdict.
  static constexpr double kWindow_s = 0.2;
  static constexpr double kSettle_s = 0.03;  // of a window: reads begun at another value
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

  int least_, most_;
  int home_;
  int other_ = 0;
  int direction_ = 1;
  bool turned_ = false;    // the other direction was tried since the last move
  bool in_trial_ = false;  // else resting
  bool trying_ = false;    // this window is the other value's
  int pairs_ = 0;
  std::array<double, kPairs> home_rates_{}, other_rates_{};
  double window_s_ = 0;  // of this window, settling included
  double counted_s_ = 0;
  double counted_bytes_ = 0;
  double rest_s_ = kFirstRest_s, rested_s_ = 0;
  double home_rate_ = 0;  // in the last trial
};

// Both searches; only one of them tries something at a time.
class ReadControl {
 public:
  explicit ReadControl(const ReadShape& first);

  ReadShape shape() const { return {depth_.value(), request_of(size_.value())}; }
  ReadShape home() const { return {depth_.home(), request_of(size_.home())}; }
  // As StepControl::add. Returns the shape for what follows.
  ReadShape add(uint64_t bytes, double busy_s);

 private:
  // Sizes are kLeastRequest times a power of two.
  static uint64_t request_of(int step) { return ReadShape::kLeastRequest << step; }

  StepControl depth_, size_;
};

// Shapes that were found, by device: where the next queue begins. Thread-safe.
class ReadBook {
 public:
  static constexpr size_t kMostDevices = 64;  // more are not remembered

  std::optional<ReadShape> find(uint64_t device) const;
  // Brought within ReadShape's bounds.
  void keep(uint64_t device, const ReadShape& shape);
  std::map<uint64_t, ReadShape> all() const;

 private:
  mutable std::mutex mutex_;
  std::map<uint64_t, ReadShape> shapes_;  // guarded by mutex_
};

}  // namespace sluice
