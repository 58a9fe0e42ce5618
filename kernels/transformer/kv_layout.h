// Where a token's keys and values lie inside a KV page. A page holds kPageTokens tokens of every layer and kv head,
// head-major: [layer][k, v][kv_head][token][head_dim].
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/transformer/hparams.h"

namespace sluice::kernels {

struct KvLayout {
  KvType type = KvType::kF16;
  int64_t n_layers = 0;
  int64_t n_kv_heads = 0;
  int64_t row_bytes = 0;        // one token of one head

  // Rows of Q8_0 are whole groups of 32: heads of another size are kept in F16.
  static KvLayout of(const HParams& hp, KvType type) noexcept {
    if (type == KvType::kQ8_0 && hp.head_dim % 32 != 0) type = KvType::kF16;
    return {type, hp.n_layers, hp.n_kv_heads, kv_row_bytes(type, hp.head_dim)};
  }
  int64_t head_bytes() const noexcept { return row_bytes * kPageTokens; }
  int64_t page_bytes() const noexcept { return n_layers * 2 * n_kv_heads * head_bytes(); }
  int64_t k_offset(int64_t layer, int64_t head) const noexcept { return (layer * 2 * n_kv_heads + head) * head_bytes(); }
  int64_t v_offset(int64_t layer, int64_t head) const noexcept {
    return ((layer * 2 + 1) * n_kv_heads + head) * head_bytes();
  }
};

}  // namespace sluice::kernels
