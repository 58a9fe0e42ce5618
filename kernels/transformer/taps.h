// Where intermediate tensors can be looked at, under the names of tests/golden/README.md. Null in service.
#pragma once

#include <cstdint>

namespace sluice::kernels {

enum class Tap : uint8_t {
  kQRope,          // (n_tokens, n_heads * head_dim), after QK-norm and RoPE
  kKRope,          // (n_tokens, n_kv_heads * head_dim)
  kV,
  kAttnCtx,        // (n_tokens, n_heads * head_dim), before the output projection
  kAttnOut,        // (n_tokens, dim)
  kMlpOut,         // (n_tokens, dim)
  kHidden,         // (n_tokens, dim); layer 0 = embedding, layer i + 1 = after block i
  kFinalNorm,      // (n_outputs, dim)
  kRouterLogits,   // (n_tokens, n_experts)
  kRouterWeights,  // (n_tokens, n_experts_active)
  kRouterExperts,  // (n_tokens, n_experts_active), indices as floats
};

class TapSink {
 public:
  virtual ~TapSink() = default;
  // `stride` floats lie between rows.
  virtual void tap(Tap what, int64_t layer, const float* rows, int64_t n_rows, int64_t n_cols,
                   int64_t stride) noexcept = 0;
};

}  // namespace sluice::kernels
