// Attention over pages: against plain double-precision attention, against the portable version bit
// for bit, and its edges: nothing visible, NaN, one run against several.
#include <gtest/gtest.h>

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

// Keys and values of one kv head, in pages that are no longer than they must be.
struct Kv {
  KvType type;
  int64_t head_dim, n;
  std::vector<std::vector<uint8_t>> k, v;

  Kv(KvType type_,
     int64_t head_dim_,
     int64_t n_,
     const std::vector<float>& keys,
     const std::vector<float>& values)
      : type(type_), head_dim(head_dim_), n(n_) {
    const auto store = scalar_kernels().kv_store[static_cast<int>(type)];
    const int64_t row = kv_row_bytes(type, head_dim);
    for (int64_t t = 0; t < n; ++t) {
      if (t % kPageTokens == 0) {
        const int64_t rows = std::min<int64_t>(kPageTokens, n - t);
        k.emplace_back(rows * row);
        v.emplace_back(rows * row);
      }
      store(keys.data() + t * head_dim, k.back().data() + t % kPageTokens * row, head_dim);
      store(values.data() + t * head_dim, v.back().data() + t % kPageTokens * row, head_dim);
    }
  }
};

struct Result {
  std::vector<float> acc;
  std::vector<AttentionPartial> part;
};

// What a query sees, absolute.
struct Span {
  int64_t first, last;
};

// Run `run` of the sequence, for queries q_stride floats apart.
Result attend_run(const KernelTable& table,
                  const Kv& kv,
                  const std::vector<float>& q,
                  int64_t q_stride,
                  const std::vector<Span>& spans,
                  int64_t run,
                  float scale) {
  std::vector<const void*> k, v;
  for (int64_t p = run * kRunPages;
       p < std::min<int64_t>((run + 1) * kRunPages, static_cast<int64_t>(kv.k.size()));
       ++p) {
    k.push_back(kv.k[p].data());
    v.push_back(kv.v[p].data());
  }
  const auto n_q = static_cast<int64_t>(spans.size());
  Result r{std::vector<float>(n_q * kv.head_dim, NAN), std::vector<AttentionPartial>(n_q)};
  const int64_t base = run * kRunTokens;
  std::vector<AttentionQuery> queries;
  for (int64_t h = 0; h < n_q; ++h) {
    queries.push_back({q.data() + h * q_stride,
                       std::clamp<int64_t>(spans[h].first - base, 0, kRunTokens),
                       std::clamp<int64_t>(spans[h].last - base, 0, kRunTokens)});
  }
  table.attention_run[static_cast<int>(kv.type)](
      queries.data(), n_q, kv.head_dim, k.data(), v.data(), scale, r.acc.data(), r.part.data());
  return r;
}

Result attend_run(const KernelTable& table,
                  const Kv& kv,
                  const std::vector<float>& q,
                  int64_t q_stride,
                  int64_t n_q,
                  int64_t run,
                  int64_t first,
                  int64_t last,
                  float scale) {
  return attend_run(table, kv, q, q_stride, std::vector<Span>(n_q, {first, last}), run, scale);
}

// All runs of one head, merged.
std::vector<float> attend(const KernelTable& table,
                          const Kv& kv,
                          const std::vector<float>& q,
                          int64_t first,
                          int64_t last,
                          float scale) {
  const int64_t n_runs = (kv.n + kRunTokens - 1) / kRunTokens;
  std::vector<float> acc;
  std::vector<AttentionPartial> parts;
  for (int64_t run = 0; run < n_runs; ++run) {
    const Result r = attend_run(table, kv, q, kv.head_dim, 1, run, first, last, scale);
    acc.insert(acc.end(), r.acc.begin(), r.acc.end());
    parts.push_back(r.part[0]);
  }
  std::vector<float> out(kv.head_dim, NAN);
  table.attention_merge(acc.data(), kv.head_dim, parts.data(), 1, n_runs, kv.head_dim, out.data());
  return out;
}

std::vector<double> attend_in_double(const std::vector<float>& q,
                                     const std::vector<float>& k,
                                     const std::vector<float>& v,
                                     int64_t head_dim,
                                     int64_t first,
                                     int64_t last,
                                     double scale) {
  std::vector<double> p, out(head_dim);
  double max = -static_cast<double>(INFINITY), sum = 0;
  for (int64_t t = first; t < last; ++t) {
    double dot = 0;
    for (int64_t d = 0; d < head_dim; ++d)
      dot += static_cast<double>(q[d]) * static_cast<double>(k[t * head_dim + d]);
    p.push_back(dot * scale);
    max = std::max(max, p.back());
  }
  for (double& x : p) sum += x = std::exp(x - max);
  for (int64_t t = first; t < last; ++t) {
    for (int64_t d = 0; d < head_dim; ++d)
      out[d] += p[t - first] / sum * static_cast<double>(v[t * head_dim + d]);
  }
  return out;
}

class Attention : public ::testing::TestWithParam<const char*> {};

TEST_P(Attention, IsCloseToDoublePrecisionOverPagesAndRuns) {
  REQUIRE_TABLE(table, GetParam());
  Random random(1);
  const int64_t head_dim = 64, n = 1200;
  const std::vector<float> k = random.normals(n * head_dim), v = random.normals(n * head_dim);
  for (const auto& [type, tolerance] : {std::pair{KvType::kF32, 3e-6},
                                        std::pair{KvType::kF16, 2e-3},
                                        std::pair{KvType::kQ8_0, 3e-2}}) {
    const Kv kv(type, head_dim, n, k, v);
    for (int64_t last : {1, 63, 64, 65, 511, 512, 513, 1024, 1200}) {
      for (int64_t window : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{64}, int64_t{700}}) {
        const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, last - window);
        const std::vector<float> q = random.normals(head_dim);
        const std::vector<float> got = attend(*table, kv, q, first, last, 0.125f);
        const std::vector<double> want = attend_in_double(q, k, v, head_dim, first, last, 0.125);
        for (int64_t d = 0; d < head_dim; ++d) {
          ASSERT_NEAR(got[d], want[d], tolerance)
              << "last " << last << " window " << window << " at " << d;
        }
      }
    }
  }
}

TEST_P(Attention, EqualsScalarForEveryHeadDimHeadCountAndRange) {
  REQUIRE_TABLE(table, GetParam());
  Random random(2);
  for (int type = 0; type < static_cast<int>(KvType::kCount); ++type) {
    for (int round = 0; round < 120; ++round) {
      const bool groups = static_cast<KvType>(type) == KvType::kQ8_0;
      const int64_t head_dim = groups       ? 32 * (1 + random.below(6))
                               : round == 0 ? 512
                                            : 2 * (1 + random.below(90));
      const int64_t n_q = 1 + random.below(19);
      const int64_t last = random.below(kRunTokens + 1), first = random.below(last + 1);
      const int64_t n = std::max<int64_t>(last, 1), q_stride = head_dim + random.below(5);
      const float size = round % 3 == 0 ? 8.0f : 1.0f;  // peaked or flat
      const Kv kv(static_cast<KvType>(type),
                  head_dim,
                  n,
                  random.normals(n * head_dim, size),
                  random.normals(n * head_dim));
      const std::vector<float> q = random.normals(n_q * q_stride, size);
      const Result got = attend_run(*table, kv, q, q_stride, n_q, 0, first, last, 0.1f);
      const Result want = attend_run(scalar_kernels(), kv, q, q_stride, n_q, 0, first, last, 0.1f);
      ASSERT_TRUE(same_bits(got.acc, want.acc))
          << type << ' ' << head_dim << ' ' << n_q << ' ' << first << ' ' << last;
      for (int64_t h = 0; h < n_q; ++h) {
        ASSERT_TRUE(same_bits(got.part[h].max, want.part[h].max));
        ASSERT_TRUE(same_bits(got.part[h].sum, want.part[h].sum));
      }
    }
  }
}

// Tokens of one prompt together: each sees a range of its own, as if it were alone.
TEST_P(Attention, QueriesTogetherEqualScalarsOneByOne) {
  REQUIRE_TABLE(table, GetParam());
  Random random(9);
  for (int type = 0; type < static_cast<int>(KvType::kCount); ++type) {
    for (int round = 0; round < 60; ++round) {
      const int64_t head_dim = 32 * (1 + random.below(5));
      const int64_t group = 1 + random.below(8), tokens = 1 + random.below(20);
      const int64_t start = random.below(kRunTokens - tokens + 1);
      const int64_t window = round % 3 == 0 ? 1 + random.below(200) : kRunTokens;
      const int64_t n = start + tokens;
      const Kv kv(static_cast<KvType>(type),
                  head_dim,
                  n,
                  random.normals(n * head_dim),
                  random.normals(n * head_dim));
      std::vector<Span> spans;
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t last = start + t + 1;
        const Span span =
            random.below(12) == 0 ? Span{0, 0} : Span{std::max<int64_t>(0, last - window), last};
        spans.insert(spans.end(), group, span);
      }
      const std::vector<float> q = random.normals(tokens * group * head_dim);
      const Result got = attend_run(*table, kv, q, head_dim, spans, 0, 0.1f);
      for (size_t h = 0; h < spans.size(); ++h) {
        const auto from = q.begin() + static_cast<int64_t>(h) * head_dim;
        const Result want = attend_run(
            scalar_kernels(), kv, {from, from + head_dim}, head_dim, {spans[h]}, 0, 0.1f);
        const auto at = got.acc.begin() + static_cast<int64_t>(h) * head_dim;
        ASSERT_TRUE(same_bits(std::vector<float>(at, at + head_dim), want.acc))
            << type << ' ' << head_dim << " query " << h;
        ASSERT_TRUE(same_bits(got.part[h].max, want.part[0].max));
        ASSERT_TRUE(same_bits(got.part[h].sum, want.part[0].sum));
      }
    }
  }
}

TEST_P(Attention, RowsOutsideTheRangeAreNotSeen) {
  REQUIRE_TABLE(table, GetParam());
  Random random(3);
  const int64_t head_dim = 34, n = 200, first = 70, last = 150;
  for (KvType type : {KvType::kF32, KvType::kF16}) {
    std::vector<float> k = random.normals(n * head_dim), v = random.normals(n * head_dim);
    const std::vector<float> q = random.normals(head_dim);
    const std::vector<float> want =
        attend(*table, Kv(type, head_dim, n, k, v), q, first, last, 0.2f);
    for (int64_t t = 0; t < n; ++t) {
      if (t >= first && t < last) continue;
      std::fill_n(k.begin() + t * head_dim, head_dim, NAN);
      std::fill_n(v.begin() + t * head_dim, head_dim, NAN);
    }
    ASSERT_TRUE(same_bits(attend(*table, Kv(type, head_dim, n, k, v), q, first, last, 0.2f), want));
  }
}

TEST_P(Attention, NothingVisibleGivesZerosAndRunsWithoutKeysChangeNothing) {
  REQUIRE_TABLE(table, GetParam());
  Random random(4);
  const int64_t head_dim = 48, n = 1100;
  const Kv kv(
      KvType::kF16, head_dim, n, random.normals(n * head_dim), random.normals(n * head_dim));
  const std::vector<float> q = random.normals(head_dim);
  const Result none = attend_run(*table, kv, q, head_dim, 1, 0, 5, 5, 0.1f);
  EXPECT_EQ(none.part[0].max, -INFINITY);
  EXPECT_EQ(none.part[0].sum, 0.0f);
  for (float x : none.acc) EXPECT_EQ(x, 0.0f);
  for (float x : attend(*table, kv, q, 7, 7, 0.1f)) EXPECT_EQ(x, 0.0f);

  // Tokens 600..700 lie in the second run: alone, or between two empty ones.
  const Result second = attend_run(*table, kv, q, head_dim, 1, 1, 600, 700, 0.1f);
  std::vector<float> alone(head_dim);
  table->attention_merge(
      second.acc.data(), head_dim, second.part.data(), 1, 1, head_dim, alone.data());
  ASSERT_TRUE(same_bits(attend(*table, kv, q, 600, 700, 0.1f), alone));
}

TEST_P(Attention, NaNKeyOrValueMakesTheResultNaN) {
  REQUIRE_TABLE(table, GetParam());
  Random random(5);
  const int64_t head_dim = 64, n = 130;
  for (int type = 0; type < static_cast<int>(KvType::kCount); ++type) {
    const std::vector<float> good = random.normals(n * head_dim), q = random.normals(head_dim);
    std::vector<float> bad = good;
    bad[100 * head_dim + 3] = NAN;
    const auto kind = static_cast<KvType>(type);
    for (float x : attend(*table, Kv(kind, head_dim, n, bad, good), q, 0, n, 0.1f))
      EXPECT_TRUE(std::isnan(x));
    EXPECT_TRUE(std::isnan(attend(*table, Kv(kind, head_dim, n, good, bad), q, 0, n, 0.1f)[3]));
    // Nothing but NaN is NaN too, not "no key".
    const std::vector<float> all(n * head_dim, NAN);
    for (float x : attend(*table, Kv(kind, head_dim, n, all, good), q, 0, n, 0.1f))
      EXPECT_TRUE(std::isnan(x));
  }
}

// The definition passes NaN over, and knows one zero only.
TEST_P(Attention, TheMaximumIsNeverNaNOrMinusZero) {
  REQUIRE_TABLE(table, GetParam());
  const int64_t head_dim = 32;
  for (int64_t n : {1, 3, 4, 5, 16, 64, 65, 100}) {
    std::vector<float> k(n * head_dim, -1e-30f);
    const std::vector<float> v(n * head_dim, 1.0f), q(head_dim, 1e-30f);
    const Kv zeros(KvType::kF32, head_dim, n, k, v);
    EXPECT_TRUE(
        same_bits(attend_run(*table, zeros, q, head_dim, 1, 0, 0, n, 1.0f).part[0].max, 0.0f));
    for (int64_t t = 0; t < n; t += 2) k[t * head_dim] = NAN;
    const Kv kv(KvType::kF32, head_dim, n, k, v);
    const Result got = attend_run(*table, kv, q, head_dim, 1, 0, 0, n, 1.0f);
    EXPECT_EQ(got.part[0].max, n == 1 ? -INFINITY : 0.0f) << n;
    EXPECT_TRUE(std::isnan(got.part[0].sum));
  }
}

TEST_P(Attention, HugeScoresDoNotOverflow) {
  REQUIRE_TABLE(table, GetParam());
  const int64_t head_dim = 32, n = 100;
  std::vector<float> k(n * head_dim, -1e4f), v(n * head_dim, 1.0f);
  std::fill_n(k.begin() + 70 * head_dim, head_dim, 1e4f);
  std::fill_n(v.begin() + 70 * head_dim, head_dim, 5.0f);
  const std::vector<float> q(head_dim, 1e4f);
  for (float x : attend(*table, Kv(KvType::kF32, head_dim, n, k, v), q, 0, n, 1.0f))
    EXPECT_EQ(x, 5.0f);
}

TEST_P(Attention, MergeEqualsScalar) {
  REQUIRE_TABLE(table, GetParam());
  Random random(6);
  for (int round = 0; round < 200; ++round) {
    const int64_t runs = 1 + random.below(9), head_dim = 2 * (1 + random.below(80));
    const int64_t acc_stride = head_dim + random.below(9), part_stride = 1 + random.below(4);
    const std::vector<float> acc = random.normals(runs * acc_stride);
    std::vector<AttentionPartial> parts(runs * part_stride);
    for (AttentionPartial& p : parts) {
      p = random.below(4) == 0
              ? AttentionPartial{-INFINITY, 0.0f}
              : AttentionPartial{20.0f * random.normal(), 1.0f + std::fabs(random.normal())};
    }
    std::vector<float> got(head_dim + 1, 7.0f), want(head_dim + 1, 7.0f);
    table->attention_merge(
        acc.data(), acc_stride, parts.data(), part_stride, runs, head_dim, got.data());
    scalar_kernels().attention_merge(
        acc.data(), acc_stride, parts.data(), part_stride, runs, head_dim, want.data());
    ASSERT_TRUE(same_bits(got, want));
  }
}

TEST_P(Attention, StoredRowsEqualScalarsForAnyBits) {
  REQUIRE_TABLE(table, GetParam());
  Random random(7);
  for (int type = 0; type < static_cast<int>(KvType::kCount); ++type) {
    const int64_t step = static_cast<KvType>(type) == KvType::kQ8_0 ? 32 : 2;
    for (int round = 0; round < 300; ++round) {
      const int64_t head_dim = step * (1 + random.below(512 / step));
      std::vector<float> x = random.normals(head_dim, std::exp2(20.0f * random.uniform()));
      if (round % 3 == 0) {
        for (float& v : x) v = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
      }
      const int64_t bytes = kv_row_bytes(static_cast<KvType>(type), head_dim);
      std::vector<uint8_t> got(bytes + 1, 0x5a), want(bytes + 1, 0x5a);
      table->kv_store[type](x.data(), got.data(), head_dim);
      scalar_kernels().kv_store[type](x.data(), want.data(), head_dim);
      ASSERT_EQ(got, want) << type << ' ' << head_dim;
    }
  }
}

TEST_P(Attention, Q8RowsAreWithinHalfAStep) {
  REQUIRE_TABLE(table, GetParam());
  Random random(8);
  for (float scale : {1e-3f, 1.0f, 1e4f}) {
    const std::vector<float> x = random.normals(128, scale);
    std::vector<uint8_t> row(kv_row_bytes(KvType::kQ8_0, 128));
    table->kv_store[static_cast<int>(KvType::kQ8_0)](x.data(), row.data(), 128);
    std::vector<float> back(128);
    scalar_kernels().dequant[static_cast<int>(WeightType::kQ8_0)](row.data(), back.data(), 128);
    for (int64_t i = 0; i < 128; ++i) {
      Half d;
      std::memcpy(&d, row.data() + i / 32 * 34, 2);
      // Rounding d down to a half may clip the largest value by 127 half-units of d's last place.
      ASSERT_NEAR(back[i], x[i], 0.57f * half_to_f32(d));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Attention, ::testing::ValuesIn(kVariants), variant_name);

}  // namespace
}  // namespace sluice::kernels
