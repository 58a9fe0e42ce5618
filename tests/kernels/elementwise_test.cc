// Elementwise operations: every variant against the portable one bit for bit, and what happens at
// the edges.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/variants.h"

namespace sluice::kernels {
namespace {

class Elementwise : public ::testing::TestWithParam<const char*> {};

// Moderate numbers, or any bits at all.
std::vector<float> vector_of(Random& random, int64_t n, bool any_bits) {
  std::vector<float> x = random.normals(n, 3.0f);
  if (any_bits) {
    for (float& v : x) v = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
  }
  return x;
}

// f(table, x, y, n) works on x; x has one element more than n, which must stay as it was.
template <class F>
void expect_equals_scalar(const KernelTable& table, uint64_t seed, F f) {
  Random random(seed);
  for (bool any_bits : {false, true}) {
    for (int64_t n = 1; n <= 70; ++n) {
      const std::vector<float> x = vector_of(random, n + 1, any_bits);
      const std::vector<float> y = vector_of(random, n, any_bits);
      std::vector<float> got = x, want = x;
      f(table, got.data(), y.data(), n);
      f(scalar_kernels(), want.data(), y.data(), n);
      ASSERT_TRUE(same_bits(got, want)) << "n = " << n;
      ASSERT_TRUE(same_bits(got[n], x[n])) << "wrote past the end, n = " << n;
    }
  }
}

TEST_P(Elementwise, AddEqualsScalar) {
  REQUIRE_TABLE(table, GetParam());
  expect_equals_scalar(
      *table, 1, [](const KernelTable& t, float* x, const float* y, int64_t n) { t.add(x, y, n); });
}

TEST_P(Elementwise, AddScaledEqualsScalar) {
  REQUIRE_TABLE(table, GetParam());
  expect_equals_scalar(*table, 2, [](const KernelTable& t, float* x, const float* y, int64_t n) {
    t.add_scaled(x, y, 0.37f, n);
  });
}

TEST_P(Elementwise, SwiGluEqualsScalarInPlaceAndApart) {
  REQUIRE_TABLE(table, GetParam());
  expect_equals_scalar(*table, 3, [](const KernelTable& t, float* x, const float* y, int64_t n) {
    std::vector<float> apart(n);
    t.swiglu(x, y, apart.data(), n);
    t.swiglu(x, y, x, n);
    ASSERT_TRUE(same_bits(apart, std::vector<float>(x, x + n)));
  });
}

TEST_P(Elementwise, RmsNormEqualsScalarInPlaceAndApart) {
  REQUIRE_TABLE(table, GetParam());
  expect_equals_scalar(*table, 4, [](const KernelTable& t, float* x, const float* y, int64_t n) {
    std::vector<float> apart(n);
    t.rms_norm(x, y, 1e-6f, apart.data(), n);
    t.rms_norm(x, y, 1e-6f, x, n);
    ASSERT_TRUE(same_bits(apart, std::vector<float>(x, x + n)));
  });
}

TEST_P(Elementwise, SoftmaxEqualsScalar) {
  REQUIRE_TABLE(table, GetParam());
  expect_equals_scalar(
      *table, 5, [](const KernelTable& t, float* x, const float*, int64_t n) { t.softmax(x, n); });
}

// exp is seen through softmax: two entries, one of them 0, give 1 / (1 + exp(x)) and exp(x) / (1 +
// exp(x)).
TEST_P(Elementwise, SwiGluShowsTheSameExponentialOverItsWholeRange) {
  REQUIRE_TABLE(table, GetParam());
  std::vector<float> x, one;
  for (float v = -110.0f; v < 110.0f; v += 0.0137f) x.push_back(v);
  for (float v : {-0.0f,
                  0.0f,
                  88.72f,
                  88.73f,
                  -88.72f,
                  -88.73f,
                  103.9f,
                  104.0f,
                  1e-40f,
                  INFINITY,
                  -INFINITY,
                  NAN}) {
    x.push_back(v);
  }
  one.assign(x.size(), 1.0f);
  std::vector<float> got(x.size()), want(x.size());
  const auto n = static_cast<int64_t>(x.size());
  table->swiglu(x.data(), one.data(), got.data(), n);
  scalar_kernels().swiglu(x.data(), one.data(), want.data(), n);
  ASSERT_TRUE(same_bits(got, want));
  for (size_t i = 0; i < x.size(); ++i) {
    if (!(std::fabs(x[i]) < 88.0f)) continue;
    const auto v = static_cast<double>(x[i]);
    const double silu = v / (1.0 + std::exp(-v));
    ASSERT_NEAR(got[i], silu, 1e-6 * std::fabs(silu) + 1e-37) << v;
  }
}

TEST_P(Elementwise, RopeEqualsScalarForEveryHeadAndPartialRotation) {
  REQUIRE_TABLE(table, GetParam());
  Random random(6);
  for (int64_t head_dim = 2; head_dim <= 160; head_dim += 2) {
    for (int64_t rot : {head_dim, head_dim / 4 * 2, head_dim / 16 * 8}) {
      for (bool interleaved : {false, true}) {
        const int64_t heads = 1 + random.below(4);
        const std::vector<float> x = random.normals(heads * head_dim);
        const std::vector<float> cos_sin = random.normals(head_dim);
        std::vector<float> got = x, want = x;
        table->rope(got.data(), cos_sin.data(), heads, head_dim, rot, interleaved);
        scalar_kernels().rope(want.data(), cos_sin.data(), heads, head_dim, rot, interleaved);
        ASSERT_TRUE(same_bits(got, want)) << head_dim << ' ' << rot << ' ' << interleaved;
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t i = rot; i < head_dim; ++i)
            ASSERT_EQ(got[h * head_dim + i], x[h * head_dim + i]);
        }
      }
    }
  }
}

TEST_P(Elementwise, SoftmaxGivesAMaskedEntryNothing) {
  REQUIRE_TABLE(table, GetParam());
  for (int64_t n : {1, 5, 33}) {
    std::vector<float> x(n, -INFINITY);
    table->softmax(x.data(), n);  // nothing visible: zeros, not NaN
    for (float v : x) EXPECT_EQ(v, 0.0f);
    x.assign(n, -INFINITY);
    x[n / 2] = 3.0f;
    table->softmax(x.data(), n);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(x[i], i == n / 2 ? 1.0f : 0.0f);
  }
}

TEST_P(Elementwise, NaNAndInfAreSeenInTheResult) {
  REQUIRE_TABLE(table, GetParam());
  for (int64_t at : {0, 11, 20}) {
    std::vector<float> x(21, 1.0f), w(21, 1.0f), y(21);
    x[at] = NAN;
    table->rms_norm(x.data(), w.data(), 1e-6f, y.data(), 21);
    for (float v : y) EXPECT_TRUE(std::isnan(v));
    table->softmax(x.data(), 21);
    for (float v : x) EXPECT_TRUE(std::isnan(v));
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Elementwise, ::testing::ValuesIn(kVariants), variant_name);

}  // namespace
}  // namespace sluice::kernels
