#include "scheduler/pin_shares.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace sluice {
namespace {

constexpr uint64_t kMiB = 1u << 20;

std::vector<uint64_t> share(uint64_t room, std::vector<PinClaim> claims) {
  return share_pins(room, claims);
}

TEST(PinShares, WhatIsUsedMostGains) {
  // Equal models: in proportion to use.
  EXPECT_EQ(share(400 * kMiB, {{3, 1000 * kMiB}, {1, 1000 * kMiB}}),
            (std::vector<uint64_t>{300 * kMiB, 100 * kMiB}));
  // Equal use: the one whose passes save more.
  EXPECT_EQ(share(400 * kMiB, {{2, 3000 * kMiB}, {2, 1000 * kMiB}}),
            (std::vector<uint64_t>{300 * kMiB, 100 * kMiB}));
  // One model has it all, as far as it can use it.
  EXPECT_EQ(share(400 * kMiB, {{2, 300 * kMiB}}), (std::vector<uint64_t>{300 * kMiB}));
  EXPECT_EQ(share(400 * kMiB, {{0, 3000 * kMiB}}), (std::vector<uint64_t>{400 * kMiB}));
}

TEST(PinShares, WhatOneCannotUseIsTheOthers) {
  EXPECT_EQ(share(400 * kMiB, {{100, 100 * kMiB}, {1, 1000 * kMiB}}),
            (std::vector<uint64_t>{100 * kMiB, 300 * kMiB}));
  EXPECT_EQ(share(5000 * kMiB, {{1, 100 * kMiB}, {0, 1000 * kMiB}}),
            (std::vector<uint64_t>{100 * kMiB, 1000 * kMiB}))
      << "all fits: all is pinned, used or not";
  const auto unused = share(400 * kMiB, {{1, 300 * kMiB}, {0, 1000 * kMiB}});
  EXPECT_EQ(unused, (std::vector<uint64_t>{300 * kMiB, 100 * kMiB}));
}

TEST(PinShares, NeverMoreThanThereIsNorThanOneCanUse) {
  const unsigned seed = std::random_device{}();
  std::mt19937_64 rng(seed);
  for (int i = 0; i < 5000; ++i) {
    std::vector<PinClaim> claims(rng() % 6);
    uint64_t wanted = 0;
    for (PinClaim& c : claims) {
      c.passes_per_s = rng() % 3 == 0 ? 0 : static_cast<double>(rng() % 1000) / 7;
      c.most_bytes = rng() % 4 == 0 ? 0 : rng() % (uint64_t{1} << (rng() % 50 + 1));
      wanted += c.most_bytes;
    }
    const uint64_t room = rng() % (uint64_t{1} << (rng() % 50 + 1));
    const auto shares = share_pins(room, claims);
    ASSERT_EQ(shares.size(), claims.size());
    uint64_t sum = 0;
    for (size_t k = 0; k < shares.size(); ++k) {
      ASSERT_LE(shares[k], claims[k].most_bytes) << "seed " << seed;
      sum += shares[k];
    }
    ASSERT_LE(sum, room) << "seed " << seed;
    // Nothing lies idle that somebody could use, but for rounding.
    const uint64_t most = std::min(room, wanted);
    ASSERT_GE(sum + most / 1000000 + 8, most) << "seed " << seed;
  }
}

TEST(PinShares, AQuarterIsNotWorthMoving) {
  EXPECT_FALSE(above_share(125 * kMiB, 100 * kMiB));
  EXPECT_TRUE(above_share(126 * kMiB, 100 * kMiB));
  EXPECT_FALSE(above_share(100 * kMiB, 126 * kMiB));
  EXPECT_FALSE(above_share(2 * kMiB, 0)) << "a huge page is the least that is given back";
  EXPECT_TRUE(above_share(3 * kMiB, 0));
}

TEST(PassRate, ConvergesToTheRateAndForgets) {
  PassRate rate;
  EXPECT_EQ(rate.at(5), 0);
  double t = 100;
  for (int i = 0; i < 3000; ++i) rate.add(t += 0.1);
  EXPECT_NEAR(rate.at(t), 10, 0.2);
  EXPECT_NEAR(rate.at(t + PassRate::kForget_s), 10 / 2.718, 0.1);
  EXPECT_LT(rate.at(t + 20 * PassRate::kForget_s), 1e-6);
}

}  // namespace
}  // namespace sluice
