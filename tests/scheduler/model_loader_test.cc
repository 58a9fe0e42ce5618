#include "scheduler/model_loader.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <thread>

#include "tests/storage/gguf_doc.h"
#include "tests/support/golden_model.h"

namespace sluice {
namespace {

using test::GgufDoc;
using test::golden_path;
using test::raw;
using test::TempDir;

GgufDoc golden(const std::string& name) { return GgufDoc::read(golden_path(name, "model.gguf")); }

Error refused(const GgufDoc& doc) {
  TempDir dir;
  auto model = check_model(doc.write(dir.file("m.gguf")));
  if (model) {
    ADD_FAILURE() << "accepted";
    return {};
  }
  EXPECT_NE(model.error().offset, Error::kNoOffset) << error_line(model.error());
  return model.error();
}

std::unique_ptr<CheckedModel> accepted(const GgufDoc& doc, const TempDir& dir) {
  auto model = check_model(doc.write(dir.file("m.gguf")));
  if (!model) {
    ADD_FAILURE() << error_line(model.error());
    return nullptr;
  }
  return std::move(model).value();
}

kernels::HParams hparams_of(const GgufDoc& doc) {
  TempDir dir;
  const auto model = accepted(doc, dir);
  return model ? model->hparams : kernels::HParams{};
}

std::shared_ptr<const Model> loaded(const GgufDoc& doc, const TempDir& dir) {
  auto model = Model::load(accepted(doc, dir));
  if (!model) ADD_FAILURE() << error_line(model.error());
  return model ? model.value() : nullptr;
}

TEST(ModelLoader, EveryGoldenModelLoads) {
  for (const auto& entry : std::filesystem::directory_iterator(golden_path("", ""))) {
    const std::string path = entry.path() / "model.gguf";
    if (!std::filesystem::exists(path)) continue;
    auto checked = check_model(path);
    ASSERT_TRUE(checked) << error_line(checked.error());
    const GgufDoc doc = GgufDoc::read(path);
    auto result = Model::load(std::move(checked).value());
    ASSERT_TRUE(result) << error_line(result.error());
    const Model& m = *result.value();
    const kernels::HParams& h = m.hparams();
    EXPECT_EQ(static_cast<int64_t>(m.blocks().size()), h.n_layers);
    EXPECT_EQ(m.file_bytes(), std::filesystem::file_size(path));
    EXPECT_EQ(m.tensors().size(), doc.tensors.size());
    EXPECT_EQ(h.rope_interleaved, h.arch == kernels::Architecture::kLlama);
    EXPECT_TRUE(m.still_unchanged());
    EXPECT_FALSE(m.metadata().empty());

    // The rows that the model hands out are the bytes that lie in the file, slice by slice and row
    // by row.
    const auto check_matrix = [&](const kernels::MatrixRef& ref, const char* name) {
      ASSERT_TRUE(ref.present()) << name;
      const auto& t = doc.tensors[static_cast<size_t>(ref.tensor)];
      EXPECT_EQ(static_cast<uint64_t>(ref.n_cols), t.dims[0]);
      EXPECT_EQ(static_cast<uint64_t>(ref.n_rows), t.dims[1]);
      const auto index = static_cast<uint32_t>(ref.tensor);
      EXPECT_EQ(m.row_bytes(index),
                kernels::row_bytes(ref.type, static_cast<uint64_t>(ref.n_cols)));
      const uint64_t n_experts = t.dims.size() > 2 ? t.dims[2] : 1;
      std::string bytes;
      for (uint64_t e = 0; e < n_experts; ++e) {
        const auto range = m.slices().of(index, t.dims.size() > 2 ? static_cast<int32_t>(e) : -1);
        for (SliceId id = range.first; id < range.first + range.count; ++id) {
          bytes.append(reinterpret_cast<const char*>(m.slice_data(id)), m.slices()[id].n_bytes);
        }
      }
      EXPECT_EQ(bytes, t.data) << name;
      const uint64_t last = t.dims[1] * n_experts - 1;
      EXPECT_EQ(std::memcmp(m.row_data(index, last),
                            t.data.data() + last * m.row_bytes(index),
                            m.row_bytes(index)),
                0);
    };
    check_matrix(m.token_embedding(), "token_embd");
    check_matrix(m.output_head(), "head");
    EXPECT_EQ(
        doc.tensors[static_cast<size_t>(m.output_head().tensor)].name,
        GgufDoc(doc).tensor("output.weight") != nullptr ? "output.weight" : "token_embd.weight");
    ASSERT_NE(m.output_norm(), nullptr);
    for (const kernels::BlockWeights& b : m.blocks()) {
      check_matrix(b.wq, "wq");
      check_matrix(b.wk, "wk");
      check_matrix(b.wv, "wv");
      check_matrix(b.wo, "wo");
      const bool moe = h.n_experts > 0;
      check_matrix(moe ? b.router : b.w1, "router or w1");
      check_matrix(moe ? b.w1_exps : b.w1, "w1");
      check_matrix(moe ? b.w2_exps : b.w2, "w2");
      check_matrix(moe ? b.w3_exps : b.w3, "w3");
      EXPECT_EQ(b.w1.present(), !moe);
      EXPECT_NE(b.attn_norm, nullptr);
      EXPECT_NE(b.ffn_norm, nullptr);
      const bool qk_norm =
          h.arch == kernels::Architecture::kQwen3 || h.arch == kernels::Architecture::kQwen3Moe;
      EXPECT_EQ(b.q_norm != nullptr, qk_norm);
      EXPECT_EQ(b.k_norm != nullptr, qk_norm);
      EXPECT_EQ(b.bq != nullptr, h.arch == kernels::Architecture::kQwen2);
    }
  }
}

TEST(ModelLoader, NormsOfEveryFloatTypeAreWidenedExactly) {
  struct Case {
    uint32_t type;
    std::string (*encode)(float);
  };
  // Values with few bits, exact in every type.
  const std::vector<float> values = {1.0f, -0.5f, 0.0f, 2.0f, 1.5f, -3.0f, 0.0078125f, 240.0f};
  const Case cases[] = {
      {0, [](float v) { return raw(v); }},
      {1,
       [](float v) {
         return raw(static_cast<uint16_t>(__builtin_bit_cast(uint16_t, static_cast<_Float16>(v))));
       }},
      {30, [](float v) { return raw(static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16)); }},
      {28, [](float v) { return raw(static_cast<double>(v)); }},
  };
  for (const Case& c : cases) {
    GgufDoc doc = golden("qwen2-tiny-untied-q4_0");
    for (auto& t : doc.tensors) {
      if (!t.name.ends_with("_norm.weight")) continue;
      t.type = c.type;
      t.data.clear();
      for (uint64_t i = 0; i < t.dims[0]; ++i) t.data += c.encode(values[i % values.size()]);
    }
    TempDir dir;
    const auto model = loaded(doc, dir);
    ASSERT_NE(model, nullptr);
    for (int64_t i = 0; i < model->hparams().dim; ++i) {
      ASSERT_EQ(model->output_norm()[i], values[static_cast<size_t>(i) % values.size()]) << c.type;
      ASSERT_EQ(model->blocks()[1].ffn_norm[i], values[static_cast<size_t>(i) % values.size()])
          << c.type;
    }
  }
}

TEST(ModelLoader, OneDoubleNormAmongFloatsIsRefused) {
  GgufDoc doc = golden("qwen2-tiny-untied-q4_0");
  auto* t = doc.tensor("blk.1.ffn_norm.weight");
  t->type = 28;
  t->data += t->data;
  const Error e = refused(doc);
  EXPECT_EQ(e.code, "gguf.tensor_type");
  EXPECT_EQ(e.field, "type of blk.1.ffn_norm.weight");
}

TEST(ModelLoader, EveryMissingKeyAndTensorIsListedAtOnce) {
  GgufDoc doc = golden("qwen2-tiny-f32");
  doc.drop("qwen2.block_count").drop("qwen2.context_length").drop("tokenizer.ggml.tokens");
  Error e = refused(doc);
  EXPECT_EQ(e.code, "gguf.missing_key");
  const std::string line = error_line(e);
  for (const char* key : {"qwen2.block_count", "qwen2.context_length", "tokenizer.ggml.tokens"}) {
    EXPECT_NE(line.find(key), std::string::npos) << line;
  }
  doc = golden("qwen2-tiny-f32");
  doc.drop_tensor("blk.0.attn_q.weight")
      .drop_tensor("blk.3.ffn_down.weight")
      .drop_tensor("output_norm.weight");
  e = refused(doc);
  EXPECT_EQ(e.code, "gguf.missing_tensor");
  for (const char* name : {"blk.0.attn_q.weight", "blk.3.ffn_down.weight", "output_norm.weight"}) {
    EXPECT_NE(error_line(e).find(name), std::string::npos) << error_line(e);
  }
}

TEST(ModelLoader, BiasesStandInEveryBlockOrInNone) {
  GgufDoc doc = golden("qwen2-tiny-f32");
  doc.drop_tensor("blk.2.attn_k.bias");
  EXPECT_EQ(refused(doc).code, "gguf.missing_tensor");
  for (int i = 0; i < 4; ++i) {
    for (const char* which : {"q", "k", "v"})
      doc.drop_tensor(fmt::format("blk.{}.attn_{}.bias", i, which));
  }
  TempDir dir;
  const auto model = loaded(doc, dir);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->blocks()[0].bq, nullptr);
}

TEST(ModelLoader, HyperParametersOutOfRangeAreRefusedByName) {
  const std::string a = "qwen2.";
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  for (const auto& [key, values] : std::vector<std::pair<std::string, std::vector<uint32_t>>>{
           {a + "block_count", {0, 513, 0xffffffff}},
           {a + "embedding_length", {0, (1u << 20) + 1, 0xffffffff}},
           {a + "attention.head_count", {0, 3, 65537}},
           {a + "context_length", {0, (1u << 26) + 1}},
           {a + "feed_forward_length", {0, (1u << 24) + 1}},
           {a + "attention.key_length", {0, 1, 33, 513}},
           {a + "rope.dimension_count", {0, 1, 7, 34, 65536}},
           {a + "vocab_size", {0, 511, 513}},
           {a + "rope.scaling.original_context_length", {0}},
           {"tokenizer.ggml.eos_token_id", {512, 0xffffffff}},
           {"tokenizer.ggml.fim_pre_token_id", {512}}}) {
    for (const uint32_t v : values) {
      const Error e = refused(golden("qwen2-tiny-f32").set_u32(key, v));
      EXPECT_EQ(e.field, key) << v << ": " << error_line(e);
      EXPECT_NE(e.what.find("found " + std::to_string(v)), std::string::npos) << e.what;
    }
  }
  for (const std::string& key : {a + "rope.freq_base",
                                 a + "rope.scaling.factor",
                                 a + "attention.layer_norm_rms_epsilon",
                                 a + "rope.scaling.attn_factor",
                                 a + "rope.scaling.yarn_beta_fast"}) {
    for (const double v : {nan, inf, -inf, -1.0, 0.0}) {
      const Error e = refused(golden("qwen2-tiny-f32").set_f32(key, static_cast<float>(v)));
      EXPECT_EQ(e.code, "gguf.value_range") << key << " " << v;
      EXPECT_EQ(e.field, key);
    }
    EXPECT_EQ(refused(golden("qwen2-tiny-f32").set_u32(key, 1)).code, "gguf.key_type");
  }
  const Error e = refused(
      golden("qwen2-tiny-f32").set(a + "block_count", GgufValueType::kI32, raw<int32_t>(-2)));
  EXPECT_NE(e.what.find("found -2"), std::string::npos) << e.what;
  for (const auto type : {GgufValueType::kString, GgufValueType::kF32, GgufValueType::kBool}) {
    const std::string value = type == GgufValueType::kString ? test::raw_string("2")
                              : type == GgufValueType::kF32  ? raw(2.0f)
                                                             : raw<uint8_t>(1);
    EXPECT_EQ(refused(golden("qwen2-tiny-f32").set(a + "context_length", type, value)).code,
              "gguf.key_type");
  }
}

TEST(ModelLoader, LimitsThemselvesAreServed) {
  EXPECT_EQ(
      hparams_of(golden("qwen2-tiny-f32").set_u32("qwen2.context_length", 1u << 26)).max_seq_len,
      1 << 26);
  EXPECT_EQ(hparams_of(golden("qwen2-tiny-f32").set_u32("qwen2.context_length", 1)).max_seq_len, 1);
  EXPECT_EQ(hparams_of(golden("qwen2-tiny-f32").set_u32("qwen2.vocab_size", 512)).vocab_size, 512);
  EXPECT_EQ(
      hparams_of(golden("qwen2-tiny-f32").set_u32("tokenizer.ggml.eos_token_id", 511)).vocab_size,
      512);
}

TEST(ModelLoader, PerBlockArraysMustBeEqualAndComplete) {
  const std::string key = "qwen2.attention.head_count";
  const uint32_t n = 4;
  GgufDoc doc = golden("qwen2-tiny-f32");
  const auto heads = static_cast<uint32_t>(hparams_of(doc).n_heads);
  EXPECT_EQ(hparams_of(GgufDoc(doc).set_array<uint32_t>(
                           key, GgufValueType::kU32, std::vector<uint32_t>(n, heads)))
                .n_heads,
            heads);
  EXPECT_EQ(refused(GgufDoc(doc).set_array<uint32_t>(
                        key, GgufValueType::kU32, std::vector<uint32_t>(n + 1, heads)))
                .code,
            "gguf.value_range");
  EXPECT_EQ(refused(GgufDoc(doc).set_array<uint32_t>(key, GgufValueType::kU32, {})).code,
            "gguf.value_range");
  EXPECT_EQ(refused(GgufDoc(doc).set_array<uint32_t>(
                        key, GgufValueType::kU32, {heads, heads, heads, 2 * heads}))
                .code,
            "model_unsupported");
  EXPECT_EQ(
      refused(GgufDoc(doc).set_array<float>(key, GgufValueType::kF32, std::vector<float>(n, 2.f)))
          .code,
      "gguf.key_type");
}

TEST(ModelLoader, RopeScalingIsRead) {
  auto h = hparams_of(golden("qwen2-rope-yarn-custom"));
  EXPECT_EQ(h.rope_scaling, kernels::RopeScaling::kYarn);
  EXPECT_EQ(h.rope_factor, 8.0);
  EXPECT_EQ(h.rope_original_context, 16.0);
  EXPECT_EQ(h.yarn_beta_fast, 16.0);
  EXPECT_EQ(h.yarn_beta_slow, 2.0);
  EXPECT_FLOAT_EQ(static_cast<float>(h.rope_attn_factor), 0.74506754f);
  h = hparams_of(golden("qwen2-rope-dynamic"));
  EXPECT_EQ(h.rope_scaling, kernels::RopeScaling::kDynamic);
  EXPECT_EQ(h.rope_original_context, 32.0);
  h = hparams_of(golden("qwen2-rope-linear"));
  EXPECT_EQ(h.rope_scaling, kernels::RopeScaling::kLinear);
  h = hparams_of(
      golden("qwen2-rope-linear").drop("qwen2.rope.scaling.type"));  // a factor alone is linear
  EXPECT_EQ(h.rope_scaling, kernels::RopeScaling::kLinear);
  h = hparams_of(golden("qwen2-tiny-f32"));
  EXPECT_EQ(h.rope_scaling, kernels::RopeScaling::kNone);
  EXPECT_EQ(
      refused(golden("qwen2-rope-linear").set_string("qwen2.rope.scaling.type", "longrope")).code,
      "model_unsupported");
}

TEST(ModelLoader, RopeFactorsMustBeFiniteAndPositive) {
  const GgufDoc doc = golden("llama-tiny-llama3rope");
  TempDir dir;
  const auto model = loaded(doc, dir);
  ASSERT_NE(model, nullptr);
  ASSERT_NE(model->rope_factors(), nullptr);
  GgufDoc copy = doc;
  EXPECT_EQ(std::memcmp(model->rope_factors(),
                        copy.tensor("rope_freqs.weight")->data.data(),
                        4u * static_cast<size_t>(model->hparams().rope_dim) / 2),
            0);
  for (const float v : {0.0f,
                        -1.0f,
                        std::numeric_limits<float>::infinity(),
                        std::numeric_limits<float>::quiet_NaN()}) {
    copy = doc;
    std::memcpy(copy.tensor("rope_freqs.weight")->data.data() + 8, &v, 4);
    const Error e = refused(copy);
    EXPECT_EQ(e.code, "gguf.value_range");
    EXPECT_EQ(e.field, "rope_freqs.weight");
  }
}

TEST(ModelLoader, SlidingWindowPatterns) {
  auto h = hparams_of(golden("qwen2-swa"));
  EXPECT_EQ(h.sliding_window, 16);
  EXPECT_FALSE(h.layer_slides[0]);
  EXPECT_TRUE(h.layer_slides[1]);
  EXPECT_TRUE(h.layer_slides[2]);
  const std::string key = "qwen2.attention.sliding_window_pattern";
  h = hparams_of(golden("qwen2-swa").drop(key));
  EXPECT_TRUE(h.layer_slides[0] && h.layer_slides[1] && h.layer_slides[2]);
  h = hparams_of(golden("qwen2-swa").set_u32(key, 2));
  EXPECT_TRUE(h.layer_slides[0] && !h.layer_slides[1] && h.layer_slides[2]);
  h = hparams_of(golden("qwen2-swa").set_u32("qwen2.attention.sliding_window", 0));
  EXPECT_FALSE(h.layer_slides[0] || h.layer_slides[1] || h.layer_slides[2]);
  EXPECT_EQ(refused(golden("qwen2-swa").set_array<uint8_t>(key, GgufValueType::kBool, {1, 0})).code,
            "gguf.value_range");
}

TEST(ModelLoader, Experts) {
  const auto h = hparams_of(golden("qwen3moe-tiny"));
  EXPECT_GT(h.n_experts, 0);
  EXPECT_TRUE(h.norm_topk_prob);
  EXPECT_FALSE(hparams_of(golden("qwen3moe-tiny").set_bool("qwen3moe.expert_weights_norm", false))
                   .norm_topk_prob);
  EXPECT_EQ(
      refused(golden("qwen3moe-tiny")
                  .set_u32("qwen3moe.expert_used_count", static_cast<uint32_t>(h.n_experts) + 1))
          .field,
      "qwen3moe.expert_used_count");
  EXPECT_EQ(refused(golden("qwen3moe-tiny").set_u32("qwen3moe.expert_used_count", 0)).code,
            "gguf.value_range");
  EXPECT_EQ(refused(golden("qwen3moe-tiny").set_u32("qwen3moe.expert_count", 1025)).code,
            "gguf.value_range");
  EXPECT_EQ(refused(golden("qwen3moe-tiny").drop("qwen3moe.expert_count")).code,
            "gguf.missing_key");
  EXPECT_EQ(refused(golden("qwen3moe-tiny")
                        .set_u32("qwen3moe.expert_count", static_cast<uint32_t>(h.n_experts) + 1))
                .code,
            "gguf.shape");
  EXPECT_EQ(refused(golden("qwen2-tiny-f32").set_u32("qwen2.expert_count", 8)).code,
            "model_unsupported");
}

TEST(ModelLoader, ShapesNameTheKeysTheyComeFrom) {
  GgufDoc doc = golden("qwen2-tiny-f32");
  auto* t = doc.tensor("blk.1.ffn_down.weight");
  std::swap(t->dims[0], t->dims[1]);
  const Error e = refused(doc);
  EXPECT_EQ(e.code, "gguf.shape");
  EXPECT_EQ(e.field, "dims of blk.1.ffn_down.weight");
  EXPECT_NE(e.what.find("qwen2.feed_forward_length"), std::string::npos);
  EXPECT_NE(e.what.find("qwen2.embedding_length"), std::string::npos);
}

TEST(ModelLoader, TypesThatCannotBeComputedAreNamed) {
  GgufDoc doc = golden("qwen2-tiny-untied-q4_k");
  auto* t = doc.tensor("blk.0.ffn_up.weight");
  t->type = 16;  // IQ2_XXS
  t->data.resize(t->dims[0] * t->dims[1] / 256 * 66);
  Error e = refused(doc);
  EXPECT_EQ(e.code, "model_unsupported");
  EXPECT_NE(e.what.find("IQ2_XXS"), std::string::npos);
  EXPECT_EQ(e.field, "type of blk.0.ffn_up.weight");
  // Broken as well: that is said first.
  doc.set_f32("qwen2.rope.freq_base", 0);
  EXPECT_EQ(refused(doc).code, "gguf.value_range");
  // Integers hold no weights at all.
  doc = golden("qwen2-tiny-f32");
  doc.tensor("blk.0.ffn_up.weight")->type = 26;
  EXPECT_EQ(refused(doc).code, "gguf.tensor_type");
  // A quantised norm.
  doc = golden("qwen2-tiny-f32");
  doc.tensor("blk.0.attn_norm.weight")->type = 8;
  doc.tensor("blk.0.attn_norm.weight")
      ->data.resize(doc.tensor("blk.0.attn_norm.weight")->dims[0] / 32 * 34);
  EXPECT_EQ(refused(doc).code, "gguf.tensor_type");
}

TEST(ModelLoader, WhatWouldBeComputedWronglyInSilenceIsRefused) {
  GgufDoc doc = golden("qwen2-tiny-f32");
  doc.tensors.push_back(
      {.name = "blk.1.ffn_gate.bias", .dims = {32}, .type = 0, .data = std::string(128, '\0')});
  EXPECT_EQ(refused(doc).code, "model_unsupported");
  doc = golden("qwen2-tiny-f32");
  doc.tensors.push_back({.name = "rope_factors_long.weight",
                         .dims = {32},
                         .type = 0,
                         .data = std::string(128, '\0')});
  EXPECT_EQ(refused(doc).code, "model_unsupported");
  doc = golden("qwen2-tiny-f32");
  doc.tensors.push_back(
      {.name = "something.else", .dims = {32}, .type = 0, .data = std::string(128, '\0')});
  TempDir dir;
  EXPECT_NE(accepted(doc, dir), nullptr);
  EXPECT_EQ(refused(golden("qwen2-tiny-f32").set_f32("qwen2.final_logit_softcapping", 30)).code,
            "model_unsupported");
  EXPECT_EQ(refused(golden("qwen2-tiny-f32").set_bool("qwen2.attention.causal", false)).code,
            "model_unsupported");
  EXPECT_EQ(refused(golden("qwen2-tiny-f32").set_string("general.architecture", "gemma3")).code,
            "model_unsupported");
  EXPECT_EQ(refused(golden("qwen2-tiny-f32").set_string("general.type", "adapter")).code,
            "model_unsupported");
}

TEST(Vocab, SettingsAreRead) {
  TempDir dir;
  const auto model = accepted(golden("qwen2-tiny-f32"), dir);
  ASSERT_NE(model, nullptr);
  const VocabSource& v = model->vocab;
  EXPECT_EQ(v.model, "gpt2");
  EXPECT_EQ(v.pre, "qwen2");
  EXPECT_EQ(v.tokens->count, 512u);
  EXPECT_EQ(v.bos, 498);
  EXPECT_EQ(v.eos, 500);
  EXPECT_EQ(v.eot, -1);
  EXPECT_FALSE(v.add_bos);
  EXPECT_FALSE(v.chat_template.empty());
}

TEST(Vocab, AFileWithoutTensorsHasOne) {
  const auto file = GgufFile::open(golden_path("tokenizer", "vocab.gguf"));
  ASSERT_TRUE(file) << error_line(file.error());
  const auto vocab = check_vocab(file.value());
  ASSERT_TRUE(vocab) << error_line(vocab.error());
  EXPECT_GT(vocab.value().tokens->count, 0u);
  EXPECT_NE(vocab.value().merges, nullptr);
}

TEST(Vocab, ArraysMustFitTogether) {
  const std::string t = "tokenizer.ggml.";
  const auto doc = [] { return golden("qwen2-tiny-f32"); };
  for (const size_t n : {0u, 1u, 511u, 513u}) {
    EXPECT_EQ(refused(doc().set_array<float>(
                          t + "scores", GgufValueType::kF32, std::vector<float>(n, 0.f)))
                  .code,
              "gguf.vocab")
        << n;
    EXPECT_EQ(refused(doc().set_array<int32_t>(
                          t + "token_type", GgufValueType::kI32, std::vector<int32_t>(n, 1)))
                  .code,
              "gguf.vocab")
        << n;
  }
  for (const int32_t type : {-1, 7, INT32_MAX}) {
    EXPECT_EQ(refused(doc().set_array<int32_t>(
                          t + "token_type", GgufValueType::kI32, std::vector<int32_t>(512, type)))
                  .code,
              "gguf.vocab");
  }
  EXPECT_EQ(refused(doc().set_array<float>(
                        t + "scores", GgufValueType::kF32, std::vector<float>(512, std::nanf(""))))
                .code,
            "gguf.vocab");
  EXPECT_EQ(refused(doc().set_array<int64_t>(
                        t + "token_type", GgufValueType::kI64, std::vector<int64_t>(512, 1)))
                .code,
            "gguf.key_type");
  EXPECT_EQ(refused(doc().set_array<double>(
                        t + "scores", GgufValueType::kF64, std::vector<double>(512, 0)))
                .code,
            "gguf.key_type");
  EXPECT_EQ(refused(doc().set_strings(t + "tokens", {})).code, "gguf.vocab");
  EXPECT_EQ(refused(doc().set_u32(t + "tokens", 1)).code, "gguf.key_type");
  EXPECT_EQ(refused(doc().set_u32(t + "add_bos_token", 1)).code, "gguf.key_type");
}

TEST(Vocab, TokensAndEmbeddingRowsAgree) {
  GgufDoc doc = golden("qwen2-tiny-f32");
  std::vector<std::string> tokens;
  for (int i = 0; i < 513; ++i) tokens.push_back(fmt::format("t{}", i));
  for (const char* key : {"scores", "token_type"}) doc.drop(std::string("tokenizer.ggml.") + key);
  doc.drop("qwen2.vocab_size")
      .set_strings("tokenizer.ggml.merges", {})
      .set_strings("tokenizer.ggml.tokens", tokens);
  const Error e = refused(doc);
  EXPECT_EQ(e.code, "gguf.shape");
  EXPECT_NE(error_line(e).find("tokenizer.ggml.tokens"), std::string::npos);
}

TEST(Vocab, MergesAreTwoKnownTokens) {
  const auto with_merges = [](const std::vector<std::string>& merges) {
    return golden("qwen2-tiny-f32").set_strings("tokenizer.ggml.merges", merges);
  };
  for (const std::string& bad : {std::string("zq qz"),
                                 std::string("abc"),
                                 std::string(),
                                 std::string(" "),
                                 std::string("a "),
                                 std::string(" a"),
                                 std::string("\xff \xfe"),
                                 std::string("h zz"),
                                 std::string("h e x")}) {
    const Error e = refused(with_merges({"h e", bad}));
    EXPECT_EQ(e.code, "gguf.vocab") << bad;
    EXPECT_NE(e.what.find("entry 1"), std::string::npos) << e.what;
  }
  TempDir dir;
  EXPECT_NE(accepted(with_merges({"h e"}), dir), nullptr);
  EXPECT_EQ(refused(golden("qwen2-tiny-f32").drop("tokenizer.ggml.merges")).code,
            "gguf.missing_key");
}

TEST(Vocab, ChatTemplateLimit) {
  constexpr size_t kLimit = 1u << 20;
  TempDir dir;
  for (const size_t n : {kLimit - 1, kLimit}) {
    const auto model = accepted(
        golden("qwen2-tiny-f32").set_string("tokenizer.chat_template", std::string(n, 'x')), dir);
    ASSERT_NE(model, nullptr);
    EXPECT_EQ(model->vocab.chat_template.size(), n);
  }
  EXPECT_EQ(refused(golden("qwen2-tiny-f32")
                        .set_string("tokenizer.chat_template", std::string(kLimit + 1, 'x')))
                .code,
            "gguf.vocab");
  EXPECT_EQ(refused(golden("qwen2-tiny-f32").set_u32("tokenizer.chat_template", 1)).code,
            "gguf.key_type");
}

TEST(Vocab, UnknownKindsAreNamedAndTheKnownOnesListed) {
  Error e = refused(golden("qwen2-tiny-f32").set_string("tokenizer.ggml.model", "t5"));
  EXPECT_EQ(e.code, "model_unsupported");
  e = refused(golden("qwen2-tiny-f32").set_string("tokenizer.ggml.pre", "xyzzy"));
  EXPECT_EQ(e.code, "model_unsupported");
  EXPECT_NE(e.what.find("xyzzy"), std::string::npos);
  EXPECT_NE(e.what.find("llama-bpe"), std::string::npos);
  TempDir dir;
  EXPECT_EQ(accepted(golden("qwen2-tiny-f32").drop("tokenizer.ggml.pre"), dir)->vocab.pre,
            "default");
}

// 150,000 tokens and merges: one pass each, no quadratic step. The promise is 300 ms; sanitizers
// get more.
TEST(Vocab, LargeVocabulariesAreCheckedFast) {
  constexpr size_t kTokens = 150000;
  GgufDoc doc;
  std::vector<std::string> tokens;
  std::vector<std::string> merges;
  for (size_t i = 0; i < kTokens / 2; ++i) tokens.push_back(fmt::format("t{}.", i));
  for (size_t i = 1; i < kTokens / 2; ++i) {
    tokens.push_back(tokens[i] + tokens[i - 1]);
    merges.push_back(tokens[i] + " " + tokens[i - 1]);
  }
  doc.set_string("tokenizer.ggml.model", "gpt2")
      .set_strings("tokenizer.ggml.tokens", tokens)
      .set_strings("tokenizer.ggml.merges", merges);
  TempDir dir;
  doc.write(dir.file("m"));
  const auto start = std::chrono::steady_clock::now();
  const auto file = GgufFile::open(dir.file("m"));
  ASSERT_TRUE(file) << error_line(file.error());
  const auto vocab = check_vocab(file.value());
  EXPECT_TRUE(vocab) << error_line(vocab.error());
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 3.0);
}

TEST(Vocab, EqualTokensStayLinear) {
  GgufDoc doc;
  doc.set_string("tokenizer.ggml.model", "gpt2")
      .set_strings("tokenizer.ggml.tokens", std::vector<std::string>(200000, "same"));
  doc.set_strings("tokenizer.ggml.merges", {"a b"});
  TempDir dir;
  const auto file = GgufFile::open(doc.write(dir.file("m")));
  ASSERT_TRUE(file);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(check_vocab(file.value()));
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 3.0);
}

TEST(Model, QuantizationNames) {
  TempDir dir;
  for (const auto& [id, name] :
       {std::pair{15u, "Q4_K_M"}, {7u, "Q8_0"}, {1039u, "Q4_K_M"}, {999999u, "F32"}}) {
    const auto model = accepted(golden("qwen2-tiny-f32").set_u32("general.file_type", id), dir);
    ASSERT_NE(model, nullptr);
    EXPECT_EQ(quantization_name(model->file), name);
  }
  const auto model = accepted(golden("qwen2-tiny-untied-q5_1").drop("general.file_type"), dir);
  EXPECT_EQ(quantization_name(model->file), "Q5_1");
}

TEST(Model, NameFallsBackToTheFile) {
  TempDir dir;
  EXPECT_EQ(loaded(golden("qwen2-tiny-f32").drop("general.name"), dir)->name(), "m");
  EXPECT_EQ(loaded(golden("qwen2-tiny-f32").set_string("general.name", "Qwen \xff!"), dir)->name(),
            "Qwen \xef\xbf\xbd!");
}

TEST(Model, ChangesOnDiskAreNoticed) {
  TempDir dir;
  const GgufDoc doc = golden("qwen2-tiny-f32");
  const auto model = loaded(doc, dir);
  ASSERT_NE(model, nullptr);
  EXPECT_TRUE(model->still_unchanged());
  std::filesystem::rename(dir.file("m.gguf"), dir.file("old.gguf"));
  ASSERT_FALSE(model->still_unchanged());
  EXPECT_EQ(model->still_unchanged().error().code, "model_changed");
  doc.write(dir.file("m.gguf"));
  EXPECT_EQ(model->still_unchanged().error().code, "model_changed");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  doc.write(dir.file("old.gguf"));  // the file that is mapped, written over
  EXPECT_EQ(model->still_unchanged().error().code, "io.changed");
}

TEST(Model, AFileChangedBetweenCheckAndLoadIsRefused) {
  TempDir dir;
  const GgufDoc doc = golden("qwen2-tiny-f32");
  auto checked = accepted(doc, dir);
  ASSERT_NE(checked, nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  doc.write(dir.file("m.gguf"));
  const auto model = Model::load(std::move(checked));
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, "model_changed");
}

TEST(Model, MetadataIsBounded) {
  TempDir dir;
  GgufDoc doc = golden("qwen2-tiny-f32");
  for (int i = 0; i < 1000; ++i) doc.set_string(fmt::format("x.{}", i), std::string(5000, 'v'));
  const auto model = loaded(doc, dir);
  ASSERT_NE(model, nullptr);
  size_t bytes = 0;
  for (const auto& [key, value] : model->metadata()) bytes += key.size() + value.size();
  EXPECT_LE(bytes, 64u << 10);
  EXPECT_EQ(model->metadata()[0].first, "general.architecture");
  EXPECT_EQ(model->metadata()[0].second, "qwen2");
}

// One matrix in two parts' worth of file: the same numbers come out.
TEST(Model, SplitModelsLoad) {
  TempDir dir;
  const GgufDoc doc = golden("qwen3moe-tiny");
  GgufDoc first;
  GgufDoc second;
  first.keys = doc.keys;
  for (GgufDoc* part : {&first, &second}) {
    part->set("split.no", GgufValueType::kU16, raw<uint16_t>(part == &first ? 0 : 1));
    part->set("split.count", GgufValueType::kU16, raw<uint16_t>(2));
    part->set("split.tensors.count",
              GgufValueType::kI32,
              raw<int32_t>(static_cast<int32_t>(doc.tensors.size())));
  }
  first.tensors.assign(doc.tensors.begin(), doc.tensors.begin() + 5);
  second.tensors.assign(doc.tensors.begin() + 5, doc.tensors.end());
  first.write(dir.file("m-00001-of-00002.gguf"));
  second.write(dir.file("m-00002-of-00002.gguf"));
  auto checked = check_model(dir.file("m-00001-of-00002.gguf"));
  ASSERT_TRUE(checked) << error_line(checked.error());
  const auto model = Model::load(std::move(checked).value());
  ASSERT_TRUE(model) << error_line(model.error());
  EXPECT_EQ(model.value()->mappings().size(), 2u);
  for (const kernels::BlockWeights& b : model.value()->blocks()) {
    for (const kernels::MatrixRef& ref : {b.wq, b.router, b.w2_exps}) {
      const auto& data = doc.tensors[static_cast<size_t>(ref.tensor)].data;
      EXPECT_EQ(std::memcmp(model.value()->row_data(static_cast<uint32_t>(ref.tensor), 0),
                            data.data(),
                            data.size()),
                0);
    }
  }
}

}  // namespace
}  // namespace sluice
