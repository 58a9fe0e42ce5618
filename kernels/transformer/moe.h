// Mixture-of-experts FFN: softmax router, top-k, optional renormalisation (qwen3moe).
#pragma once

#include "kernels/transformer/block.h"
#include "kernels/transformer/linear.h"

namespace sluice::kernels {

// ws.h (n, dim), the normed input, whose rows are made by make_row, becomes the FFN's output. Only chosen experts are asked of the source; each is read
// once for all its tokens. A token's experts are summed in the order of their rank, so a batch changes no bit.
// roles: (n), or null for Role::kRow.
bool moe_ffn(WalkContext& c, const BlockWeights& w, int64_t layer, int64_t n, const Role* roles,
             const MakeRow& make_row) noexcept;

}  // namespace sluice::kernels
