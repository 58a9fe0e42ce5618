// A model's weights under a budget: plans what stays, opens the slice store, and gives pins back when something else
// needs the room. The maths reads through source().
#pragma once

#include <memory>

#include "base/result.h"
#include "scheduler/model_loader.h"
#include "scheduler/plan.h"
#include "scheduler/schedule.h"
#include "scheduler/streamed_source.h"
#include "storage/budget.h"
#include "storage/slice_store.h"

namespace sluice {

// Takes what the process itself holds now, what it is known to grow by, and the ledger's headroom. Nothing without a limit;
// at most the limit, so that a budget below even this refuses every load.
Reservation reserve_base(Budget& budget, uint64_t growth_bytes);

// The same for a limit that moves: the headroom goes with it.
class ProcessBase {
 public:
  ProcessBase(Budget& budget, uint64_t growth_bytes);
  // What the process itself holds, without headroom.
  uint64_t process_bytes() const { return process_bytes_; }
  // To what belongs to a limit of `limit_bytes`: before it is lowered, after it was raised. One caller at a time.
  void fit(uint64_t limit_bytes);

 private:
  const uint64_t process_bytes_;
  Reservation reservation_;
};

class Residency final : public Reclaimer {
 public:
  // Takes the ring at once and no pins yet. `needs`: what else must fit beside it (fixed and weight sizes are filled in
  // here). Errors: budget_below_floor with the arithmetic, io.open, out_of_memory.
  static Result<std::unique_ptr<Residency>> create(std::shared_ptr<const Model> model,
                                                   const IoOptions& io,
                                                   PlanNeeds needs,
                                                   Budget& budget);
  ~Residency() override;

  WeightSource& source() { return *source_; }

  // Moves the cut to what the budget has free now, less `leave_bytes`, for pins of `most_bytes` at most. Pins fill as
  // passes read them.
  Result<void> fill(uint64_t leave_bytes, uint64_t most_bytes = UINT64_MAX);
  // No pass runs: what may stay is read now, in the background.
  void fill_ahead() { store_->fill_ahead(); }
  // Gives pins back, from the end of the pin order. Thread-safe.
  void reclaim(uint64_t bytes) override;
  uint64_t most_unpinned() const override { return 0; }

  const Plan& plan() const { return plan_; }
  const SliceStore& store() const { return *store_; }

 private:
  Residency(std::shared_ptr<const Model> model, Budget& budget);
  std::shared_ptr<const Model> model_;
  Budget* budget_;
  Schedule schedule_;
  Plan plan_;
  std::unique_ptr<SliceStore> store_;
  std::unique_ptr<StreamedSource> source_;
};

}  // namespace sluice
