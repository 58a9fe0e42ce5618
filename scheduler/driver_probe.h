// Which driver of a weight type's definition is fastest for how many tokens, on this machine.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "kernels/driver_widths.h"
#include "scheduler/model_loader.h"
#include "storage/anonymous_memory.h"
#include "storage/budget.h"

namespace sluice {

// Holds memory for the trials while it lives, charged to the ledger.
class DriverProbe {
 public:
  // What create() charges: weights enough that they come from memory and not from a cache.
  static uint64_t memory_bytes();
  // Errors: budget_exceeded, out_of_memory.
  static Result<DriverProbe> create(Budget& budget);

  // Times the drivers by turns over made-up weights, on the calling thread, sets what was found and
  // returns it: some 5 ms. Where it would take longer than 100 ms the defaults stay (-1).
  kernels::DriverWidths find(kernels::WeightType type);

 private:
  DriverProbe() = default;

  Reservation reserved_;
  AnonymousMemory memory_;
};

// Of `by_row` and `shared`, seconds that 2, 3, ... tokens took by either driver: up to how many
// tokens rows pay.
int choose_row_tokens(const std::vector<double>& by_row, const std::vector<double>& shared);

// The types of the matrices that a model's passes multiply with, each once.
std::vector<kernels::WeightType> matrix_types(const Model& model);

}  // namespace sluice
