#include "daemon/residency_log.h"

#include <gtest/gtest.h>

#include "storage/read_times.h"

namespace sluice {
namespace {

std::vector<BlockResidency> map_of(size_t n) {
  std::vector<BlockResidency> out(n);
  for (size_t i = 0; i < n; ++i) out[i].id = static_cast<uint32_t>(i);
  return out;
}

TEST(ResidencyLog, TellsOnlyWhatChangedSince) {
  ResidencyLog log(1000);
  auto map = map_of(4);
  const auto first = log.look("m", map, std::nullopt);
  EXPECT_TRUE(first.full);
  EXPECT_EQ(first.rows.size(), 4u);
  const auto same = log.look("m", map, first.seq);
  EXPECT_FALSE(same.full);
  EXPECT_TRUE(same.rows.empty());
  EXPECT_EQ(same.seq, first.seq);
  map[1].stats.hit_bytes = 7;
  map[3].stats.read_bytes = 7;
  const auto second = log.look("m", map, first.seq);
  EXPECT_FALSE(second.full);
  EXPECT_EQ(second.rows, (std::vector<size_t>{1, 3}));
  EXPECT_GT(second.seq, first.seq);
  map[3].stats.resident_bytes = 7;
  // A reader that missed the look before gets both, one that did not gets the last.
  EXPECT_EQ(log.look("m", map, second.seq).rows, (std::vector<size_t>{3}));
  EXPECT_EQ(log.look("m", map, first.seq).rows, (std::vector<size_t>{1, 3}));
  EXPECT_TRUE(log.look("m", map, std::nullopt).full);
}

TEST(ResidencyLog, AgeAloneIsNoNews) {
  ResidencyLog log(1000);
  auto map = map_of(2);
  const auto first = log.look("m", map, std::nullopt);
  map[0].stats.last_use = std::chrono::steady_clock::now();
  EXPECT_TRUE(log.look("m", map, first.seq).rows.empty());
}

TEST(ResidencyLog, AnotherMapOrANumberOfAnotherDaemonMeansAll) {
  ResidencyLog log(1000);
  const auto first = log.look("m", map_of(2), std::nullopt);
  EXPECT_TRUE(log.look("m", map_of(2), 999).full) << "of an earlier daemon";
  EXPECT_TRUE(log.look("m", map_of(2), first.seq + 1000).full) << "of a later one";
  const auto gone = log.look("m", {}, first.seq);  // unloaded
  EXPECT_TRUE(gone.full);
  EXPECT_GT(gone.seq, first.seq);
  const auto back = log.look("m", map_of(2), gone.seq);
  EXPECT_TRUE(back.full);
  EXPECT_EQ(back.rows.size(), 2u);
  // One model's news are not another's.
  const auto other = log.look("n", map_of(3), back.seq);
  EXPECT_TRUE(other.full);
  EXPECT_TRUE(log.look("m", map_of(2), other.seq).rows.empty());
}

TEST(ResidencyLog, RemembersAtMostItsNumberOfModels) {
  ResidencyLog log(1000);
  const auto first = log.look("m", map_of(1), std::nullopt);
  for (size_t i = 0; i + 1 < ResidencyLog::kMostModels; ++i)
    log.look("x" + std::to_string(i), map_of(1), std::nullopt);
  EXPECT_FALSE(log.look("m", map_of(1), first.seq).full) << "still known";
  log.look("one more", map_of(1), std::nullopt);
  EXPECT_TRUE(log.look("m", map_of(1), first.seq).full) << "forgotten: the whole map again";
}

TEST(ReadTimes, MedianIsWithinATenthAndNothingIsOutOfRange) {
  ReadTimes times;
  EXPECT_EQ(times.median_ms(), 0);
  for (int i = 0; i < 10; ++i) times.add(1.0);
  for (int i = 0; i < 11; ++i) times.add(40.0);
  EXPECT_NEAR(times.median_ms(), 40, 4);
  ReadTimes odd;
  for (const double ms : {0.0, -1.0, 1e12}) odd.add(ms);
  EXPECT_GT(odd.median_ms(), 0);
}

}  // namespace
}  // namespace sluice
