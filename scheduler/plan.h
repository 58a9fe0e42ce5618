// How a budget is divided: pure arithmetic, so that it can be shown, tested and asked before loading.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace sluice {

// Bytes that must be there before any weight may stay.
struct PlanNeeds {
  uint64_t fixed_bytes = 0;          // the process itself, measured
  uint64_t activation_bytes = 0;     // workspace of a walk
  uint64_t kv_bytes = 0;             // of the sequences in use
  uint64_t slot_bytes = 0;           // one slice in the ring
  uint64_t weight_bytes = 0;         // pin memory of all slices
};

struct Plan {
  uint64_t headroom_bytes = 0;       // page tables, charge batches, heap
  uint64_t ring_bytes = 0;
  uint64_t pin_bytes = 0;            // room for pinned slices
  uint64_t floor_bytes = 0;          // the smallest budget that works
};

inline constexpr uint64_t kHeadroomBytes = 12u << 20;
inline constexpr uint64_t kRingMinSlots = 4;
inline constexpr uint64_t kRingMaxBytes = 24u << 20;

// 12 MiB and 0.5 % of the budget: page tables take 0.2 % of what is resident.
uint64_t headroom_for(uint64_t budget_bytes);

// The smallest budget, in whole MiB, that holds so much and its own headroom.
uint64_t floor_for(uint64_t bytes);

uint64_t floor_of(const PlanNeeds& needs);

// Errors: budget_below_floor, with the arithmetic and the smallest number that works.
Result<Plan> make_plan(uint64_t budget_bytes, const PlanNeeds& needs);

}  // namespace sluice
