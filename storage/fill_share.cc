#include "storage/fill_share.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {

void FillShare::pass_begins() {
  const std::lock_guard lock(mutex_);
  ++passes_;
}

void FillShare::pass_ends() {
  const std::lock_guard lock(mutex_);
  SLUICE_DCHECK(passes_ > 0);
  --passes_;
}

bool FillShare::busy() const {
  const std::lock_guard lock(mutex_);
  return passes_ > 0;
}

bool FillShare::begin(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (passes_ > 0 && (reads_ > 0 || now < free_at_)) return false;
  ++reads_;
  return true;
}

void FillShare::end(Clock::time_point began, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  SLUICE_DCHECK(reads_ > 0);
  --reads_;
  free_at_ = std::max(free_at_, now + (now - began));
}

// While another read goes on nobody knows how long.
FillShare::Clock::time_point FillShare::ask_again(Clock::time_point now) const {
  constexpr auto kLook = std::chrono::milliseconds(5);
  const std::lock_guard lock(mutex_);
  return std::max(free_at_, now + (reads_ > 0 ? kLook : Clock::duration{}));
}

}  // namespace sluice
