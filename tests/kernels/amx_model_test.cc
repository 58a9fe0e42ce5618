// The model of the tile registers, against cases worked by hand, and how the kernels use it.
#include "tests/kernels/amx_model.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <vector>

#include "tests/kernels/variants.h"

namespace sluice::kernels {
namespace {

// LDTILECFG's 64 bytes, with the shape of some tiles.
struct Config {
  uint8_t bytes[64] = {1};
  Config& tile(int i, int rows, int colsb) {
    bytes[16 + 2 * i] = static_cast<uint8_t>(colsb);
    bytes[48 + i] = static_cast<uint8_t>(rows);
    return *this;
  }
};

TEST(AmxModel, AProductWorkedByHand) {
  // c (2 x 3), a (2 x 8 bytes), b (2 x 12 bytes: two dwords of k, three columns)
  amx_model::configure(Config().tile(0, 2, 12).tile(1, 2, 8).tile(2, 2, 12).bytes);
  const int32_t c[2][3] = {{100, 0, -1}, {0, 7, 0}};
  const int8_t a[2][8] = {{1, 2, 3, 4, 5, 6, 7, 8}, {-128, 127, 0, 0, 0, 0, 0, -1}};
  const int8_t b[2][12] = {{1, 1, 1, 1, -128, 0, 0, 0, 0, 0, 0, 2},
                           {0, 0, 0, 1, 0, 0, 0, -128, 3, 0, 0, 0}};
  amx_model::load(0, c, 12);
  amx_model::load(1, a, 8);
  amx_model::load(2, b, 12);
  amx_model::dot_signed(0, 1, 2);
  int32_t got[2][3];
  amx_model::store(0, got, 12);
  // Row 0: 1+2+3+4 + 8, 1*-128 + 8*-128, 4*2 + 5*3. Row 1: -128+127 + -1, -128*-128 + -1*-128, 0.
  const int32_t want[2][3] = {{118, -1152, 22}, {-2, 16519, 0}};
  EXPECT_EQ(std::memcmp(got, want, sizeof want), 0);
  amx_model::release();
}

TEST(AmxModel, SumsWrapAndDoNotSaturate) {
  amx_model::configure(Config().tile(0, 1, 4).tile(1, 1, 4).tile(2, 1, 4).bytes);
  const int32_t c = 0x7fffffff;
  const int8_t a[4] = {1, 0, 0, 0}, b[4] = {1, 0, 0, 0};
  amx_model::load(0, &c, 4);
  amx_model::load(1, a, 4);
  amx_model::load(2, b, 4);
  amx_model::dot_signed(0, 1, 2);
  int32_t got = 0;
  amx_model::store(0, &got, 4);
  EXPECT_EQ(got, INT32_MIN);
  amx_model::release();
}

// Pairs of BF16 that need no rounding.
uint32_t pair(float even, float odd) {
  return std::bit_cast<uint32_t>(even) >> 16 | (std::bit_cast<uint32_t>(odd) & 0xffff0000u);
}

TEST(AmxModel, AProductOfBF16WorkedByHand) {
  // c (2 x 2), a (2 x 2 pairs), b (2 x 2 columns of pairs)
  amx_model::configure(Config().tile(0, 2, 8).tile(1, 2, 8).tile(2, 2, 8).bytes);
  const float c[2][2] = {{100.0f, 0.5f}, {0.0f, -1.0f}};
  const uint32_t a[2][2] = {{pair(1, 2), pair(3, 4)}, {pair(-1, 0), pair(0, 0.5f)}};
  const uint32_t b[2][2] = {{pair(1, 1), pair(2, -2)}, {pair(10, 100), pair(0, 0.25f)}};
  amx_model::load(0, c, 8);
  amx_model::load(1, a, 8);
  amx_model::load(2, b, 8);
  amx_model::dot_bf16(0, 1, 2);
  float got[2][2];
  amx_model::store(0, got, 8);
  // Row 0: 100 + (1*1 + 3*10) + (2*1 + 4*100), 0.5 + (1*2 + 3*0) + (2*-2 + 4*0.25).
  // Row 1: (-1*1 + 0) + (0 + 0.5*100), -1 + (-1*2 + 0) + (0 + 0.5*0.25).
  const float want[2][2] = {{533.0f, -0.5f}, {49.0f, -2.875f}};
  EXPECT_EQ(std::memcmp(got, want, sizeof want), 0);
  amx_model::release();
}

TEST(AmxModel, SumsOfBF16AreTwoChainsFromZeroThatMeetAtTheEnd) {
  amx_model::configure(Config().tile(0, 1, 4).tile(1, 1, 8).tile(2, 2, 4).bytes);
  const uint32_t ones[2] = {pair(1, 1), pair(1, 1)};
  const float e = 0x1p-24f;  // lost beside 1, twice of it is not
  const struct {
    float c, even[2], odd[2], want;
  } kCases[] = {{1, {e, e}, {0, 0}, 1 + 2 * e},
                {1, {e, 0}, {e, 0}, 1 + 2 * e},
                {e, {1, -1}, {0, 0}, e},
                {0, {1, e}, {e, -1}, e},
                {0, {e, 1}, {0, -1}, 0},
                {0, {e, -1}, {1, 0}, e}};
  for (const auto& t : kCases) {
    const uint32_t b[2] = {pair(t.even[0], t.odd[0]), pair(t.even[1], t.odd[1])};
    amx_model::load(0, &t.c, 4);
    amx_model::load(1, ones, 8);
    amx_model::load(2, b, 4);
    amx_model::dot_bf16(0, 1, 2);
    float got;
    amx_model::store(0, &got, 4);
    EXPECT_EQ(got, t.want) << t.even[0] << ' ' << t.even[1];
  }
  amx_model::release();
}

TEST(AmxModel, LoadsAndStoresTouchRowsAndColumnsOfTheTileOnly) {
  amx_model::configure(Config().tile(3, 2, 8).bytes);
  uint8_t from[3][10], to[3][10];
  for (int i = 0; i < 30; ++i) from[i / 10][i % 10] = static_cast<uint8_t>(i + 1);
  std::memset(to, 0xee, sizeof to);
  amx_model::load(3, from, 10);
  amx_model::store(3, to, 10);
  for (int m = 0; m < 3; ++m) {
    for (int i = 0; i < 10; ++i) EXPECT_EQ(to[m][i], m < 2 && i < 8 ? from[m][i] : 0xee);
  }
  amx_model::zero(3);
  amx_model::store(3, to, 10);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(to[1][i], 0);
  // A new configuration begins with zeros.
  amx_model::load(3, from, 10);
  amx_model::configure(Config().tile(3, 2, 8).bytes);
  std::memset(to, 0xee, sizeof to);
  amx_model::store(3, to, 10);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(to[0][i], 0);
  amx_model::release();
}

TEST(AmxModel, WhatTheCpuRefusesAborts) {
  uint8_t bytes[64] = {};
  EXPECT_DEATH(amx_model::zero(0), "not configured");
  EXPECT_DEATH(amx_model::configure(Config().tile(0, 17, 64).bytes), "too large");
  EXPECT_DEATH(amx_model::configure(Config().tile(0, 16, 65).bytes), "too large");
  EXPECT_DEATH(amx_model::configure(Config().tile(0, 16, 0).bytes), "only one");
  EXPECT_DEATH(amx_model::configure(Config().tile(8, 1, 4).bytes), "reserved tile");
  Config palette, reserved;
  palette.bytes[0] = 2;
  reserved.bytes[9] = 1;
  EXPECT_DEATH(amx_model::configure(palette.bytes), "palette");
  EXPECT_DEATH(amx_model::configure(reserved.bytes), "reserved byte");

  amx_model::configure(Config().tile(0, 2, 8).tile(1, 2, 4).tile(2, 1, 8).tile(3, 1, 4).bytes);
  amx_model::dot_signed(0, 1, 2);
  EXPECT_DEATH(amx_model::zero(4), "no rows");
  EXPECT_DEATH(amx_model::dot_signed(0, 0, 2), "must differ");
  EXPECT_DEATH(amx_model::dot_signed(0, 3, 2), "rows of c and a");
  EXPECT_DEATH(amx_model::dot_signed(0, 1, 3), "colsb of c and b");
  EXPECT_DEATH(amx_model::dot_signed(1, 0, 3), "as wide as b");
  amx_model::dot_bf16(0, 1, 2);
  EXPECT_DEATH(amx_model::dot_bf16(0, 0, 2), "must differ");
  EXPECT_DEATH(amx_model::dot_bf16(0, 3, 2), "rows of c and a");
  EXPECT_DEATH(amx_model::dot_bf16(0, 1, 3), "colsb of c and b");
  EXPECT_DEATH(amx_model::dot_bf16(1, 0, 3), "as wide as b");
  amx_model::configure(bytes);  // palette 0
  EXPECT_FALSE(amx_model::in_use());
}

TEST(AmxModel, SixteenTokensGoToTilesAndLeaveNone) {
  REQUIRE_TABLE(table, "amx_model");
  const int64_t rows = 5, cols = 512;
  Random random(1);
  for (const WeightType type : {WeightType::kQ4_0, WeightType::kQ2_K, WeightType::kQ4_K}) {
    const ActFormat format = info(type).act;
    const auto w_stride = static_cast<int64_t>(row_bytes(type, cols));
    const auto x_stride = static_cast<int64_t>(act_bytes(format, cols));
    const std::vector<uint8_t> w(static_cast<size_t>(rows * w_stride));
    for (const int64_t tokens : {15, 16}) {
      std::vector<float> act(static_cast<size_t>(tokens * x_stride / 4)), y(tokens * rows);
      const std::vector<float> x = random.normals(cols);
      for (int64_t t = 0; t < tokens; ++t)
        table->quantize[static_cast<int>(format)](x.data(), act.data() + t * x_stride / 4, cols);
      const int64_t before = amx_model::products();
      table->matmul[static_cast<int>(type)](
          w.data(), w_stride, rows, cols, act.data(), x_stride, tokens, y.data(), rows);
      EXPECT_EQ(amx_model::products() > before, tokens == 16);
      EXPECT_FALSE(amx_model::in_use());
    }
  }
}

TEST(AmxModel, PromptsInBF16GoToTilesFromOneTokenOnAndLeaveNone) {
  REQUIRE_TABLE(table, "amx_model");
  const int64_t rows = 40, cols = 70;  // two B tiles and one; two steps and a rest
  const std::vector<uint16_t> w(static_cast<size_t>(rows * cols));
  for (const int64_t tokens : {1, 16, 17, 33}) {
    const std::vector<uint32_t> x(static_cast<size_t>(tokens * cols / 2));
    std::vector<float> y(static_cast<size_t>(tokens * rows));
    const int64_t before = amx_model::products();
    const auto product = table->product(WeightType::kBF16, Role::kPrompt);
    ASSERT_EQ(product.act, ActFormat::kBF16);
    product.matmul(w.data(), 2 * cols, rows, cols, x.data(), 2 * cols, tokens, y.data(), rows);
    EXPECT_EQ(amx_model::products() - before, 3 * 3 * ((tokens + 15) / 16));
    EXPECT_FALSE(amx_model::in_use());
  }
}

}  // namespace
}  // namespace sluice::kernels
