// The kernel table: every leaf operation of the forward pass as a function pointer. dispatch.cc fills it
// with the portable versions, then lets what the CPU has overwrite entries; SLUICE_KERNELS=scalar|avx2|...
// forces one. Every variant of an entry follows the same definition (below) and gives the same bits.
//
// Definitions (DESIGN section 7). All sums are f32 with named fmas (std::fma / vfmadd), never contracted.
//   groups of 32   acc = fma(d_w * d_x, (float)idot, acc) per group, ascending; idot exact in int32.
//                  With a minimum m (Q4_1, Q5_1): then acc = fma(m, d_x * (float)sum_x, acc).
//   groups of 256  acc = fma(d_w * d_x, (float)isum, acc), isum = sum of sub-scale * idot, exact in int32;
//                  with minima: then acc = fma(-(dmin * d_x), (float)isum_min, acc).
//   F64 F32 F16 BF16   weights widened (F64 narrowed) to f32; 16 partial sums p[k mod 16] by fma, ascending;
//                  tree: p[i] += p[i+8] (i<8), p[i] += p[i+4] (i<4), p[i] += p[i+2] (i<2), p[0] + p[1].
//   BF16 prompts   PromptDefinition::kBF16Dot, beside the row definition above. x rounded to BF16 once, to nearest even;
//                  denormals become zeros of their sign, NaN and Inf stay. One chain per output, from +0: for k = 0, 2,
//                  4, ... acc = fma(w[k+1], x[k+1], acc), then acc = fma(w[k], x[k], acc); past the last column both are
//                  +0. Denormal w and x count as zeros of their sign; a sum that is below 2^-126 once it is rounded to 24
//                  bits becomes a zero of its sign. This is VDPBF16PS, whatever the thread's floating-point mode.
//                  PromptDefinition::kBF16Tiles: x, denormals and tiny sums as there. acc = +0; for each step of 32
//                  columns, ascending: even = odd = +0; for each pair k of the step, ascending, even = fma(w[k], x[k],
//                  even) and odd = fma(w[k+1], x[k+1], odd); then acc = acc + (even + odd). Past the last column of a
//                  row both are +0, up to a whole step. This is TDPBF16PS on whole tiles, after Intel's pseudo-code.
//   quantise       amax = max|x|; d = amax / 127; q = round-to-nearest-even(x * (127 / amax)). d = 0 and q = 0 if
//                  127 / amax is not finite (amax is 0 or below 4e-37).
//                  A group that holds NaN or Inf gets d = NaN and q = 0, so that its result is NaN.
//   attention      max = -inf, sum = 0, acc = 0. Per page that has visible tokens, in order: s = scale * dot (F32
//                  definition, keys and values widened to f32); new_max = max(max, largest s), NaN passed over; b =
//                  new_max, or 0 where that is -inf; c = exp(max - b); p = exp(s - b); sum = fma(sum, c, sum of p by
//                  the F32 definition, the page's first visible token being number 0); acc[d] *= c; then for tokens
//                  ascending acc[d] = fma(p, v[d], acc[d]).
//   merge          M = largest max of the runs; w = exp(max - M); sum = fma(sum_r, w, sum) and out[d] = fma(acc_r[d],
//                  w, out[d]) for runs ascending, runs without a visible key left out; out[d] /= sum.
//   elementwise    rms_norm: (x * (1 / sqrt(mean + eps))) * w.  rope: a' = fma(a, c, -(b * s)), b' = fma(b, c, a * s).
//                  swiglu: g / (1 + exp(-g)) * u.  softmax: exp(x - max) / sum.
//   KV in Q8_0     d = half(amax / 127); q = round-to-nearest-even(clamp(x * (1 / d), -127, 127)), NaN as above.
// Tables with different prompt definitions agree on everything but the prompt tokens of the types concerned.
// "The same bits" excepts NaN: that a result is NaN is part of the definition, which NaN is not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant_groups.h"

namespace sluice::kernels {

enum class KvType : uint8_t { kF32, kF16, kQ8_0, kCount };

// By which definition a token is computed, its keys and values included. Prompt tokens follow the prompt definition of
// the table; generated and drafted tokens, the last one of a prompt and the output head always the row definition.
enum class Role : uint8_t { kPrompt, kRow };

// Which weight types of a table have a prompt definition of their own. What outlives the process (a stored session)
// must record it beside the roles: keys and values of prompt tokens depend on it.
enum class PromptDefinition : uint8_t {
  kNone,       // prompts follow the row definitions
  kBF16Dot,    // BF16 weights: see above
  kBF16Tiles,  // BF16 weights, likewise
};

// Tokens in one KV page, and pages in one run. A query's attention is computed run by run at absolute
// positions and merged in order, whatever the thread count, chunk or batch.
inline constexpr int kPageTokens = 64;
inline constexpr int kRunPages = 8;
inline constexpr int kRunTokens = kPageTokens * kRunPages;

// Partial result of attention over one run for one query head: softmax numerator and denominator
// relative to the maximum score.
struct AttentionPartial {
  float max;    // -inf when no key was visible
  float sum;
};

// One query head of one token: head_dim floats, rotated, not scaled; it sees tokens [first, last) of the run.
struct AttentionQuery {
  const float* q;
  int64_t first, last;
};

struct KernelTable {
  const char* name;

  // y[0..n) = weights as f32. n is a multiple of the type's group size.
  void (*dequant[kNWeightTypes])(const void* w, float* y, int64_t n) noexcept;

  // x (n) f32 -> the activation format, act_bytes(format, n) bytes at y. kF32 copies.
  void (*quantize[kNActFormats])(const float* x, void* y, int64_t n) noexcept;

  using MatmulFn = void (*)(const void* w, int64_t w_stride, int64_t n_rows, int64_t n_cols, const void* x,
                            int64_t x_stride, int64_t n_tokens, float* y, int64_t y_stride) noexcept;
  // y[t * y_stride + r] = dot(w row r, x_t) for r in [0, n_rows), t in [0, n_tokens); overwritten.
  //   w  n_rows rows of n_cols weights, `w_stride` bytes apart; any alignment
  //   x  n_tokens vectors in the type's ActFormat, `x_stride` bytes apart; 16-byte aligned
  // Bit-identical for every split of rows and tokens over calls.
  MatmulFn matmul[kNWeightTypes];
  // matmul has drivers on tiles (driver_widths.h).
  bool tiles;

  // The same by the prompt definition, and the format of its x; null where prompts follow the row definition.
  PromptDefinition prompt_definition;
  MatmulFn matmul_prompt[kNWeightTypes];
  ActFormat prompt_act[kNWeightTypes];

  // What one definition needs.
  struct Product {
    ActFormat act;
    MatmulFn matmul;
  };
  Product product(WeightType type, Role role) const noexcept {
    const int i = static_cast<int>(type);
    if (role == Role::kPrompt && matmul_prompt[i] != nullptr) return {prompt_act[i], matmul_prompt[i]};
    return {info(type).act, matmul[i]};
  }

  // y = x / sqrt(mean(x^2) + eps) * w. The sum of squares follows the F32 definition. In place allowed.
  void (*rms_norm)(const float* x, const float* w, float eps, float* y, int64_t n) noexcept;

  // Rotates head vectors in place. cos_sin: head_dim/2 pairs {cos, sin} for this position, already times the
  // attention scaling. Half-split pairs (i, i + rot/2) or, interleaved, (2i, 2i+1) over the first `rot` elements.
  void (*rope)(float* x, const float* cos_sin, int64_t n_heads, int64_t head_dim, int64_t rot,
               bool interleaved) noexcept;

  // y[i] = silu(gate[i]) * up[i]; exp is ours (kernels/math). y may be gate.
  void (*swiglu)(const float* gate, const float* up, float* y, int64_t n) noexcept;

  // x[i] += y[i]   and   x[i] = fma(a, y[i], x[i])
  void (*add)(float* x, const float* y, int64_t n) noexcept;
  void (*add_scaled)(float* x, const float* y, float a, int64_t n) noexcept;

  // In place; exp is ours, the sum follows the F32 definition. -inf entries give 0.
  void (*softmax)(float* x, int64_t n) noexcept;

  // Bytes of one token of one kv head in a page, and writing it. head_dim is a multiple of 2 (Q8_0: of 32).
  void (*kv_store[static_cast<int>(KvType::kCount)])(const float* x, void* dst, int64_t head_dim) noexcept;

  // Attention of n_q queries that share one kv head (of one token, or of several of one sequence), over one run of at
  // most kRunPages pages.
  //   k_pages, v_pages   page p holds tokens [p * kPageTokens, ...) of the run, kPageTokens rows of
  //            kv_row_bytes(type, head_dim); rows that no query sees are not read
  //   acc      n_q rows of head_dim, overwritten with the numerator; part: n_q partials
  // Per page in order: scores = scale * dot (F32 definition), page maximum, rescale, exp, accumulate. A query's result
  // does not depend on the others.
  void (*attention_run[static_cast<int>(KvType::kCount)])(const AttentionQuery* queries, int64_t n_q, int64_t head_dim,
                                                          const void* const* k_pages, const void* const* v_pages,
                                                          float scale, float* acc, AttentionPartial* part) noexcept;

  // Merges run partials in order: out = sum_r acc_r * exp(max_r - max) / sum. acc rows of one head are
  // `acc_stride` floats apart, one per run. out: head_dim floats. No visible key at all: zeros.
  void (*attention_merge)(const float* acc, int64_t acc_stride, const AttentionPartial* parts, int64_t part_stride,
                          int64_t n_runs, int64_t head_dim, float* out) noexcept;
};

// The chosen table; fixed for the life of the process. Thread-safe. A SLUICE_KERNELS that names no variant of this CPU
// is passed over here: what starts a process refuses it first (scheduler/kernel_choice).
const KernelTable& kernels() noexcept;
// The reference path (--f32) of any type: weights dequantised, activations f32, the F32 definition. `scratch` holds
// kReferenceRows * n_cols floats; x_stride counts floats.
inline constexpr int64_t kReferenceRows = 4;
void matmul_reference(const KernelTable& table, WeightType type, const void* w, int64_t w_stride, int64_t n_rows,
                      int64_t n_cols, const float* x, int64_t x_stride, int64_t n_tokens, float* y, int64_t y_stride,
                      float* scratch) noexcept;
// By name ("scalar", "avx2", ...); null when unknown or when this CPU lacks it.
const KernelTable* kernels_by_name(const char* name) noexcept;
// The i-th name that kernels_by_name knows on this CPU, the best last; null past the end.
const char* kernel_name(int i) noexcept;
// The portable table: the oracle of every test. The others have the prompt definitions kBF16Dot and kBF16Tiles, in
// software; no process takes them by itself, but they answer to "scalar_bf16" and "scalar_bf16_tiles": what a host with
// the instruction computes, on any other.
const KernelTable& scalar_kernels() noexcept;
const KernelTable& scalar_bf16_kernels() noexcept;
const KernelTable& scalar_bf16_tiles_kernels() noexcept;

inline int64_t kv_row_bytes(KvType t, int64_t head_dim) noexcept {
  switch (t) {
    case KvType::kF32: return head_dim * 4;
    case KvType::kF16: return head_dim * 2;
    default: return head_dim / 32 * static_cast<int64_t>(sizeof(GroupQ8_0));
  }
}

// Our own exp, sin, cos, half conversions: the same bits on every machine (kernels/scalar/math.cc).
float exp_f32(float x) noexcept;
void sin_cos_f32(float angle, float* sin_out, float* cos_out) noexcept;  // |angle| up to 2^26, abs. error < 1e-7
Half half_from_f32(float x) noexcept;   // round to nearest even
float half_to_f32(Half h) noexcept;

}  // namespace sluice::kernels
