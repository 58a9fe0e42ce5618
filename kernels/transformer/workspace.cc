#include "kernels/transformer/workspace.h"

#include <algorithm>
#include <initializer_list>

#include "kernels/kernels.h"

namespace sluice::kernels {
namespace {

// Tokens that share one reading of keys and values: as many as kMaxTileTokens while a thread's partials stay below
// kTileBytes, one at least.
constexpr int64_t kMaxTileTokens = 8;
constexpr int64_t kTileBytes = 1 << 20;

// Hands out 64-byte aligned pieces; with a null base it only adds up.
class Cursor {
 public:
  explicit Cursor(std::byte* base) : base_(base) {}
  template <class T>
  T* take(int64_t n) {
    T* p = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<uint64_t>(n) * sizeof(T) + 63) / 64 * 64;
    return p;
  }
  uint64_t used() const { return used_; }

 private:
  std::byte* base_;
  uint64_t used_ = 0;
};

Workspace lay_out(const HParams& hp, const WorkspaceShape& shape, Cursor& c) {
  Workspace w;
  w.shape = shape;
  const int64_t t = shape.max_tokens;
  const int64_t q_dim = hp.n_heads * hp.head_dim;
  const int64_t kv_dim = hp.n_kv_heads * hp.head_dim;
  const bool moe = hp.n_experts > 0;
  const int64_t pairs = moe ? t * hp.n_experts_active : t;
  const int64_t ffn = std::max(hp.hidden_dim, hp.expert_hidden_dim);
  w.widest = std::max({hp.dim, q_dim, hp.hidden_dim, hp.expert_hidden_dim});
  w.max_runs = (shape.max_seq_len + kRunTokens - 1) / kRunTokens;
  w.x = c.take<float>(t * row_stride(hp.dim));
  w.h = c.take<float>(t * row_stride(hp.dim));
  w.q = c.take<float>(t * row_stride(q_dim));
  w.k = c.take<float>(t * row_stride(kv_dim));
  w.v = c.take<float>(t * row_stride(kv_dim));
  w.ctx = c.take<float>(t * row_stride(q_dim));
  w.gate = c.take<float>(pairs * row_stride(ffn));
  w.up = c.take<float>(pairs * row_stride(ffn));
  if (moe) {
    w.pair_in = c.take<float>(pairs * row_stride(hp.dim));
    w.pair_out = c.take<float>(pairs * row_stride(hp.dim));
    w.router = c.take<float>(t * row_stride(hp.n_experts));
    w.router_weights = c.take<float>(pairs);
    w.pair_expert = c.take<int32_t>(pairs);
    w.pair_order = c.take<int32_t>(pairs);
    w.pair_role = c.take<Role>(pairs);
    w.expert_first = c.take<int32_t>(hp.n_experts + 1);
  }
  const int64_t act_rows = std::max(pairs, shape.max_outputs);
  for (const ActFormat f : {ActFormat::kQ8x32, ActFormat::kQ8x256, ActFormat::kBF16}) {
    if (f == ActFormat::kBF16 && !hp.bf16_blocks) continue;
    const auto lines = static_cast<int64_t>((act_bytes(f, static_cast<uint64_t>(w.widest)) + 63) / 64);
    // Rows that are a power of two apart would share few places of a cache.
    const int64_t stride = f == ActFormat::kBF16 ? (lines | 1) * 64 : lines * 64;
    w.act_stride[static_cast<int>(f)] = stride;
    w.act[static_cast<int>(f)] = c.take<std::byte>(act_rows * stride);
  }
  w.cos_sin = c.take<float>(t * row_stride(hp.rope_dim));
  const int64_t token_bytes = w.max_runs * hp.group_size() * hp.head_dim * static_cast<int64_t>(sizeof(float));
  w.tile_tokens = std::clamp<int64_t>(kTileBytes / std::max<int64_t>(token_bytes, 1), 1, std::clamp<int64_t>(t, 1, kMaxTileTokens));
  const int64_t lanes = shape.n_threads * w.max_runs * w.tile_tokens * hp.group_size();
  w.attn_acc = c.take<float>(lanes * hp.head_dim);
  w.attn_part = c.take<float>(lanes * 2);
  if (shape.reference)
    w.row_scratch = c.take<float>(shape.n_threads * kReferenceRows * row_stride(w.widest));
  w.logits = c.take<float>(shape.max_outputs * row_stride(hp.vocab_size));
  w.out_x = c.take<float>(shape.max_outputs * row_stride(hp.dim));
  return w;
}

}  // namespace

uint64_t workspace_bytes(const HParams& hp, const WorkspaceShape& shape) noexcept {
  Cursor c(nullptr);
  lay_out(hp, shape, c);
  return c.used();
}

Workspace make_workspace(const HParams& hp, const WorkspaceShape& shape, std::byte* memory) noexcept {
  Cursor c(memory);
  return lay_out(hp, shape, c);
}

}  // namespace sluice::kernels
