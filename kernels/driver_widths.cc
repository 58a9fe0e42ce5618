#include "kernels/driver_widths.h"

#include <algorithm>
#include <atomic>

namespace sluice::kernels {
namespace {

// Widths plus one; 0: the default.
struct Stored {
  std::atomic<uint8_t> rows{0}, tiles{0};
};
Stored stored[kNWeightTypes];

int found(const std::atomic<uint8_t>& s, int by_default) noexcept {
  const int v = s.load(std::memory_order_relaxed);
  return v == 0 ? by_default : v - 1;
}

void put(std::atomic<uint8_t>& s, int v, int least, int most) noexcept {
  s.store(v < 0 ? uint8_t{0} : static_cast<uint8_t>(std::clamp(v, least, most) + 1),
          std::memory_order_relaxed);
}

}  // namespace

int row_tokens(WeightType type, int by_default) noexcept {
  return found(stored[static_cast<int>(type)].rows, by_default);
}

int tile_tokens(WeightType type, int by_default) noexcept {
  return found(stored[static_cast<int>(type)].tiles, by_default);
}

void set_driver_widths(WeightType type, const DriverWidths& widths) noexcept {
  Stored& s = stored[static_cast<int>(type)];
  put(s.rows, widths.row_tokens, 0, kMostRowTokens);
  put(s.tiles, widths.tile_tokens, kLeastTileTokens, kMostTileTokens);
}

}  // namespace sluice::kernels
