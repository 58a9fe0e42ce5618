// How much of the room for pins each of several loaded models may have: what is used most gains.
// Pure, no clock of its own.
//
// A pinned byte saves one byte of reading in every pass that wants it, so what pins are worth to a
// model is (passes per second, lately) x (bytes a pass would have to read without them). Room is
// shared in proportion to that; what one model cannot use is shared among the others.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

// Passes per second, an exponentially decaying mean: what was done kForget_s ago counts a third.
class PassRate {
 public:
  static constexpr double kForget_s = 30;
  // `now_s`: monotonic seconds; never less than at the call before.
  void add(double now_s);
  double at(double now_s) const;

 private:
  double rate_ = 0;
  double at_s_ = 0;
};

struct PinClaim {
  double passes_per_s = 0;
  uint64_t most_bytes = 0;  // all it could pin, and what a pass would save with all of it
};

// One share per claim, together at most `room_bytes`. Claims that nobody uses come last.
std::vector<uint64_t> share_pins(uint64_t room_bytes, std::span<const PinClaim> claims);

// Whether a model that holds `held_bytes` has so much more than its share that taking the rest is
// worth reading it anew elsewhere: a quarter, and more than one huge page.
bool above_share(uint64_t held_bytes, uint64_t share_bytes);

}  // namespace sluice
