// Whether a disk fails again and again: so many failures within so long a time. Pure; one user at a
// time.
#pragma once

#include <array>
#include <cstddef>

namespace sluice {

class FailureWindow {
 public:
  static constexpr size_t kMost = 3;
  static constexpr double kWindow_s = 60;

  // A failure at `now_s`, of a clock that never goes back. True: it was the last of kMost within
  // kWindow_s.
  bool add(double now_s) {
    const double first = times_[next_];  // kMost - 1 failures ago, once there were so many
    times_[next_] = now_s;
    next_ = (next_ + 1) % times_.size();
    if (n_ < times_.size()) {
      ++n_;
      return false;
    }
    return now_s - first <= kWindow_s;
  }

 private:
  std::array<double, kMost - 1> times_{};
  size_t next_ = 0;
  size_t n_ = 0;
};

}  // namespace sluice
