// Matrix times vectors for the types with groups of 256 (definition in kernels.h). Included by one
// .cc per ISA, which names its Dots (matmul_avx2.h).
#pragma once

#include "kernels/x86/matmul_avx2.h"
#include "kernels/x86/unpack_avx2.h"

namespace sluice::kernels::x86 {
namespace {

constexpr int64_t kPanelGroups256 = 4;

// Element j of each 128-bit half, in all its 8 places.
SLUICE_INLINE __m256i repeat_scale(__m256i scales, int j) {
  const auto low = static_cast<int16_t>((2 * j + 1) << 8 | 2 * j);
  return _mm256_shuffle_epi8(scales, _mm256_set1_epi16(low));
}

struct Sums256 {
  __m256 d, dmin;
  __m256i isum, imin;
};

// The definition's one or two fmas for a group.
template <class U>
SLUICE_INLINE __m256 accumulate_256(__m256 acc, const Sums256& s, float x_d) {
  const __m256 xd = _mm256_set1_ps(x_d);
  acc = _mm256_fmadd_ps(_mm256_mul_ps(s.d, xd), _mm256_cvtepi32_ps(s.isum), acc);
  if constexpr (U::kHasMin) {
    acc = _mm256_fnmadd_ps(_mm256_mul_ps(s.dmin, xd), _mm256_cvtepi32_ps(s.imin), acc);
  }
  return acc;
}

// One group of one row: partial sums of isum and of the minima. Words under their scales cost no
// more than add_bytes and packing would, so this one is the same for all Dots.
template <class U, class Dots>
SLUICE_INLINE void dot_row_256(const uint8_t* g, const ActQ8x256& x, __m256i& isum, __m256i& imin) {
  Unpacked256 u;
  U::unpack(g, u);
  // Even scales to the low half, odd ones to the high half: the halves of q[j] have scales 2j and
  // 2j + 1.
  const __m256i gather = _mm256_setr_epi8(0,
                                          1,
                                          4,
                                          5,
                                          8,
                                          9,
                                          12,
                                          13,
                                          2,
                                          3,
                                          6,
                                          7,
                                          10,
                                          11,
                                          14,
                                          15,  //
                                          0,
                                          1,
                                          4,
                                          5,
                                          8,
                                          9,
                                          12,
                                          13,
                                          2,
                                          3,
                                          6,
                                          7,
                                          10,
                                          11,
                                          14,
                                          15);
  const __m256i scales = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(u.scales, gather), 0xd8);
  __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const __m256i a = load_256(x.qs + 32 * j);
    const __m256i pairs =
        U::kSigned ? _mm256_maddubs_epi16(_mm256_abs_epi8(u.q[j]), _mm256_sign_epi8(a, u.q[j]))
                   : _mm256_maddubs_epi16(u.q[j], a);
    sum = Dots::add_words(sum, pairs, repeat_scale(scales, j));
  }
  const __m256i sums = load_256(x.sums);
  if constexpr (U::kOffset != 0) {
    const __m256i low = _mm256_madd_epi16(u.scales, sums);
    sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(low, _mm256_set1_epi32(U::kOffset)));
  }
  isum = sum;
  if constexpr (U::kHasMin) imin = _mm256_madd_epi16(u.mins, sums);
}

template <class U, class Dots>
void row_driver_256(const uint8_t* const* at,
                    const uint8_t* next,
                    int64_t n_groups,
                    const ActQ8x256* x,
                    float* y,
                    __m256i lanes) {
  __m256 acc = _mm256_setzero_ps();
  int64_t offset = 0;
  for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(typename U::Group)) {
    prefetch_share<typename U::Group>(next, g);
    __m256i isum[kLanes], imin[kLanes];
    for (int i = 0; i < kLanes; ++i) dot_row_256<U, Dots>(at[i] + offset, x[g], isum[i], imin[i]);
    Sums256 s;
    s.d = gather_halves(at, offset + U::kD);
    s.isum = sum_lanes_of_8(isum);
    if constexpr (U::kHasMin) {
      s.dmin = gather_halves(at, offset + U::kDmin);
      s.imin = sum_lanes_of_8(imin);
    }
    acc = accumulate_256<U>(acc, s, x[g].d);
  }
  _mm256_maskstore_ps(y, lanes, acc);
}

// 8 rows of up to kPanelGroups256 groups.
struct Panel256 {
  struct Group {
    __m256i q[64];       // per 4 weights: one dword per row
    __m256i scales[16];  // per 16 weights: the scale twice per row, or once as int32 for add_bytes
    __m256i
        lows[8];  // per 32 weights: two minima per row, or two scales where the type has an offset
    __m256 d, dmin;
  } group[kPanelGroups256];
};

template <class U, class Dots>
void fill_panel_256(
    Panel256& p, const uint8_t* const* at, const uint8_t* next, int64_t first, int64_t n_groups) {
  int64_t offset = first * static_cast<int64_t>(sizeof(typename U::Group));
  for (int64_t n = 0; n < n_groups; ++n, offset += sizeof(typename U::Group)) {
    prefetch_share<typename U::Group>(next, first + n);
    Panel256::Group& out = p.group[n];
    __m256i q[8][kLanes], scales[kLanes], mins[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      Unpacked256 u;
      U::unpack(at[i] + offset, u);
      for (int j = 0; j < 8; ++j) q[j][i] = as_multiplied<U, Dots>(u.q[j]);
      scales[i] = u.scales;
      if constexpr (U::kHasMin) mins[i] = u.mins;
    }
    for (int j = 0; j < 8; ++j) transpose_8x8(q[j], out.q + 8 * j);
    __m256i pairs[8];
    transpose_8x8(scales, pairs);
    for (int j = 0; j < 8; ++j) {
      if constexpr (Dots::kDotBytes) {
        out.scales[2 * j] = _mm256_srai_epi32(_mm256_slli_epi32(pairs[j], 16), 16);
        out.scales[2 * j + 1] = _mm256_srai_epi32(pairs[j], 16);
        continue;
      }
      out.scales[2 * j] = _mm256_blend_epi16(pairs[j], _mm256_slli_epi32(pairs[j], 16), 0xaa);
      out.scales[2 * j + 1] = _mm256_blend_epi16(_mm256_srli_epi32(pairs[j], 16), pairs[j], 0xaa);
    }
    out.d = gather_halves(at, offset + U::kD);
    if constexpr (U::kHasMin) {
      transpose_8x8(mins, out.lows);
      out.dmin = gather_halves(at, offset + U::kDmin);
    } else {
      for (int j = 0; j < 8; ++j) out.lows[j] = pairs[j];
    }
  }
}

// isum of one group of the panel times kTokens tokens, with int16 pairs.
template <class U, class Dots, int kTokens>
SLUICE_INLINE void dot_pairs_256(const Panel256::Group& p,
                                 const ActQ8x256* const* x,
                                 int64_t g,
                                 __m256i* isum) {
  // Vectors (4 weights each) whose pairs fit int16 when added; within 16 weights of one scale.
  constexpr int kAdds = U::kSigned ? 1 : U::kMaxQ <= 31 ? 4 : 2;
  static_assert(U::kMaxQ * 127 * 2 * kAdds <= 32767);
  for (int j = 0; j < 64; j += kAdds) {
    const __m256i scale = p.scales[j / 4];
    __m256i pairs[kTokens];
    for (int i = 0; i < kAdds; ++i) {
      const __m256i w = p.q[j + i];
      const __m256i size = U::kSigned ? _mm256_abs_epi8(w) : w;
      for (int t = 0; t < kTokens; ++t) {
        const __m256i a = broadcast_i32(x[t][g].qs + 4 * (j + i));
        const __m256i v = _mm256_maddubs_epi16(size, U::kSigned ? _mm256_sign_epi8(a, w) : a);
        pairs[t] = i == 0 ? v : _mm256_add_epi16(pairs[t], v);
      }
    }
    for (int t = 0; t < kTokens; ++t) isum[t] = Dots::add_words(isum[t], pairs[t], scale);
  }
}

// The same with dot products of bytes.
template <class U, class Dots, int kTokens>
SLUICE_INLINE void dot_bytes_256(const Panel256::Group& p,
                                 const ActQ8x256* const* x,
                                 int64_t g,
                                 __m256i* isum) {
  // Of two equal scales for 32 weights one is enough.
  constexpr bool kWideScales = U::kType == WeightType::kQ4_K || U::kType == WeightType::kQ5_K ||
                               U::kType == WeightType::kIQ4_XS;
  constexpr int kDwords = kWideScales ? 8 : 4;
  for (int j = 0; j < 64; j += kDwords) {
    __m256i dot[kTokens];
    for (int t = 0; t < kTokens; ++t) dot[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = j; i < j + kDwords; ++i) {
      for (int t = 0; t < kTokens; ++t)
        dot[t] = Dots::add_bytes(dot[t], p.q[i], broadcast_i32(x[t][g].qs + 4 * i));
    }
    for (int t = 0; t < kTokens; ++t)
      isum[t] = _mm256_add_epi32(isum[t], _mm256_mullo_epi32(dot[t], p.scales[j / 4]));
  }
}

// One group of the panel times kTokens tokens.
template <class U, class Dots, int kTokens>
SLUICE_INLINE void dot_panel_256(
    const Panel256::Group& p, const ActQ8x256* const* x, int64_t g, __m256i* isum, __m256i* ilow) {
  for (int t = 0; t < kTokens; ++t) isum[t] = ilow[t] = _mm256_setzero_si256();
  if constexpr (Dots::kDotBytes)
    dot_bytes_256<U, Dots, kTokens>(p, x, g, isum);
  else
    dot_pairs_256<U, Dots, kTokens>(p, x, g, isum);
  if constexpr (U::kHasMin || kBias<U, Dots> != 0) {
    for (int j = 0; j < 8; ++j) {
      for (int t = 0; t < kTokens; ++t) {
        const __m256i sums = broadcast_i32(x[t][g].sums + 2 * j);
        ilow[t] = Dots::add_words(ilow[t], p.lows[j], sums);
      }
    }
  }
}

template <class U, class Dots, int kTokens>
void panel_driver_256(const Panel256& p,
                      int64_t n_groups,
                      bool first,
                      const uint8_t* x,
                      int64_t x_stride,
                      float* y,
                      int64_t y_stride,
                      __m256i lanes) {
  const ActQ8x256* act[kTokens];
  __m256 acc[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    act[t] = reinterpret_cast<const ActQ8x256*>(x + t * x_stride);
    acc[t] = first ? _mm256_setzero_ps() : _mm256_maskload_ps(y + t * y_stride, lanes);
  }
  for (int64_t g = 0; g < n_groups; ++g) {
    __m256i isum[kTokens], ilow[kTokens];
    dot_panel_256<U, Dots, kTokens>(p.group[g], act, g, isum, ilow);
    for (int t = 0; t < kTokens; ++t) {
      if constexpr (kBias<U, Dots> != 0) {
        const __m256i bias = _mm256_set1_epi32(kBias<U, Dots>);
        isum[t] = _mm256_sub_epi32(isum[t], _mm256_mullo_epi32(ilow[t], bias));
      }
      const Sums256 s = {p.group[g].d, p.group[g].dmin, isum[t], ilow[t]};
      acc[t] = accumulate_256<U>(acc[t], s, act[t][g].d);
    }
  }
  for (int t = 0; t < kTokens; ++t) _mm256_maskstore_ps(y + t * y_stride, lanes, acc[t]);
}

template <class U, class Dots>
struct Drivers256 {
  using Act = ActQ8x256;
  using Panel = Panel256;
  static constexpr int64_t kGroup = 256;
  static constexpr int64_t kPanelGroups = kPanelGroups256;
  static constexpr WeightType kType = U::kType;
  static constexpr auto row = row_driver_256<U, Dots>;
  static constexpr auto fill = fill_panel_256<U, Dots>;
  template <int kTokens>
  static constexpr auto panel = panel_driver_256<U, Dots, kTokens>;
};

template <class U>
void dequant_256(const void* w, float* y, int64_t n) noexcept {
  const auto* g = static_cast<const uint8_t*>(w);
  for (int64_t k = 0; k < n; k += 256, g += sizeof(typename U::Group)) {
    Unpacked256 u;
    U::unpack(g, u);
    alignas(32) int8_t q[256];
    alignas(32) int16_t scales[16], mins[16];
    for (int j = 0; j < 8; ++j) {
      store_256(q + 32 * j, _mm256_sub_epi8(u.q[j], _mm256_set1_epi8(U::kOffset)));
    }
    store_256(scales, u.scales);
    if constexpr (U::kHasMin) store_256(mins, u.mins);
    const float d = _cvtsh_ss(load_as<Half>(g + U::kD));
    const float dmin = U::kHasMin ? _cvtsh_ss(load_as<Half>(g + U::kDmin)) : 0.0f;
    for (int j = 0; j < 16; ++j) {
      const __m256 scale = _mm256_set1_ps(d * static_cast<float>(scales[j]));
      for (int i = 16 * j; i < 16 * j + 16; i += 8) {
        const __m256i wide =
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + i)));
        __m256 v = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(wide));
        if constexpr (U::kHasMin)
          v = _mm256_sub_ps(v, _mm256_set1_ps(dmin * static_cast<float>(mins[j])));
        _mm256_storeu_ps(y + k + i, v);
      }
    }
  }
}

template <class Dots>
SLUICE_INLINE void fill_matmul_256(KernelTable& t) {
  set_matmul<Drivers256<U2_K, Dots>>(t);
  set_matmul<Drivers256<U3_K, Dots>>(t);
  set_matmul<Drivers256<U4_K, Dots>>(t);
  set_matmul<Drivers256<U5_K, Dots>>(t);
  set_matmul<Drivers256<U6_K, Dots>>(t);
  set_matmul<Drivers256<UIQ4_XS, Dots>>(t);
}

}  // namespace
}  // namespace sluice::kernels::x86
