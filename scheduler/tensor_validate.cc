// Tensor names, shapes and types against the hyper-parameters.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/text_escape.h"
#include "kernels/kernels.h"
#include "scheduler/model_validate.h"

namespace sluice {
namespace {

using kernels::Architecture;
using kernels::BlockWeights;
using kernels::HParams;
using kernels::WeightType;

struct TypeName {
  uint32_t id;
  WeightType type;
};
constexpr TypeName kWeightTypeIds[] = {
    {0, WeightType::kF32},
    {1, WeightType::kF16},
    {2, WeightType::kQ4_0},
    {3, WeightType::kQ4_1},
    {6, WeightType::kQ5_0},
    {7, WeightType::kQ5_1},
    {8, WeightType::kQ8_0},
    {9, WeightType::kQ8_1},
    {10, WeightType::kQ2_K},
    {11, WeightType::kQ3_K},
    {12, WeightType::kQ4_K},
    {13, WeightType::kQ5_K},
    {14, WeightType::kQ6_K},
    {20, WeightType::kIQ4_NL},
    {23, WeightType::kIQ4_XS},
    {28, WeightType::kF64},
    {30, WeightType::kBF16},
    {39, WeightType::kMXFP4},
};

bool is_integer_type(uint32_t id) { return id >= 24 && id <= 27; }

// One extent of a shape, and where it comes from, for error lines.
struct Extent {
  uint64_t n;
  std::string from;
};

class TensorChecker {
 public:
  TensorChecker(const GgufFile& file,
                const ModelSizes& sizes,
                uint64_t n_tokens,
                Unsupported& unsupported)
      : file_(file),
        sizes_(sizes),
        h_(sizes.hparams),
        n_tokens_(n_tokens),
        unsupported_(unsupported),
        used_(file.tensors().size(), 0) {
    const char* const names[] = {"llama.", "qwen2.", "qwen3.", "qwen3moe."};
    prefix_ = names[static_cast<size_t>(h_.arch)];
  }

  Result<void> check() {
    const std::vector<BlockTensor> rules = block_tensors(h_);
    SLUICE_TRY(check_present(rules));
    SLUICE_TRY(
        check_one("token_embd.weight", TensorRole::kMatrix, {extent(TensorSize::kDim), tokens()}));
    SLUICE_TRY(check_one("output_norm.weight", TensorRole::kNorm, {extent(TensorSize::kDim)}));
    SLUICE_TRY(
        check_one("output.weight", TensorRole::kMatrix, {extent(TensorSize::kDim), tokens()}));
    SLUICE_TRY(check_one(
        "rope_freqs.weight",
        TensorRole::kBias,
        {{static_cast<uint64_t>(h_.rope_dim) / 2, "half of " + prefix_ + "rope.dimension_count"}}));
    for (int64_t block = 0; block < h_.n_layers; ++block) {
      for (const BlockTensor& rule : rules) {
        std::vector<Extent> shape = {extent(rule.cols)};
        if (rule.role == TensorRole::kMatrix || rule.role == TensorRole::kExpertStack)
          shape.push_back(extent(rule.rows));
        if (rule.role == TensorRole::kExpertStack) shape.push_back(extent(TensorSize::kExperts));
        SLUICE_TRY(check_one(block_tensor_name(block, rule.suffix), rule.role, shape));
      }
    }
    SLUICE_TRY(check_double_norms());
    SLUICE_TRY(check_rope_factors());
    note_unknown();
    return success();
  }

 private:
  Extent extent(TensorSize s) const {
    const auto n = [](int64_t v) { return static_cast<uint64_t>(v); };
    const std::string heads = prefix_ + "attention.head_count";
    switch (s) {
      case TensorSize::kDim:
        return {n(h_.dim), prefix_ + "embedding_length"};
      case TensorSize::kHidden:
        return {n(h_.hidden_dim), prefix_ + "feed_forward_length"};
      case TensorSize::kQueryRows:
        return {n(h_.n_heads) * n(h_.head_dim), heads + " times " + key_size()};
      case TensorSize::kKeyRows:
        return {n(h_.n_kv_heads) * n(h_.head_dim), heads + "_kv times " + key_size()};
      case TensorSize::kValueRows:
        return {n(h_.n_kv_heads) * n(sizes_.value_dim), heads + "_kv times " + value_size()};
      case TensorSize::kAttentionCols:
        return {n(h_.n_heads) * n(sizes_.value_dim), heads + " times " + value_size()};
      case TensorSize::kHeadDim:
        return {n(h_.head_dim), key_size()};
      case TensorSize::kExperts:
        return {n(h_.n_experts), prefix_ + "expert_count"};
      case TensorSize::kExpertHidden:
        return {n(h_.expert_hidden_dim), prefix_ + "expert_feed_forward_length"};
    }
    return {0, ""};
  }
  Extent tokens() const { return {n_tokens_, "entries of tokenizer.ggml.tokens"}; }
  std::string key_size() const {
    return fmt::format("{}attention.key_length {}", prefix_, h_.head_dim);
  }
  std::string value_size() const {
    return fmt::format("{}attention.value_length {}", prefix_, sizes_.value_dim);
  }

  // Every missing tensor at once.
  Result<void> check_present(const std::vector<BlockTensor>& rules) {
    std::vector<std::string> missing;
    const auto want = [&](std::string name) {
      if (file_.find_tensor(name) == nullptr) missing.push_back(std::move(name));
    };
    want("token_embd.weight");
    want("output_norm.weight");
    for (const BlockTensor& rule : rules) {
      // Biases of one kind stand in every block or in none.
      bool wanted = rule.need == TensorNeed::kRequired;
      for (int64_t block = 0; !wanted && block < h_.n_layers; ++block) {
        wanted = any_of_family(block, rule.suffix);
      }
      for (int64_t block = 0; wanted && block < h_.n_layers; ++block)
        want(block_tensor_name(block, rule.suffix));
    }
    if (missing.empty()) return success();
    constexpr size_t kMaxListed = 32;
    std::string others;
    for (size_t i = 1; i < std::min(missing.size(), kMaxListed); ++i)
      others += (i > 1 ? ", " : "; missing too: ") + missing[i];
    if (missing.size() > kMaxListed)
      others += fmt::format(" and {} more", missing.size() - kMaxListed);
    return file_.refuse_tensors(
        "tensor " + missing[0],
        fmt::format(
            "found none of that name among n_tensors {}, required with {}block_count {}{}{}",
            file_.tensors().size(),
            prefix_,
            h_.n_layers,
            others,
            stranger(rules)),
        "gguf.missing_tensor");
  }

  bool any_of_family(int64_t block, const char* suffix) const {
    const auto has = [&](const char* s) {
      return file_.find_tensor(block_tensor_name(block, s)) != nullptr;
    };
    if (std::string_view(suffix) == "attn_output.bias") return has("attn_output.bias");
    return has("attn_q.bias") || has("attn_k.bias") || has("attn_v.bias");
  }

  // The first tensor whose name means nothing here: it is often the missing one, misspelt.
  std::string stranger(const std::vector<BlockTensor>& rules) const {
    for (size_t i = 0; i < file_.tensors().size(); ++i) {
      const std::string_view name = file_.tensors()[i].name;
      const std::string_view suffix =
          name.starts_with("blk.") ? name.substr(std::min(name.size(), name.find('.', 4) + 1))
                                   : name;
      const bool known = suffix == "token_embd.weight" || suffix == "output_norm.weight" ||
                         suffix == "output.weight" || suffix == "rope_freqs.weight" ||
                         std::any_of(rules.begin(), rules.end(), [&](const BlockTensor& r) {
                           return suffix == r.suffix;
                         });
      if (!known)
        return fmt::format(" (not known: name of tensor {} \"{}\")", i, escape_text(name));
    }
    return {};
  }

  // Shape and type of a tensor, if it is there.
  Result<void> check_one(const std::string& name,
                         TensorRole role,
                         const std::vector<Extent>& want) {
    const GgufTensor* t = file_.find_tensor(name);
    if (t == nullptr) return success();
    used_[static_cast<size_t>(t - file_.tensors().data())] = 1;
    for (size_t d = 0; d < 4; ++d) {
      if (t->dims[d] == (d < want.size() ? want[d].n : 1)) continue;
      std::string found;
      std::string allowed;
      for (uint32_t i = 0; i < t->n_dims; ++i)
        found += fmt::format("{}{}", i > 0 ? " x " : "", t->dims[i]);
      for (size_t i = 0; i < want.size(); ++i)
        allowed += fmt::format("{}{} ({})", i > 0 ? " x " : "", want[i].n, want[i].from);
      return file_.refuse(
          *t, "dims of " + name, fmt::format("found {}, allowed {}", found, allowed), "gguf.shape");
    }
    const GgufTensorTypeInfo type = gguf_tensor_type(t->type_id);
    const bool vector = role == TensorRole::kNorm || role == TensorRole::kBias;
    if (is_integer_type(t->type_id) || (vector && !is_float_type(t->type_id))) {
      return file_.refuse(
          *t,
          "type of " + name,
          fmt::format("found {}, allowed {}",
                      type.name,
                      vector ? "F32, F16, BF16, F64" : "floats and quantised types"),
          "gguf.tensor_type");
    }
    if (!weight_type(t->type_id)) {
      std::string allowed;
      for (const auto& info : kernels::kWeightTypes)
        allowed += (allowed.empty() ? "" : ", ") + std::string(info.name);
      unsupported_.note(file_.refuse(*t,
                                     "type of " + name,
                                     fmt::format("found {}, allowed {}", type.name, allowed),
                                     "model_unsupported"));
    }
    if (role == TensorRole::kNorm) norms_.push_back(t);
    return success();
  }

  // Doubles come from converters that keep every norm as one. A single one among floats is a wrong
  // type id over data of another type.
  Result<void> check_double_norms() {
    constexpr uint32_t kF64 = 28;
    const auto is_double = [](const GgufTensor* t) { return t->type_id == kF64; };
    const auto first = std::find_if(norms_.begin(), norms_.end(), is_double);
    if (first == norms_.end() || std::all_of(norms_.begin(), norms_.end(), is_double))
      return success();
    return file_.refuse(
        **first,
        "type of " + escape_text((*first)->name),
        "found F64 among norms of other types, allowed F64 for all of them or for none",
        "gguf.tensor_type");
  }

  Result<void> check_rope_factors() {
    const GgufTensor* t = file_.find_tensor("rope_freqs.weight");
    if (t == nullptr) return success();
    SLUICE_TRY(const std::vector<float> factors, read_float_tensor(file_, *t));
    for (size_t i = 0; i < factors.size(); ++i) {
      if (std::isfinite(factors[i]) && factors[i] > 0) continue;
      return file_.refuse(
          *t,
          "rope_freqs.weight",
          fmt::format("found {} as entry {}, allowed finite numbers above 0", factors[i], i),
          "gguf.value_range");
    }
    return success();
  }

  // A tensor of one of our blocks that we would not use belongs to maths that we do not know.
  void note_unknown() {
    static constexpr std::string_view kOtherMaths[] = {"output.bias",
                                                       "output_norm.bias",
                                                       "token_embd_norm.weight",
                                                       "token_embd_norm.bias",
                                                       "position_embd.weight",
                                                       "rope_factors_long.weight",
                                                       "rope_factors_short.weight"};
    for (size_t i = 0; i < used_.size(); ++i) {
      const GgufTensor& t = file_.tensors()[i];
      if (used_[i] != 0) continue;
      const bool other = std::find(std::begin(kOtherMaths), std::end(kOtherMaths), t.name) !=
                         std::end(kOtherMaths);
      if (!other && !in_our_blocks(t.name)) continue;
      unsupported_.note(file_.refuse(
          t,
          "name of tensor " + std::to_string(i),
          fmt::format("found \"{}\", allowed only tensors that this architecture computes with",
                      escape_text(t.name)),
          "model_unsupported"));
    }
  }

  // "blk.N." with N a block of this model, written without leading zeros.
  bool in_our_blocks(std::string_view name) const {
    if (!name.starts_with("blk.")) return false;
    if (name.ends_with(".attn_rot_embd.weight"))
      return false;  // precomputed frequencies of early files: never used
    int64_t block = -1;
    const char* first = name.data() + 4;
    const auto [end, error] = std::from_chars(first, name.data() + name.size(), block);
    if (error != std::errc() || end == name.data() + name.size() || *end != '.') return false;
    return block >= 0 && block < h_.n_layers && (*first != '0' || end == first + 1);
  }

  const GgufFile& file_;
  const ModelSizes& sizes_;
  const HParams& h_;
  const uint64_t n_tokens_;
  Unsupported& unsupported_;
  std::string prefix_;
  std::vector<uint8_t> used_;
  std::vector<const GgufTensor*> norms_;
};

float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in f32
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  const uint32_t bits =
      exponent == 31 ? 0x7f800000u | (mantissa << 13) : ((exponent + 112) << 23) | (mantissa << 13);
  return std::bit_cast<float>(sign | bits);
}

}  // namespace

std::vector<BlockTensor> block_tensors(const HParams& h) {
  using R = TensorRole;
  using S = TensorSize;
  using N = TensorNeed;
  using B = BlockWeights;
  std::vector<BlockTensor> rules = {
      {"attn_norm.weight", R::kNorm, S::kDim, S::kDim, N::kRequired, nullptr, &B::attn_norm},
      {"attn_q.weight", R::kMatrix, S::kDim, S::kQueryRows, N::kRequired, &B::wq},
      {"attn_k.weight", R::kMatrix, S::kDim, S::kKeyRows, N::kRequired, &B::wk},
      {"attn_v.weight", R::kMatrix, S::kDim, S::kValueRows, N::kRequired, &B::wv},
      {"attn_output.weight", R::kMatrix, S::kAttentionCols, S::kDim, N::kRequired, &B::wo},
      {"attn_q.bias", R::kBias, S::kQueryRows, S::kDim, N::kAllOrNone, nullptr, &B::bq},
      {"attn_k.bias", R::kBias, S::kKeyRows, S::kDim, N::kAllOrNone, nullptr, &B::bk},
      {"attn_v.bias", R::kBias, S::kValueRows, S::kDim, N::kAllOrNone, nullptr, &B::bv},
      {"attn_output.bias", R::kBias, S::kDim, S::kDim, N::kAllOrNone, nullptr, &B::bo},
      {"ffn_norm.weight", R::kNorm, S::kDim, S::kDim, N::kRequired, nullptr, &B::ffn_norm},
  };
  if (h.arch == Architecture::kQwen3 || h.arch == Architecture::kQwen3Moe) {
    rules.push_back(
        {"attn_q_norm.weight", R::kNorm, S::kHeadDim, S::kDim, N::kRequired, nullptr, &B::q_norm});
    rules.push_back(
        {"attn_k_norm.weight", R::kNorm, S::kHeadDim, S::kDim, N::kRequired, nullptr, &B::k_norm});
  }
  if (h.arch == Architecture::kQwen3Moe) {
    rules.push_back(
        {"ffn_gate_inp.weight", R::kMatrix, S::kDim, S::kExperts, N::kRequired, &B::router});
    rules.push_back({"ffn_gate_exps.weight",
                     R::kExpertStack,
                     S::kDim,
                     S::kExpertHidden,
                     N::kRequired,
                     &B::w1_exps});
    rules.push_back({"ffn_down_exps.weight",
                     R::kExpertStack,
                     S::kExpertHidden,
                     S::kDim,
                     N::kRequired,
                     &B::w2_exps});
    rules.push_back({"ffn_up_exps.weight",
                     R::kExpertStack,
                     S::kDim,
                     S::kExpertHidden,
                     N::kRequired,
                     &B::w3_exps});
  } else {
    rules.push_back({"ffn_gate.weight", R::kMatrix, S::kDim, S::kHidden, N::kRequired, &B::w1});
    rules.push_back({"ffn_down.weight", R::kMatrix, S::kHidden, S::kDim, N::kRequired, &B::w2});
    rules.push_back({"ffn_up.weight", R::kMatrix, S::kDim, S::kHidden, N::kRequired, &B::w3});
  }
  return rules;
}

std::string block_tensor_name(int64_t block, const char* suffix) {
  return fmt::format("blk.{}.{}", block, suffix);
}

std::optional<WeightType> weight_type(uint32_t gguf_type_id) {
  for (const TypeName& t : kWeightTypeIds) {
    if (t.id == gguf_type_id) return t.type;
  }
  return std::nullopt;
}

bool is_float_type(uint32_t gguf_type_id) {
  const auto type = weight_type(gguf_type_id);
  return type == WeightType::kF32 || type == WeightType::kF16 || type == WeightType::kBF16 ||
         type == WeightType::kF64;
}

Result<std::vector<float>> read_float_tensor(const GgufFile& file, const GgufTensor& t) {
  std::vector<std::byte> raw(t.n_bytes);  // in the file, so the size is no claim
  const GgufPart& part = file.parts()[t.part];
  auto read = part.file.pread_exact(raw.data(), raw.size(), t.file_offset);
  if (!read) {
    Error e = std::move(read).error();
    e.file = part.path;
    e.field = escape_text(t.name);
    return e;
  }
  const size_t group_bytes = gguf_tensor_type(t.type_id).group_bytes;
  std::vector<float> out(raw.size() / group_bytes);
  for (size_t i = 0; i < out.size(); ++i) {
    const std::byte* p = raw.data() + i * group_bytes;
    uint16_t half = 0;
    switch (*weight_type(t.type_id)) {
      case WeightType::kF16:
        std::memcpy(&half, p, sizeof half);
        out[i] = half_to_float(half);
        break;
      case WeightType::kBF16:
        std::memcpy(&half, p, sizeof half);
        out[i] = std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
        break;
      case WeightType::kF64: {
        double wide = 0;
        std::memcpy(&wide, p, sizeof wide);
        out[i] = static_cast<float>(wide);
        break;
      }
      default:
        std::memcpy(&out[i], p, sizeof(float));
        break;
    }
  }
  return out;
}

Result<void> check_tensors(const GgufFile& file,
                           const ModelSizes& sizes,
                           uint64_t n_tokens,
                           Unsupported& unsupported) {
  // Before the shapes, because it explains them: the vocabulary is counted once more in its own
  // key.
  const KeyReader keys(file);
  const char* const names[] = {"llama", "qwen2", "qwen3", "qwen3moe"};
  const std::string key =
      std::string(names[static_cast<size_t>(sizes.hparams.arch)]) + ".vocab_size";
  SLUICE_TRY(keys.whole(key, n_tokens, n_tokens));
  return TensorChecker(file, sizes, n_tokens, unsupported).check();
}

}  // namespace sluice
