#include "storage/depth_control.h"

#include <algorithm>
#include <cmath>

namespace sluice {

DepthControl::DepthControl(int first) : home_(std::clamp(first, kLeast, kMost)) {}

int DepthControl::add(uint64_t bytes, double busy_s) {
  if (!(busy_s > 0)) return depth();
  if (!in_trial_) {
    counted_s_ += busy_s;
    counted_bytes_ += static_cast<double>(bytes);
    rested_s_ += busy_s;
    bool drifted = false;
    if (counted_s_ >= kLook_s) {
      const double rate = counted_bytes_ / counted_s_;
      drifted = home_rate_ > 0 && std::abs(rate - home_rate_) > kDrift * home_rate_;
      counted_s_ = counted_bytes_ = 0;
    }
    if (drifted) rest_s_ = kFirstRest_s;
    if (rested_s_ >= rest_s_) begin_trial(direction_);
    return depth();
  }
  window_s_ += busy_s;
  if (window_s_ <= kSettle_s) return depth();
  counted_s_ += busy_s;
  counted_bytes_ += static_cast<double>(bytes);
  if (window_s_ < kWindow_s) return depth();
  const auto pair = static_cast<size_t>(pairs_);
  (trying_ ? other_rates_ : home_rates_)[pair] = counted_bytes_ / counted_s_;
  if (!trying_) {
    begin_window(true);
  } else if (++pairs_ < kPairs) {
    begin_window(false);
  } else {
    end_trial();
  }
  return depth();
}

void DepthControl::begin_window(bool trying) {
  trying_ = trying;
  window_s_ = counted_s_ = counted_bytes_ = 0;
}

void DepthControl::begin_trial(int direction) {
  direction_ = direction;
  if (home_ + direction < kLeast || home_ + direction > kMost) direction_ = -direction;
  other_ = home_ + direction_;
  in_trial_ = true;
  pairs_ = 0;
  begin_window(false);
}

void DepthControl::end_trial() {
  double here = 0;
  double gain = 0;
  for (size_t i = 0; i < kPairs; ++i) {
    here += home_rates_[i] / kPairs;
    gain += (other_rates_[i] - home_rates_[i]) / kPairs;
  }
  double squares = 0;
  for (size_t i = 0; i < kPairs; ++i) {
    const double off = other_rates_[i] - home_rates_[i] - gain;
    squares += off * off;
  }
  const double error = std::sqrt(squares / (kPairs - 1) / kPairs);
  in_trial_ = trying_ = false;
  home_rate_ = here;
  if (gain > kGain * here && gain > kErrors * error) {
    home_rate_ += gain;
    home_ = other_;
    turned_ = true;  // where it came from is known to be slower
    rest_s_ = kFirstRest_s;
    const bool end = home_ == kLeast || home_ == kMost;
    if (!end) return begin_trial(direction_);
    return rest();
  }
  const bool other_side = home_ != kLeast && home_ != kMost;
  if (!turned_ && other_side) {
    turned_ = true;
    return begin_trial(-direction_);
  }
  rest();
}

// The longer nothing was gained, the longer until it is tried again.
void DepthControl::rest() {
  turned_ = false;
  direction_ = -direction_;
  rested_s_ = counted_s_ = counted_bytes_ = 0;
  in_trial_ = trying_ = false;
  rest_s_ = std::min(rest_s_ * 2, kLongestRest_s);
}

std::optional<int> DepthBook::find(uint64_t device) const {
  const std::lock_guard lock(mutex_);
  const auto it = depths_.find(device);
  return it == depths_.end() ? std::nullopt : std::optional<int>(it->second);
}

void DepthBook::keep(uint64_t device, int depth) {
  const std::lock_guard lock(mutex_);
  if (depths_.size() < kMostDevices || depths_.contains(device)) depths_[device] = depth;
}

}  // namespace sluice
