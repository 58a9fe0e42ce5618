// The prompt definitions of BF16 weights: the portable ones against the definitions' own words, and
// the instructions against the portable ones, bit for bit, whatever the shape, split and bits.
#include <gtest/gtest.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/variants.h"

namespace sluice::kernels {
namespace {

constexpr int kBF16 = static_cast<int>(WeightType::kBF16);
constexpr int kAct = static_cast<int>(ActFormat::kBF16);
constexpr const char* kPromptVariants[] = {
    "scalar_bf16", "avx512_bf16", "scalar_bf16_tiles", "amx_model", "amx"};
constexpr float kUntouched = 12345.0f;

// BF16 of a float that needs no rounding.
uint16_t bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  EXPECT_EQ(bits & 0xffffu, 0u) << x;
  return static_cast<uint16_t>(bits >> 16);
}

struct Product {
  int64_t rows = 0, cols = 0, tokens = 0;
  int64_t w_stride = 0, w_offset = 0, x_stride = 0, y_stride = 0;
  std::vector<uint8_t> w;   // not a byte more than is needed
  std::vector<uint16_t> x;  // in BF16, x_stride bytes apart
};

// The portable table of the same definition.
const KernelTable& oracle(const KernelTable& table) {
  return table.prompt_definition == PromptDefinition::kBF16Tiles ? scalar_bf16_tiles_kernels()
                                                                 : scalar_bf16_kernels();
}

// bits() gives each weight and activation; the zero behind an odd length stays.
template <class Bits>
Product make_product(Random& random, int64_t rows, int64_t cols, int64_t tokens, Bits&& bits) {
  Product p{rows, cols, tokens, 2 * cols + random.below(5), random.below(4), 0, 0, {}, {}};
  p.x_stride = static_cast<int64_t>(act_bytes(ActFormat::kBF16, static_cast<uint64_t>(cols)));
  p.y_stride = rows + random.below(3);
  p.w = random.bytes(p.w_offset + (rows - 1) * p.w_stride + 2 * cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < cols; ++k) {
      const uint16_t v = bits();
      std::memcpy(p.w.data() + p.w_offset + r * p.w_stride + 2 * k, &v, 2);
    }
  }
  p.x.assign(tokens * p.x_stride / 2, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t k = 0; k < cols; ++k) p.x[t * p.x_stride / 2 + k] = bits();
  }
  return p;
}

void multiply_part(const KernelTable& table,
                   const Product& p,
                   int64_t r,
                   int64_t rows,
                   int64_t t,
                   int64_t tokens,
                   std::vector<float>& y) {
  table.matmul_prompt[kBF16](p.w.data() + p.w_offset + r * p.w_stride,
                             p.w_stride,
                             rows,
                             p.cols,
                             p.x.data() + t * p.x_stride / 2,
                             p.x_stride,
                             tokens,
                             y.data() + t * p.y_stride + r,
                             p.y_stride);
}

std::vector<float> multiply(const KernelTable& table, const Product& p) {
  std::vector<float> y(p.tokens * p.y_stride, kUntouched);
  multiply_part(table, p, 0, p.rows, 0, p.tokens, y);
  return y;
}

// A column of one row and one token.
struct Column {
  int64_t k;
  float w, x = 1.0f;
};

// One output of n_cols columns, zeros but for those.
float output(const KernelTable& table, int64_t n_cols, const std::vector<Column>& columns) {
  std::vector<uint16_t> w(n_cols), x(n_cols + n_cols % 2);
  for (const Column& c : columns) {
    w[c.k] = bf16(c.w);
    x[c.k] = bf16(c.x);
  }
  float y = kUntouched;
  table.matmul_prompt[kBF16](w.data(), 2 * n_cols, 1, n_cols, x.data(), 4 * n_cols, 1, &y, 1);
  return y;
}

// One output of a single chain: acc is made by a first pair (acc, 0) times (1, 0).
float chain(const KernelTable& table, float acc, float w0, float w1, float x0, float x1) {
  return output(table, 4, {{0, acc}, {2, w0, x0}, {3, w1, x1}});
}

auto normals(Random& random) {
  return
      [&random] { return static_cast<uint16_t>(std::bit_cast<uint32_t>(random.normal()) >> 16); };
}

// All of them; those of kBF16Dot; those of kBF16Tiles.
class MatmulPrompt : public ::testing::TestWithParam<const char*> {};
class MatmulBF16Dot : public MatmulPrompt {};
class MatmulBF16Tiles : public MatmulPrompt {};

// Skips aloud where the CPU has the variant with another definition.
#define REQUIRE_DEFINITION(table, name, definition)                     \
  REQUIRE_TABLE(table, name);                                           \
  if (table->prompt_definition != PromptDefinition::definition) {       \
    GTEST_SKIP() << (name) << " has no " #definition << " on this CPU"; \
  }

TEST_P(MatmulPrompt, ActivationsRoundToNearestEvenAndKeepNaNAndInf) {
  REQUIRE_TABLE(table, GetParam());
  struct Case {
    uint32_t x;
    uint16_t want;
  };
  constexpr Case kCases[] = {{0x3f800000, 0x3f80},
                             {0x3f808000, 0x3f80},
                             {0x3f818000, 0x3f82},
                             {0x3f808001, 0x3f81},
                             {0xbf818000, 0xbf82},
                             {0x7f7f7fff, 0x7f7f},
                             {0x7f7f8000, 0x7f80},
                             {0x7f800000, 0x7f80},
                             {0xff800000, 0xff80},
                             {0x00800000, 0x0080},
                             {0x00808000, 0x0080},
                             {0x007fffff, 0x0000},
                             {0x807fffff, 0x8000},
                             {0x00000001, 0x0000},
                             {0x80000000, 0x8000},
                             {0x7f800001, 0x7fc0},
                             {0xffc12345, 0xffc1}};
  for (const Case& c : kCases) {
    uint32_t y = 0xffffffff;
    const auto x = std::bit_cast<float>(c.x);
    table->quantize[kAct](&x, &y, 1);
    EXPECT_EQ(y, c.want) << std::hex << c.x;  // the pad behind it is zero
  }
}

TEST_P(MatmulPrompt, ActivationsOfAnyBitsAndLengthEqualScalar) {
  REQUIRE_TABLE(table, GetParam());
  Random random(21);
  for (int64_t n = 1; n < 200; ++n) {
    std::vector<float> x(n);
    for (float& v : x) v = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
    const int64_t words = (n + 1) / 2;
    std::vector<uint32_t> got(words + 1, 0xabcdabcd), want(words + 1, 0xabcdabcd);
    table->quantize[kAct](x.data(), got.data(), n);
    scalar_kernels().quantize[kAct](x.data(), want.data(), n);
    ASSERT_EQ(got, want) << n;
  }
}

TEST_P(MatmulBF16Dot, TheOddColumnOfAPairIsAddedFirst) {
  REQUIRE_DEFINITION(table, GetParam(), kBF16Dot);
  // Alone, 2^-24 is lost beside 1; after -1 it stays.
  EXPECT_EQ(chain(*table, 1.0f, 0x1p-24f, -1.0f, 1.0f, 1.0f), 0x1p-24f);
  EXPECT_EQ(chain(*table, 1.0f, -1.0f, 0x1p-24f, 1.0f, 1.0f), 0.0f);
}

TEST_P(MatmulBF16Dot, ProductsAreNotRoundedNorDoTheyOverflowBeforeTheSum) {
  REQUIRE_DEFINITION(table, GetParam(), kBF16Dot);
  const float big = 0x1p127f;
  EXPECT_EQ(chain(*table, -big, 0.0f, big, 0.0f, 2.0f), big);
  EXPECT_EQ(chain(*table, big, 0.0f, big, 0.0f, 2.0f), INFINITY);
  EXPECT_TRUE(std::isnan(chain(*table, 0.0f, 0.0f, INFINITY, 0.0f, 0.0f)));
}

TEST_P(MatmulBF16Dot, TinySumsAndDenormalsBecomeZerosOfTheirSign) {
  REQUIRE_DEFINITION(table, GetParam(), kBF16Dot);
  const float least = 0x1p-126f;
  // What is taken from the least normal number, in units of 2^-60: rounded to 24 bits the rest
  // stays below it until half a unit, 2^-151.
  const struct {
    float taken, want;
  } kCases[] = {{0x1p-89f, 0.0f},
                {0x1p-90f, 0.0f},
                {0x1.8p-91f, 0.0f},
                {0x1.02p-91f, 0.0f},
                {0x1p-91f, least},
                {0x1.fep-92f, least},
                {0x1p-110f, least}};
  for (const auto& c : kCases) {
    const float a = 0x1p-60f, b = c.taken;
    EXPECT_TRUE(same_bits(chain(*table, least, -a, 0.0f, b, 0.0f), c.want)) << c.taken;
    EXPECT_TRUE(same_bits(chain(*table, least, 0.0f, -a, 0.0f, b), c.want)) << c.taken;
    EXPECT_TRUE(same_bits(chain(*table, -least, a, 0.0f, b, 0.0f), -c.want)) << c.taken;
  }
  const auto denormal = std::bit_cast<float>(0x00400000u);
  EXPECT_TRUE(same_bits(chain(*table, 0.0f, denormal, 0.0f, 0x1p100f, 0.0f), 0.0f));
  EXPECT_TRUE(same_bits(chain(*table, least, 0x1p100f, 0.0f, denormal, 0.0f), least));
  EXPECT_TRUE(std::isnan(chain(*table, 0.0f, denormal, 0.0f, INFINITY, 0.0f)));
}

TEST_P(MatmulBF16Tiles, EvenAndOddColumnsOfAStepAreSummedApartAndAddedAtItsEnd) {
  REQUIRE_DEFINITION(table, GetParam(), kBF16Tiles);
  const float e = 0x1p-24f;  // lost beside 1, twice of it is not
  EXPECT_EQ(output(*table, 4, {{0, 1}, {1, e}, {2, -1}}), e);
  EXPECT_EQ(output(*table, 5, {{0, 1}, {2, e}, {4, -1}}), 0.0f);
  EXPECT_EQ(output(*table, 5, {{0, 1}, {2, -1}, {4, e}}), e);
  EXPECT_EQ(output(*table, 6, {{1, 1}, {3, e}, {5, -1}}), 0.0f);
  // What a step adds to the steps before it is one number.
  EXPECT_EQ(output(*table, 32, {{0, 1}, {28, e}, {30, e}}), 1.0f);
  EXPECT_EQ(output(*table, 33, {{0, 1}, {30, e}, {32, e}}), 1.0f);
  EXPECT_EQ(output(*table, 35, {{0, 1}, {32, e}, {34, e}}), 1 + 2 * e);
  EXPECT_EQ(output(*table, 35, {{0, 1}, {32, e}, {33, e}}), 1 + 2 * e);
  EXPECT_EQ(output(*table, 65, {{0, 1}, {32, e}, {64, e}}), 1.0f);
  EXPECT_EQ(output(*table, 65, {{0, 1}, {32, -1}, {64, e}}), e);
}

TEST_P(MatmulBF16Tiles, ProductsAreNotRoundedNorDoTheyOverflowBeforeTheSum) {
  REQUIRE_DEFINITION(table, GetParam(), kBF16Tiles);
  const float big = 0x1p127f;
  EXPECT_EQ(output(*table, 3, {{0, -big}, {2, big, 2}}), big);
  EXPECT_EQ(output(*table, 3, {{0, big}, {2, big, 2}}), INFINITY);
  EXPECT_EQ(output(*table, 3, {{0, -big}, {1, big, 2}}), INFINITY);  // alone in its chain
  EXPECT_EQ(output(*table, 33, {{0, -big}, {32, big, 2}}), INFINITY);
  EXPECT_TRUE(std::isnan(output(*table, 33, {{0, big, 2}, {32, -big, 2}})));
  EXPECT_TRUE(std::isnan(output(*table, 3, {{2, INFINITY, 0}})));
}

TEST_P(MatmulBF16Tiles, TinySumsAndDenormalsBecomeZerosOfTheirSign) {
  REQUIRE_DEFINITION(table, GetParam(), kBF16Tiles);
  const float least = 0x1p-126f, more = 0x1.8p-126f, a = 0x1p-60f;
  const auto denormal = std::bit_cast<float>(0x00400000u);
  const auto is = [&](float want, int64_t n_cols, const std::vector<Column>& columns) {
    return same_bits(output(*table, n_cols, columns), want);
  };
  // In a chain, at the same border as that of kBF16Dot.
  EXPECT_TRUE(is(0.0f, 3, {{0, least}, {2, -a, 0x1.02p-91f}}));
  EXPECT_TRUE(is(least, 3, {{0, least}, {2, -a, 0x1p-91f}}));
  EXPECT_TRUE(is(least, 3, {{0, least}, {1, -a, 0x1p-89f}}));  // a chain of its own: a zero
  // Of the two chains, and of the steps. A zero of either sign after one that is +0 is +0.
  EXPECT_TRUE(is(0.0f, 2, {{0, more}, {1, -least}}));
  EXPECT_TRUE(is(0.0f, 2, {{0, -more}, {1, least}}));
  EXPECT_TRUE(is(0.0f, 33, {{0, more}, {32, -least}}));
  EXPECT_TRUE(is(-0.0f, 33, {{0, -more}, {32, least}}));
  // -0 stays if both chains of each further step end as -0, which zeros behind them prevent.
  const std::vector<Column> minus_zero = {
      {0, -more}, {32, least}, {94, -a, a * a}, {95, -a, a * a}};
  EXPECT_TRUE(is(-0.0f, 96, minus_zero));
  EXPECT_TRUE(is(0.0f, 97, minus_zero));
  EXPECT_TRUE(is(0.0f, 66, {{0, -more}, {32, least}, {64, -a, a * a}, {65, -a, a * a}}));
  EXPECT_TRUE(is(0.0f, 1, {{0, denormal, 0x1p100f}}));
  EXPECT_TRUE(is(least, 3, {{0, least}, {2, 0x1p100f, denormal}}));
  EXPECT_TRUE(std::isnan(output(*table, 1, {{0, denormal, INFINITY}})));
}

TEST_P(MatmulPrompt, EqualsScalarForEveryShapeAlignmentAndNumberOfTokens) {
  REQUIRE_TABLE(table, GetParam());
  Random random(22);
  for (int64_t tokens = 1; tokens <= 70; ++tokens) {
    const int64_t cols = tokens % 4 == 0 ? 200 + random.below(400) : 1 + random.below(90);
    const Product p = make_product(random, 1 + random.below(70), cols, tokens, normals(random));
    ASSERT_TRUE(same_bits(multiply(*table, p), multiply(oracle(*table), p)))
        << p.rows << 'x' << p.cols << ", " << tokens << " tokens";
  }
}

// More rows, and more columns, than any panel holds.
TEST_P(MatmulPrompt, EqualsScalarBeyondThePanels) {
  REQUIRE_TABLE(table, GetParam());
  Random random(26);
  const struct {
    int64_t rows, cols, tokens;
  } kShapes[] = {{90, 1100, 3}, {33, 2304, 2}, {17, 2305, 18}, {40, 4700, 33}, {2400, 31, 2}};
  for (const auto& s : kShapes) {
    const Product p = make_product(random, s.rows, s.cols, s.tokens, normals(random));
    ASSERT_TRUE(same_bits(multiply(*table, p), multiply(oracle(*table), p)))
        << p.rows << 'x' << p.cols << ", " << p.tokens << " tokens";
  }
}

// Every exponent, and many sums near the ends of the range: this holds the portable model to what
// the instruction does, in either mode of the thread.
TEST_P(MatmulPrompt, AnyBitsEqualScalar) {
  REQUIRE_TABLE(table, GetParam());
  Random random(23);
  for (int round = 0; round < 300; ++round) {
    const int kind = round % 5;
    const auto bits = [&] {
      const auto v = static_cast<uint16_t>(random.next());
      const auto exponent = [&](int64_t from, int64_t n) {
        return static_cast<uint16_t>((v & 0x807fu) | (from + random.below(n)) << 7);
      };
      switch (kind) {
        case 0:
          return v;  // NaN and Inf, too
        case 1:
          return static_cast<uint16_t>(v & 0xbfffu);  // products that vanish
        case 2:
          return exponent(52, 20);  // ... that nearly do
        case 3:
          return exponent(0, random.below(2) == 0 ? 3 : 128);  // denormals among others
        default:
          return exponent(180, 15);  // sums that overflow
      }
    };
    const int64_t cols = 1 + random.below(70), tokens = 1 + random.below(10);
    const Product p = make_product(random, 40, cols, tokens, bits);
    const std::vector<float> want = multiply(oracle(*table), p);
    ASSERT_TRUE(same_bits(multiply(*table, p), want)) << round;
#if defined(__x86_64__)
    const unsigned int mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);  // denormals are zeros, tiny results are flushed
    const std::vector<float> got = multiply(*table, p);
    EXPECT_EQ((_mm_getcsr() ^ mode) & ~0x3fu, 0x8040u);  // but for the flags of exceptions
    _mm_setcsr(mode);
    ASSERT_TRUE(same_bits(got, want)) << round;
#endif
  }
}

TEST_P(MatmulPrompt, AnySplitOfRowsAndTokensGivesTheSameBits) {
  REQUIRE_TABLE(table, GetParam());
  Random random(24);
  const Product p = make_product(random, 77, 601, 65, normals(random));
  const std::vector<float> whole = multiply(*table, p);
  std::vector<float> parts(whole.size(), kUntouched);
  for (int64_t r = 0; r < p.rows;) {
    const int64_t rows = std::min(p.rows - r, 1 + random.below(40));
    for (int64_t t = 0; t < p.tokens;) {
      const int64_t tokens = std::min(p.tokens - t, 1 + random.below(20));
      multiply_part(*table, p, r, rows, t, tokens, parts);
      t += tokens;
    }
    r += rows;
  }
  ASSERT_TRUE(same_bits(parts, whole));
}

TEST_P(MatmulPrompt, IsCloseToDoublePrecision) {
  REQUIRE_TABLE(table, GetParam());
  Random random(25);
  const Product p = make_product(random, 33, 1500, 5, normals(random));
  const std::vector<float> y = multiply(*table, p);
  const auto wide = [](uint16_t v) {
    return static_cast<double>(std::bit_cast<float>(uint32_t{v} << 16));
  };
  for (int64_t t = 0; t < p.tokens; ++t) {
    for (int64_t r = 0; r < p.rows; ++r) {
      double want = 0, magnitude = 0;
      for (int64_t k = 0; k < p.cols; ++k) {
        uint16_t w;
        std::memcpy(&w, p.w.data() + p.w_offset + r * p.w_stride + 2 * k, 2);
        const double term = wide(w) * wide(p.x[t * p.x_stride / 2 + k]);
        want += term;
        magnitude += std::fabs(term);
      }
      ASSERT_NEAR(y[t * p.y_stride + r], want, 64 * 0x1p-24 * magnitude);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants,
                         MatmulPrompt,
                         ::testing::ValuesIn(kPromptVariants),
                         variant_name);
INSTANTIATE_TEST_SUITE_P(Variants,
                         MatmulBF16Dot,
                         ::testing::Values("scalar_bf16", "avx512_bf16"),
                         variant_name);
INSTANTIATE_TEST_SUITE_P(Variants,
                         MatmulBF16Tiles,
                         ::testing::Values("scalar_bf16_tiles", "amx_model", "amx"),
                         variant_name);

}  // namespace
}  // namespace sluice::kernels
