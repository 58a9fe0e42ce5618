// The integer core of a panel, with sdot: four rows by four weights in a vector, times four weights
// of a token.
#pragma once

#include "kernels/arm/vector_neon.h"

namespace sluice::kernels::arm {
namespace {

struct CoreDotprod {
  static constexpr int kRowTokens = 3;

  // 16 weights of 4 rows; out[i] holds weights 4i .. 4i + 3 of every row.
  static SLUICE_INLINE void pack(const int8x16_t* rows, int8x16_t* out) {
    int32x4_t a[4];
    for (int i = 0; i < 4; ++i) a[i] = vreinterpretq_s32_s8(rows[i]);
    const int8x16_t even_ab = vreinterpretq_s8_s32(vtrn1q_s32(a[0], a[1]));
    const int8x16_t even_cd = vreinterpretq_s8_s32(vtrn1q_s32(a[2], a[3]));
    const int8x16_t odd_ab = vreinterpretq_s8_s32(vtrn2q_s32(a[0], a[1]));
    const int8x16_t odd_cd = vreinterpretq_s8_s32(vtrn2q_s32(a[2], a[3]));
    out[0] = low_halves(even_ab, even_cd);
    out[1] = low_halves(odd_ab, odd_cd);
    out[2] = high_halves(even_ab, even_cd);
    out[3] = high_halves(odd_ab, odd_cd);
  }

  // idot[t], one lane per row, = kSixteens times 16 weights of w, times as many bytes at x[t].
  template <int kTokens, int kSixteens>
  static SLUICE_INLINE void dot(const int8x16_t* w, const int8_t* const* x, int32x4_t* idot) {
    for (int t = 0; t < kTokens; ++t) idot[t] = vdupq_n_s32(0);
    for (int i = 0; i < kSixteens; ++i) {
      for (int t = 0; t < kTokens; ++t) {
        const int8x16_t a = vld1q_s8(x[t] + 16 * i);
        idot[t] = vdotq_laneq_s32(idot[t], w[4 * i], a, 0);
        idot[t] = vdotq_laneq_s32(idot[t], w[4 * i + 1], a, 1);
        idot[t] = vdotq_laneq_s32(idot[t], w[4 * i + 2], a, 2);
        idot[t] = vdotq_laneq_s32(idot[t], w[4 * i + 3], a, 3);
      }
    }
  }
};

}  // namespace
}  // namespace sluice::kernels::arm
