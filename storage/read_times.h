// How long reads took, counted in steps of a fifth: enough for a median, in a fixed size.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace sluice {

class ReadTimes {
 public:
  void add(double ms) {
    const double step = ms > kLeast_ms ? std::log(ms / kLeast_ms) / kLogStep : 0;
    ++counts_[static_cast<size_t>(std::min<double>(step, kSteps - 1))];
  }
  // The middle of the step that the median falls into; 0 when nothing was read.
  double median_ms() const {
    uint64_t all = 0;
    for (const uint32_t n : counts_) all += n;
    uint64_t below = 0;
    for (size_t i = 0; i < kSteps; ++i) {
      below += counts_[i];
      if (all > 0 && below * 2 >= all)
        return kLeast_ms * std::exp((static_cast<double>(i) + 0.5) * kLogStep);
    }
    return 0;
  }

 private:
  static constexpr size_t kSteps = 72;  // 0.02 ms to 10 s
  static constexpr double kLeast_ms = 0.02;
  static constexpr double kLogStep = 0.18232155679395462;  // log 1.2
  std::array<uint32_t, kSteps> counts_{};
};

}  // namespace sluice
