#include "storage/read_control.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sluice {

StepControl::StepControl(int least, int most, int first)
    : least_(least), most_(most), home_(std::clamp(first, least, most)) {}

void StepControl::add(uint64_t bytes, double busy_s) {
  if (!(busy_s > 0)) return;
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
    return;
  }
  window_s_ += busy_s;
  if (window_s_ <= kSettle_s) return;
  counted_s_ += busy_s;
  counted_bytes_ += static_cast<double>(bytes);
  if (window_s_ < kWindow_s) return;
  const auto pair = static_cast<size_t>(pairs_);
  (trying_ ? other_rates_ : home_rates_)[pair] = counted_bytes_ / counted_s_;
  if (!trying_) {
    begin_window(true);
  } else if (++pairs_ < kPairs) {
    begin_window(false);
  } else {
    end_trial();
  }
}

void StepControl::begin_window(bool trying) {
  trying_ = trying;
  window_s_ = counted_s_ = counted_bytes_ = 0;
}

void StepControl::begin_trial(int direction) {
  direction_ = direction;
  if (home_ + direction < least_ || home_ + direction > most_) direction_ = -direction;
  other_ = home_ + direction_;
  in_trial_ = true;
  pairs_ = 0;
  begin_window(false);
}

void StepControl::end_trial() {
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
    const bool end = home_ == least_ || home_ == most_;
    if (!end) return begin_trial(direction_);
    return rest();
  }
  const bool other_side = home_ != least_ && home_ != most_;
  if (!turned_ && other_side) {
    turned_ = true;
    return begin_trial(-direction_);
  }
  rest();
}

// The longer nothing was gained, the longer until it is tried again.
void StepControl::rest() {
  turned_ = false;
  direction_ = -direction_;
  rested_s_ = counted_s_ = counted_bytes_ = 0;
  in_trial_ = trying_ = false;
  rest_s_ = std::min(rest_s_ * 2, kLongestRest_s);
}

namespace {

constexpr int kMostSizeStep = std::countr_zero(ReadShape::kMostRequest / ReadShape::kLeastRequest);

int step_of(uint64_t request_bytes) {
  const uint64_t times = std::max<uint64_t>(request_bytes / ReadShape::kLeastRequest, 1);
  return static_cast<int>(std::bit_width(times)) - 1;
}

}  // namespace

ReadControl::ReadControl(const ReadShape& first)
    : depth_(ReadShape::kLeastDepth, ReadShape::kMostDepth, first.depth),
      size_(0, kMostSizeStep, step_of(first.request_bytes)) {}

ReadShape ReadControl::add(uint64_t bytes, double busy_s) {
  if (!size_.in_trial()) depth_.add(bytes, busy_s);
  if (!depth_.in_trial()) size_.add(bytes, busy_s);
  return shape();
}

std::optional<ReadShape> ReadBook::find(uint64_t device) const {
  const std::lock_guard lock(mutex_);
  const auto it = shapes_.find(device);
  return it == shapes_.end() ? std::nullopt : std::optional<ReadShape>(it->second);
}

void ReadBook::keep(uint64_t device, const ReadShape& shape) {
  const std::lock_guard lock(mutex_);
  if (shapes_.size() >= kMostDevices && !shapes_.contains(device)) return;
  shapes_[device] = {
      std::clamp(shape.depth, ReadShape::kLeastDepth, ReadShape::kMostDepth),
      std::clamp(shape.request_bytes, ReadShape::kLeastRequest, ReadShape::kMostRequest)};
}

std::map<uint64_t, ReadShape> ReadBook::all() const {
  const std::lock_guard lock(mutex_);
  return shapes_;
}

}  // namespace sluice
