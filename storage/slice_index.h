// Tensors cut once, at load, into slices: row ranges of at most kSliceBytes, aligned to kSliceRows rows, never
// crossing an expert. The grid does not depend on the budget. A slice is the unit of I/O, residency and ledger.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace sluice {

inline constexpr uint64_t kSliceBytes = 2u << 20;
inline constexpr uint32_t kSliceRows = 16;      // the repack group: slices start at multiples of it

using SliceId = uint32_t;

struct Slice {
  uint32_t tensor = 0;         // index in GgufFile::tensors()
  int32_t expert = -1;
  uint64_t row0 = 0;           // within the tensor (or the expert)
  uint64_t n_rows = 0;
  uint32_t part = 0;
  uint64_t file_offset = 0;    // absolute, in its part
  uint64_t n_bytes = 0;
};

// A tensor as the index sees it: 2-D (rows x row bytes), with n_experts stacked parts (1: none).
struct SlicedTensor {
  uint64_t n_rows = 0;         // per expert
  uint64_t row_bytes = 0;
  uint32_t n_experts = 1;
  bool is_expert_stack = false;
  uint32_t part = 0;
  uint64_t file_offset = 0;
};

class SliceIndex {
 public:
  explicit SliceIndex(std::span<const SlicedTensor> tensors);

  std::span<const Slice> slices() const { return slices_; }
  const Slice& operator[](SliceId id) const { return slices_[id]; }
  // Slices of a tensor (expert -1 for plain tensors), in row order: [first, first + count).
  struct Range { SliceId first = 0; uint32_t count = 0; };
  Range of(uint32_t tensor, int32_t expert = -1) const;

 private:
  std::vector<Slice> slices_;
  std::vector<Range> per_tensor_;      // per tensor and expert, flattened
  std::vector<uint32_t> tensor_first_; // first entry of a tensor in per_tensor_
  std::vector<bool> stacked_;
};

}  // namespace sluice
