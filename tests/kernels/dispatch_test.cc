#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/cpu_features.h"
#include "kernels/kernels.h"
#include "tests/kernels/variants.h"

namespace sluice::kernels {
namespace {

TEST(Dispatch, EveryEntryOfEveryVariantIsFilled) {
  for (const char* name : kVariants) {
    const KernelTable* t = kernels_by_name(name);
    if (t == nullptr) continue;
    EXPECT_STREQ(t->name, name);
    for (int i = 0; i < kNWeightTypes; ++i) {
      EXPECT_NE(t->dequant[i], nullptr);
      EXPECT_NE(t->matmul[i], nullptr);
    }
    for (auto f : t->quantize) EXPECT_NE(f, nullptr);
    for (auto f : t->kv_store) EXPECT_NE(f, nullptr);
    for (auto f : t->attention_run) EXPECT_NE(f, nullptr);
    EXPECT_TRUE(t->rms_norm != nullptr && t->rope != nullptr && t->swiglu != nullptr &&
                t->add != nullptr);
    EXPECT_TRUE(t->add_scaled != nullptr && t->softmax != nullptr && t->attention_merge != nullptr);
  }
}

TEST(Dispatch, UnknownNamesAreNull) {
  EXPECT_EQ(kernels_by_name("sse9"), nullptr);
  EXPECT_EQ(kernels_by_name(""), nullptr);
  EXPECT_EQ(kernels_by_name("scalar"), &scalar_kernels());
#if defined(__x86_64__)
  EXPECT_EQ(kernels_by_name("neon"), nullptr);
#else
  EXPECT_EQ(kernels_by_name("avx2"), nullptr);
#endif
}

TEST(Dispatch, PromptDefinitionsStandWhereTheTableSaysSo) {
  EXPECT_EQ(kernels_by_name("scalar_bf16"), &scalar_bf16_kernels());
  EXPECT_EQ(kernels_by_name("scalar_bf16_tiles"), &scalar_bf16_tiles_kernels());
  constexpr auto kNone = PromptDefinition::kNone, kDot = PromptDefinition::kBF16Dot,
                 kTiles = PromptDefinition::kBF16Tiles;
  const struct {
    const char* name;
    PromptDefinition definition;
  } kTables[] = {{"scalar", kNone},
                 {"avx2", kNone},
                 {"avx512", kNone},
                 {"scalar_bf16", kDot},
                 {"avx512_bf16", kDot},
                 {"scalar_bf16_tiles", kTiles},
                 {"amx", cpu_features().amx_bf16 ? kTiles : kDot}};
  for (const auto& [name, definition] : kTables) {
    const KernelTable* t = kernels_by_name(name);
    if (t == nullptr) continue;
    const bool bf16 = definition != kNone;
    EXPECT_EQ(t->prompt_definition, definition) << name;
    for (int i = 0; i < kNWeightTypes; ++i) {
      const auto type = static_cast<WeightType>(i);
      const auto row = t->product(type, Role::kRow), prompt = t->product(type, Role::kPrompt);
      EXPECT_EQ(row.matmul, t->matmul[i]);
      EXPECT_EQ(row.act, info(type).act);
      EXPECT_EQ(prompt.matmul != row.matmul, bf16 && type == WeightType::kBF16);
      EXPECT_EQ(prompt.act, prompt.matmul == row.matmul ? row.act : ActFormat::kBF16);
    }
  }
}

TEST(Dispatch, NamesAreThoseOfThisCpuWorstFirst) {
  std::vector<std::string> known;
  for (const char* name : kVariants) {
    if (kernels_by_name(name) != nullptr) known.emplace_back(name);
  }
  std::vector<std::string> named;
  for (int i = 0; kernel_name(i) != nullptr; ++i) named.emplace_back(kernel_name(i));
  EXPECT_EQ(named, known);
  EXPECT_EQ(kernel_name(-1), nullptr);
}

TEST(Dispatch, TheChosenTableIsTheForcedOneOrTheBest) {
  const char* forced = std::getenv("SLUICE_KERNELS");
  if (forced != nullptr && *forced == '\0') forced = nullptr;
  const KernelTable* want = forced != nullptr ? kernels_by_name(forced) : nullptr;
  for (const char* name : kVariants) {  // worst first
    if (forced == nullptr && kernels_by_name(name) != nullptr) want = kernels_by_name(name);
  }
  ASSERT_NE(want, nullptr) << "SLUICE_KERNELS names no variant of this CPU";
  EXPECT_EQ(&kernels(), want);
}

TEST(Groups, RowAndActivationBytes) {
  EXPECT_EQ(row_bytes(WeightType::kQ4_K, 512), 288u);
  EXPECT_EQ(row_bytes(WeightType::kMXFP4, 64), 34u);
  EXPECT_EQ(act_bytes(ActFormat::kQ8x32, 64), 80u);
  EXPECT_EQ(act_bytes(ActFormat::kQ8x256, 512), 584u);
  EXPECT_EQ(act_bytes(ActFormat::kF32, 3), 12u);
  EXPECT_EQ(act_bytes(ActFormat::kBF16, 6), 12u);
  EXPECT_EQ(act_bytes(ActFormat::kBF16, 7), 16u);
  EXPECT_EQ(kv_row_bytes(KvType::kQ8_0, 64), 68);
}

}  // namespace
}  // namespace sluice::kernels
