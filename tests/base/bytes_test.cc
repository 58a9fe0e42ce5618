#include "base/bytes.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(ParseSize, TakesBinaryUnitsAndFractions) {
  EXPECT_EQ(parse_size("512M").value(), 512ull << 20);
  EXPECT_EQ(parse_size("1.5G").value(), 3ull << 29);
  EXPECT_EQ(parse_size("2GiB").value(), 2ull << 30);
  EXPECT_EQ(parse_size("4096").value(), 4096u);
  EXPECT_EQ(parse_size("40%", 1000).value(), 400u);
}

TEST(ParseSize, RefusesWhatItCannotMean) {
  for (const char* bad : {"", "lots", "-1", "1e30", "40%", "5 X", "1.2.3G", "nan", "inf", "99999999999999999999G"}) {
    auto r = parse_size(bad);
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().code, "invalid_size");
  }
  EXPECT_FALSE(parse_size("140%", 1000));
}

TEST(ParseDuration, TakesUnitsAndSums) {
  EXPECT_EQ(parse_duration_ms("300ms").value(), 300);
  EXPECT_EQ(parse_duration_ms("1h30m").value(), 5400000);
  EXPECT_EQ(parse_duration_ms("2.5").value(), 2500);
  EXPECT_EQ(parse_duration_ms("-1").value(), -1);
  EXPECT_FALSE(parse_duration_ms(""));
  EXPECT_FALSE(parse_duration_ms("5 parsecs"));
}

TEST(CheckedArithmetic, SeesOverflow) {
  uint64_t out = 0;
  EXPECT_FALSE(checked_mul(UINT64_MAX, 2, out));
  EXPECT_FALSE(checked_add(UINT64_MAX, 1, out));
  EXPECT_FALSE(checked_align(UINT64_MAX - 3, 32, out));
  ASSERT_TRUE(checked_align(33, 32, out));
  EXPECT_EQ(out, 64u);
}

}  // namespace
}  // namespace sluice
