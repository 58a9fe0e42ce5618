// How many tokens at once each driver of a definition takes. Drivers of one definition give the
// same bits, so that these may be anything at any time: they change the speed only. Defaults stand
// beside the drivers; scheduler/driver_probe finds what is best on a host.
#pragma once

#include "kernels/quant_groups.h"

namespace sluice::kernels {

struct DriverWidths {
  int row_tokens = 0;   // at most so many go row by row; more share a panel that is unpacked once
  int tile_tokens = 0;  // from so many on, tiles multiply the panel, where the CPU has them

  bool operator==(const DriverWidths&) const = default;
};

inline constexpr int kMostRowTokens = 4;
inline constexpr int kLeastTileTokens = 16, kMostTileTokens = 64;

// What was set for a type, else `by_default`.
int row_tokens(WeightType type, int by_default) noexcept;
int tile_tokens(WeightType type, int by_default) noexcept;

// From now on, for every table. Brought within 0..kMostRowTokens and kLeastTileTokens..
// kMostTileTokens; what is negative goes back to the default. Thread-safe.
void set_driver_widths(WeightType type, const DriverWidths& widths) noexcept;

}  // namespace sluice::kernels
