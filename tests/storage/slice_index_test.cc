#include "storage/slice_index.h"

#include <gtest/gtest.h>

#include <random>

namespace sluice {
namespace {

TEST(SliceIndex, CoversEveryRowOnceInOrderAndAligned) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 rng(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<SlicedTensor> tensors(rng() % 8 + 1);
    for (SlicedTensor& t : tensors) {
      t.is_expert_stack = rng() % 3 == 0;
      t.n_experts = t.is_expert_stack ? static_cast<uint32_t>(rng() % 6 + 1) : 1;
      t.n_rows = rng() % 4 == 0 ? rng() % 40 : rng() % 5000;
      t.row_bytes = rng() % 5 == 0 ? rng() % 400000 + 1 : rng() % 5000 + 1;
      t.part = static_cast<uint32_t>(rng() % 3);
      t.file_offset = rng() % (1u << 30);
    }
    const SliceIndex index(tensors);
    uint64_t seen = 0;
    for (uint32_t i = 0; i < tensors.size(); ++i) {
      const SlicedTensor& t = tensors[i];
      for (uint32_t e = 0; e < t.n_experts; ++e) {
        const auto range = index.of(i, t.is_expert_stack ? static_cast<int32_t>(e) : -1);
        uint64_t row = 0;
        for (SliceId id = range.first; id < range.first + range.count; ++id, ++seen) {
          const Slice& s = index[id];
          ASSERT_EQ(s.tensor, i);
          ASSERT_EQ(s.expert, t.is_expert_stack ? static_cast<int32_t>(e) : -1);
          ASSERT_EQ(s.part, t.part);
          ASSERT_EQ(s.row0, row);
          ASSERT_EQ(s.row0 % kSliceRows, 0u);
          ASSERT_GT(s.n_rows, 0u);
          ASSERT_EQ(s.n_bytes, s.n_rows * t.row_bytes);
          ASSERT_EQ(s.file_offset, t.file_offset + (e * t.n_rows + row) * t.row_bytes);
          ASSERT_TRUE(s.n_bytes <= kSliceBytes || s.n_rows <= kSliceRows);
          row += s.n_rows;
          // No slice is smaller than it must be: the next group would not have fitted.
          if (row < t.n_rows && s.n_bytes <= kSliceBytes) {
            ASSERT_GT(s.n_bytes + kSliceRows * t.row_bytes, kSliceBytes);
          }
        }
        ASSERT_EQ(row, t.n_rows);
      }
    }
    ASSERT_EQ(seen, index.slices().size());
  }
}

TEST(SliceIndex, UnslicedTensorsHaveNoSlices) {
  std::vector<SlicedTensor> tensors(3);
  tensors[1] = {.n_rows = 100, .row_bytes = 64};
  const SliceIndex index(tensors);
  EXPECT_EQ(index.slices().size(), 1u);
  EXPECT_EQ(index.of(0).count, 0u);
  EXPECT_EQ(index.of(1).count, 1u);
  EXPECT_EQ(index.of(2).count, 0u);
  EXPECT_TRUE(SliceIndex({}).slices().empty());
}

}  // namespace
}  // namespace sluice
