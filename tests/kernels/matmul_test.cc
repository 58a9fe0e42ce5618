// Activation quantisation and every matrix product: against a double-precision oracle, and every
// variant against the portable one bit for bit, whatever the shape, alignment and split.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/driver_widths.h"
#include "tests/kernels/variants.h"

namespace sluice::kernels {
namespace {

int64_t group_of(WeightType type) { return info(type).group_size; }

// --- weights ---

// Where the floating-point scales of a group lie.
struct ScaleBytes {
  int64_t offset, size;
};
ScaleBytes scale_bytes(WeightType type) {
  switch (type) {
    case WeightType::kMXFP4:
      return {0, 1};
    case WeightType::kQ4_1:
    case WeightType::kQ5_1:
    case WeightType::kQ4_K:
    case WeightType::kQ5_K:
      return {0, 4};
    case WeightType::kQ2_K:
      return {80, 4};
    case WeightType::kQ3_K:
      return {108, 2};
    case WeightType::kQ6_K:
      return {208, 2};
    default:
      return {0, 2};
  }
}

void put_half(uint8_t* at, float x) {
  const Half h = half_from_f32(x);
  std::memcpy(at, &h, 2);
}

// Random valid weights of moderate size: random bits everywhere, except that scales are finite.
std::vector<uint8_t> random_weights(Random& random, WeightType type, int64_t n) {
  std::vector<uint8_t> w = random.bytes(row_bytes(type, static_cast<uint64_t>(n)));
  auto scale = [&random] {
    return (random.uniform() < 0 ? -1.0f : 1.0f) * (0.001f + 0.05f * std::fabs(random.uniform()));
  };
  for (size_t at = 0; at < w.size(); at += info(type).group_bytes) {
    uint8_t* g = w.data() + at;
    switch (type) {
      case WeightType::kF64: {
        const auto x = static_cast<double>(random.normal());
        std::memcpy(g, &x, 8);
        break;
      }
      case WeightType::kF32: {
        const float x = random.normal();
        std::memcpy(g, &x, 4);
        break;
      }
      case WeightType::kBF16: {
        const uint32_t bits = std::bit_cast<uint32_t>(random.normal());
        std::memcpy(g, reinterpret_cast<const uint8_t*>(&bits) + 2, 2);
        break;
      }
      case WeightType::kF16:
        put_half(g, random.normal());
        break;
      case WeightType::kMXFP4:
        g[0] = static_cast<uint8_t>(115 + random.below(12));
        break;
      default:
        for (int64_t i = 0; i < scale_bytes(type).size; i += 2)
          put_half(g + scale_bytes(type).offset + i, scale());
    }
  }
  return w;
}

// --- one product ---

struct Product {
  WeightType type = WeightType::kF32;
  int64_t rows = 0, cols = 0, tokens = 0;
  int64_t w_stride = 0, w_offset = 0, y_stride = 0;
  std::vector<uint8_t> w;  // w_offset, then rows w_stride apart; not a byte more than is needed
  std::vector<float> x;    // tokens * cols

  int64_t x_stride() const {
    return static_cast<int64_t>(act_bytes(info(type).act, static_cast<uint64_t>(cols)));
  }
};

Product make_product(Random& random, WeightType type, int64_t rows, int64_t cols, int64_t tokens) {
  Product p{type, rows, cols, tokens, 0, random.below(4), rows + random.below(3), {}, {}};
  const auto bytes = static_cast<int64_t>(row_bytes(type, static_cast<uint64_t>(cols)));
  p.w_stride = bytes + random.below(5);
  p.w.resize(p.w_offset + (rows - 1) * p.w_stride + bytes);
  for (int64_t r = 0; r < rows; ++r) {
    const std::vector<uint8_t> row = random_weights(random, type, cols);
    std::memcpy(p.w.data() + p.w_offset + r * p.w_stride, row.data(), row.size());
  }
  p.x = random.normals(tokens * cols);
  return p;
}

// float elements: as aligned as the contract asks, and no more room than needed (asan sees a read
// past the end).
std::vector<float> quantised(const KernelTable& table, const Product& p) {
  std::vector<float> q(p.tokens * p.x_stride() / 4);
  for (int64_t t = 0; t < p.tokens; ++t) {
    table.quantize[static_cast<int>(info(p.type).act)](
        p.x.data() + t * p.cols, q.data() + t * p.x_stride() / 4, p.cols);
  }
  return q;
}

constexpr float kUntouched = 12345.0f;

std::vector<float> multiply(const KernelTable& table,
                            const Product& p,
                            const std::vector<float>& act) {
  std::vector<float> y(p.tokens * p.y_stride, kUntouched);
  table.matmul[static_cast<int>(p.type)](p.w.data() + p.w_offset,
                                         p.w_stride,
                                         p.rows,
                                         p.cols,
                                         act.data(),
                                         p.x_stride(),
                                         p.tokens,
                                         y.data(),
                                         p.y_stride);
  return y;
}

std::vector<float> multiply_reference(const KernelTable& table, const Product& p) {
  std::vector<float> y(p.tokens * p.y_stride, kUntouched), scratch(kReferenceRows * p.cols);
  matmul_reference(table,
                   p.type,
                   p.w.data() + p.w_offset,
                   p.w_stride,
                   p.rows,
                   p.cols,
                   p.x.data(),
                   p.cols,
                   p.tokens,
                   y.data(),
                   p.y_stride,
                   scratch.data());
  return y;
}

// The activations that a quantised vector stands for.
std::vector<double> dequantised_act(const Product& p, const std::vector<float>& act, int64_t t) {
  std::vector<double> x(p.cols);
  const auto* at = reinterpret_cast<const uint8_t*>(act.data()) + t * p.x_stride();
  for (int64_t k = 0; k < p.cols; ++k) {
    switch (info(p.type).act) {
      case ActFormat::kQ8x32: {
        const auto& g = reinterpret_cast<const ActQ8x32*>(at)[k / 32];
        x[k] = static_cast<double>(g.d) * g.qs[k % 32];
        break;
      }
      case ActFormat::kQ8x256: {
        const auto& g = reinterpret_cast<const ActQ8x256*>(at)[k / 256];
        x[k] = static_cast<double>(g.d) * g.qs[k % 256];
        break;
      }
      default:
        x[k] = static_cast<double>(reinterpret_cast<const float*>(at)[k]);
    }
  }
  return x;
}

// Every product differs from the exact one by the roundings of its chain of fmas only: at most one
// unit of 2^-23 per step, relative to the sum of magnitudes. Four times the largest weight bounds
// the terms that a minimum cancels.
void expect_close(const Product& p,
                  const std::vector<double>& x,
                  const std::vector<float>& y,
                  int64_t t,
                  double steps) {
  std::vector<float> w(p.cols);
  for (int64_t r = 0; r < p.rows; ++r) {
    scalar_kernels().dequant[static_cast<int>(p.type)](
        p.w.data() + p.w_offset + r * p.w_stride, w.data(), p.cols);
    double want = 0, largest = 0, sum_x = 0;
    for (int64_t k = 0; k < p.cols; ++k) {
      want += static_cast<double>(w[k]) * x[k];
      largest = std::max(largest, std::fabs(static_cast<double>(w[k])));
      sum_x += std::fabs(x[k]);
    }
    ASSERT_NEAR(y[t * p.y_stride + r], want, steps * 0x1p-23 * 4 * largest * sum_x)
        << info(p.type).name << ' ' << p.rows << 'x' << p.cols << " row " << r << " token " << t;
  }
}

class Matmul : public ::testing::TestWithParam<const char*> {};

std::vector<WeightType> all_types() {
  std::vector<WeightType> types;
  for (int i = 0; i < kNWeightTypes; ++i) types.push_back(static_cast<WeightType>(i));
  return types;
}

// --- activations ---

TEST_P(Matmul, QuantisedActivationsAreWithinHalfAStepAndTheirSumsExact) {
  REQUIRE_TABLE(table, GetParam());
  Random random(1);
  const int64_t n = 1024;
  for (float scale : {1e-30f, 1e-3f, 1.0f, 3e5f, 1e37f}) {
    const std::vector<float> x = random.normals(n, scale);
    std::vector<ActQ8x32> q32(n / 32);
    std::vector<ActQ8x256> q256(n / 256);
    table->quantize[static_cast<int>(ActFormat::kQ8x32)](x.data(), q32.data(), n);
    table->quantize[static_cast<int>(ActFormat::kQ8x256)](x.data(), q256.data(), n);
    for (int64_t k = 0; k < n; ++k) {
      const ActQ8x32& a = q32[k / 32];
      const ActQ8x256& b = q256[k / 256];
      const double half_a = 0.5001 * static_cast<double>(a.d),
                   half_b = 0.5001 * static_cast<double>(b.d);
      ASSERT_NEAR(static_cast<double>(a.d) * a.qs[k % 32], x[k], half_a);
      ASSERT_NEAR(static_cast<double>(b.d) * b.qs[k % 256], x[k], half_b);
    }
    for (const ActQ8x32& a : q32) {
      int sum = 0, largest = 0;
      for (int8_t q : a.qs) {
        sum += q;
        largest = std::max(largest, std::abs(static_cast<int>(q)));
      }
      ASSERT_EQ(a.sum, sum);
      ASSERT_EQ(largest, 127);
    }
    for (const ActQ8x256& b : q256) {
      for (int j = 0; j < 16; ++j) {
        int sum = 0;
        for (int i = 0; i < 16; ++i) sum += b.qs[16 * j + i];
        ASSERT_EQ(b.sums[j], sum);
      }
    }
  }
}

TEST_P(Matmul, QuantisedActivationsEqualScalar) {
  REQUIRE_TABLE(table, GetParam());
  Random random(2);
  const int64_t n = 256 * 40;
  std::vector<float> x(n);
  // Any bits at all: NaN, Inf, subnormal; then groups that are tame, zero, tiny or huge.
  for (float& v : x) v = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
  for (int64_t k = 0; k < n; ++k) {
    const int64_t kind = k / 256 % 8;
    if (kind == 1) x[k] = 0.0f;
    if (kind == 2) x[k] = -0.0f;
    if (kind == 3) x[k] = random.normal() * 1e-38f;
    if (kind == 4) x[k] = random.normal() * 3e37f;
    if (kind >= 5) x[k] = random.normal();
    if (kind == 7 && k % 256 == 255) x[k] = k % 512 < 256 ? NAN : -INFINITY;
  }
  for (int f = 0; f < kNActFormats; ++f) {
    const uint64_t bytes = act_bytes(static_cast<ActFormat>(f), n);
    std::vector<float> got(bytes / 4), want(bytes / 4);
    table->quantize[f](x.data(), got.data(), n);
    scalar_kernels().quantize[f](x.data(), want.data(), n);
    // Bytes, but a NaN scale may be any NaN: blank the scales after comparing them as floats.
    const size_t steps[] = {1, sizeof(ActQ8x32) / 4, sizeof(ActQ8x256) / 4, got.size()};
    for (size_t i = 0; i < got.size() && f != 3; i += steps[f]) {
      ASSERT_TRUE(same_bits(got[i], want[i])) << "format " << f << " at " << i;
      got[i] = want[i] = 0.0f;
    }
    ASSERT_EQ(std::memcmp(got.data(), want.data(), bytes), 0) << "format " << f;
  }
}

TEST_P(Matmul, TiesRoundToEven) {
  REQUIRE_TABLE(table, GetParam());
  std::vector<float> x(256);
  for (int i = 0; i < 256; ++i) x[i] = static_cast<float>(i % 64) - 31.5f;
  x[7] = 127.0f;  // d = 1 in the first group of 32 and in the group of 256
  ActQ8x32 q32[8];
  ActQ8x256 q256;
  table->quantize[static_cast<int>(ActFormat::kQ8x32)](x.data(), q32, 256);
  table->quantize[static_cast<int>(ActFormat::kQ8x256)](x.data(), &q256, 256);
  EXPECT_EQ(q256.d, 1.0f);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(q256.qs[i], static_cast<int>(std::nearbyint(x[i])));
  for (int i = 0; i < 32; ++i) EXPECT_EQ(q32[0].qs[i], static_cast<int>(std::nearbyint(x[i])));
}

// --- products ---

TEST_P(Matmul, IsCloseToDoublePrecisionForEveryType) {
  REQUIRE_TABLE(table, GetParam());
  Random random(3);
  for (WeightType type : all_types()) {
    for (int64_t tokens : {1, 5}) {
      const int64_t cols =
          group_of(type) == 1 ? 300 + random.below(100) : group_of(type) * (1 + random.below(6));
      const Product p = make_product(random, type, 11, cols, tokens);
      const std::vector<float> act = quantised(*table, p);
      const std::vector<float> y = multiply(*table, p, act);
      const double steps = group_of(type) == 1
                               ? 8 + static_cast<double>(cols) / 16.0
                               : 8 + 2.0 * static_cast<double>(cols / group_of(type));
      for (int64_t t = 0; t < tokens; ++t) expect_close(p, dequantised_act(p, act, t), y, t, steps);
      const std::vector<float> reference = multiply_reference(*table, p);
      for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<double> x(p.x.begin() + t * cols, p.x.begin() + (t + 1) * cols);
        expect_close(p, x, reference, t, 8 + static_cast<double>(cols) / 16.0);
      }
    }
  }
}

// What the approximation of the activations costs: about 0.4 % of the norm for 8 bits, here with
// room to spare.
TEST_P(Matmul, IsCloseToTheReferencePath) {
  REQUIRE_TABLE(table, GetParam());
  Random random(4);
  for (WeightType type : all_types()) {
    const Product p = make_product(random, type, 64, 1024, 3);
    const std::vector<float> y = multiply(*table, p, quantised(*table, p));
    const std::vector<float> want = multiply_reference(*table, p);
    double error = 0, norm = 0;
    for (int64_t t = 0; t < p.tokens; ++t) {
      for (int64_t r = 0; r < p.rows; ++r) {
        const auto a = static_cast<double>(y[t * p.y_stride + r]);
        const auto b = static_cast<double>(want[t * p.y_stride + r]);
        error += (a - b) * (a - b);
        norm += b * b;
      }
    }
    EXPECT_LT(std::sqrt(error / norm), 0.02) << info(type).name;
  }
}

TEST_P(Matmul, EqualsScalarForEveryShapeAlignmentAndNumberOfTokens) {
  REQUIRE_TABLE(table, GetParam());
  Random random(5);
  for (WeightType type : all_types()) {
    for (int64_t tokens = 1; tokens <= 40; ++tokens) {
      const int64_t rows = 1 + random.below(20);
      const int64_t groups = group_of(type) == 32 ? 1 + random.below(40) : 1 + random.below(6);
      const int64_t cols = group_of(type) == 1 ? 1 + random.below(90) : group_of(type) * groups;
      const Product p = make_product(random, type, rows, cols, tokens);
      const std::vector<float> act = quantised(scalar_kernels(), p);
      // All of y: what is not to be written must not be.
      ASSERT_TRUE(same_bits(multiply(*table, p, act), multiply(scalar_kernels(), p, act)))
          << info(type).name << ' ' << rows << 'x' << cols << ", " << tokens << " tokens";
      ASSERT_TRUE(same_bits(multiply_reference(*table, p), multiply_reference(scalar_kernels(), p)))
          << info(type).name << ' ' << rows << 'x' << cols << ", " << tokens
          << " tokens, reference";
    }
  }
}

// Whatever the widths say: row by row, one panel for all, tiles from their fewest tokens on or never.
TEST_P(Matmul, ForcedDriversGiveTheSameBits) {
  REQUIRE_TABLE(table, GetParam());
  Random random(12);
  for (WeightType type : all_types()) {
    const int64_t cols = group_of(type) == 1 ? 75 : 3 * group_of(type);
    for (int rows = 0; rows <= kMostRowTokens; ++rows) {
      for (const int tiles : {kLeastTileTokens, kLeastTileTokens + 3, kMostTileTokens}) {
        set_driver_widths(type, {rows, tiles});
        for (const int64_t tokens : {1, 2, 3, 4, 5, 15, 16, 18, 19, 40}) {
          const Product p = make_product(random, type, 1 + random.below(40), cols, tokens);
          const std::vector<float> act = quantised(scalar_kernels(), p);
          EXPECT_TRUE(same_bits(multiply(*table, p, act), multiply(scalar_kernels(), p, act)))
              << info(type).name << ", " << tokens << " tokens, rows up to " << rows
              << ", tiles from " << tiles;
        }
      }
    }
    set_driver_widths(type, {-1, -1});
  }
}

TEST(DriverWidths, AreBroughtWithinTheirBoundsAndGoBackToTheDefault) {
  constexpr auto kType = WeightType::kQ4_K;
  EXPECT_EQ(row_tokens(kType, 3), 3);
  EXPECT_EQ(tile_tokens(kType, 16), 16);
  set_driver_widths(kType, {1000, 1});
  EXPECT_EQ(row_tokens(kType, 3), kMostRowTokens);
  EXPECT_EQ(tile_tokens(kType, 20), kLeastTileTokens);
  set_driver_widths(kType, {0, 1000});
  EXPECT_EQ(row_tokens(kType, 3), 0);
  EXPECT_EQ(tile_tokens(kType, 16), kMostTileTokens);
  EXPECT_EQ(row_tokens(WeightType::kQ5_K, 3), 3) << "another type's";
  set_driver_widths(kType, {-1, -1});
  EXPECT_EQ(row_tokens(kType, 2), 2);
  EXPECT_EQ(tile_tokens(kType, 24), 24);
}

// More rows, columns and tokens than any driver holds at once.
TEST_P(Matmul, LargeProductsEqualScalar) {
  REQUIRE_TABLE(table, GetParam());
  Random random(10);
  for (WeightType type : all_types()) {
    const int64_t cols = group_of(type) == 256 ? 5 * 256 : 37 * 32;
    for (auto [rows, tokens] : {std::pair<int64_t, int64_t>{300, 64}, {153, 100}}) {
      const Product p = make_product(random, type, rows, cols, tokens);
      const std::vector<float> act = quantised(scalar_kernels(), p);
      ASSERT_TRUE(same_bits(multiply(*table, p, act), multiply(scalar_kernels(), p, act)))
          << info(type).name << ' ' << rows << 'x' << cols << ", " << tokens << " tokens";
    }
  }
}

TEST_P(Matmul, AnySplitOfRowsAndTokensGivesTheSameBits) {
  REQUIRE_TABLE(table, GetParam());
  Random random(6);
  for (WeightType type : all_types()) {
    const Product p = make_product(random, type, 37, 1280, 33);
    const std::vector<float> act = quantised(*table, p);
    const std::vector<float> whole = multiply(*table, p, act);
    std::vector<float> parts(whole.size(), kUntouched);
    for (int64_t r = 0; r < p.rows;) {
      const int64_t rows = std::min(p.rows - r, 1 + random.below(12));
      for (int64_t t = 0; t < p.tokens;) {
        const int64_t tokens = std::min(p.tokens - t, 1 + random.below(9));
        table->matmul[static_cast<int>(type)](p.w.data() + p.w_offset + r * p.w_stride,
                                              p.w_stride,
                                              rows,
                                              p.cols,
                                              act.data() + t * p.x_stride() / 4,
                                              p.x_stride(),
                                              tokens,
                                              parts.data() + t * p.y_stride + r,
                                              p.y_stride);
        t += tokens;
      }
      r += rows;
    }
    ASSERT_TRUE(same_bits(parts, whole)) << info(type).name;
  }
}

// The largest integers that can meet: quants of all zeros or ones, activations of +-127.
TEST_P(Matmul, ExtremeQuantsDoNotSaturate) {
  REQUIRE_TABLE(table, GetParam());
  Random random(7);
  for (WeightType type : all_types()) {
    if (group_of(type) == 1) continue;
    for (int byte : {0x00, 0x7f, 0x80, 0xff, 0x0f, 0xf0, 0x81}) {
      for (int signs = 0; signs < 3; ++signs) {
        for (int64_t tokens : {1, 4, 17}) {
          Product p = make_product(random, type, 9, 512, tokens);
          const Product scales = p;  // keeps the random scales, overwrites the quants
          std::fill(p.w.begin(), p.w.end(), static_cast<uint8_t>(byte));
          for (int64_t r = 0; r < p.rows; ++r) {
            for (int64_t g = 0; g < p.cols / group_of(type); ++g) {
              const int64_t group_bytes = info(type).group_bytes;
              const int64_t at = p.w_offset + r * p.w_stride + g * group_bytes;
              const ScaleBytes s = scale_bytes(type);
              std::copy_n(scales.w.begin() + at + s.offset, s.size, p.w.begin() + at + s.offset);
            }
          }
          for (size_t i = 0; i < p.x.size(); ++i) {
            p.x[i] = signs == 0 ? 1.0f : signs == 1 ? -1.0f : (i % 2 != 0 ? 1.0f : -1.0f);
          }
          const std::vector<float> act = quantised(*table, p);
          const std::vector<float> y = multiply(*table, p, act);
          for (int64_t t = 0; t < tokens; ++t)
            expect_close(p, dequantised_act(p, act, t), y, t, 64);
          ASSERT_TRUE(same_bits(y, multiply(scalar_kernels(), p, act)))
              << info(type).name << " byte " << byte;
        }
      }
    }
  }
}

// Where the integer sub-scales of a group of 256 lie.
ScaleBytes sub_scale_bytes(WeightType type) {
  switch (type) {
    case WeightType::kQ2_K:
      return {0, 16};
    case WeightType::kQ3_K:
      return {96, 12};
    case WeightType::kQ4_K:
    case WeightType::kQ5_K:
      return {4, 12};
    case WeightType::kQ6_K:
      return {192, 16};
    default:
      return {2, 6};  // IQ4_XS
  }
}

// The largest sums that can meet: every sub-scale and every quant at an end of its range,
// activations of one sign.
TEST_P(Matmul, ExtremeSubScalesTimesExtremeQuantsDoNotOverflow) {
  REQUIRE_TABLE(table, GetParam());
  Random random(11);
  for (WeightType type : all_types()) {
    if (group_of(type) != 256) continue;
    const ScaleBytes d = scale_bytes(type), sub = sub_scale_bytes(type);
    const auto group_bytes = static_cast<int64_t>(info(type).group_bytes);
    Product p = make_product(random, type, 64, 512, 18);
    for (int signs = 0; signs < 3; ++signs) {
      for (int64_t r = 0; r < p.rows; ++r) {
        constexpr uint8_t kEnds[] = {0x00, 0x7f, 0x80, 0xff};
        for (int64_t g = 0; g < 2; ++g) {
          uint8_t* at = p.w.data() + p.w_offset + r * p.w_stride + g * group_bytes;
          for (int64_t i = 0; i < group_bytes; ++i) {
            if (i >= sub.offset && i < sub.offset + sub.size)
              at[i] = kEnds[r % 4];
            else if (i < d.offset || i >= d.offset + d.size)
              at[i] = r < 16 ? kEnds[r / 4] : kEnds[random.below(4)];
          }
        }
      }
      for (size_t i = 0; i < p.x.size(); ++i)
        p.x[i] = signs == 0 ? 1.0f : signs == 1 ? -1.0f : random.below(2) != 0 ? 1.0f : -1.0f;
      const std::vector<float> act = quantised(*table, p);
      const std::vector<float> y = multiply(*table, p, act);
      ASSERT_TRUE(same_bits(y, multiply(scalar_kernels(), p, act))) << info(type).name;
      for (int64_t t = 0; t < p.tokens; ++t) expect_close(p, dequantised_act(p, act, t), y, t, 64);
    }
  }
}

// Whatever a damaged file or an overflown activation holds: a number or NaN comes out, the same on
// every variant.
TEST_P(Matmul, AnyBitsInWeightsAndActivationsEqualScalar) {
  REQUIRE_TABLE(table, GetParam());
  Random random(8);
  for (WeightType type : all_types()) {
    for (int64_t tokens : {1, 2, 6, 21}) {
      Product p = make_product(random, type, 10, 768, tokens);
      p.w = random.bytes(p.w.size());
      for (int i = 0; i < 4; ++i) p.x[random.below(tokens * 768)] = i % 2 != 0 ? INFINITY : NAN;
      const std::vector<float> act = quantised(*table, p);
      ASSERT_TRUE(same_bits(multiply(*table, p, act), multiply(scalar_kernels(), p, act)))
          << info(type).name;
      ASSERT_TRUE(same_bits(multiply_reference(*table, p), multiply_reference(scalar_kernels(), p)))
          << info(type).name;
    }
  }
}

// Products too small for a float leave -0 in every partial sum: what a row's tail does not reach
// must stay -0.
TEST_P(Matmul, AShortTailChangesNoOtherPartialSum) {
  REQUIRE_TABLE(table, GetParam());
  for (int64_t tokens : {1, 2, 5}) {
    for (int64_t cols = 16; cols <= 40; ++cols) {
      Product p{WeightType::kF32, 5, cols, tokens, 4 * cols, 0, 5, {}, {}};
      const float tiny = 1e-30f;
      p.w.resize(p.rows * p.w_stride);
      for (size_t at = 0; at < p.w.size(); at += 4) std::memcpy(p.w.data() + at, &tiny, 4);
      p.x.assign(tokens * cols, -tiny);
      const std::vector<float> minus_zeros(p.rows * tokens, -0.0f);
      ASSERT_TRUE(same_bits(multiply(*table, p, p.x), minus_zeros)) << cols << " columns";
      ASSERT_TRUE(same_bits(multiply_reference(*table, p), minus_zeros)) << cols << " columns";
    }
  }
}

TEST_P(Matmul, ANaNActivationMakesItsTokenNaNAndNoOther) {
  REQUIRE_TABLE(table, GetParam());
  Random random(9);
  for (WeightType type : all_types()) {
    for (int64_t tokens : {2, 7, 19}) {
      Product p = make_product(random, type, 9, 512, tokens);
      p.x[512 + 100] = NAN;
      const std::vector<float> act = quantised(*table, p);
      const std::vector<float> y = multiply(*table, p, act),
                               reference = multiply_reference(*table, p);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < p.rows; ++r) {
          ASSERT_EQ(std::isnan(y[t * p.y_stride + r]), t == 1) << info(type).name;
          ASSERT_EQ(std::isnan(reference[t * p.y_stride + r]), t == 1) << info(type).name;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Matmul, ::testing::ValuesIn(kMatmulVariants), variant_name);

}  // namespace
}  // namespace sluice::kernels
