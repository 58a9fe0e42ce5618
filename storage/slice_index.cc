#include "storage/slice_index.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {
namespace {

// Rows of a full slice: as many repack groups as kSliceBytes holds, at least one.
uint64_t rows_per_slice(uint64_t row_bytes) {
  const uint64_t groups = kSliceBytes / std::max<uint64_t>(row_bytes, 1) / kSliceRows;
  return std::max<uint64_t>(groups, 1) * kSliceRows;
}

}  // namespace

SliceIndex::SliceIndex(std::span<const SlicedTensor> tensors) {
  tensor_first_.reserve(tensors.size());
  stacked_.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const SlicedTensor& t = tensors[i];
    tensor_first_.push_back(static_cast<uint32_t>(per_tensor_.size()));
    stacked_.push_back(t.is_expert_stack);
    const uint64_t step = rows_per_slice(t.row_bytes);
    for (uint32_t e = 0; e < t.n_experts; ++e) {
      Range range{.first = static_cast<SliceId>(slices_.size()), .count = 0};
      for (uint64_t row = 0; row < t.n_rows; row += step) {
        const uint64_t n_rows = std::min(step, t.n_rows - row);
        slices_.push_back(Slice{.tensor = static_cast<uint32_t>(i),
                                .expert = t.is_expert_stack ? static_cast<int32_t>(e) : -1,
                                .row0 = row,
                                .n_rows = n_rows,
                                .part = t.part,
                                .file_offset = t.file_offset + (e * t.n_rows + row) * t.row_bytes,
                                .n_bytes = n_rows * t.row_bytes});
        ++range.count;
      }
      per_tensor_.push_back(range);
    }
  }
}

SliceIndex::Range SliceIndex::of(uint32_t tensor, int32_t expert) const {
  SLUICE_DCHECK(tensor < tensor_first_.size());
  SLUICE_DCHECK(stacked_[tensor] == (expert >= 0));
  return per_tensor_[tensor_first_[tensor] + static_cast<uint32_t>(std::max(expert, 0))];
}

}  // namespace sluice
