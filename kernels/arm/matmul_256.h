// Matrix times vectors for the types with groups of 256 (definition in kernels.h). Included by one
// .cc per core.
#pragma once

#include "kernels/arm/matmul.h"

namespace sluice::kernels::arm {
namespace {

struct Sums256 {
  float32x4_t d, dmin;
  int32x4_t isum, imin;
};

// The definition's one or two fmas for a group.
template <class U>
SLUICE_INLINE float32x4_t accumulate_256(float32x4_t acc, const Sums256& s, float x_d) {
  acc = vfmaq_f32(acc, vmulq_n_f32(s.d, x_d), vcvtq_f32_s32(s.isum));
  if constexpr (U::kHasMin) {
    acc = vfmsq_f32(acc, vmulq_n_f32(s.dmin, x_d), vcvtq_f32_s32(s.imin));
  }
  return acc;
}

// 32 weights, that is two scales, of one row; lanes are partial sums.
template <class U>
SLUICE_INLINE int32x4_t dot_row_32_of_256(
    int32x4_t sum, const int8x16_t* q, const int8_t* x, int32_t scale_a, int32_t scale_b) {
  const int32x4_t a = vdotq_s32(vdupq_n_s32(0), q[0], vld1q_s8(x));
  const int8x16_t x_b = vld1q_s8(x + 16);
  if constexpr (U::kScaled == 32) return vmlaq_n_s32(sum, vdotq_s32(a, q[1], x_b), scale_a);
  const int32x4_t b = vdotq_s32(vdupq_n_s32(0), q[1], x_b);
  return vmlaq_n_s32(vmlaq_n_s32(sum, a, scale_a), b, scale_b);
}

// One group of one row: partial sums of isum and of the minima.
template <class U>
SLUICE_INLINE void dot_row_256(const uint8_t* g,
                               const ActQ8x256& x,
                               int32x4_t& isum,
                               int32x4_t& imin) {
  Unpacked256 u;
  U::unpack(g, u);
  isum = vdupq_n_s32(0);
  for (int h = 0; h < 2; ++h) {
    const int16x8_t s = u.scales[h];
    const int8x16_t* q = u.q + 8 * h;
    const int8_t* a = x.qs + 128 * h;
    isum = dot_row_32_of_256<U>(isum, q, a, s[0], s[1]);
    isum = dot_row_32_of_256<U>(isum, q + 2, a + 32, s[2], s[3]);
    isum = dot_row_32_of_256<U>(isum, q + 4, a + 64, s[4], s[5]);
    isum = dot_row_32_of_256<U>(isum, q + 6, a + 96, s[6], s[7]);
  }
  if constexpr (U::kHasMin) {
    imin = vdupq_n_s32(0);
    for (int h = 0; h < 2; ++h) {
      const int16x8_t sums = vld1q_s16(x.sums + 8 * h);
      imin = vmlal_s16(imin, vget_low_s16(u.mins[h]), vget_low_s16(sums));
      imin = vmlal_high_s16(imin, u.mins[h], sums);
    }
  }
}

template <class U, class Core>
struct Matmul256 {
  using Act = ActQ8x256;
  using Group = typename U::Group;
  static constexpr int64_t kGroup = 256;
  static constexpr int kRowTokens = Core::kRowTokens;
  static constexpr WeightType kType = U::kType;
  static constexpr int64_t kPanelGroups = 4;
  static constexpr int kSixteens = U::kScaled / 16;

  struct Panel {
    struct Unpacked {
      int8x16_t q[64];
      int32_t scales[16][kLanes];
      int16_t mins[16][kLanes];
      float32x4_t d, dmin;
    } group[kPanelGroups];
  };

  static SLUICE_INLINE float32x4_t minima(const uint8_t* const* at, int64_t offset) {
    if constexpr (U::kHasMin) return gather_halves(at, offset + U::kDmin);
    return vdupq_n_f32(0.0f);
  }

  static void row(const uint8_t* const* at,
                  const uint8_t* next,
                  int64_t n_groups,
                  const Act* x,
                  float* y,
                  int64_t rows) {
    float32x4_t acc = vdupq_n_f32(0.0f);
    int64_t offset = 0;
    for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(Group)) {
      prefetch_share<Group>(next, g);
      int32x4_t isum[kLanes], imin[kLanes];
      for (int i = 0; i < kLanes; ++i) dot_row_256<U>(at[i] + offset, x[g], isum[i], imin[i]);
      Sums256 s;
      s.d = gather_halves(at, offset + U::kD);
      s.isum = sum_lanes_of_4(isum);
      if constexpr (U::kHasMin) {
        s.dmin = minima(at, offset);
        s.imin = sum_lanes_of_4(imin);
      }
      acc = accumulate_256<U>(acc, s, x[g].d);
    }
    store_some(y, rows, acc);
  }

  static void fill(
      Panel& p, const uint8_t* const* at, const uint8_t* next, int64_t first, int64_t n_groups) {
    int64_t offset = first * static_cast<int64_t>(sizeof(Group));
    for (int64_t n = 0; n < n_groups; ++n, offset += sizeof(Group)) {
      prefetch_share<Group>(next, first + n);
      typename Panel::Unpacked& out = p.group[n];
      int8x16_t q[16][kLanes];
      for (int i = 0; i < kLanes; ++i) {
        Unpacked256 u;
        U::unpack(at[i] + offset, u);
        for (int j = 0; j < 16; ++j) q[j][i] = u.q[j];
        int16_t scales[16], mins[16];
        vst1q_s16(scales, u.scales[0]);
        vst1q_s16(scales + 8, u.scales[1]);
        for (int j = 0; j < 16; ++j) out.scales[j][i] = scales[j];
        if constexpr (U::kHasMin) {
          vst1q_s16(mins, u.mins[0]);
          vst1q_s16(mins + 8, u.mins[1]);
          for (int j = 0; j < 16; ++j) out.mins[j][i] = mins[j];
        }
      }
      for (int j = 0; j < 16; ++j) Core::pack(q[j], out.q + 4 * j);
      out.d = gather_halves(at, offset + U::kD);
      out.dmin = minima(at, offset);
    }
  }

  template <int kTokens>
  static void panel(const Panel& p,
                    int64_t n_groups,
                    bool first,
                    const Act* const* x,
                    float* y,
                    int64_t y_stride,
                    int64_t rows) {
    float32x4_t acc[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      acc[t] = first ? vdupq_n_f32(0.0f) : load_some(y + t * y_stride, rows);
    }
    for (int64_t g = 0; g < n_groups; ++g) {
      const typename Panel::Unpacked& w = p.group[g];
      int32x4_t isum[kTokens], imin[kTokens];
      for (int t = 0; t < kTokens; ++t) isum[t] = imin[t] = vdupq_n_s32(0);
      for (int j = 0; j < 16; j += kSixteens) {
        const int8_t* qs[kTokens];
        for (int t = 0; t < kTokens; ++t) qs[t] = x[t][g].qs + 16 * j;
        int32x4_t idot[kTokens];
        Core::template dot<kTokens, kSixteens>(w.q + 4 * j, qs, idot);
        const int32x4_t scale = vld1q_s32(w.scales[j]);
        for (int t = 0; t < kTokens; ++t) isum[t] = vmlaq_s32(isum[t], idot[t], scale);
      }
      if constexpr (U::kHasMin) {
        for (int j = 0; j < 16; ++j) {
          const int16x4_t min = vld1_s16(w.mins[j]);
          for (int t = 0; t < kTokens; ++t) imin[t] = vmlal_n_s16(imin[t], min, x[t][g].sums[j]);
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        acc[t] = accumulate_256<U>(acc[t], {w.d, w.dmin, isum[t], imin[t]}, x[t][g].d);
      }
    }
    for (int t = 0; t < kTokens; ++t) store_some(y + t * y_stride, rows, acc[t]);
  }
};

template <class U>
void dequant_256(const void* w, float* y, int64_t n) noexcept {
  const auto* g = static_cast<const uint8_t*>(w);
  for (int64_t k = 0; k < n; k += 256, g += sizeof(typename U::Group)) {
    Unpacked256 u;
    U::unpack(g, u);
    const float d = half_to_float(g + U::kD);
    const float dmin = U::kHasMin ? half_to_float(g + U::kDmin) : 0.0f;
    for (int j = 0; j < 16; ++j) {
      float32x4_t v[4];
      widen_bytes(u.q[j], v);
      const float scale = d * static_cast<float>(u.scales[j / 8][j % 8]);
      for (int i = 0; i < 4; ++i) {
        v[i] = vmulq_n_f32(v[i], scale);
        if constexpr (U::kHasMin) {
          v[i] = vsubq_f32(v[i], vdupq_n_f32(dmin * static_cast<float>(u.mins[j / 8][j % 8])));
        }
        vst1q_f32(y + k + 16 * j + 4 * i, v[i]);
      }
    }
  }
}

template <class Core>
SLUICE_INLINE void fill_matmul_256(KernelTable& t) {
  set_matmul<Matmul256<U2_K, Core>>(t);
  set_matmul<Matmul256<U3_K, Core>>(t);
  set_matmul<Matmul256<U4_K, Core>>(t);
  set_matmul<Matmul256<U5_K, Core>>(t);
  set_matmul<Matmul256<U6_K, Core>>(t);
  set_matmul<Matmul256<UIQ4_XS, Core>>(t);
}

}  // namespace
}  // namespace sluice::kernels::arm
