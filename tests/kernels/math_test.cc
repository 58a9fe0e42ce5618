#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/kernels.h"
#include "tests/kernels/variants.h"

namespace sluice::kernels {
namespace {

// Distance in units of the last place of the correctly rounded result.
double ulps(float got, double want) {
  const float rounded = static_cast<float>(want);
  const double unit = static_cast<double>(std::nextafter(std::fabs(rounded), INFINITY)) -
                      static_cast<double>(std::fabs(rounded));
  return std::fabs(static_cast<double>(got) - want) / unit;
}

TEST(Exp, IsWithinTwoUlpsOverTheWholeRange) {
  double worst = 0;
  for (double x = -103.0; x < 88.7; x += 0.000917) {
    const auto f = static_cast<float>(x);
    worst = std::max(worst, ulps(exp_f32(f), std::exp(static_cast<double>(f))));
  }
  EXPECT_LT(worst, 2.0);
}

TEST(Exp, EndsOfTheRange) {
  EXPECT_EQ(exp_f32(0.0f), 1.0f);
  EXPECT_EQ(exp_f32(-0.0f), 1.0f);
  EXPECT_EQ(exp_f32(-INFINITY), 0.0f);
  EXPECT_EQ(exp_f32(-104.0f), 0.0f);
  EXPECT_EQ(exp_f32(-std::numeric_limits<float>::max()), 0.0f);
  EXPECT_EQ(exp_f32(INFINITY), INFINITY);
  EXPECT_EQ(exp_f32(88.73f), INFINITY);
  EXPECT_LT(exp_f32(88.72f), INFINITY);
  EXPECT_GT(exp_f32(-103.0f), 0.0f);  // subnormal, not flushed
  EXPECT_TRUE(std::isnan(exp_f32(NAN)));
}

TEST(SinCos, ErrorIsBelow1e7UpTo2To26) {
  Random random(3);
  double worst = 0;
  for (int i = 0; i < 400000; ++i) {
    const float magnitude = std::exp2(random.uniform() * 13.0f + 13.0f);  // 1 .. 2^26
    const float angle = i < 100000 ? random.uniform() * 7.0f : random.uniform() * magnitude;
    float s, c;
    sin_cos_f32(angle, &s, &c);
    worst =
        std::max(worst, std::fabs(static_cast<double>(s) - std::sin(static_cast<double>(angle))));
    worst =
        std::max(worst, std::fabs(static_cast<double>(c) - std::cos(static_cast<double>(angle))));
  }
  EXPECT_LT(worst, 1e-7);
}

TEST(SinCos, WholeNumbersAsPositionsGive) {
  for (int position = 0; position < 200000; position += 13) {
    float s, c;
    sin_cos_f32(static_cast<float>(position), &s, &c);
    ASSERT_NEAR(s, std::sin(position), 1e-7) << position;
    ASSERT_NEAR(c, std::cos(position), 1e-7) << position;
  }
  float s, c;
  sin_cos_f32(0.0f, &s, &c);
  EXPECT_EQ(s, 0.0f);
  EXPECT_EQ(c, 1.0f);
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    sin_cos_f32(bad, &s, &c);
    EXPECT_TRUE(std::isnan(s));
    EXPECT_TRUE(std::isnan(c));
  }
}

}  // namespace
}  // namespace sluice::kernels
