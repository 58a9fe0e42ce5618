#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/variants.h"
#include "tests/support/safetensors.h"

namespace sluice::kernels {
namespace {

const test::Tensors& goldens() {
  static const auto tensors =
      test::read_safetensors(SLUICE_SOURCE_DIR "/tests/golden/public/dequant/golden.safetensors");
  return tensors;
}

class Dequant : public ::testing::TestWithParam<const char*> {};

TEST_P(Dequant, MatchesGoldensBitForBit) {
  REQUIRE_TABLE(table, GetParam());
  int n_types = 0;
  for (int type = 0; type < kNWeightTypes; ++type) {
    const WeightTypeInfo& info = kWeightTypes[type];
    // Q8_1 has no raw.* entry; its blocks are the quantised ones.
    const std::string name = info.name;
    const auto raw = goldens().find((name == "Q8_1" ? "quantize." : "raw.") + name);
    if (raw == goldens().end()) continue;
    ++n_types;
    const std::vector<float> want = goldens().at("float." + name).floats();
    const auto n = static_cast<int64_t>(want.size());
    ASSERT_EQ(raw->second.bytes.size(), row_bytes(static_cast<WeightType>(type), want.size()))
        << name;
    for (size_t offset : {0u, 1u, 3u}) {  // weights lie at any address
      std::vector<uint8_t> bytes(offset + raw->second.bytes.size());
      std::memcpy(bytes.data() + offset, raw->second.u8(), raw->second.bytes.size());
      std::vector<float> got(want.size());
      table->dequant[type](bytes.data() + offset, got.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_TRUE(same_bits(got[i], want[i]))
            << name << " weight " << i << ": " << got[i] << " for " << want[i];
      }
    }
  }
  EXPECT_EQ(n_types, kNWeightTypes - 2);  // F64 and F32 need no golden
}

TEST_P(Dequant, EqualsScalarOnEveryBitPatternOfRandomBytes) {
  REQUIRE_TABLE(table, GetParam());
  Random random(11);
  for (int type = 0; type < kNWeightTypes; ++type) {
    const int64_t n = 256 * 37;
    const std::vector<uint8_t> w = random.bytes(row_bytes(static_cast<WeightType>(type), n));
    std::vector<float> got(n), want(n);
    table->dequant[type](w.data(), got.data(), n);
    scalar_kernels().dequant[type](w.data(), want.data(), n);
    ASSERT_TRUE(same_bits(got, want)) << kWeightTypes[type].name;
  }
}

TEST_P(Dequant, EveryHalfIsExact) {
  REQUIRE_TABLE(table, GetParam());
  std::vector<Half> halves(65536);
  for (uint32_t i = 0; i < 65536; ++i) halves[i] = static_cast<Half>(i);
  std::vector<float> got(65536);
  table->dequant[static_cast<int>(WeightType::kF16)](halves.data(), got.data(), 65536);
  for (uint32_t i = 0; i < 65536; ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31);
    const double mantissa = i & 1023;
    const double sign = (i & 0x8000u) != 0 ? -1 : 1;
    const double want = exponent == 31  ? static_cast<double>(mantissa != 0 ? NAN : INFINITY)
                        : exponent == 0 ? std::ldexp(mantissa, -24)
                                        : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_TRUE(same_bits(got[i], static_cast<float>(sign * want))) << i;
    ASSERT_TRUE(same_bits(half_to_f32(halves[i]), got[i])) << i;
  }
}

TEST_P(Dequant, F64IsNarrowedAndF32AndBf16AreExact) {
  REQUIRE_TABLE(table, GetParam());
  const std::vector<double> doubles = {1.0 / 3, -1e300, 1e-50, 16777217.0, -0.0, 3.5};
  std::vector<float> got(doubles.size());
  table->dequant[static_cast<int>(WeightType::kF64)](doubles.data(), got.data(), 6);
  for (size_t i = 0; i < doubles.size(); ++i)
    EXPECT_TRUE(same_bits(got[i], static_cast<float>(doubles[i])));
  for (uint32_t i = 0; i < 65536; i += 7) {
    const auto b = static_cast<uint16_t>(i);
    float one;
    table->dequant[static_cast<int>(WeightType::kBF16)](&b, &one, 1);
    ASSERT_TRUE(same_bits(one, std::bit_cast<float>(i << 16)));
  }
}

TEST(Half, RoundsToNearestEvenLikeTheGoldens) {
  const std::vector<float> x = goldens().at("quantize.x").floats();
  const auto& want = goldens().at("quantize.F16");
  for (size_t i = 0; i < x.size(); ++i) {
    Half h;
    std::memcpy(&h, want.u8() + 2 * i, 2);
    ASSERT_EQ(half_from_f32(x[i]), h) << x[i];
  }
}

TEST(Half, RoundTripsAndBreaksTiesToEven) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto h = static_cast<Half>(i);
    const float x = half_to_f32(h);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(half_to_f32(half_from_f32(x))));
      continue;
    }
    ASSERT_EQ(half_from_f32(x), h);
    if ((i & 0x7fffu) >= 0x7bffu) continue;
    // Between h and its neighbour away from zero: the midpoint goes to the even one, either side to
    // its own.
    const auto next = static_cast<Half>(i + 1);
    const float middle = 0.5f * x + 0.5f * half_to_f32(next);
    ASSERT_EQ(half_from_f32(middle), (i & 1) != 0 ? next : h) << i;
    ASSERT_EQ(half_from_f32(std::nextafter(middle, x)), h) << i;
    ASSERT_EQ(half_from_f32(std::nextafter(middle, half_to_f32(next))), next) << i;
  }
  EXPECT_EQ(half_from_f32(65519.996f), 0x7bff);
  EXPECT_EQ(half_from_f32(65520.0f), 0x7c00);
  EXPECT_EQ(half_from_f32(-1e30f), 0xfc00);
  EXPECT_EQ(half_from_f32(INFINITY), 0x7c00);
  EXPECT_EQ(half_from_f32(1e-30f), 0);
  EXPECT_EQ(half_from_f32(-1e-45f), 0x8000);
}

INSTANTIATE_TEST_SUITE_P(Variants, Dequant, ::testing::ValuesIn(kVariants), variant_name);

}  // namespace
}  // namespace sluice::kernels
