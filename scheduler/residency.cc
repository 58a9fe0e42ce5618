#include "scheduler/residency.h"

#include <algorithm>

#include "base/log.h"
#include "base/process_memory.h"
#include "scheduler/block_residency.h"
#include "scheduler/probe.h"
#include "storage/pin_order.h"

namespace sluice {

Reservation reserve_base(Budget& budget, uint64_t growth_bytes) {
  if (budget.limit() == Budget::kUnlimited) return {};
  const uint64_t want = process_resident_bytes() + growth_bytes + headroom_for(budget.limit());
  auto reserved = budget.reserve(std::min(want, budget.limit()), MemoryClass::kFixed);
  return reserved ? std::move(reserved).value() : Reservation();
}

ProcessBase::ProcessBase(Budget& budget, uint64_t growth_bytes)
    : process_bytes_(process_resident_bytes() + growth_bytes) {
  auto reserved = budget.reserve(0, MemoryClass::kFixed);
  if (budget.limit() == Budget::kUnlimited || !reserved) return;
  reservation_ = std::move(reserved).value();
  fit(budget.limit());
}

void ProcessBase::fit(uint64_t limit_bytes) {
  const uint64_t want = std::min(process_bytes_ + headroom_for(limit_bytes), limit_bytes);
  if (auto fitted = reservation_.resize(want); !fitted) {
    spdlog::error("the process's own memory does not fit: {}", fitted.error().what);
  }
}

Residency::Residency(std::shared_ptr<const Model> model, Budget& budget)
    : model_(std::move(model)), budget_(&budget), schedule_(make_schedule(*model_)) {}

Residency::~Residency() { budget_->remove_reclaimer(this); }

Result<std::unique_ptr<Residency>> Residency::create(std::shared_ptr<const Model> model,
                                                     const IoOptions& io,
                                                     PlanNeeds needs,
                                                     Budget& budget) {
  std::unique_ptr<Residency> r(new Residency(std::move(model), budget));
  const SliceIndex& index = r->model_->slices();
  auto order = make_pin_order(r->schedule_.slices);
  needs.activation_bytes += SliceStore::row_read_bytes_of(index);
  needs.slot_bytes = SliceStore::slot_bytes_of(index);
  needs.weight_bytes = SliceStore::pin_offsets_of(index, order, r->schedule_.experts).back();
  // What others hold for good counts as fixed; pins do not, they make room. The headroom is in the plan already.
  const uint64_t allowed = budget.effective();
  const uint64_t headroom = std::min(budget.used(MemoryClass::kFixed), headroom_for(budget.limit()));
  needs.fixed_bytes += budget.used() - budget.used(MemoryClass::kWeightsPinned) - budget.used(MemoryClass::kWeightsMapped) - headroom;
  SLUICE_TRY(r->plan_, make_plan(allowed, needs));
  std::vector<const File*> files;
  for (const File& f : r->model_->files()) files.push_back(&f);
  SliceStoreOptions options;
  options.io = io;
  if (io.n_threads == 0 && io.shapes != nullptr) {
    SLUICE_TRY(const FileIdentity first, files.front()->identity());
    if (!io.shapes->find(first.dev)) {
      // A file that cannot be read says so at its first pass.
      if (auto shape = probe_read_shape(files, index, r->schedule_, io, budget))
        io.shapes->keep(first.dev, shape.value());
    }
  }
  options.ring_bytes = r->plan_.ring_bytes;
  options.block_of = blocks_of_slices(*r->model_);
  options.experts = r->schedule_.experts;
  SLUICE_TRY(r->store_, SliceStore::create(files, index, r->schedule_.slices, std::move(order), options, budget));
  r->source_ = std::make_unique<StreamedSource>(*r->model_, r->schedule_, *r->store_);
  budget.add_reclaimer(r.get());
  return r;
}

Result<void> Residency::fill(uint64_t leave_bytes, uint64_t most_bytes) {
  const uint64_t free = budget_->available();
  const uint64_t held = store_->pin_bytes(store_->stats().cut);
  const uint64_t room = free > leave_bytes ? free - leave_bytes : 0;
  return store_->set_cut(std::max(store_->stats().cut, store_->cut_for(std::min(held + room, most_bytes))));
}

void Residency::reclaim(uint64_t bytes) {
  const uint64_t held = store_->pin_bytes(store_->stats().cut);
  const uint64_t keep = held > bytes ? held - bytes : 0;
  if (auto moved = store_->set_cut(store_->cut_for(keep)); !moved) {
    spdlog::error("giving back pinned weights failed: {}", moved.error().what);
  }
}

}  // namespace sluice
