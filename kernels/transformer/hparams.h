// The plain numbers of a model. Filled and checked by scheduler/model_loader; read by everybody.
#pragma once

#include <cstdint>

#include "kernels/tensor_view.h"

namespace sluice::kernels {

inline constexpr int kMaxLayers = 512;
inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxHeadDim = 512;

enum class Architecture : uint8_t { kLlama, kQwen2, kQwen3, kQwen3Moe };

// HF's ROPE_INIT_FUNCTIONS. kLlama3 stands for any file that carries rope_freqs.weight (factors per pair).
enum class RopeScaling : uint8_t { kNone, kLinear, kDynamic, kYarn };

struct HParams {
  Architecture arch = Architecture::kLlama;
  int64_t dim = 0;             // embedding length
  int64_t hidden_dim = 0;      // dense FFN
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t rope_dim = 0;        // rotated elements of a head (even, <= head_dim)
  int64_t vocab_size = 0;
  int64_t max_seq_len = 0;     // context length of the file
  float norm_eps = 1e-6f;

  double rope_theta = 10000;
  bool rope_interleaved = false;   // llama: pairs (2i, 2i+1); qwen: (i, i + rope_dim/2)
  RopeScaling rope_scaling = RopeScaling::kNone;
  double rope_factor = 1;
  double rope_original_context = 0;
  double rope_attn_factor = 1;
  double yarn_beta_fast = 32;
  double yarn_beta_slow = 1;

  int64_t n_experts = 0;           // 0: dense
  int64_t n_experts_active = 0;
  int64_t expert_hidden_dim = 0;
  bool norm_topk_prob = true;

  int64_t sliding_window = 0;                 // 0: none
  bool layer_slides[kMaxLayers] = {};         // which layers use it

  bool bf16_blocks = false;        // a block has BF16 matrices: a walk may need their inputs in BF16

  int64_t group_size() const noexcept { return n_heads / n_kv_heads; }
};

// The weights of one block. Matrices are references that a MatrixSource resolves; vectors (norms, biases, router
// norms) are small and always resident, widened to f32 once at load.
struct BlockWeights {
  MatrixRef wq, wk, wv, wo;
  MatrixRef w1, w2, w3;            // gate, down, up (dense)
  MatrixRef router;                // (n_experts x dim)
  MatrixRef w1_exps, w2_exps, w3_exps;   // expert stacks; .expert is set when one is asked for
  const float* attn_norm = nullptr;      // (dim)
  const float* ffn_norm = nullptr;       // (dim)
  const float* bq = nullptr;             // (n_heads * head_dim) or null
  const float* bk = nullptr;
  const float* bv = nullptr;
  const float* bo = nullptr;
  const float* q_norm = nullptr;         // (head_dim) or null
  const float* k_norm = nullptr;
};

}  // namespace sluice::kernels
