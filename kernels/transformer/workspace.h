// Scratch memory of a walk: its size is a pure function of the shape, its layout is fixed at construction.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/transformer/hparams.h"

namespace sluice::kernels {

struct WorkspaceShape {
  int64_t max_tokens = 0;        // tokens that one walk advances
  int64_t max_seq_len = 0;       // longest sequence, for attention partials
  int64_t max_outputs = 0;       // rows of logits computed at once
  int n_threads = 1;
  bool reference = false;        // for --f32 walks
};

// Row strides are rounded up to 16 floats so that every row is 64-byte aligned.
inline int64_t row_stride(int64_t n) noexcept { return (n + 15) / 16 * 16; }

struct Workspace {
  float* x = nullptr;            // (tokens, dim) residual stream
  float* h = nullptr;            // (tokens, dim) normed input, then a branch's output
  float* q = nullptr;            // (tokens, n_heads * head_dim)
  float* k = nullptr;            // (tokens, n_kv_heads * head_dim)
  float* v = nullptr;
  float* ctx = nullptr;          // (tokens, n_heads * head_dim)
  float* gate = nullptr;         // (pairs, ffn)   pairs = tokens, or tokens * experts active
  float* up = nullptr;
  float* pair_in = nullptr;      // (pairs, dim) MoE only: a token's normed input once per expert
  float* pair_out = nullptr;     // (pairs, dim) MoE only
  float* router = nullptr;       // (tokens, n_experts) MoE only
  float* router_weights = nullptr;   // (pairs)
  int32_t* pair_expert = nullptr;    // (pairs) expert of slot [token][i]
  int32_t* pair_order = nullptr;     // (pairs) slot indices grouped by expert
  Role* pair_role = nullptr;         // (pairs) in the order of pair_order
  int32_t* expert_first = nullptr;   // (n_experts + 1) where an expert's pairs start in pair_order
  std::byte* act[kNActFormats] = {};     // quantised inputs: (pairs, widest); none of floats, BF16 with hp.bf16_blocks
  float* cos_sin = nullptr;      // (tokens, rope_dim)
  float* attn_acc = nullptr;     // (threads, runs, tile tokens, group, head_dim)
  float* attn_part = nullptr;    // (threads, runs, tile tokens, group) pairs {max, sum}
  float* row_scratch = nullptr;  // (threads, kReferenceRows, widest) dequantised rows; only with shape.reference
  float* logits = nullptr;       // (outputs, vocab)
  float* out_x = nullptr;        // (outputs, dim)
  int64_t act_stride[kNActFormats] = {};     // bytes
  int64_t widest = 0;            // longest row any matrix multiplies
  int64_t max_runs = 0;
  int64_t tile_tokens = 1;       // tokens of one sequence whose attention is computed together
  WorkspaceShape shape;
};

// Bytes needed (a multiple of 64).
uint64_t workspace_bytes(const HParams& hp, const WorkspaceShape& shape) noexcept;
// Lays the workspace out over `memory` (64-byte aligned, workspace_bytes long).
Workspace make_workspace(const HParams& hp, const WorkspaceShape& shape, std::byte* memory) noexcept;

}  // namespace sluice::kernels
