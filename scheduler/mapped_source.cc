#include "scheduler/mapped_source.h"

namespace sluice {

using kernels::MatrixRef;
using kernels::RowSlice;

namespace {
constexpr int kBatch = 256;     // slices handed over at once: one barrier for up to 512 MiB
}  // namespace

// Looks at the cancel token before each hand-over, so that work stops within one stage of one block.
bool MappedSource::visit(const MatrixRef* refs, int n_refs, VisitFn fn, void* ctx) noexcept {
  if (cancel_->cancelled()) return false;
  RowSlice batch[kBatch];
  int n = 0;
  for (int m = 0; m < n_refs; ++m) {
    const auto range = model_.slices().of(static_cast<uint32_t>(refs[m].tensor), refs[m].expert);
    for (uint32_t i = 0; i < range.count; ++i) {
      const SliceId id = range.first + i;
      const Slice& s = model_.slices()[id];
      batch[n++] = {model_.slice_data(id), static_cast<int64_t>(s.row0), static_cast<int64_t>(s.n_rows), m};
      if (n < kBatch) continue;
      fn(ctx, batch, n);
      n = 0;
      if (cancel_->cancelled()) return false;
    }
  }
  if (n > 0) fn(ctx, batch, n);
  return true;
}

bool MappedSource::prepare_rows(const MatrixRef&, const int32_t*, int64_t) noexcept { return !cancel_->cancelled(); }

const void* MappedSource::row(const MatrixRef& ref, int64_t row) noexcept {
  return model_.row_data(static_cast<uint32_t>(ref.tensor), static_cast<uint64_t>(row));
}

Error MappedSource::failure() const {
  if (cancel_->cancelled()) return Error{"cancelled", "the request was cancelled"};
  return Error{"io.read", "reading weights failed"};
}

}  // namespace sluice
