// F64, F32, F16 and BF16 matrices: the F32 definition, whose 16 partial sums are two vectors. Rows
// and tokens are tiled only to keep enough independent chains of fmas in flight.
#include "kernels/x86/vector_avx2.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

// 8 weights from element k on, as floats.
struct LoadF64 {
  static constexpr int64_t kBytes = 8;
  static SLUICE_INLINE __m256 load(const uint8_t* row, int64_t k) {
    const auto* p = reinterpret_cast<const double*>(row + 8 * k);
    return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(p + 4)),
                           _mm256_cvtpd_ps(_mm256_loadu_pd(p)));
  }
};
struct LoadF32 {
  static constexpr int64_t kBytes = 4;
  static SLUICE_INLINE __m256 load(const uint8_t* row, int64_t k) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(row + 4 * k));
  }
};
struct LoadF16 {
  static constexpr int64_t kBytes = 2;
  static SLUICE_INLINE __m256 load(const uint8_t* row, int64_t k) {
    return _mm256_cvtph_ps(load_128(row + 2 * k));
  }
};
struct LoadBF16 {
  static constexpr int64_t kBytes = 2;
  static SLUICE_INLINE __m256 load(const uint8_t* row, int64_t k) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(row + 2 * k)), 16));
  }
};

// kRows rows times kTokens tokens. `next`: the rows that come next, asked for on the way, or null
// (matmul_32.h says why).
template <class L, int kRows, int kTokens>
SLUICE_INLINE void tile(const uint8_t* w,
                        int64_t w_stride,
                        int64_t n_cols,
                        const uint8_t* x,
                        int64_t x_stride,
                        float* y,
                        int64_t y_stride,
                        const uint8_t* next = nullptr) {
  __m256 low[kRows][kTokens], high[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) low[r][t] = high[r][t] = _mm256_setzero_ps();
  }
  int64_t k = 0;
  for (; k + 16 <= n_cols; k += 16) {
    if (next != nullptr) {
      constexpr int64_t kShare = kRows * 16 * L::kBytes;
      for (int64_t i = 0; i < kShare; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(next + k / 16 * kShare + i), _MM_HINT_T1);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const __m256 w_low = L::load(w + r * w_stride, k), w_high = L::load(w + r * w_stride, k + 8);
      for (int t = 0; t < kTokens; ++t) {
        const auto* a = reinterpret_cast<const float*>(x + t * x_stride) + k;
        low[r][t] = _mm256_fmadd_ps(w_low, _mm256_loadu_ps(a), low[r][t]);
        high[r][t] = _mm256_fmadd_ps(w_high, _mm256_loadu_ps(a + 8), high[r][t]);
      }
    }
  }
  if (k < n_cols) {  // the partial sums that the tail does not reach keep their bits
    const int64_t n = n_cols - k;
    const __m256 keep_low = _mm256_castsi256_ps(first_lanes(n));
    const __m256 keep_high = _mm256_castsi256_ps(first_lanes(n - 8));
    for (int r = 0; r < kRows; ++r) {
      alignas(32) uint8_t tail[16 * L::kBytes] = {};
      __builtin_memcpy(tail, w + r * w_stride + k * L::kBytes, static_cast<size_t>(n * L::kBytes));
      const __m256 w_low = L::load(tail, 0), w_high = L::load(tail, 8);
      for (int t = 0; t < kTokens; ++t) {
        alignas(32) float a[16] = {};
        __builtin_memcpy(
            a, reinterpret_cast<const float*>(x + t * x_stride) + k, static_cast<size_t>(n) * 4);
        const __m256 l = _mm256_fmadd_ps(w_low, _mm256_load_ps(a), low[r][t]);
        const __m256 h = _mm256_fmadd_ps(w_high, _mm256_load_ps(a + 8), high[r][t]);
        low[r][t] = _mm256_blendv_ps(low[r][t], l, keep_low);
        high[r][t] = _mm256_blendv_ps(high[r][t], h, keep_high);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) y[t * y_stride + r] = sum_partials(low[r][t], high[r][t]);
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
                                     int64_t y_stride) {
  int64_t t = 0;
  for (; t + 3 <= n_tokens; t += 3) {
    tile<L, kRows, 3>(w, w_stride, n_cols, x + t * x_stride, x_stride, y + t * y_stride, y_stride);
  }
  for (; t < n_tokens; ++t) {
    tile<L, kRows, 1>(w, w_stride, n_cols, x + t * x_stride, x_stride, y + t * y_stride, y_stride);
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
  int64_t r = 0;
  if (n_tokens == 1) {
    for (; r + 4 <= n_rows; r += 4) {
      const uint8_t* at = rows + r * w_stride;
      const uint8_t* next = r + 4 < n_rows ? at + 4 * w_stride : at;
      tile<L, 4, 1>(at, w_stride, n_cols, xs, x_stride, y + r, y_stride, next);
    }
  }
  for (; r + 2 <= n_rows; r += 2) {
    rows_times_tokens<L, 2>(
        rows + r * w_stride, w_stride, n_cols, xs, x_stride, n_tokens, y + r, y_stride);
  }
  for (; r < n_rows; ++r) {
    rows_times_tokens<L, 1>(
        rows + r * w_stride, w_stride, n_cols, xs, x_stride, n_tokens, y + r, y_stride);
  }
}

template <class L>
void dequant_float(const void* w, float* y, int64_t n) noexcept {
  const auto* row = static_cast<const uint8_t*>(w);
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) _mm256_storeu_ps(y + k, L::load(row, k));
  if (k < n) {
    alignas(32) uint8_t tail[8 * L::kBytes] = {};
    __builtin_memcpy(tail, row + k * L::kBytes, static_cast<size_t>((n - k) * L::kBytes));
    _mm256_maskstore_ps(y + k, first_lanes(n - k), L::load(tail, 0));
  }
}

template <class L>
void set_float(KernelTable& t, WeightType type) {
  t.matmul[static_cast<int>(type)] = matmul_float<L>;
  t.dequant[static_cast<int>(type)] = dequant_float<L>;
}

}  // namespace

void fill_matmul_float_avx2(KernelTable& t) noexcept {
  set_float<LoadF64>(t, WeightType::kF64);
  set_float<LoadF32>(t, WeightType::kF32);
  set_float<LoadF16>(t, WeightType::kF16);
  set_float<LoadBF16>(t, WeightType::kBF16);
}

}  // namespace sluice::kernels::x86
