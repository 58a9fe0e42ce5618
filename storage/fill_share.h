// How much of the disk goes to reads that nobody waits for: all of it while no pass runs, else at
// most half, over all models together. One such read at a time then, and after it the disk is left
// alone for as long as it took. Thread-safe.
#pragma once

#include <chrono>
#include <cstddef>
#include <mutex>

namespace sluice {

class FillShare {
 public:
  using Clock = std::chrono::steady_clock;

  void pass_begins();
  void pass_ends();
  // A pass of any model runs.
  bool busy() const;

  // A read that nobody waits for begins now, unless false is returned: then it may be asked again
  // at ask_again().
  bool begin(Clock::time_point now);
  // It has ended; `began` as told to begin().
  void end(Clock::time_point began, Clock::time_point now);
  Clock::time_point ask_again(Clock::time_point now) const;

 private:
  mutable std::mutex mutex_;  // guards all below
  size_t passes_ = 0;
  size_t reads_ = 0;
  Clock::time_point free_at_{};
};

}  // namespace sluice
