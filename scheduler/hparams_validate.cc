// Hyper-parameters: GGUF's keys -> HParams.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/text_escape.h"
#include "scheduler/model_validate.h"

namespace sluice {
namespace {

using kernels::Architecture;
using kernels::HParams;
using kernels::RopeScaling;

constexpr uint64_t kMaxContext = 1u << 26;
constexpr uint64_t kMaxDim = 1u << 20;
constexpr uint64_t kMaxHidden = 1u << 24;
constexpr uint64_t kMaxHeads = 1u << 16;

bool is_integer(GgufValueType t) {
  return t <= GgufValueType::kI32 || t == GgufValueType::kU64 || t == GgufValueType::kI64;
}

struct ArchitectureName {
  const char* name;
  Architecture arch;
};
constexpr ArchitectureName kArchitectures[] = {{"llama", Architecture::kLlama},
                                               {"qwen2", Architecture::kQwen2},
                                               {"qwen3", Architecture::kQwen3},
                                               {"qwen3moe", Architecture::kQwen3Moe}};

Result<std::string> architecture_key(const GgufFile& file, const KeyReader& keys, HParams& h) {
  SLUICE_TRY(keys.require({"general.architecture"}));
  SLUICE_TRY(const auto name, keys.string("general.architecture"));
  // An adapter or a projector may carry a model's architecture; its kind says what it is.
  const auto type = file.string("general.type");
  if (type && *type != "model") {
    return file.refuse(file.find("general.type"),
                       "general.type",
                       fmt::format("found \"{}\", allowed \"model\"", escape_text(*type)),
                       "model_unsupported");
  }
  std::string allowed;
  for (const ArchitectureName& a : kArchitectures) {
    if (*name == a.name) {
      h.arch = a.arch;
      return std::string(a.name) + ".";
    }
    allowed += (allowed.empty() ? "" : ", ") + std::string(a.name);
  }
  return file.refuse(file.find("general.architecture"),
                     "general.architecture",
                     fmt::format("found \"{}\", allowed {}", escape_text(*name), allowed),
                     "model_unsupported");
}

std::vector<std::string> required_keys(const std::string& a, bool moe) {
  std::vector<std::string> keys = {
      a + "block_count", a + "embedding_length", a + "attention.head_count", a + "context_length"};
  if (moe) {
    keys.insert(keys.end(),
                {a + "expert_count", a + "expert_used_count", a + "expert_feed_forward_length"});
  } else {
    keys.push_back(a + "feed_forward_length");
  }
  keys.insert(
      keys.end(),
      {a + "attention.layer_norm_rms_epsilon", "tokenizer.ggml.model", "tokenizer.ggml.tokens"});
  return keys;
}

// Head counts and head sizes, which must divide each other before anything divides by them.
Result<void> read_heads(const GgufFile& file,
                        const KeyReader& keys,
                        const std::string& a,
                        HParams& h,
                        int64_t& value_dim) {
  const auto n_blocks = static_cast<uint64_t>(h.n_layers);
  const std::string heads_key = a + "attention.head_count";
  const std::string kv_key = a + "attention.head_count_kv";
  SLUICE_TRY(const auto n_heads, keys.per_block(heads_key, n_blocks, 1, kMaxHeads));
  SLUICE_TRY(const auto n_kv_heads, keys.per_block(kv_key, n_blocks, 1, kMaxHeads));
  SLUICE_TRY(const auto key_length,
             keys.whole(a + "attention.key_length", 2, kernels::kMaxHeadDim));
  SLUICE_TRY(const auto value_length,
             keys.whole(a + "attention.value_length", 2, kernels::kMaxHeadDim));
  h.n_heads = static_cast<int64_t>(*n_heads);
  h.n_kv_heads = static_cast<int64_t>(n_kv_heads.value_or(*n_heads));
  if (!key_length && h.dim % h.n_heads != 0) {
    return file.refuse(
        file.find(heads_key),
        heads_key,
        fmt::format("found {}, allowed a divisor of {}embedding_length {}", h.n_heads, a, h.dim),
        "gguf.value_range");
  }
  if (h.n_heads % h.n_kv_heads != 0) {
    return file.refuse(
        file.find(kv_key),
        kv_key,
        fmt::format("found {}, allowed a divisor of {} {}", h.n_kv_heads, heads_key, h.n_heads),
        "gguf.value_range");
  }
  const int64_t even_share = h.dim / h.n_heads;
  h.head_dim = key_length ? static_cast<int64_t>(*key_length) : even_share;
  value_dim = value_length ? static_cast<int64_t>(*value_length) : even_share;
  if (h.head_dim % 2 != 0 || h.head_dim < 2 || h.head_dim > kernels::kMaxHeadDim) {
    const std::string field = key_length ? a + "attention.key_length" : heads_key;
    return file.refuse(
        file.find(field),
        field,
        fmt::format("found {} (a head size of {}), allowed an even head size in 2..{}",
                    key_length ? h.head_dim : h.n_heads,
                    h.head_dim,
                    kernels::kMaxHeadDim),
        "gguf.value_range");
  }
  return success();
}

Result<void> read_rope(const GgufFile& file,
                       const KeyReader& keys,
                       const std::string& a,
                       HParams& h,
                       Unsupported& unsupported) {
  SLUICE_TRY(const auto rope_dim,
             keys.whole(a + "rope.dimension_count", 2, static_cast<uint64_t>(h.head_dim)));
  h.rope_dim = static_cast<int64_t>(rope_dim.value_or(static_cast<uint64_t>(h.head_dim)));
  if (h.rope_dim % 2 != 0) {
    return file.refuse(
        file.find(a + "rope.dimension_count"),
        a + "rope.dimension_count",
        fmt::format("found {}, allowed an even number in 2..{}", h.rope_dim, h.head_dim),
        "gguf.value_range");
  }
  SLUICE_TRY(const auto theta, keys.real(a + "rope.freq_base", 1e-3, 1e12));
  h.rope_theta = theta.value_or(10000.0);

  const std::string s = a + "rope.scaling.";
  SLUICE_TRY(const auto type, keys.string(s + "type"));
  SLUICE_TRY(const auto factor, keys.real(s + "factor", 1e-6, 1e6));
  SLUICE_TRY(const auto old_factor,
             keys.real(a + "rope.scale_linear", 1e-6, 1e6));  // the key of early files
  SLUICE_TRY(const auto original, keys.whole(s + "original_context_length", 1, kMaxContext));
  SLUICE_TRY(const auto attn_factor, keys.real(s + "attn_factor", 1e-6, 1e6));
  SLUICE_TRY(const auto beta_fast, keys.real(s + "yarn_beta_fast", 1e-6, 1e6));
  SLUICE_TRY(const auto beta_slow, keys.real(s + "yarn_beta_slow", 1e-6, 1e6));
  h.rope_factor = factor ? *factor : old_factor.value_or(1.0);
  h.rope_original_context =
      static_cast<double>(original.value_or(static_cast<uint64_t>(h.max_seq_len)));
  h.rope_attn_factor = attn_factor.value_or(1.0);
  h.yarn_beta_fast = beta_fast.value_or(32.0);
  h.yarn_beta_slow = beta_slow.value_or(1.0);
  if (!type) {
    // A factor without a type means linear scaling, as in llama.cpp.
    h.rope_scaling = h.rope_factor != 1.0 ? RopeScaling::kLinear : RopeScaling::kNone;
  } else if (*type == "none") {
    h.rope_scaling = RopeScaling::kNone;
  } else if (*type == "linear") {
    h.rope_scaling = RopeScaling::kLinear;
  } else if (*type == "yarn") {
    h.rope_scaling = RopeScaling::kYarn;
  } else if (*type == "dynamic") {
    h.rope_scaling = RopeScaling::kDynamic;
    // Dynamic NTK stretches as the text grows and names no end (HF sets none): sixteen times the trained context.
    h.max_seq_len = std::min<int64_t>(h.max_seq_len * 16, static_cast<int64_t>(kMaxContext));
  } else {
    unsupported.note(file.refuse(
        file.find(s + "type"),
        s + "type",
        fmt::format("found \"{}\", allowed none, linear, dynamic, yarn", escape_text(*type)),
        "model_unsupported"));
  }
  return success();
}

// attention.sliding_window with attention.sliding_window_pattern: one bool for each block, or a
// period p (every p-th block sees everything); without a pattern every block slides.
Result<void> read_sliding_window(const GgufFile& file,
                                 const KeyReader& keys,
                                 const std::string& a,
                                 HParams& h) {
  const std::string key = a + "attention.sliding_window_pattern";
  SLUICE_TRY(const auto window, keys.whole(a + "attention.sliding_window", 0, UINT32_MAX));
  const auto n_blocks = static_cast<uint64_t>(h.n_layers);
  const GgufValue* pattern = file.find(key);
  uint64_t period = 0;
  if (pattern != nullptr && pattern->type == GgufValueType::kArray) {
    if ((pattern->elem_type != GgufValueType::kBool && !is_integer(pattern->elem_type)) ||
        pattern->count != n_blocks) {
      return file.refuse(pattern,
                         key,
                         fmt::format("found {} of {}, allowed a bool for each of {} blocks",
                                     pattern->count,
                                     gguf_value_type_name(pattern->elem_type),
                                     n_blocks),
                         "gguf.value_range");
    }
  } else {
    SLUICE_TRY(const auto p, keys.whole(key, 0, kernels::kMaxLayers));
    period = p.value_or(0);
  }
  h.sliding_window = static_cast<int64_t>(window.value_or(0));
  if (h.sliding_window == 0) return success();
  for (uint64_t i = 0; i < n_blocks; ++i) {
    if (pattern != nullptr && pattern->type == GgufValueType::kArray) {
      h.layer_slides[i] = GgufFile::array_uint(*pattern, i) != 0;
    } else {
      h.layer_slides[i] = period == 0 || i % period + 1 < period;
    }
  }
  return success();
}

Result<void> read_experts(const GgufFile& file,
                          const KeyReader& keys,
                          const std::string& a,
                          HParams& h,
                          Unsupported& unsupported) {
  const bool moe = h.arch == Architecture::kQwen3Moe;
  const std::string count_key = a + "expert_count";
  const std::string used_key = a + "expert_used_count";
  SLUICE_TRY(const auto count, keys.whole(count_key, moe ? 1 : 0, kernels::kMaxExperts));
  SLUICE_TRY(const auto used, keys.whole(used_key, moe ? 1 : 0, kernels::kMaxExperts));
  SLUICE_TRY(
      const auto hidden,
      keys.per_block(
          a + "expert_feed_forward_length", static_cast<uint64_t>(h.n_layers), 1, kMaxHidden));
  SLUICE_TRY(const auto norm, keys.boolean(a + "expert_weights_norm"));
  SLUICE_TRY(const auto shared, keys.whole(a + "expert_shared_count", 0, kernels::kMaxExperts));
  SLUICE_TRY(const auto leading_dense,
             keys.whole(a + "leading_dense_block_count", 0, kernels::kMaxLayers));
  const uint64_t n_experts = count.value_or(0);
  if (used.value_or(0) > n_experts) {
    return file.refuse(file.find(used_key),
                       used_key,
                       fmt::format("found {}, allowed 0..{} ({})", *used, n_experts, count_key),
                       "gguf.value_range");
  }
  if (!moe) {
    if (n_experts > 0) {
      unsupported.note(
          file.refuse(file.find(count_key),
                      count_key,
                      fmt::format("found {}, allowed 0 for this architecture", n_experts),
                      "model_unsupported"));
    }
    return success();
  }
  if (shared.value_or(0) > 0) {
    unsupported.note(file.refuse(file.find(a + "expert_shared_count"),
                                 a + "expert_shared_count",
                                 fmt::format("found {}, allowed 0", *shared),
                                 "model_unsupported"));
  }
  if (leading_dense.value_or(0) > 0) {
    unsupported.note(file.refuse(file.find(a + "leading_dense_block_count"),
                                 a + "leading_dense_block_count",
                                 fmt::format("found {}, allowed 0", *leading_dense),
                                 "model_unsupported"));
  }
  h.n_experts = static_cast<int64_t>(n_experts);
  h.n_experts_active = static_cast<int64_t>(*used);
  h.expert_hidden_dim = static_cast<int64_t>(*hidden);
  h.norm_topk_prob = norm.value_or(true);
  return success();
}

// Keys that change the maths of other architectures. Files of ours carry them at their neutral
// value, if at all; any other value would be computed wrongly in silence.
Result<void> refuse_other_maths(const GgufFile& file,
                                const KeyReader& keys,
                                const std::string& a,
                                Unsupported& unsupported) {
  struct Neutral {
    const char* key;
    double value, other_value;
  };
  static constexpr Neutral kNeutral[] = {
      {"logit_scale", 0, 1},
      {"residual_scale", 0, 1},
      {"embedding_scale", 0, 1},
      {"attn_logit_softcapping", 0, 0},
      {"final_logit_softcapping", 0, 0},
      {"attention.clamp_kqv", 0, 0},
      {"attention.max_alibi_bias", 0, 0},
      {"expert_weights_scale", 0, 1},
  };
  for (const Neutral& n : kNeutral) {
    const std::string key = a + n.key;
    const auto value = file.real(key);
    if (!value || *value == n.value || *value == n.other_value) continue;
    unsupported.note(file.refuse(
        file.find(key),
        key,
        fmt::format("found {}, allowed {} for this architecture", *value, n.other_value),
        "model_unsupported"));
  }
  SLUICE_TRY(const auto causal, keys.boolean(a + "attention.causal"));
  if (!causal.value_or(true)) {
    unsupported.note(file.refuse(file.find(a + "attention.causal"),
                                 a + "attention.causal",
                                 "found false, allowed true",
                                 "model_unsupported"));
  }
  return success();
}

std::string shown(const GgufValue& v, uint64_t raw) {
  const bool is_signed = v.type == GgufValueType::kI8 || v.type == GgufValueType::kI16 ||
                         v.type == GgufValueType::kI32 || v.type == GgufValueType::kI64 ||
                         v.type == GgufValueType::kArray;
  return is_signed ? std::to_string(static_cast<int64_t>(raw)) : std::to_string(raw);
}

}  // namespace

Error KeyReader::wrong_type(const GgufValue& v, const char* allowed) const {
  std::string found = gguf_value_type_name(v.type);
  if (v.type == GgufValueType::kArray)
    found = fmt::format("array of {} {}", v.count, gguf_value_type_name(v.elem_type));
  return file_.refuse(&v,
                      escape_text(v.key),
                      fmt::format("found type {}, allowed {}", found, allowed),
                      "gguf.key_type");
}

Result<std::optional<uint64_t>> KeyReader::whole(const std::string& key,
                                                 uint64_t lo,
                                                 uint64_t hi) const {
  const GgufValue* v = file_.find(key);
  if (v == nullptr) return std::optional<uint64_t>();
  if (!is_integer(v->type)) return wrong_type(*v, "an integer");
  const std::optional<uint64_t> value = file_.uint(key);
  if (!value || *value < lo || *value > hi) {
    // A negative number is shown as such: read again with its sign.
    GgufValue as_array = *v;
    as_array.elem_type = v->type;
    const std::string found =
        value ? std::to_string(*value) : shown(*v, GgufFile::array_uint(as_array, 0));
    return file_.refuse(
        v, key, fmt::format("found {}, allowed {}..{}", found, lo, hi), "gguf.value_range");
  }
  return value;
}

Result<std::optional<double>> KeyReader::real(const std::string& key, double lo, double hi) const {
  const GgufValue* v = file_.find(key);
  if (v == nullptr) return std::optional<double>();
  const std::optional<double> value = file_.real(key);
  if (!value) return wrong_type(*v, "f32 or f64");
  if (!(*value >= lo && *value <= hi)) {  // also refuses NaN
    return file_.refuse(
        v, key, fmt::format("found {:g}, allowed {:g}..{:g}", *value, lo, hi), "gguf.value_range");
  }
  return value;
}

Result<std::optional<bool>> KeyReader::boolean(const std::string& key) const {
  const GgufValue* v = file_.find(key);
  if (v == nullptr) return std::optional<bool>();
  if (v->type != GgufValueType::kBool) return wrong_type(*v, "bool");
  return file_.boolean(key);
}

Result<std::optional<std::string_view>> KeyReader::string(const std::string& key) const {
  const GgufValue* v = file_.find(key);
  if (v == nullptr) return std::optional<std::string_view>();
  if (v->type != GgufValueType::kString) return wrong_type(*v, "string");
  return file_.string(key);
}

Result<std::optional<uint64_t>> KeyReader::per_block(const std::string& key,
                                                     uint64_t n_blocks,
                                                     uint64_t lo,
                                                     uint64_t hi) const {
  const GgufValue* v = file_.find(key);
  if (v == nullptr || v->type != GgufValueType::kArray) return whole(key, lo, hi);
  if (!is_integer(v->elem_type)) return wrong_type(*v, "integers");
  if (v->count != n_blocks || n_blocks == 0) {
    return file_.refuse(
        v,
        key,
        fmt::format(
            "found an array of {}, allowed one integer for each of {} blocks", v->count, n_blocks),
        "gguf.value_range");
  }
  const uint64_t first = GgufFile::array_uint(*v, 0);
  bool unequal = false;
  for (uint64_t i = 0; i < n_blocks; ++i) {
    const uint64_t value = GgufFile::array_uint(*v, i);
    if (value < lo || value > hi) {  // negative numbers wrap far above hi
      return file_.refuse(
          v,
          key,
          fmt::format("found {} for block {}, allowed {}..{}", shown(*v, value), i, lo, hi),
          "gguf.value_range");
    }
    unequal = unequal || value != first;
  }
  if (unequal) {
    return file_.refuse(
        v, key, "found different numbers for the blocks, allowed one for all", "model_unsupported");
  }
  return std::optional<uint64_t>(first);
}

Result<void> KeyReader::require(const std::vector<std::string>& keys) const {
  std::string first;
  std::string others;
  for (const std::string& key : keys) {
    if (file_.find(key) != nullptr) continue;
    if (first.empty()) {
      first = key;
    } else {
      others += (others.empty() ? "; missing too: " : ", ") + key;
    }
  }
  if (first.empty()) return success();
  return file_.refuse(
      nullptr,
      first,
      fmt::format("found no such key (n_kv {}), required{}", file_.values().size(), others),
      "gguf.missing_key");
}

Result<ModelSizes> read_hparams(const GgufFile& file, Unsupported& unsupported) {
  const KeyReader keys(file);
  ModelSizes sizes;
  HParams& h = sizes.hparams;
  SLUICE_TRY(const std::string a, architecture_key(file, keys, h));
  const bool moe = h.arch == Architecture::kQwen3Moe;
  SLUICE_TRY(keys.require(required_keys(a, moe)));

  SLUICE_TRY(const auto n_layers, keys.whole(a + "block_count", 1, kernels::kMaxLayers));
  SLUICE_TRY(const auto dim, keys.whole(a + "embedding_length", 1, kMaxDim));
  SLUICE_TRY(const auto context, keys.whole(a + "context_length", 1, kMaxContext));
  h.n_layers = static_cast<int64_t>(*n_layers);
  h.dim = static_cast<int64_t>(*dim);
  h.max_seq_len = static_cast<int64_t>(*context);
  SLUICE_TRY(const auto hidden,
             keys.per_block(a + "feed_forward_length", *n_layers, moe ? 0 : 1, kMaxHidden));
  h.hidden_dim = static_cast<int64_t>(hidden.value_or(0));
  SLUICE_TRY(read_heads(file, keys, a, h, sizes.value_dim));
  SLUICE_TRY(read_rope(file, keys, a, h, unsupported));
  SLUICE_TRY(const auto eps, keys.real(a + "attention.layer_norm_rms_epsilon", 1e-12, 1.0));
  h.norm_eps = static_cast<float>(*eps);
  h.rope_interleaved =
      h.arch == Architecture::kLlama;  // its Q and K rows are permuted for adjacent pairs
  SLUICE_TRY(read_experts(file, keys, a, h, unsupported));
  SLUICE_TRY(read_sliding_window(file, keys, a, h));
  SLUICE_TRY(refuse_other_maths(file, keys, a, unsupported));
  if (sizes.value_dim != h.head_dim) {
    const std::string key = a + "attention.value_length";
    unsupported.note(file.refuse(
        file.find(key),
        key,
        fmt::format("found {}, allowed {}, the size of a key", sizes.value_dim, h.head_dim),
        "model_unsupported"));
  }
  return sizes;
}

}  // namespace sluice
