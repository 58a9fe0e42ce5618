// One permutation of a model's slices, fixed at load: the pinned set is always a prefix of it, so that a budget change
// only moves the cut. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "storage/slice_index.h"

namespace sluice {

// `schedule` spread evenly: every prefix takes about the same share of each stretch of the
// schedule, so that the disk is asked for bytes at an even pace in compute time. Experts have no
// place in it: behind it come the cells of ExpertCache.
std::vector<SliceId> make_pin_order(std::span<const SliceId> schedule);

}  // namespace sluice
