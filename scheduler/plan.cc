#include "scheduler/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"

namespace sluice {

uint64_t headroom_for(uint64_t budget_bytes) { return kHeadroomBytes + budget_bytes / 200; }

// The floor carries its own headroom: floor = bytes + 12 MiB + floor / 200.
uint64_t floor_for(uint64_t bytes) {
  const uint64_t exact = (bytes + kHeadroomBytes) / 199 * 200 + 200;
  return (exact + (1u << 20) - 1) >> 20 << 20;
}

uint64_t floor_of(const PlanNeeds& needs) {
  return floor_for(needs.fixed_bytes + needs.activation_bytes + needs.kv_bytes + kRingMinSlots * needs.slot_bytes);
}

Result<Plan> make_plan(uint64_t budget_bytes, const PlanNeeds& needs) {
  Plan plan;
  const uint64_t ring_min = kRingMinSlots * needs.slot_bytes;
  const uint64_t base = needs.fixed_bytes + needs.activation_bytes + needs.kv_bytes + ring_min;
  plan.floor_bytes = floor_of(needs);
  plan.headroom_bytes = headroom_for(budget_bytes);
  if (budget_bytes < plan.floor_bytes) {
    return Error{"budget_below_floor",
                 fmt::format("budget {} is below the floor of {}: {} KV + {} ring + {} activations + {} fixed + {} headroom",
                             format_bytes(budget_bytes),
                             format_bytes(plan.floor_bytes),
                             format_bytes(needs.kv_bytes),
                             format_bytes(ring_min),
                             format_bytes(needs.activation_bytes),
                             format_bytes(needs.fixed_bytes),
                             format_bytes(headroom_for(plan.floor_bytes))),
                 fmt::format("try a budget of {}M", plan.floor_bytes >> 20)};
  }
  const uint64_t left = budget_bytes - (base - ring_min) - plan.headroom_bytes;
  // Everything fits: the ring only carries what is read once. Otherwise an eighth of what is left, within bounds, and never
  // grown by more than what has to stream anyway: a budget that is a slice short streams a slice or two, not a ring full.
  const uint64_t missing = needs.weight_bytes + ring_min - std::min(left, needs.weight_bytes + ring_min);
  const uint64_t want = std::min({left / 8, kRingMaxBytes, ring_min + missing});
  plan.ring_bytes = std::max(ring_min, want / std::max<uint64_t>(needs.slot_bytes, 1) * needs.slot_bytes);
  plan.pin_bytes = std::min(left - plan.ring_bytes, needs.weight_bytes);
  return plan;
}

}  // namespace sluice
