#include "kernels/transformer/block.h"

#include <cstring>

#include "kernels/transformer/attention.h"
#include "kernels/transformer/linear.h"
#include "kernels/transformer/moe.h"

namespace sluice::kernels {
namespace {

// ws.h[t] = rms_norm(ws.x[t])
void norm_token(const WalkContext& c, const float* weight, int64_t t) noexcept {
  const int64_t at = t * row_stride(c.hp.dim);
  c.table.rms_norm(c.ws.x + at, weight, c.hp.norm_eps, c.ws.h + at, c.hp.dim);
}

// ws.x[t] += ws.h[t] (+ bias)
void add_residual(const WalkContext& c, const float* bias, int64_t t) noexcept {
  const int64_t at = t * row_stride(c.hp.dim);
  if (bias != nullptr) c.table.add(c.ws.h + at, bias, c.hp.dim);
  c.table.add(c.ws.x + at, c.ws.h + at, c.hp.dim);
}

// Bias, QK-norm and RoPE of one vector of heads.
void finish_heads(const WalkContext& c, float* x, int64_t n_heads, const float* bias, const float* norm,
                  const float* cos_sin) noexcept {
  const HParams& hp = c.hp;
  if (bias != nullptr) c.table.add(x, bias, n_heads * hp.head_dim);
  if (norm != nullptr) {
    for (int64_t h = 0; h < n_heads; ++h) {
      float* head = x + h * hp.head_dim;
      c.table.rms_norm(head, norm, hp.norm_eps, head, hp.head_dim);
    }
  }
  if (cos_sin != nullptr) c.table.rope(x, cos_sin, n_heads, hp.head_dim, hp.rope_dim, hp.rope_interleaved);
}

// Writes a token's keys and values into its page.
void store_kv(const WalkContext& c, int64_t layer, int64_t t, const WalkTokens& tokens) noexcept {
  const HParams& hp = c.hp;
  const int64_t position = tokens.positions[t];
  std::byte* page = tokens.pages[t][position / kPageTokens];
  const int64_t row = position % kPageTokens * c.kv.row_bytes;
  const auto store = c.table.kv_store[static_cast<int>(c.kv.type)];
  const int64_t stride = row_stride(hp.n_kv_heads * hp.head_dim);
  for (int64_t h = 0; h < hp.n_kv_heads; ++h) {
    store(c.ws.k + t * stride + h * hp.head_dim, page + c.kv.k_offset(layer, h) + row, hp.head_dim);
    store(c.ws.v + t * stride + h * hp.head_dim, page + c.kv.v_offset(layer, h) + row, hp.head_dim);
  }
}

void tap(WalkContext& c, Tap what, int64_t layer, const float* rows, int64_t n, int64_t cols) noexcept {
  if (c.taps != nullptr) c.taps->tap(what, layer, rows, n, cols, row_stride(cols));
}

// ws.q, k, v of the normed input, with bias, QK-norm and RoPE; keys and values go into their pages.
bool project_qkv(WalkContext& c, const BlockWeights& w, int64_t layer, const WalkTokens& tokens) noexcept {
  const HParams& hp = c.hp;
  const int64_t q_dim = hp.n_heads * hp.head_dim;
  const int64_t kv_dim = hp.n_kv_heads * hp.head_dim;
  const MatrixRef qkv[3] = {w.wq, w.wk, w.wv};
  const Output qkv_out[3] = {{c.ws.q, row_stride(q_dim)}, {c.ws.k, row_stride(kv_dim)}, {c.ws.v, row_stride(kv_dim)}};
  const Inputs in{c.ws.h, row_stride(hp.dim), hp.dim, tokens.n, tokens.roles};
  prepare_inputs(c, qkv, 3, in, [&](int64_t t) { norm_token(c, w.attn_norm, t); });
  if (!multiply(c, qkv, 3, in, qkv_out)) return false;
  parallel_for(c.parallel, tokens.n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cos_sin = c.ws.cos_sin + t * row_stride(hp.rope_dim);
      finish_heads(c, c.ws.q + t * row_stride(q_dim), hp.n_heads, w.bq, w.q_norm, cos_sin);
      finish_heads(c, c.ws.k + t * row_stride(kv_dim), hp.n_kv_heads, w.bk, w.k_norm, cos_sin);
      finish_heads(c, c.ws.v + t * row_stride(kv_dim), hp.n_kv_heads, w.bv, nullptr, nullptr);
      store_kv(c, layer, t, tokens);
    }
  });
  tap(c, Tap::kQRope, layer, c.ws.q, tokens.n, q_dim);
  tap(c, Tap::kKRope, layer, c.ws.k, tokens.n, kv_dim);
  tap(c, Tap::kV, layer, c.ws.v, tokens.n, kv_dim);
  return true;
}

// ws.h = Wo attention(ws.q)
bool attend_and_project(WalkContext& c, const BlockWeights& w, int64_t layer, const WalkTokens& tokens) noexcept {
  const HParams& hp = c.hp;
  const int64_t q_dim = hp.n_heads * hp.head_dim;
  attend(c, layer, tokens);
  tap(c, Tap::kAttnCtx, layer, c.ws.ctx, tokens.n, q_dim);
  const Inputs ctx{c.ws.ctx, row_stride(q_dim), q_dim, tokens.n, tokens.roles};
  const Output out{c.ws.h, row_stride(hp.dim)};
  prepare_inputs(c, &w.wo, 1, ctx);
  if (!multiply(c, &w.wo, 1, ctx, &out)) return false;
  tap(c, Tap::kAttnOut, layer, c.ws.h, tokens.n, hp.dim);
  return true;
}

// ws.h = FFN(ws.h), whose rows are made by make_row.
bool dense_ffn(WalkContext& c, const BlockWeights& w, const WalkTokens& tokens, const MakeRow& make_row) noexcept {
  const int64_t ffn_stride = row_stride(c.hp.hidden_dim);
  const MatrixRef gate_up[2] = {w.w1, w.w3};
  const Output gate_up_out[2] = {{c.ws.gate, ffn_stride}, {c.ws.up, ffn_stride}};
  const Inputs in{c.ws.h, row_stride(c.hp.dim), c.hp.dim, tokens.n, tokens.roles};
  prepare_inputs(c, gate_up, 2, in, make_row);
  if (!multiply(c, gate_up, 2, in, gate_up_out)) return false;
  const Inputs hidden{c.ws.gate, ffn_stride, c.hp.hidden_dim, tokens.n, tokens.roles};
  const Output out{c.ws.h, row_stride(c.hp.dim)};
  prepare_inputs(c, &w.w2, 1, hidden, [&](int64_t t) {
    float* gate = c.ws.gate + t * ffn_stride;
    c.table.swiglu(gate, c.ws.up + t * ffn_stride, gate, c.hp.hidden_dim);
  });
  return multiply(c, &w.w2, 1, hidden, &out);
}

// ws.x += ws.h (+ bias); ws.x += FFN(norm(ws.x))
bool ffn_branch(WalkContext& c, const BlockWeights& w, int64_t layer, const WalkTokens& tokens) noexcept {
  const int64_t n = tokens.n;
  const auto make_row = [&](int64_t t) {
    add_residual(c, w.bo, t);
    norm_token(c, w.ffn_norm, t);
  };
  const bool ok = w.router.present() ? moe_ffn(c, w, layer, n, tokens.roles, make_row)
                                     : dense_ffn(c, w, tokens, make_row);
  if (!ok) return false;
  tap(c, Tap::kMlpOut, layer, c.ws.h, n, c.hp.dim);
  parallel_for(c.parallel, n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) add_residual(c, nullptr, t);
  });
  tap(c, Tap::kHidden, layer + 1, c.ws.x, n, c.hp.dim);
  return true;
}

}  // namespace

bool embed_tokens(WalkContext& c, const MatrixRef& embedding, const int32_t* ids, int64_t n) noexcept {
  const int64_t stride = row_stride(c.hp.dim);
  if (!c.source.prepare_rows(embedding, ids, n)) return false;
  for (int64_t t = 0; t < n; ++t) {
    const void* row = c.source.row(embedding, ids[t]);
    c.table.dequant[static_cast<int>(embedding.type)](row, c.ws.x + t * stride, c.hp.dim);
  }
  tap(c, Tap::kHidden, 0, c.ws.x, n, c.hp.dim);
  return true;
}

bool run_block(WalkContext& c, const BlockWeights& w, int64_t layer, const WalkTokens& tokens) noexcept {
  return project_qkv(c, w, layer, tokens) && attend_and_project(c, w, layer, tokens) &&
         ffn_branch(c, w, layer, tokens);
}

bool run_last_block(WalkContext& c, const BlockWeights& w, int64_t layer, const WalkTokens& tokens, const int64_t* kept,
                    const WalkTokens& kept_tokens) noexcept {
  if (!project_qkv(c, w, layer, tokens)) return false;
  if (kept_tokens.n == 0) return true;
  const int64_t x_stride = row_stride(c.hp.dim);
  const int64_t q_stride = row_stride(c.hp.n_heads * c.hp.head_dim);
  for (int64_t i = 0; i < kept_tokens.n; ++i) {
    if (kept[i] == i) continue;
    std::memcpy(c.ws.x + i * x_stride, c.ws.x + kept[i] * x_stride, static_cast<size_t>(x_stride) * sizeof(float));
    std::memcpy(c.ws.q + i * q_stride, c.ws.q + kept[i] * q_stride, static_cast<size_t>(q_stride) * sizeof(float));
  }
  return attend_and_project(c, w, layer, kept_tokens) && ffn_branch(c, w, layer, kept_tokens);
}

bool run_head(WalkContext& c, const float* output_norm, const MatrixRef& head, int64_t n) noexcept {
  const int64_t stride = row_stride(c.hp.dim);
  for (int64_t t = 0; t < n; ++t) {
    float* row = c.ws.out_x + t * stride;
    c.table.rms_norm(row, output_norm, c.hp.norm_eps, row, c.hp.dim);
  }
  tap(c, Tap::kFinalNorm, 0, c.ws.out_x, n, c.hp.dim);
  const Inputs in{c.ws.out_x, stride, c.hp.dim, n};
  const Output out{c.ws.logits, row_stride(c.hp.vocab_size)};
  prepare_inputs(c, &head, 1, in);
  return multiply(c, &head, 1, in, &out);
}

}  // namespace sluice::kernels
