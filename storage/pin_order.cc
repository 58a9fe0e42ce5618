#include "storage/pin_order.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

// The radical inverse in base 2 (van der Corput): its first k values divide [0, 1) evenly for every k.
uint64_t reverse_bits(uint64_t x) {
  uint64_t r = 0;
  for (int i = 0; i < 64; ++i, x >>= 1) r = (r << 1) | (x & 1);
  return r;
}

void append_spread(std::vector<SliceId>& order, std::span<const SliceId> slices) {
  // Rank k of n takes the k-th place of the sequence floor(n * radical_inverse), each place once.
  const uint64_t n = slices.size();
  if (n == 0) return;
  std::vector<std::pair<uint64_t, SliceId>> keyed;
  keyed.reserve(n);
  uint64_t width = 1;
  while (width < n) width *= 2;
  for (uint64_t i = 0; i < n; ++i) {
    // Stretch i over the power of two, then reverse: a bijection that keeps the even division.
    const uint64_t place = i * width / n;
    keyed.emplace_back(reverse_bits(place) , slices[i]);
  }
  std::sort(keyed.begin(), keyed.end());
  for (const auto& [key, id] : keyed) order.push_back(id);
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
