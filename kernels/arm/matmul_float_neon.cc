// F64, F32, F16 and BF16 matrices: the F32 definition, whose 16 partial sums are four vectors. Rows
// and tokens are tiled only to keep enough independent chains of fmas in flight.
#include "kernels/arm/arm.h"
#include "kernels/arm/vector_neon.h"

namespace sluice::kernels::arm {
namespace {

// 16 weights from element k on, as floats.
struct LoadF64 {
  static constexpr int64_t kBytes = 8;
  static SLUICE_INLINE void load(const uint8_t* row, int64_t k, float32x4_t* v) {
    for (int i = 0; i < 4; ++i) {
      const uint8_t* p = row + 8 * k + 32 * i;
      const float64x2_t low = vreinterpretq_f64_u8(vld1q_u8(p));
      const float64x2_t high = vreinterpretq_f64_u8(vld1q_u8(p + 16));
      v[i] = vcvt_high_f32_f64(vcvt_f32_f64(low), high);
    }
  }
};
struct LoadF32 {
  static constexpr int64_t kBytes = 4;
  static SLUICE_INLINE void load(const uint8_t* row, int64_t k, float32x4_t* v) {
    for (int i = 0; i < 4; ++i) v[i] = vreinterpretq_f32_u8(vld1q_u8(row + 4 * k + 16 * i));
  }
};
struct LoadF16 {
  static constexpr int64_t kBytes = 2;
  static SLUICE_INLINE void load(const uint8_t* row, int64_t k, float32x4_t* v) {
    widen_halves(row + 2 * k, v);
    widen_halves(row + 2 * k + 16, v + 2);
  }
};
struct LoadBF16 {
  static constexpr int64_t kBytes = 2;
  static SLUICE_INLINE void load(const uint8_t* row, int64_t k, float32x4_t* v) {
    for (int i = 0; i < 2; ++i) {
      const uint16x8_t b = vreinterpretq_u16_u8(vld1q_u8(row + 2 * k + 16 * i));
      v[2 * i] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(b), 16));
      v[2 * i + 1] = vreinterpretq_f32_u32(vshll_high_n_u16(b, 16));
    }
  }
};

// kRows rows times kTokens tokens. `next`: the rows that come next, asked for on the way, or null.
template <class L, int kRows, int kTokens>
SLUICE_INLINE void tile(const uint8_t* w,
                        int64_t w_stride,
                        int64_t n_cols,
                        const uint8_t* x,
                        int64_t x_stride,
                        float* y,
                        int64_t y_stride,
                        const uint8_t* next = nullptr) {
  float32x4_t p[kRows][kTokens][4];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) {
      for (int i = 0; i < 4; ++i) p[r][t][i] = vdupq_n_f32(0.0f);
    }
  }
  int64_t k = 0;
  for (; k + 16 <= n_cols; k += 16) {
    if (next != nullptr) {
      constexpr int64_t kShare = kRows * 16 * L::kBytes;
      for (int64_t i = 0; i < kShare; i += 64) {
        __builtin_prefetch(next + k / 16 * kShare + i, 0, 2);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      float32x4_t v[4];
      L::load(w + r * w_stride, k, v);
      for (int t = 0; t < kTokens; ++t) {
        const auto* a = reinterpret_cast<const float*>(x + t * x_stride) + k;
        for (int i = 0; i < 4; ++i) p[r][t][i] = vfmaq_f32(p[r][t][i], v[i], vld1q_f32(a + 4 * i));
      }
    }
  }
  if (k < n_cols) {  // the partial sums that the tail does not reach keep their bits
    const int64_t n = n_cols - k;
    for (int r = 0; r < kRows; ++r) {
      uint8_t tail[16 * L::kBytes] = {};
      __builtin_memcpy(
          tail, w + r * w_stride + k * L::kBytes, static_cast<uint64_t>(n * L::kBytes));
      float32x4_t v[4];
      L::load(tail, 0, v);
      for (int t = 0; t < kTokens; ++t) {
        const auto* a = reinterpret_cast<const float*>(x + t * x_stride) + k;
        for (int i = 0; i < 4; ++i) {
          const float32x4_t sum = vfmaq_f32(p[r][t][i], v[i], load_some(a + 4 * i, n - 4 * i));
          p[r][t][i] = vbslq_f32(first_lanes(n - 4 * i), sum, p[r][t][i]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) y[t * y_stride + r] = sum_partials(p[r][t]);
  }
}

// Two tokens at a time: with two rows that is sixteen chains in as many registers.
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
  for (; t + 2 <= n_tokens; t += 2) {
    tile<L, kRows, 2>(w, w_stride, n_cols, x + t * x_stride, x_stride, y + t * y_stride, y_stride);
  }
  if (t < n_tokens) {
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
  if (r < n_rows) {
    rows_times_tokens<L, 1>(
        rows + r * w_stride, w_stride, n_cols, xs, x_stride, n_tokens, y + r, y_stride);
  }
}

template <class L>
void dequant_float(const void* w, float* y, int64_t n) noexcept {
  const auto* row = static_cast<const uint8_t*>(w);
  float32x4_t v[4];
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    L::load(row, k, v);
    for (int i = 0; i < 4; ++i) vst1q_f32(y + k + 4 * i, v[i]);
  }
  if (k < n) {
    uint8_t tail[16 * L::kBytes] = {};
    __builtin_memcpy(tail, row + k * L::kBytes, static_cast<uint64_t>((n - k) * L::kBytes));
    L::load(tail, 0, v);
    for (int i = 0; i < 4; ++i) store_some(y + k + 4 * i, n - k - 4 * i, v[i]);
  }
}

template <class L>
void set_float(KernelTable& t, WeightType type) {
  t.matmul[static_cast<int>(type)] = matmul_float<L>;
  t.dequant[static_cast<int>(type)] = dequant_float<L>;
}

}  // namespace

void fill_matmul_float_neon(KernelTable& t) noexcept {
  set_float<LoadF64>(t, WeightType::kF64);
  set_float<LoadF32>(t, WeightType::kF32);
  set_float<LoadF16>(t, WeightType::kF16);
  set_float<LoadBF16>(t, WeightType::kBF16);
}

}  // namespace sluice::kernels::arm
