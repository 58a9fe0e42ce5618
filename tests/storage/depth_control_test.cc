// The search for a depth, against disks that are formulas.
#include "storage/depth_control.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <set>

namespace sluice {
namespace {

using Disk = std::function<double(int depth)>;  // bytes per second

// Streams for so many busy seconds, in samples of 10 ms; returns the depths that were in force.
std::set<int> stream(DepthControl& control, const Disk& disk, double seconds) {
  constexpr double kSample_s = 0.01;
  std::set<int> seen;
  for (double t = 0; t < seconds; t += kSample_s) {
    seen.insert(control.depth());
    control.add(static_cast<uint64_t>(disk(control.depth()) * kSample_s), kSample_s);
  }
  return seen;
}

double peak_at(int best, int depth) { return 1e9 / (1 + 0.2 * std::abs(best - depth)); }

TEST(DepthControl, FindsTheBestDepthFromAnyOther) {
  for (int best = DepthControl::kLeast; best <= DepthControl::kMost; ++best) {
    for (int first = DepthControl::kLeast; first <= DepthControl::kMost; ++first) {
      DepthControl control(first);
      stream(
          control, [&](int d) { return peak_at(best, d); }, 40);
      EXPECT_EQ(control.home(), best) << "from " << first;
    }
  }
}

TEST(DepthControl, StaysWithinItsBounds) {
  for (const int first : {-5, 0, 1, 8, 9, 1000}) {
    DepthControl control(first);
    for (const double slope : {-0.2, 0.2}) {
      const auto seen = stream(
          control, [&](int d) { return 1e9 * std::exp(slope * d); }, 60);
      EXPECT_GE(*seen.begin(), DepthControl::kLeast);
      EXPECT_LE(*seen.rbegin(), DepthControl::kMost);
    }
    EXPECT_EQ(control.home(), DepthControl::kMost);
  }
}

// Less than 5 % is no reason to move.
TEST(DepthControl, StaysWhereANeighbourIsHardlyFaster) {
  DepthControl control(4);
  stream(
      control, [](int d) { return 1e9 * (1 + 0.03 * d); }, 600);
  EXPECT_EQ(control.home(), 4);
}

// A window's bytes vary by a tenth, at any depth: there is nothing to gain.
TEST(DepthControl, NoiseMovesItSeldom) {
  int moved = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<double> noise(1.0, 0.1);
    DepthControl control(4);
    double now = 1;
    int samples = 0;
    stream(
        control,
        [&](int) {
          if (samples++ % 20 == 0) now = std::max(0.1, noise(rng));
          return 1e9 * now;
        },
        300);
    moved += control.home() == 4 ? 0 : 1;
  }
  EXPECT_LE(moved, 3);
}

TEST(DepthControl, FollowsADiskThatChanges) {
  DepthControl control(4);
  stream(
      control, [](int d) { return peak_at(1, d); }, 60);
  ASSERT_EQ(control.home(), 1);
  stream(
      control, [](int d) { return peak_at(6, d); }, 200);
  EXPECT_EQ(control.home(), 6);
}

// A disk that gets faster while a neighbour is tried lends that neighbour no victory.
TEST(DepthControl, ADriftIsNoGain) {
  DepthControl control(4);
  double t = 0;
  stream(
      control, [&](int) { return 1e8 * (1 + 0.02 * (t += 0.01)); }, 120);
  EXPECT_EQ(control.home(), 4);
}

// Trials cost: once nothing is to be gained they become rare.
TEST(DepthControl, MostTimeIsSpentAtHome) {
  DepthControl control(4);
  int elsewhere = 0;
  constexpr int kSamples = 60000;
  for (int i = 0; i < kSamples; ++i) {
    elsewhere += control.depth() == control.home() ? 0 : 1;
    control.add(static_cast<uint64_t>(peak_at(4, control.depth()) * 0.01), 0.01);
  }
  EXPECT_GT(elsewhere, 0);
  EXPECT_LT(elsewhere, kSamples / 20);
}

TEST(DepthBook, RemembersAsManyDevicesAsItSays) {
  DepthBook book;
  EXPECT_FALSE(book.find(3));
  for (uint64_t device = 0; device < DepthBook::kMostDevices + 5; ++device) book.keep(device, 2);
  EXPECT_EQ(book.find(0), 2);
  EXPECT_FALSE(book.find(DepthBook::kMostDevices));
  book.keep(0, 6);
  EXPECT_EQ(book.find(0), 6);
}

}  // namespace
}  // namespace sluice
