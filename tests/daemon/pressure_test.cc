#include "daemon/pressure.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace sluice {
namespace {

class Ladder : public testing::Test {
 protected:
  PressureState at(int64_t s, double some, double full = 0) {
    PressureSample sample;
    sample.now_ms = s * 1000;
    sample.some = some;
    sample.full = full;
    sample.own_some = sample.own_full = own;
    sample.available_bytes = available;
    sample.floor_share = floor_share;
    return ladder.step(sample);
  }
  PressureLimits limits;
  PressureLadder ladder{limits};
  std::optional<double> own = 0;
  uint64_t available = 8ull << 30;
  double floor_share = 0.2;
};

TEST_F(Ladder, SomeTakesAQuarterAndFullTakesAll) {
  EXPECT_EQ(at(0, 9.9).share, 1);
  const auto some = at(1, 10);
  EXPECT_EQ(some.level, PressureLevel::kSome);
  EXPECT_EQ(some.share, 0.75);
  EXPECT_TRUE(some.moved);
  EXPECT_FALSE(at(2, 10).moved);
  const auto full = at(3, 10, 5);
  EXPECT_EQ(full.level, PressureLevel::kFull);
  EXPECT_EQ(full.share, 0);
  EXPECT_EQ(at(4, 12, 1).share, 0) << "less pressure is not calm";
}

TEST_F(Ladder, RecoversATenthEveryTenSecondsAfterHalfAMinuteOfCalm) {
  at(0, 50, 50);
  EXPECT_EQ(at(1, 0).level, PressureLevel::kNone);
  EXPECT_EQ(at(30, 0).share, 0);
  EXPECT_NEAR(at(31, 0).share, 0.3, 1e-9) << "a tenth above the floor that is in effect";
  EXPECT_NEAR(at(40, 0).share, 0.3, 1e-9);
  EXPECT_NEAR(at(41, 0).share, 0.4, 1e-9);
  at(45, 11);  // again
  EXPECT_NEAR(at(46, 0).share, 0.4, 1e-9);
  EXPECT_NEAR(at(75, 0).share, 0.4, 1e-9);
  double last = at(76, 0).share;
  EXPECT_NEAR(last, 0.5, 1e-9);
  for (int64_t s = 86; s <= 136; s += 10) last = at(s, 0).share;
  EXPECT_EQ(last, 1);
  EXPECT_FALSE(at(200, 0).moved);
}

TEST_F(Ladder, OurOwnStallsAreTakenOff) {
  own = 30;
  EXPECT_EQ(at(0, 35).share, 1);
  EXPECT_EQ(at(1, 41).share, 0.75);
}

TEST_F(Ladder, WithoutOurOwnNumbersANeighbourCountsOnlyWhileMemoryIsShort) {
  own.reset();
  EXPECT_EQ(at(0, 90, 90).share, 1);
  available = 100u << 20;
  EXPECT_EQ(at(1, 90, 90).level, PressureLevel::kFull);
}

TEST_F(Ladder, TooLittleAvailableTrimsNowAndThen) {
  EXPECT_FALSE(at(0, 0).trim);
  available = 100u << 20;
  EXPECT_TRUE(at(1, 0).trim);
  EXPECT_FALSE(at(2, 0).trim);
  EXPECT_TRUE(at(11, 0).trim);
  EXPECT_EQ(at(12, 0).share, 1) << "no stall, no shrink";
}

TEST_F(Ladder, CanBeToldNotToReact) {
  limits.react = false;
  PressureLadder off(limits);
  PressureSample s;
  s.some = s.full = 99;
  s.available_bytes = 1;
  const auto state = off.step(s);
  EXPECT_EQ(state.share, 1);
  EXPECT_FALSE(state.trim);
}

class PressureFiles : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "pressureXXXXXX";
    root_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void file(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(PressureFiles, AreReadAndMayBeMissing) {
  EXPECT_FALSE(read_pressure(root_).some);
  EXPECT_EQ(read_pressure(root_).available_bytes, UINT64_MAX);
  file("/proc/pressure/memory",
       "some avg10=12.50 avg60=1.00 avg300=0.10 total=1234\n"
       "full avg10=3.25 avg60=1.00 avg300=0.10 total=1234\n");
  file("/proc/meminfo", "MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:   64 kB\n");
  auto s = read_pressure(root_);
  EXPECT_EQ(s.some, 12.5);
  EXPECT_EQ(s.full, 3.25);
  EXPECT_FALSE(s.own_some);
  EXPECT_EQ(s.available_bytes, 65536u);
  file("/proc/self/cgroup", "0::/a/b\n");
  file("/sys/fs/cgroup/a/b/memory.pressure", "some avg10=4.00 avg60=0\nfull avg10=1.00 avg60=0\n");
  s = read_pressure(root_);
  EXPECT_EQ(s.own_some, 4);
  EXPECT_EQ(s.own_full, 1);
}

}  // namespace
}  // namespace sluice
