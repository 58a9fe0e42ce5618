// The searches for a depth and a request size, against disks that are formulas.
#include "storage/read_control.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <set>

namespace sluice {
namespace {

constexpr int kLeast = ReadShape::kLeastDepth, kMost = ReadShape::kMostDepth;

using Disk = std::function<double(int depth)>;  // bytes per second

StepControl control_from(int first) { return StepControl(kLeast, kMost, first); }

// Streams for so many busy seconds, in samples of 10 ms; returns the values that were in force.
std::set<int> stream(StepControl& control, const Disk& disk, double seconds) {
  constexpr double kSample_s = 0.01;
  std::set<int> seen;
  for (double t = 0; t < seconds; t += kSample_s) {
    seen.insert(control.value());
    control.add(static_cast<uint64_t>(disk(control.value()) * kSample_s), kSample_s);
  }
  return seen;
}

double peak_at(int best, int depth) { return 1e9 / (1 + 0.2 * std::abs(best - depth)); }

TEST(StepControl, FindsTheBestDepthFromAnyOther) {
  for (int best = kLeast; best <= kMost; ++best) {
    for (int first = kLeast; first <= kMost; ++first) {
      StepControl control = control_from(first);
      stream(
          control, [&](int d) { return peak_at(best, d); }, 40);
      EXPECT_EQ(control.home(), best) << "from " << first;
    }
  }
}

TEST(StepControl, StaysWithinItsBounds) {
  for (const int first : {-5, 0, 1, 8, 9, 1000}) {
    StepControl control = control_from(first);
    for (const double slope : {-0.2, 0.2}) {
      const auto seen = stream(
          control, [&](int d) { return 1e9 * std::exp(slope * d); }, 60);
      EXPECT_GE(*seen.begin(), kLeast);
      EXPECT_LE(*seen.rbegin(), kMost);
    }
    EXPECT_EQ(control.home(), kMost);
  }
}

// Less than 5 % is no reason to move.
TEST(StepControl, StaysWhereANeighbourIsHardlyFaster) {
  StepControl control = control_from(4);
  stream(
      control, [](int d) { return 1e9 * (1 + 0.03 * d); }, 600);
  EXPECT_EQ(control.home(), 4);
}

// A window's bytes vary by a tenth, at any depth: there is nothing to gain.
TEST(StepControl, NoiseMovesItSeldom) {
  int moved = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<double> noise(1.0, 0.1);
    StepControl control = control_from(4);
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

TEST(StepControl, FollowsADiskThatChanges) {
  StepControl control = control_from(4);
  stream(
      control, [](int d) { return peak_at(1, d); }, 60);
  ASSERT_EQ(control.home(), 1);
  stream(
      control, [](int d) { return peak_at(6, d); }, 200);
  EXPECT_EQ(control.home(), 6);
}

// A disk that gets faster while a neighbour is tried lends that neighbour no victory.
TEST(StepControl, ADriftIsNoGain) {
  StepControl control = control_from(4);
  double t = 0;
  stream(
      control, [&](int) { return 1e8 * (1 + 0.02 * (t += 0.01)); }, 120);
  EXPECT_EQ(control.home(), 4);
}

// Trials cost: once nothing is to be gained they become rare.
TEST(StepControl, MostTimeIsSpentAtHome) {
  StepControl control = control_from(4);
  int elsewhere = 0;
  constexpr int kSamples = 60000;
  for (int i = 0; i < kSamples; ++i) {
    elsewhere += control.value() == control.home() ? 0 : 1;
    control.add(static_cast<uint64_t>(peak_at(4, control.value()) * 0.01), 0.01);
  }
  EXPECT_GT(elsewhere, 0);
  EXPECT_LT(elsewhere, kSamples / 20);
}

// A disk that likes one size and one depth: both are found, whatever the beginning.
TEST(ReadControl, FindsDepthAndSizeTogether) {
  for (const uint64_t best : {ReadShape::kLeastRequest, uint64_t{1} << 20, ReadShape::kMostRequest}) {
    for (const int depth : {1, 3, 8}) {
      for (const ReadShape first : {ReadShape{}, ReadShape{1, ReadShape::kLeastRequest}}) {
        ReadControl control(first);
        for (double t = 0; t < 120; t += 0.01) {
          const ReadShape now = control.shape();
          const double off = std::abs(std::log2(static_cast<double>(best)) -
                                      std::log2(static_cast<double>(now.request_bytes)));
          const double rate = peak_at(depth, now.depth) / (1 + 0.3 * off);
          control.add(static_cast<uint64_t>(rate * 0.01), 0.01);
        }
        EXPECT_EQ(control.home(), (ReadShape{depth, best}));
      }
    }
  }
}

TEST(ReadControl, TriesOneThingAtATimeAndStaysWithinItsBounds) {
  for (const ReadShape first : {ReadShape{}, ReadShape{100, 1}, ReadShape{-1, UINT64_MAX}}) {
    ReadControl control(first);
    int tried_depth = 0, tried_size = 0;
    for (double t = 0; t < 200; t += 0.01) {
      const ReadShape now = control.add(10000000, 0.01);
      EXPECT_GE(now.depth, kLeast);
      EXPECT_LE(now.depth, kMost);
      EXPECT_GE(now.request_bytes, ReadShape::kLeastRequest);
      EXPECT_LE(now.request_bytes, ReadShape::kMostRequest);
      const bool depth = now.depth != control.home().depth;
      const bool size = now.request_bytes != control.home().request_bytes;
      EXPECT_FALSE(depth && size);
      tried_depth += depth ? 1 : 0;
      tried_size += size ? 1 : 0;
    }
    EXPECT_GT(tried_depth, 0);
    EXPECT_GT(tried_size, 0);
  }
}

TEST(ReadBook, RemembersAsManyDevicesAsItSays) {
  const auto shape = [](int depth) { return ReadShape{depth, ReadShape::kMostRequest}; };
  ReadBook book;
  EXPECT_FALSE(book.find(3));
  for (uint64_t device = 0; device < ReadBook::kMostDevices + 5; ++device)
    book.keep(device, shape(2));
  EXPECT_EQ(book.find(0), shape(2));
  EXPECT_FALSE(book.find(ReadBook::kMostDevices));
  book.keep(0, shape(6));
  EXPECT_EQ(book.find(0), shape(6));
  EXPECT_EQ(book.all().size(), ReadBook::kMostDevices);
  book.keep(1, {1000, 1});
  EXPECT_EQ(book.find(1), (ReadShape{ReadShape::kMostDepth, ReadShape::kLeastRequest}));
}

}  // namespace
}  // namespace sluice
