// Reads that nobody waits for, against a clock that is a number.
#include "storage/fill_share.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace sluice {
namespace {

using std::chrono::milliseconds;
using Clock = FillShare::Clock;

TEST(FillShare, WithoutAPassAllMayRead) {
  FillShare share;
  const Clock::time_point now{};
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(share.begin(now));
  share.end(now, now + milliseconds(10));
  EXPECT_TRUE(share.begin(now + milliseconds(10)));
}

TEST(FillShare, BesideAPassOneAtATimeAndThenARestOfTheSameLength) {
  FillShare share;
  share.pass_begins();
  const Clock::time_point now{};
  EXPECT_TRUE(share.begin(now));
  EXPECT_FALSE(share.begin(now + milliseconds(1)));
  EXPECT_GT(share.ask_again(now + milliseconds(1)), now + milliseconds(1));
  share.end(now, now + milliseconds(10));
  EXPECT_FALSE(share.begin(now + milliseconds(19)));
  EXPECT_EQ(share.ask_again(now + milliseconds(19)), now + milliseconds(20));
  EXPECT_TRUE(share.begin(now + milliseconds(20)));
  share.pass_ends();
  EXPECT_TRUE(share.begin(now + milliseconds(20)));
  EXPECT_FALSE(share.busy());
}

// Several models fill at random while passes come and go: of the time in which one runs, half is read
// in, plus what was under way when it began.
TEST(FillShare, AtMostHalfOfTheTimeOfPasses) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::mt19937 rng(seed);
    FillShare share;
    struct Read {
      Clock::time_point began, ends;
    };
    std::vector<Read> reads;
    int passes = 0;
    double busy_ms = 0, reading_ms = 0, allowance_ms = 0;
    Clock::time_point now{};
    for (int step = 0; step < 5000; ++step, now += milliseconds(1)) {
      std::erase_if(reads, [&](const Read& r) {
        if (r.ends > now) return false;
        share.end(r.began, now);
        return true;
      });
      if (rng() % 200 == 0 && passes < 3) {
        if (passes++ == 0)
          for (const Read& r : reads) allowance_ms += std::chrono::duration<double, std::milli>(r.ends - now).count();
        share.pass_begins();
      } else if (rng() % 300 == 0 && passes > 0) {
        --passes;
        share.pass_ends();
      }
      for (int model = 0; model < 3 && reads.size() < 8; ++model) {
        if (rng() % 2 == 0 && share.begin(now)) {
          const milliseconds takes(1 + rng() % 20);
          reads.push_back({now, now + takes});
          if (passes > 0) allowance_ms += 1;  // a step
        }
      }
      EXPECT_EQ(share.busy(), passes > 0);
      if (passes > 0) {
        busy_ms += 1;
        reading_ms += static_cast<double>(reads.size());
      }
    }
    ASSERT_GT(busy_ms, 0);
    EXPECT_GT(reading_ms, 0);
    EXPECT_LE(reading_ms, busy_ms / 2 + allowance_ms + 20);
  }
}

}  // namespace
}  // namespace sluice
