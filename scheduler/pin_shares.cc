#include "scheduler/pin_shares.h"

#include <algorithm>
#include <cmath>

namespace sluice {

void PassRate::add(double now_s) {
  rate_ = at(now_s) + 1 / kForget_s;
  at_s_ = now_s;
}

double PassRate::at(double now_s) const {
  return rate_ * std::exp(-std::max(0.0, now_s - at_s_) / kForget_s);
}

std::vector<uint64_t> share_pins(uint64_t room_bytes, std::span<const PinClaim> claims) {
  // So little that it decides only among models that nobody used.
  constexpr double kUnused = 1e-9;
  std::vector<uint64_t> shares(claims.size(), 0);
  std::vector<bool> full(claims.size(), false);
  uint64_t room = room_bytes;
  // Each round fills those whose part is more than they can use, and shares what is left anew.
  for (bool again = true; again;) {
    again = false;
    double sum = 0;
    const auto weight = [&](size_t i) {
      return std::max(claims[i].passes_per_s, kUnused) * static_cast<double>(claims[i].most_bytes);
    };
    for (size_t i = 0; i < claims.size(); ++i) sum += full[i] ? 0 : weight(i);
    if (sum <= 0) break;
    const double per_weight = static_cast<double>(room) / sum;
    for (size_t i = 0; i < claims.size(); ++i) {
      if (full[i] || weight(i) * per_weight < static_cast<double>(claims[i].most_bytes)) continue;
      full[i] = true;
      shares[i] = std::min(claims[i].most_bytes, room);
      room -= shares[i];
      again = true;
    }
    if (again) continue;
    for (size_t i = 0; i < claims.size(); ++i) {
      if (!full[i]) shares[i] = static_cast<uint64_t>(weight(i) * per_weight);
    }
  }
  // Rounding of large doubles must not hand out more than there is.
  uint64_t left = room_bytes;
  for (uint64_t& s : shares) left -= s = std::min(s, left);
  return shares;
}

bool above_share(uint64_t held_bytes, uint64_t share_bytes) {
  constexpr uint64_t kHugePage = 2u << 20;
  return held_bytes > share_bytes && held_bytes - share_bytes > kHugePage &&
         static_cast<double>(held_bytes) > 1.25 * static_cast<double>(share_bytes);
}

}  // namespace sluice
