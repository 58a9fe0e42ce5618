// BF16 matrices of prompts with AVX512_BF16: the prompt definition kBF16Dot, whose one chain per
// output is one lane. A panel of 16 or 32 rows is turned into vectors that hold a pair of columns
// of each row, then multiplied with every token's pairs, which are broadcast from memory.
#include "kernels/x86/vector_avx512.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

// 256 columns of 32 rows: 16 KiB, half of a first-level cache.
constexpr int64_t kPanelPairs = 128;
constexpr int kMostVectors = 2;

struct alignas(64) Panel {
  uint32_t pairs[kPanelPairs * kMostVectors * kWide];  // [pair][row]
};

SLUICE_INLINE __m512 dot_pairs(__m512 acc, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}

// 16 columns of a row from byte `at` on, those past `n_columns` zero.
SLUICE_INLINE __m256i columns_16(const uint8_t* at, int64_t n_columns) {
  if (n_columns >= 16) return load_256(at);
  return _mm256_maskz_loadu_epi16(n_columns > 0 ? first_rows(n_columns) : __mmask16{0}, at);
}

// n_cols columns of 16 rows, as pairs, into every kVectors-th vector of the panel from `out` on. On
// the way the next panel is asked for, `ahead` bytes further: its rows are too many short streams
// for a hardware prefetcher.
template <int kVectors>
SLUICE_INLINE void fill_16(
    uint32_t* out, const uint8_t* const* at, int64_t k0, int64_t n_cols, int64_t ahead) {
  for (int64_t k = 0; k < n_cols; k += 16) {
    for (int i = 0; i < 8; ++i) {  // a line holds two steps: half of the rows at each
      const uint8_t* next = at[i + k % 32 / 2] + 2 * (k0 + k) + ahead;
      _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
    }
    __m512i rows[8], pairs[8];
    for (int i = 0; i < 8; ++i) {
      rows[i] = halves_512(columns_16(at[i] + 2 * (k0 + k), n_cols - k),
                           columns_16(at[i + 8] + 2 * (k0 + k), n_cols - k));
    }
    transpose_16x8(rows, pairs);
    for (int i = 0; i < 8; ++i) {
      _mm512_store_si512(out + (k / 2 + i) * kVectors * kWide, pairs[i]);
    }
  }
}

// The panel times kTokens tokens. y holds the chains between panels; `first` starts them.
template <int kVectors, int kTokens>
SLUICE_INLINE void multiply(const Panel& panel,
                            int64_t n_pairs,
                            bool first,
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
  Panel panel;
  for (int64_t k0 = 0; k0 == 0 || k0 < n_cols; k0 += 2 * kPanelPairs) {
    const int64_t n = n_cols - k0 < 2 * kPanelPairs ? n_cols - k0 : 2 * kPanelPairs;
    const int64_t ahead =
        k0 + 2 * kPanelPairs < n_cols ? 4 * kPanelPairs : kVectors * kWide * w_stride - 2 * k0;
    for (int v = 0; v < kVectors; ++v) {
      fill_16<kVectors>(panel.pairs + v * kWide, at[v], k0, n, ahead);
    }
    const auto run = [&]<int kTokens>(int64_t t) {
      multiply<kVectors, kTokens>(panel,
                                  (n + 1) / 2,
                                  k0 == 0,
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
