// Every leaf operation against what HF transformers computed (tests/golden/public/components),
// standing alone.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/variants.h"
#include "tests/support/safetensors.h"

namespace sluice::kernels {
namespace {

// From the case's case.json.
constexpr double kTolerance = 1e-5;
constexpr double kRopeTolerance = 1e-4;
constexpr float kRmsEps = 1e-6f;
constexpr int64_t kWindow = 4;

const test::Tensor& golden(const std::string& name) {
  static const auto tensors = test::read_safetensors(
      SLUICE_SOURCE_DIR "/tests/golden/public/components/golden.safetensors");
  return tensors.at(name);
}

void expect_near(const std::vector<float>& got,
                 const std::string& name,
                 double tolerance = kTolerance) {
  const std::vector<float> want = golden(name).floats();
  ASSERT_EQ(got.size(), want.size()) << name;
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_NEAR(got[i], want[i], tolerance) << name << " at " << i;
}

class Components : public ::testing::TestWithParam<const char*> {};

TEST_P(Components, RmsNorm) {
  REQUIRE_TABLE(table, GetParam());
  const auto& x = golden("rmsnorm.x");
  const int64_t n = x.shape[1];
  std::vector<float> y(x.size());
  for (int64_t t = 0; t < x.shape[0]; ++t) {
    table->rms_norm(x.f32() + t * n, golden("rmsnorm.w").f32(), kRmsEps, y.data() + t * n, n);
  }
  expect_near(y, "rmsnorm.y");
}

TEST_P(Components, Rope) {
  REQUIRE_TABLE(table, GetParam());
  const std::vector<int32_t> positions = golden("rope.pos").ints();
  for (const auto& [suffix, theta] :
       {std::pair{"_1e4", 1e4}, std::pair{"_1e6", 1e6}, std::pair{"_5e6", 5e6}}) {
    for (const char* which : {"rope.q", "rope.k"}) {
      const auto& in = golden(which);
      const int64_t heads = in.shape[1], dim = in.shape[2], half = dim / 2;
      std::vector<float> half_split = in.floats();
      // The interleaved form is the same rotation of a permuted vector.
      std::vector<float> interleaved(half_split.size());
      auto at = [&](int64_t t, int64_t h, int64_t i) { return (t * heads + h) * dim + i; };
      for (int64_t t = 0; t < in.shape[0]; ++t) {
        std::vector<float> cos_sin(dim);
        for (int64_t i = 0; i < half; ++i) {
          // In f32 steps, as HF does it: the last bit matters at position 32767.
          const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
          const float inv_freq =
              1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
          sin_cos_f32(
              static_cast<float>(positions[t]) * inv_freq, &cos_sin[2 * i + 1], &cos_sin[2 * i]);
        }
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t i = 0; i < dim; ++i) {
            interleaved[at(t, h, i)] = half_split[at(t, h, i % 2 * half + i / 2)];
          }
        }
        table->rope(half_split.data() + at(t, 0, 0), cos_sin.data(), heads, dim, dim, false);
        table->rope(interleaved.data() + at(t, 0, 0), cos_sin.data(), heads, dim, dim, true);
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t i = 0; i < dim; ++i) {
            ASSERT_EQ(interleaved[at(t, h, i)], half_split[at(t, h, i % 2 * half + i / 2)]);
          }
        }
      }
      expect_near(half_split, std::string(which) + suffix, kRopeTolerance);
    }
  }
}

TEST_P(Components, SoftmaxOfRows) {
  REQUIRE_TABLE(table, GetParam());
  const auto& in = golden("softmax.x");
  std::vector<float> x = in.floats();
  for (int64_t r = 0; r < in.shape[0]; ++r) table->softmax(x.data() + r * in.shape[1], in.shape[1]);
  expect_near(x, "softmax.y");
}

TEST_P(Components, SwiGlu) {
  REQUIRE_TABLE(table, GetParam());
  const auto& gate = golden("swiglu.gate");
  std::vector<float> y = gate.floats();
  table->swiglu(y.data(), golden("swiglu.up").f32(), y.data(), gate.size());
  expect_near(y, "swiglu.y");
}

TEST_P(Components, Linear) {
  REQUIRE_TABLE(table, GetParam());
  const auto& w = golden("linear.w");
  const auto& x = golden("linear.x");
  const int64_t rows = w.shape[0], cols = w.shape[1], tokens = x.shape[0];
  std::vector<float> y(tokens * rows);
  table->matmul[static_cast<int>(WeightType::kF32)](
      w.f32(), cols * 4, rows, cols, x.f32(), cols * 4, tokens, y.data(), rows);
  for (int64_t t = 0; t < tokens; ++t)
    table->add(y.data() + t * rows, golden("linear.b").f32(), rows);
  expect_near(y, "linear.y");
}

// One position per kv head lies in page p at row p % kPageTokens; T is smaller than a page here.
std::vector<float> attend(const KernelTable& table, KvType type, int64_t window, bool causal) {
  const auto& q = golden("attention.q");
  const auto& k = golden("attention.k");
  const auto& v = golden("attention.v");
  const int64_t n = q.shape[0], heads = q.shape[1], dim = q.shape[2], kv_heads = k.shape[1];
  const int64_t group = heads / kv_heads, row = kv_row_bytes(type, dim);
  const auto store = table.kv_store[static_cast<int>(type)];
  std::vector<float> y(n * heads * dim), acc(group * dim);
  std::vector<AttentionPartial> part(group);
  for (int64_t g = 0; g < kv_heads; ++g) {
    std::vector<uint8_t> k_page(kPageTokens * row), v_page(kPageTokens * row);
    for (int64_t t = 0; t < n; ++t) {
      store(k.f32() + (t * kv_heads + g) * dim, k_page.data() + t * row, dim);
      store(v.f32() + (t * kv_heads + g) * dim, v_page.data() + t * row, dim);
    }
    const void* k_pages[] = {k_page.data()};
    const void* v_pages[] = {v_page.data()};
    for (int64_t t = 0; t < n; ++t) {
      const int64_t last = causal ? t + 1 : n;
      const int64_t first = window > 0 && t + 1 > window ? t + 1 - window : 0;
      std::vector<AttentionQuery> queries;
      for (int64_t h = 0; h < group; ++h) {
        queries.push_back({q.f32() + (t * heads + g * group + h) * dim, first, last});
      }
      table.attention_run[static_cast<int>(type)](queries.data(),
                                                  group,
                                                  dim,
                                                  k_pages,
                                                  v_pages,
                                                  1.0f / std::sqrt(static_cast<float>(dim)),
                                                  acc.data(),
                                                  part.data());
      for (int64_t h = 0; h < group; ++h) {
        table.attention_merge(acc.data() + h * dim,
                              group * dim,
                              part.data() + h,
                              group,
                              1,
                              dim,
                              y.data() + (t * heads + g * group + h) * dim);
      }
    }
  }
  return y;
}

TEST_P(Components, AttentionFullCausalAndWindowed) {
  REQUIRE_TABLE(table, GetParam());
  expect_near(attend(*table, KvType::kF32, 0, false), "attention.y_full");
  expect_near(attend(*table, KvType::kF32, 0, true), "attention.y_causal");
  expect_near(attend(*table, KvType::kF32, kWindow, true), "attention.y_window4");
}

// Storing in 11 or 8 bits moves a result by at most about that unit times the largest value.
TEST_P(Components, AttentionOverNarrowKvIsClose) {
  REQUIRE_TABLE(table, GetParam());
  expect_near(attend(*table, KvType::kF16, 0, true), "attention.y_causal", 4e-3);
  expect_near(attend(*table, KvType::kQ8_0, 0, true), "attention.y_causal", 5e-2);
}

// Grouped heads read the kv head that repeat_kv would have copied for them.
TEST_P(Components, GroupedHeadsEqualRepeatedKv) {
  REQUIRE_TABLE(table, GetParam());
  const auto& x = golden("repeat_kv.x");     // [kv_heads, positions, dim]
  const auto& wide = golden("repeat_kv.y");  // [heads, positions, dim]
  const int64_t dim = x.shape[2], n = x.shape[1], group = wide.shape[0] / x.shape[0];
  Random random(5);
  const std::vector<float> q = random.normals(group * dim);
  for (int64_t g = 0; g < x.shape[0]; ++g) {
    auto run =
        [&](const float* kv, int64_t first_head, int64_t n_q, float* acc, AttentionPartial* part) {
          const void* pages[] = {kv};
          std::vector<AttentionQuery> queries;
          for (int64_t h = 0; h < n_q; ++h)
            queries.push_back({q.data() + (first_head + h) * dim, 0, n});
          table->attention_run[static_cast<int>(KvType::kF32)](
              queries.data(), n_q, dim, pages, pages, 0.2f, acc, part);
        };
    std::vector<float> grouped(group * dim), alone(dim);
    std::vector<AttentionPartial> part(group), part_alone(1);
    run(x.f32() + g * n * dim, 0, group, grouped.data(), part.data());
    for (int64_t h = 0; h < group; ++h) {
      run(wide.f32() + (g * group + h) * n * dim, h, 1, alone.data(), part_alone.data());
      EXPECT_EQ(part[h].max, part_alone[0].max);
      EXPECT_EQ(part[h].sum, part_alone[0].sum);
      for (int64_t d = 0; d < dim; ++d) ASSERT_EQ(grouped[h * dim + d], alone[d]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Components, ::testing::ValuesIn(kVariants), variant_name);

}  // namespace
}  // namespace sluice::kernels
