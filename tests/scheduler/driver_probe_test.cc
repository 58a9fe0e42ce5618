// The probe of the kernels' drivers: what it concludes, what it takes, and that it asks the ledger.
#include "scheduler/driver_probe.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

using kernels::DriverWidths;
using kernels::WeightType;

TEST(DriverProbe, RowsGoOnAsLongAsTheyAreNotSlower) {
  EXPECT_EQ(choose_row_tokens({1, 2, 3}, {1, 2, 3}), 4) << "as fast";
  EXPECT_EQ(choose_row_tokens({1, 2, 4}, {2, 2.5, 3}), 3);
  EXPECT_EQ(choose_row_tokens({3, 1, 1}, {2, 2, 2}), 1) << "what comes after a loss is chance";
  EXPECT_EQ(choose_row_tokens({}, {}), 1);
}

TEST(DriverProbe, SetsWhatItReturnsWithinTheBounds) {
  Budget budget;
  auto probe = DriverProbe::create(budget);
  ASSERT_TRUE(probe) << probe.error().what;
  for (int i = 0; i < kernels::kNWeightTypes; ++i) {
    const auto type = static_cast<WeightType>(i);
    const DriverWidths w = probe.value().find(type);
    EXPECT_GE(w.row_tokens, -1);
    EXPECT_LE(w.row_tokens, kernels::kMostRowTokens);
    EXPECT_NE(w.row_tokens, 0) << "one token never needs a panel";
    EXPECT_EQ(kernels::row_tokens(type, -1), w.row_tokens);
    EXPECT_EQ(kernels::tile_tokens(type, -1), w.tile_tokens);
    kernels::set_driver_widths(type, {-1, -1});
  }
}

TEST(DriverProbe, TakesWhatItSaysGivesItBackAndIsRefusedBelowThat) {
  const uint64_t bytes = DriverProbe::memory_bytes();
  EXPECT_LE(bytes, 64u << 20);
  Budget enough(bytes), less(bytes - 1);
  {
    const auto probe = DriverProbe::create(enough);
    ASSERT_TRUE(probe);
    EXPECT_EQ(enough.used(), bytes);
  }
  EXPECT_EQ(enough.used(), 0u);
  const auto refused = DriverProbe::create(less);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "budget_exceeded");
}

TEST(DriverProbe, EachMatrixTypeOfAModelOnce) {
  auto checked = check_model(std::string(SLUICE_SOURCE_DIR) + "/assets/demo.gguf");
  ASSERT_TRUE(checked);
  const auto model = Model::load(std::move(checked).value());
  ASSERT_TRUE(model);
  const auto types = matrix_types(*model.value());
  ASSERT_FALSE(types.empty());
  for (size_t i = 0; i < types.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(types[i], types[j]);
  }
  EXPECT_NE(std::find(types.begin(), types.end(), model.value()->output_head().type), types.end());
}

}  // namespace
}  // namespace sluice
