#include "storage/pin_order.h"

namespace sluice {

// Visits places in the order of the radical inverse in base 2 (van der Corput): its first k values
// divide [0, 1) evenly for every k.
std::vector<SliceId> make_pin_order(std::span<const SliceId> schedule) {
  std::vector<SliceId> order;
  const uint64_t n = schedule.size();
  order.reserve(n);
  unsigned bits = 0;
  while ((uint64_t{1} << bits) < n) ++bits;
  std::vector<bool> taken(n, false);
  for (uint64_t k = 0; k < uint64_t{1} << bits; ++k) {
    uint64_t reversed = 0;
    for (unsigned b = 0; b < bits; ++b) reversed |= (k >> b & 1) << (bits - 1 - b);
    const uint64_t place = reversed * n >> bits;
    if (place >= n || taken[place]) continue;
    taken[place] = true;
    order.push_back(schedule[place]);
  }
  return order;
}

}  // namespace sluice
