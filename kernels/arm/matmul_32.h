// Matrix times vectors for the types with groups of 32 (definition in kernels.h). Included by one
// .cc per core.
#pragma once

#include "kernels/arm/matmul.h"

namespace sluice::kernels::arm {
namespace {

// The definition's one or two fmas for a group.
template <class U>
SLUICE_INLINE float32x4_t
accumulate_32(float32x4_t acc, int32x4_t idot, float32x4_t d, float32x4_t m, const ActQ8x32& x) {
  acc = vfmaq_f32(acc, vmulq_n_f32(d, x.d), vcvtq_f32_s32(idot));
  if constexpr (U::kHasMin) {
    acc = vfmaq_f32(acc, m, vdupq_n_f32(x.d * static_cast<float>(x.sum)));
  }
  return acc;
}

template <class U, class Core>
struct Matmul32 {
  using Act = ActQ8x32;
  using Group = typename U::Group;
  static constexpr int64_t kGroup = 32;
  static constexpr int kRowTokens = Core::kRowTokens;
  static constexpr WeightType kType = U::kType;
  // Columns whose unpacked weights are kept while all tokens pass by: 4 rows of 1024 bytes stay in
  // L1.
  static constexpr int64_t kPanelGroups = 32;

  struct Panel {
    int8x16_t q[kPanelGroups][8];
    float32x4_t d[kPanelGroups];
    float32x4_t m[kPanelGroups];
  };

  static SLUICE_INLINE float32x4_t minima(const uint8_t* const* at, int64_t offset) {
    if constexpr (U::kHasMin) return gather_halves(at, offset + 2);
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
      const int8x16_t a = vld1q_s8(x[g].qs), b = vld1q_s8(x[g].qs + 16);
      int32x4_t dot[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        int8x16_t q[2];
        U::unpack(at[i] + offset, q);
        dot[i] = vdotq_s32(vdotq_s32(vdupq_n_s32(0), q[0], a), q[1], b);
      }
      const float32x4_t d = U::scales(at, offset), m = minima(at, offset);
      acc = accumulate_32<U>(acc, sum_lanes_of_4(dot), d, m, x[g]);
    }
    store_some(y, rows, acc);
  }

  static void fill(
      Panel& p, const uint8_t* const* at, const uint8_t* next, int64_t first, int64_t n_groups) {
    int64_t offset = first * static_cast<int64_t>(sizeof(Group));
    for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(Group)) {
      prefetch_share<Group>(next, first + g);
      int8x16_t low[kLanes], high[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        int8x16_t q[2];
        U::unpack(at[i] + offset, q);
        low[i] = q[0];
        high[i] = q[1];
      }
      Core::pack(low, p.q[g]);
      Core::pack(high, p.q[g] + 4);
      p.d[g] = U::scales(at, offset);
      p.m[g] = minima(at, offset);
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
      const int8_t* qs[kTokens];
      for (int t = 0; t < kTokens; ++t) qs[t] = x[t][g].qs;
      int32x4_t idot[kTokens];
      Core::template dot<kTokens, 2>(p.q[g], qs, idot);
      for (int t = 0; t < kTokens; ++t) {
        acc[t] = accumulate_32<U>(acc[t], idot[t], p.d[g], p.m[g], x[t][g]);
      }
    }
    for (int t = 0; t < kTokens; ++t) store_some(y + t * y_stride, rows, acc[t]);
  }
};

template <class U>
void dequant_32(const void* w, float* y, int64_t n) noexcept {
  const auto* g = static_cast<const uint8_t*>(w);
  for (int64_t k = 0; k < n; k += 32, g += sizeof(typename U::Group)) {
    const uint8_t* at[kLanes] = {g, g, g, g};
    const float32x4_t d = U::scales(at, 0);
    float32x4_t m = vdupq_n_f32(0.0f);
    if constexpr (U::kHasMin) m = gather_halves(at, 2);
    int8x16_t q[2];
    U::unpack(g, q);
    for (int i = 0; i < 2; ++i) {
      float32x4_t v[4];
      widen_bytes(q[i], v);
      for (int j = 0; j < 4; ++j) {
        v[j] = vmulq_f32(d, v[j]);
        if constexpr (U::kHasMin) v[j] = vaddq_f32(v[j], m);
        vst1q_f32(y + k + 16 * i + 4 * j, v[j]);
      }
    }
  }
}

template <class Core>
SLUICE_INLINE void fill_matmul_32(KernelTable& t) {
  set_matmul<Matmul32<U8_0, Core>>(t);
  set_matmul<Matmul32<U8_1, Core>>(t);
  set_matmul<Matmul32<U4_0, Core>>(t);
  set_matmul<Matmul32<U4_1, Core>>(t);
  set_matmul<Matmul32<U5_0, Core>>(t);
  set_matmul<Matmul32<U5_1, Core>>(t);
  set_matmul<Matmul32<UIQ4_NL, Core>>(t);
  set_matmul<Matmul32<UMXFP4, Core>>(t);
}

}  // namespace
}  // namespace sluice::kernels::arm
