// One permutation of a model's slices, fixed at load: the pinned set is always a prefix of it, so that a budget change
// only moves the cut. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "storage/slice_index.h"

namespace sluice {

// `first` come first, in their order (small or hot slices); then `schedule` spread evenly: every prefix takes about the
// same share of each stretch of the schedule, so that the disk is asked for bytes at an even pace in compute time; then
// `last` (experts). No slice may stand in two of them.
std::vector<SliceId> make_pin_order(std::span<const SliceId> first,
                                    std::span<const SliceId> schedule,
                                    std::span<const SliceId> last);

}  // namespace sluice
