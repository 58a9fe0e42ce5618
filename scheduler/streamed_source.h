// Weights through a SliceStore: what is pinned is computed while the rest lands. Owns nothing but its bookkeeping.
#pragma once

#include <optional>
#include <vector>

#include "scheduler/model_loader.h"
#include "scheduler/schedule.h"
#include "scheduler/weight_source.h"
#include "storage/slice_store.h"

namespace sluice {

class StreamedSource final : public WeightSource {
 public:
  // All three outlive the source.
  StreamedSource(const Model& model, const Schedule& schedule, SliceStore& store)
      : model_(model), schedule_(schedule), store_(store) {}

  void begin_walk(const CancelToken& cancel, bool wants_outputs) override;
  Error failure() const override;
  bool visit(const kernels::MatrixRef* refs, int n_refs, VisitFn fn, void* ctx) noexcept override;
  // Told to the store by the next visit: all are known before any takes another's place.
  void announce(const kernels::MatrixRef* refs, int n_refs) noexcept override;
  bool prepare_rows(const kernels::MatrixRef& ref, const int32_t* rows, int64_t n) noexcept override;
  const void* row(const kernels::MatrixRef& ref, int64_t row) noexcept override;

 private:
  const Model& model_;
  const Schedule& schedule_;
  SliceStore& store_;
  const CancelToken* cancel_ = nullptr;
  std::optional<Error> error_;
  std::vector<SliceId> announced_;  // since the last visit
  std::vector<SliceId> wanted_;
  std::vector<int32_t> matrix_of_;      // wanted_[i] belongs to refs[matrix_of_[i]]
  std::vector<bool> done_;
  std::vector<SliceStore::Held> held_;
  std::vector<kernels::RowSlice> ready_;
  std::vector<std::byte> rows_;         // of the embedding, in the order asked for
  uint64_t row_bytes_ = 0;
  size_t next_row_ = 0;
};

}  // namespace sluice
