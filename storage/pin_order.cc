#include "storage/pin_order.h"

namespace sluice {
namespace {

// Visits places in the order of the radical inverse in base 2 (van der Corput): its first k values divide [0, 1) evenly
// for every k.
void append_spread(std::vector<SliceId>& order, std::span<const SliceId> slices) {
  const uint64_t n = slices.size();
  unsigned bits = 0;
  while ((uint64_t{1} << bits) < n) ++bits;
  std::vector<bool> taken(n, false);
  for (uint64_t k = 0; k < uint64_t{1} << bits; ++k) {
    uint64_t reversed = 0;
    for (unsigned b = 0; b < bits; ++b) reversed |= (k >> b & 1) << (bits - 1 - b);
    const uint64_t place = reversed * n >> bits;
    if (place >= n || taken[place]) continue;
    taken[place] = true;
    order.push_back(slices[place]);
  }
}

}  // namespace

std::vector<SliceId> make_pin_order(std::span<const SliceId> first,
                                    std::span<const SliceId> schedule,
                                    std::span<const SliceId> last) {
  std::vector<SliceId> order(first.begin(), first.end());
  append_spread(order, schedule);
  append_spread(order, last);
  return order;
}

}  // namespace sluice
