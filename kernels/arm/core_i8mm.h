// The integer core of a panel, with smmla: two rows by eight weights in a vector, times two tokens
// by eight.
#pragma once

#include "kernels/arm/vector_neon.h"

namespace sluice::kernels::arm {
namespace {

struct CoreI8mm {
  static constexpr int kRowTokens = 1;

  // 16 weights of 4 rows: rows 0 and 1, then 2 and 3, of the first eight weights; then of the
  // second eight.
  static SLUICE_INLINE void pack(const int8x16_t* rows, int8x16_t* out) {
    out[0] = low_halves(rows[0], rows[1]);
    out[1] = low_halves(rows[2], rows[3]);
    out[2] = high_halves(rows[0], rows[1]);
    out[3] = high_halves(rows[2], rows[3]);
  }

  // idot[t], one lane per row, = kSixteens times 16 weights of w, times as many bytes at x[t]. A
  // token without a partner is its own, and the second result is dropped.
  template <int kTokens, int kSixteens>
  static SLUICE_INLINE void dot(const int8x16_t* w, const int8_t* const* x, int32x4_t* idot) {
    constexpr int kPairs = (kTokens + 1) / 2;
    int32x4_t tile[kPairs][2];  // lanes: token 0 with either row, token 1 with either row
    for (int p = 0; p < kPairs; ++p) tile[p][0] = tile[p][1] = vdupq_n_s32(0);
    for (int i = 0; i < kSixteens; ++i) {
      for (int p = 0; p < kPairs; ++p) {
        const int8x16_t a = vld1q_s8(x[2 * p] + 16 * i);
        const int8x16_t b = 2 * p + 1 < kTokens ? vld1q_s8(x[2 * p + 1] + 16 * i) : a;
        const int8x16_t first = low_halves(a, b), second = high_halves(a, b);
        tile[p][0] = vmmlaq_s32(tile[p][0], first, w[4 * i]);
        tile[p][1] = vmmlaq_s32(tile[p][1], first, w[4 * i + 1]);
        tile[p][0] = vmmlaq_s32(tile[p][0], second, w[4 * i + 2]);
        tile[p][1] = vmmlaq_s32(tile[p][1], second, w[4 * i + 3]);
      }
    }
    for (int p = 0; p < kPairs; ++p) {
      const int64x2_t low = vreinterpretq_s64_s32(tile[p][0]);
      const int64x2_t high = vreinterpretq_s64_s32(tile[p][1]);
      idot[2 * p] = vreinterpretq_s32_s64(vtrn1q_s64(low, high));
      if (2 * p + 1 < kTokens) idot[2 * p + 1] = vreinterpretq_s32_s64(vtrn2q_s64(low, high));
    }
  }
};

}  // namespace
}  // namespace sluice::kernels::arm
