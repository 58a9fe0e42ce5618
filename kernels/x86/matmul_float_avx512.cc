// F64, F32, F16 and BF16 matrices with AVX-512: the F32 definition, whose 16 partial sums are one
// vector. Four rows times four tokens make sixteen independent chains of fmas and one tree of sums.
#include "kernels/driver_widths.h"
#include "kernels/x86/vector_avx512.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

constexpr int kRowTokens = 2;  // more share the loads of four rows, unless set otherwise

// 16 weights from element k on, those of `mask` only, as floats.
struct LoadF64 {
  static constexpr WeightType kType = WeightType::kF64;
  static constexpr int64_t kBytes = 8;
  static SLUICE_INLINE __m512 load(const uint8_t* row, int64_t k, __mmask16 mask) {
    const auto low = static_cast<__mmask8>(mask), high = static_cast<__mmask8>(mask >> 8);
    return _mm512_insertf32x8(
        _mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_maskz_loadu_pd(low, row + 8 * k))),
        _mm512_cvtpd_ps(_mm512_maskz_loadu_pd(high, row + 8 * k + 64)),
        1);
  }
};
struct LoadF32 {
  static constexpr WeightType kType = WeightType::kF32;
  static constexpr int64_t kBytes = 4;
  static SLUICE_INLINE __m512 load(const uint8_t* row, int64_t k, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, row + 4 * k);
  }
};
struct LoadF16 {
  static constexpr WeightType kType = WeightType::kF16;
  static constexpr int64_t kBytes = 2;
  static SLUICE_INLINE __m512 load(const uint8_t* row, int64_t k, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + 2 * k));
  }
};
struct LoadBF16 {
  static constexpr WeightType kType = WeightType::kBF16;
  static constexpr int64_t kBytes = 2;
  static SLUICE_INLINE __m512 load(const uint8_t* row, int64_t k, __mmask16 mask) {
    const __m256i halves = _mm256_maskz_loadu_epi16(mask, row + 2 * k);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
};

// Up to four rows times up to four tokens; what lies past kRows or kTokens is zero and not stored.
// `next`: the rows that come next, asked for on the way, or null (matmul_32.h says why).
template <class L, int kRows, int kTokens>
SLUICE_INLINE void tile(const uint8_t* w,
                        int64_t w_stride,
                        int64_t n_cols,
                        const uint8_t* x,
                        int64_t x_stride,
                        float* y,
                        int64_t y_stride,
                        const uint8_t* next) {
  __m512 sum[16];  // token-major: of token t and row r at 4t + r
  for (int i = 0; i < 16; ++i) sum[i] = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + 16 <= n_cols; k += 16) {
    if (next != nullptr) {
      constexpr int64_t kShare = kRows * 16 * L::kBytes;
      for (int64_t i = 0; i < kShare; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(next + k / 16 * kShare + i), _MM_HINT_T1);
      }
    }
    __m512 weights[kRows];
    for (int r = 0; r < kRows; ++r) weights[r] = L::load(w + r * w_stride, k, 0xffff);
    for (int t = 0; t < kTokens; ++t) {
      const __m512 a = _mm512_loadu_ps(x + t * x_stride + 4 * k);
      for (int r = 0; r < kRows; ++r)
        sum[4 * t + r] = _mm512_fmadd_ps(weights[r], a, sum[4 * t + r]);
    }
  }
  if (k < n_cols) {  // the partial sums that the tail does not reach keep their bits
    const __mmask16 mask = first_rows(n_cols - k);
    for (int r = 0; r < kRows; ++r) {
      const __m512 weights = L::load(w + r * w_stride, k, mask);
      for (int t = 0; t < kTokens; ++t) {
        const __m512 a = _mm512_maskz_loadu_ps(mask, x + t * x_stride + 4 * k);
        sum[4 * t + r] = _mm512_mask3_fmadd_ps(weights, a, sum[4 * t + r], mask);
      }
    }
  }
  alignas(64) float sums[16];
  _mm512_store_ps(sums, sum_partials_of_16(sum));
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) y[t * y_stride + r] = sums[4 * t + r];
  }
}

template <class L, int kRows>
SLUICE_INLINE void rows_times_tokens(const uint8_t* w,
                                     int64_t w_stride,
                                     int64_t n_cols,
                                     const uint8_t* x,
                                     int64_t x_stride,
                                     int64_t n_tokens,
                                     float* y,
                                     int64_t y_stride,
                                     const uint8_t* next) {
  int64_t t = 0;
  const auto run = [&]<int kTokens>() {
    tile<L, kRows, kTokens>(w,
                            w_stride,
                            n_cols,
                            x + t * x_stride,
                            x_stride,
                            y + t * y_stride,
                            y_stride,
                            t == 0 ? next : nullptr);
    t += kTokens;
  };
  while (t + 4 <= n_tokens) run.template operator()<4>();
  if (t + 2 <= n_tokens) run.template operator()<2>();
  if (t < n_tokens) run.template operator()<1>();
}

// Partial sums of one row times one token.
template <class L>
SLUICE_INLINE __m512 row_sums(const uint8_t* w, int64_t n_cols, const uint8_t* x) {
  __m512 sum = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + 32 <= n_cols; k += 32) {
    prefetch_ahead(w + k * L::kBytes, 32 * L::kBytes);
    sum = _mm512_fmadd_ps(L::load(w, k, 0xffff), _mm512_loadu_ps(x + 4 * k), sum);
    sum = _mm512_fmadd_ps(L::load(w, k + 16, 0xffff), _mm512_loadu_ps(x + 4 * k + 64), sum);
  }
  for (; k < n_cols; k += 16) {  // the partial sums that the tail does not reach keep their bits
    const __mmask16 mask = first_rows(n_cols - k);
    sum = _mm512_mask3_fmadd_ps(
        L::load(w, k, mask), _mm512_maskz_loadu_ps(mask, x + 4 * k), sum, mask);
  }
  return sum;
}

// Few tokens: rows one after another, as memory gives most.
template <class L>
SLUICE_INLINE void rows_in_order(const uint8_t* w,
                                 int64_t w_stride,
                                 int64_t n_rows,
                                 int64_t n_cols,
                                 const uint8_t* x,
                                 int64_t x_stride,
                                 int64_t n_tokens,
                                 float* y,
                                 int64_t y_stride) {
  __m512 sums[kWide];
  for (__m512& s : sums) s = _mm512_setzero_ps();
  for (int64_t r = 0; r < n_rows; r += kWide) {
    const int64_t n = n_rows - r < kWide ? n_rows - r : kWide;
    for (int64_t t = 0; t < n_tokens; ++t) {
      for (int64_t i = 0; i < n; ++i)
        sums[i] = row_sums<L>(w + (r + i) * w_stride, n_cols, x + t * x_stride);
      _mm512_mask_storeu_ps(y + t * y_stride + r, first_rows(n), sum_partials_of_16(sums));
    }
  }
}

template <class L>
void matmul_float(const void* w,
                  int64_t w_stride,
                  int64_t n_rows,
                  int64_t n_cols,
                  const void* x,
                  int64_t x_stride,
                  int64_t n_tokens,
                  float* y,
                  int64_t y_stride) noexcept {
  const auto* rows = static_cast<const uint8_t*>(w);
  const auto* xs = static_cast<const uint8_t*>(x);
  if (n_tokens <= row_tokens(L::kType, kRowTokens))
    return rows_in_order<L>(rows, w_stride, n_rows, n_cols, xs, x_stride, n_tokens, y, y_stride);
  int64_t r = 0;
  for (; r + 4 <= n_rows; r += 4) {
    const uint8_t* at = rows + r * w_stride;
    const uint8_t* next = r + 4 < n_rows ? at + 4 * w_stride : at;
    rows_times_tokens<L, 4>(at, w_stride, n_cols, xs, x_stride, n_tokens, y + r, y_stride, next);
  }
  for (; r < n_rows; ++r) {
    rows_times_tokens<L, 1>(
        rows + r * w_stride, w_stride, n_cols, xs, x_stride, n_tokens, y + r, y_stride, nullptr);
  }
}

template <class L>
void set_float(KernelTable& t) {
  t.matmul[static_cast<int>(L::kType)] = matmul_float<L>;
}

}  // namespace

void fill_matmul_float_avx512(KernelTable& t) noexcept {
  set_float<LoadF64>(t);
  set_float<LoadF32>(t);
  set_float<LoadF16>(t);
  set_float<LoadBF16>(t);
}

}  // namespace sluice::kernels::x86
