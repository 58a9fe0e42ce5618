// BF16 matrices of prompts with AVX512_BF16: the prompt definition kBF16Dot, whose one chain per
// output is one lane. 16 rows are turned into vectors that hold a pair of columns of each, then
// multiplied with every token's pairs, which are broadcast from memory: at once for few tokens, or
// as a panel of 16 or 32 rows for many.
#include "kernels/x86/vector_avx512.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

SLUICE_INLINE __m512 dot_pairs(__m512 acc, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}

// 16 columns of a row from byte `at` on, those past `n_columns` zero.
SLUICE_INLINE __m256i columns_16(const uint8_t* at, int64_t n_columns) {
  if (n_columns >= 16) return load_256(at);
  return _mm256_maskz_loadu_epi16(n_columns > 0 ? first_rows(n_columns) : __mmask16{0}, at);
}

// 16 columns of 16 rows from column k on, as pairs; those past n_cols are zeros.
SLUICE_INLINE void pairs_of_16(const uint8_t* const* at, int64_t k, int64_t n_cols, __m512i* out) {
  __m512i rows[8];
  for (int i = 0; i < 8; ++i) {
    rows[i] = halves_512(columns_16(at[i] + 2 * k, n_cols - k),
                         columns_16(at[i + 8] + 2 * k, n_cols - k));
  }
  transpose_16x8(rows, out);
}

// Asks for rows that come next, in the order of memory and while these are multiplied: sixteen
// short streams are too many for a hardware prefetcher, and a burst while a panel is filled would
// leave memory idle afterwards. They may belong to another call.
template <int kLines>
SLUICE_INLINE void prefetch_lines(const uint8_t* next) {
  for (int i = 0; i < kLines; ++i)
    _mm_prefetch(reinterpret_cast<const char*>(next + 64 * i), _MM_HINT_T1);
}

// n_cols columns of 16 rows, as pairs, into every kVectors-th vector from `out` on.
template <int kVectors>
SLUICE_INLINE void fill_16(uint32_t* out, const uint8_t* const* at, int64_t k0, int64_t n_cols) {
  for (int64_t k = 0; k < n_cols; k += 16) {
    __m512i pairs[8];
    pairs_of_16(at, k0 + k, k0 + n_cols, pairs);
    for (int i = 0; i < 8; ++i) {
      _mm512_store_si512(out + (k / 2 + i) * kVectors * kWide, pairs[i]);
    }
  }
}

// --- few tokens ---

// Up to so many keep their sums of 16 rows in registers over all columns. Measured on Zen 4.
constexpr int kFewTokens = 8;

template <int kTokens>
SLUICE_INLINE void add_pair(__m512* acc, __m512i weights, const uint8_t* x, int64_t x_stride) {
  for (int t = 0; t < kTokens; ++t)
    acc[t] = dot_pairs(acc[t], weights, broadcast_i32_512(x + t * x_stride));
}

template <int kTokens>
void multiply_16(const uint8_t* const* at,
                 const uint8_t* next,
                 int64_t n_cols,
                 const uint8_t* x,
                 int64_t x_stride,
                 float* y,
                 int64_t y_stride,
                 __mmask16 rows) {
  __m512 acc[kTokens];
  for (__m512& a : acc) a = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + 32 <= n_cols; k += 32) {  // a line of each row
    prefetch_lines<kWide>(next + 2 * kWide * k);
#pragma GCC unroll 1
    for (int64_t i = k; i < k + 32; i += 16) {
      __m512i pairs[8];
      pairs_of_16(at, i, i + 16, pairs);
      for (int p = 0; p < 8; ++p) add_pair<kTokens>(acc, pairs[p], x + 2 * i + 4 * p, x_stride);
    }
  }
  if (k < n_cols) {
    alignas(64) uint32_t last[16 * kWide];
    fill_16<1>(last, at, k, n_cols - k);
#pragma GCC unroll 1
    for (int64_t p = 0; k + 2 * p < n_cols; ++p)
      add_pair<kTokens>(acc, _mm512_load_si512(last + p * kWide), x + 2 * k + 4 * p, x_stride);
  }
  for (int t = 0; t < kTokens; ++t) _mm512_mask_storeu_ps(y + t * y_stride, rows, acc[t]);
}

// KernelTable::matmul for at most kTokens tokens.
template <int kTokens>
void matmul_few(const uint8_t* w,
                int64_t w_stride,
                int64_t n_rows,
                int64_t n_cols,
                const uint8_t* x,
                int64_t x_stride,
                int64_t n_tokens,
                float* y,
                int64_t y_stride) {
  if constexpr (kTokens > 0) {
    if (n_tokens < kTokens) {
      matmul_few<kTokens - 1>(w, w_stride, n_rows, n_cols, x, x_stride, n_tokens, y, y_stride);
      return;
    }
    for (int64_t r = 0; r < n_rows; r += kWide) {
      const uint8_t* at[kWide];
      rows_of_16(w, w_stride, r, n_rows, at);
      const uint8_t* next = w + (r + kWide) * w_stride;
      const __mmask16 rows = first_rows(n_rows - r);
      multiply_16<kTokens>(at, next, n_cols, x, x_stride, y + r, y_stride, rows);
    }
  }
}

// --- panels ---

// 256 columns of 32 rows: 16 KiB, half of a first-level cache.
constexpr int64_t kPanelPairs = 128;
constexpr int kMostVectors = 2;

struct alignas(64) Panel {
  uint32_t pairs[kPanelPairs * kMostVectors * kWide];  // [pair][row]
};

// The panel times kTokens tokens. y holds the chains between panels; `first` starts them. `next`:
// this panel's share of the rows that come next, or null.
template <int kVectors, int kTokens>
SLUICE_INLINE void multiply(const Panel& panel,
                            int64_t n_pairs,
                            bool first,
                            const uint8_t* next,
                            const uint8_t* x,
                            int64_t x_stride,
                            float* y,
                            int64_t y_stride,
                            const __mmask16* rows) {
  __m512 acc[kTokens][kVectors];
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kVectors; ++v) {
      acc[t][v] = first ? _mm512_setzero_ps()
                        : _mm512_maskz_loadu_ps(rows[v], y + t * y_stride + v * kWide);
    }
  }
  for (int64_t p = 0; p < n_pairs; ++p) {
    if (next != nullptr) prefetch_lines<kVectors>(next + 64 * kVectors * p);
    __m512i weights[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      weights[v] = _mm512_load_si512(panel.pairs + (p * kVectors + v) * kWide);
    }
    for (int t = 0; t < kTokens; ++t) {
      const __m512i pair = broadcast_i32_512(x + t * x_stride + 4 * p);
      for (int v = 0; v < kVectors; ++v) acc[t][v] = dot_pairs(acc[t][v], weights[v], pair);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kVectors; ++v) {
      _mm512_mask_storeu_ps(y + t * y_stride + v * kWide, rows[v], acc[t][v]);
    }
  }
}

// kVectors * 16 rows from r on, as many as there are.
template <int kVectors>
void multiply_rows(const void* w,
                   int64_t w_stride,
                   int64_t r,
                   int64_t n_rows,
                   int64_t n_cols,
                   const uint8_t* x,
                   int64_t x_stride,
                   int64_t n_tokens,
                   float* y,
                   int64_t y_stride) {
  const uint8_t* at[kVectors][kWide];
  __mmask16 rows[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    rows_of_16(w, w_stride, r + v * kWide, n_rows, at[v]);
    rows[v] = first_rows(n_rows - r - v * kWide);
  }
  constexpr int64_t kRows = kVectors * kWide;
  const uint8_t* next = static_cast<const uint8_t*>(w) + (r + kRows) * w_stride;
  Panel panel;
  for (int64_t k0 = 0; k0 == 0 || k0 < n_cols; k0 += 2 * kPanelPairs) {
    const int64_t n = n_cols - k0 < 2 * kPanelPairs ? n_cols - k0 : 2 * kPanelPairs;
    for (int v = 0; v < kVectors; ++v) fill_16<kVectors>(panel.pairs + v * kWide, at[v], k0, n);
    const auto run = [&]<int kTokens>(int64_t t) {
      multiply<kVectors, kTokens>(panel,
                                  (n + 1) / 2,
                                  k0 == 0,
                                  t == 0 ? next + 2 * kRows * k0 : nullptr,
                                  x + t * x_stride + 2 * k0,
                                  x_stride,
                                  y + t * y_stride + r,
                                  y_stride,
                                  rows);
    };
    int64_t t = 0;
    for (; t + 8 <= n_tokens; t += 8) run.template operator()<8>(t);
    if (t + 4 <= n_tokens) run.template operator()<4>(t), t += 4;
    if (t + 2 <= n_tokens) run.template operator()<2>(t), t += 2;
    if (t < n_tokens) run.template operator()<1>(t);
  }
}

void matmul_bf16(const void* w,
                 int64_t w_stride,
                 int64_t n_rows,
                 int64_t n_cols,
                 const void* x,
                 int64_t x_stride,
                 int64_t n_tokens,
                 float* y,
                 int64_t y_stride) noexcept {
  const auto* xs = static_cast<const uint8_t*>(x);
  if (n_tokens <= kFewTokens) {
    const auto* rows = static_cast<const uint8_t*>(w);
    matmul_few<kFewTokens>(rows, w_stride, n_rows, n_cols, xs, x_stride, n_tokens, y, y_stride);
    return;
  }
  int64_t r = 0;
  for (; r + kWide < n_rows; r += 2 * kWide) {
    multiply_rows<2>(w, w_stride, r, n_rows, n_cols, xs, x_stride, n_tokens, y, y_stride);
  }
  if (r < n_rows) {
    multiply_rows<1>(w, w_stride, r, n_rows, n_cols, xs, x_stride, n_tokens, y, y_stride);
  }
}

void quantize_bf16(const float* x, void* y, int64_t n) noexcept {
  auto* out = static_cast<uint16_t*>(y);
  for (int64_t k = 0; k < n; k += 16) {
    const __m512 floats = _mm512_maskz_loadu_ps(first_rows(n - k), x + k);
    const int64_t stored = n - k + n % 2;  // the zero behind an odd length, too
    _mm256_mask_storeu_epi16(out + k, first_rows(stored), (__m256i)_mm512_cvtneps_pbh(floats));
  }
}

}  // namespace

void fill_matmul_bf16_avx512(KernelTable& t) noexcept {
  constexpr int kBF16 = static_cast<int>(WeightType::kBF16);
  t.quantize[static_cast<int>(ActFormat::kBF16)] = quantize_bf16;
  t.prompt_definition = PromptDefinition::kBF16Dot;
  t.matmul_prompt[kBF16] = matmul_bf16;
  t.prompt_act[kBF16] = ActFormat::kBF16;
}

}  // namespace sluice::kernels::x86
