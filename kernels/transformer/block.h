// The maths of one transformer block on views: norm, q/k/v, QK-norm, RoPE, attention, projection, FFN or experts.
// Pure: no I/O, no allocation, no policy. The order of blocks and where weights come from are the scheduler's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "kernels/transformer/hparams.h"
#include "kernels/transformer/kv_layout.h"
#include "kernels/transformer/matrix_source.h"
#include "kernels/transformer/taps.h"
#include "kernels/transformer/workspace.h"

namespace sluice::kernels {

// The tokens that a walk advances, of any number of sequences. Every token sees its own sequence's earlier tokens.
struct WalkTokens {
  int64_t n = 0;
  const int64_t* positions = nullptr;                   // (n) absolute positions
  std::byte* const* const* pages = nullptr;             // (n) the page table of the token's sequence
  const Role* roles = nullptr;                          // (n) null: Role::kRow
};

// Everything that stays the same over a walk.
struct WalkContext {
  const HParams& hp;
  const KernelTable& table;
  ParallelFor& parallel;
  MatrixSource& source;
  Workspace& ws;
  KvLayout kv;
  bool reference = false;        // --f32: float activations against dequantised weights
  TapSink* taps = nullptr;
};

// ws.x[t] = embedding row of ids[t]. False when the source failed.
bool embed_tokens(WalkContext& c, const MatrixRef& embedding, const int32_t* ids, int64_t n) noexcept;

// Advances ws.x (n x dim) through one block and writes the tokens' keys and values into their pages.
// ws.cos_sin holds each token's rotation. False when the source failed or was cancelled.
bool run_block(WalkContext& c, const BlockWeights& w, int64_t layer, const WalkTokens& tokens) noexcept;

// As run_block for the last block, where only some tokens are still wanted: all of them leave their keys and values, then
// the rows of `kept` (ascending indices into `tokens`; their positions and pages in `kept_tokens`) move to the front of
// ws.x and go on alone. Changes no bit of what is kept.
bool run_last_block(WalkContext& c, const BlockWeights& w, int64_t layer, const WalkTokens& tokens, const int64_t* kept,
                    const WalkTokens& kept_tokens) noexcept;

// Final norm and output head for `n` rows of ws.out_x -> ws.logits. n <= shape.max_outputs.
bool run_head(WalkContext& c, const float* output_norm, const MatrixRef& head, int64_t n) noexcept;

}  // namespace sluice::kernels
