// Matrix times vectors for the types with groups of 32 (definition in kernels.h). Included by one
// .cc per ISA, which names its Dots (matmul_avx2.h). Eight rows make one vector of results, so that
// the serial chain of fmas per row runs in eight lanes.
#pragma once

#include "kernels/x86/matmul_avx2.h"
#include "kernels/x86/unpack_avx2.h"

namespace sluice::kernels::x86 {
namespace {

// Columns whose unpacked weights are kept while all tokens pass by: 8 rows of 1024 bytes stay in
// L1.
constexpr int64_t kPanelGroups32 = 32;
// A group of one row times a group of activations, as 8 partial sums. kBias is still in it.
template <class U, class Dots>
SLUICE_INLINE __m256i dot_row_32(__m256i q, __m256i x) {
  if constexpr (Dots::kDotBytes)
    return Dots::add_bytes(_mm256_setzero_si256(), as_multiplied<U, Dots>(q), x);
  // |q| <= 128 and |x| <= 127: two products stay below 2^15, maddubs never saturates.
  const __m256i pairs = U::kSigned
                            ? _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q))
                            : _mm256_maddubs_epi16(q, x);
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// The definition's one or two fmas for a group.
template <class U, class Dots>
SLUICE_INLINE __m256
accumulate_32(__m256 acc, __m256i idot, __m256 d, __m256 m, const ActQ8x32& x) {
  if constexpr (kBias<U, Dots> != 0)
    idot = _mm256_sub_epi32(idot, _mm256_set1_epi32(kBias<U, Dots> * x.sum));
  acc = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(x.d)), _mm256_cvtepi32_ps(idot), acc);
  if constexpr (U::kHasMin) {
    acc = _mm256_fmadd_ps(m, _mm256_set1_ps(x.d * static_cast<float>(x.sum)), acc);
  }
  return acc;
}

template <class U, class Dots>
void row_driver_32(const uint8_t* const* at,
                   const uint8_t* next,
                   int64_t n_groups,
                   const ActQ8x32* x,
                   float* y,
                   __m256i lanes) {
  __m256 acc = _mm256_setzero_ps();
  int64_t offset = 0;
  for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(typename U::Group)) {
    prefetch_share<typename U::Group>(next, g);
    const __m256i xq = load_256(x[g].qs);
    __m256i dot[kLanes];
    for (int i = 0; i < kLanes; ++i) dot[i] = dot_row_32<U, Dots>(U::unpack(at[i] + offset), xq);
    __m256 m = _mm256_setzero_ps();
    if constexpr (U::kHasMin) m = gather_halves(at, offset + 2);
    acc = accumulate_32<U, Dots>(acc, sum_lanes_of_8(dot), scales_32<U>(at, offset), m, x[g]);
  }
  _mm256_maskstore_ps(y, lanes, acc);
}

// 8 rows of up to kPanelGroups32 groups: vector j of a group holds weights 4j .. 4j + 3 of every
// row.
struct Panel32 {
  __m256i q[kPanelGroups32][8];
  __m256 d[kPanelGroups32];
  __m256 m[kPanelGroups32];
};

template <class U, class Dots>
void fill_panel_32(
    Panel32& p, const uint8_t* const* at, const uint8_t* next, int64_t first, int64_t n_groups) {
  int64_t offset = first * static_cast<int64_t>(sizeof(typename U::Group));
  for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(typename U::Group)) {
    prefetch_share<typename U::Group>(next, first + g);
    __m256i q[kLanes];
    for (int i = 0; i < kLanes; ++i) q[i] = as_multiplied<U, Dots>(U::unpack(at[i] + offset));
    transpose_8x8(q, p.q[g]);
    p.d[g] = scales_32<U>(at, offset);
    if constexpr (U::kHasMin) p.m[g] = gather_halves(at, offset + 2);
  }
}

// One group of the panel times kTokens tokens.
template <class U, class Dots, int kTokens>
SLUICE_INLINE void dot_panel_32(const __m256i* q,
                                const ActQ8x32* const* x,
                                int64_t g,
                                __m256i* idot) {
  for (int t = 0; t < kTokens; ++t) idot[t] = _mm256_setzero_si256();
  if constexpr (Dots::kDotBytes) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      for (int t = 0; t < kTokens; ++t)
        idot[t] = Dots::add_bytes(idot[t], q[j], broadcast_i32(x[t][g].qs + 4 * j));
    }
    return;
  }
  // As many pairs as fit int16 are added before they are widened.
  constexpr int kAdds = U::kSigned ? 1 : U::kMaxQ <= 15 ? 8 : 4;
  static_assert(U::kMaxQ * 127 * 2 * kAdds <= 32767);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int j = 0; j < 8; j += kAdds) {
    __m256i pairs[kTokens];
    for (int i = 0; i < kAdds; ++i) {
      const __m256i w = q[j + i];
      const __m256i size = U::kSigned ? _mm256_abs_epi8(w) : w;
      for (int t = 0; t < kTokens; ++t) {
        const __m256i a = broadcast_i32(x[t][g].qs + 4 * (j + i));
        const __m256i p = _mm256_maddubs_epi16(size, U::kSigned ? _mm256_sign_epi8(a, w) : a);
        pairs[t] = i == 0 ? p : _mm256_add_epi16(pairs[t], p);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      idot[t] = _mm256_add_epi32(idot[t], _mm256_madd_epi16(pairs[t], ones));
    }
  }
}

template <class U, class Dots, int kTokens>
void panel_driver_32(const Panel32& p,
                     int64_t n_groups,
                     bool first,
                     const uint8_t* x,
                     int64_t x_stride,
                     float* y,
                     int64_t y_stride,
                     __m256i lanes) {
  const ActQ8x32* act[kTokens];
  __m256 acc[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    act[t] = reinterpret_cast<const ActQ8x32*>(x + t * x_stride);
    acc[t] = first ? _mm256_setzero_ps() : _mm256_maskload_ps(y + t * y_stride, lanes);
  }
  for (int64_t g = 0; g < n_groups; ++g) {
    __m256i idot[kTokens];
    dot_panel_32<U, Dots, kTokens>(p.q[g], act, g, idot);
    for (int t = 0; t < kTokens; ++t) {
      acc[t] = accumulate_32<U, Dots>(acc[t], idot[t], p.d[g], p.m[g], act[t][g]);
    }
  }
  for (int t = 0; t < kTokens; ++t) _mm256_maskstore_ps(y + t * y_stride, lanes, acc[t]);
}

template <class U, class Dots>
struct Drivers32 {
  using Act = ActQ8x32;
  using Panel = Panel32;
  static constexpr int64_t kGroup = 32;
  static constexpr int64_t kPanelGroups = kPanelGroups32;
  static constexpr WeightType kType = U::kType;
  static constexpr auto row = row_driver_32<U, Dots>;
  static constexpr auto fill = fill_panel_32<U, Dots>;
  template <int kTokens>
  static constexpr auto panel = panel_driver_32<U, Dots, kTokens>;
};

template <class U>
void dequant_32(const void* w, float* y, int64_t n) noexcept {
  const auto* g = static_cast<const uint8_t*>(w);
  for (int64_t k = 0; k < n; k += 32, g += sizeof(typename U::Group)) {
    const uint8_t* at[kLanes] = {g, g, g, g, g, g, g, g};
    const __m256 d = scales_32<U>(at, 0);
    __m256 m = _mm256_setzero_ps();
    if constexpr (U::kHasMin) m = gather_halves(at, 2);
    alignas(32) int8_t q[32];
    store_256(q, _mm256_sub_epi8(U::unpack(g), _mm256_set1_epi8(U::kOffset)));
    for (int i = 0; i < 32; i += 8) {
      const __m256i wide =
          _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + i)));
      __m256 v = _mm256_mul_ps(d, _mm256_cvtepi32_ps(wide));
      if constexpr (U::kHasMin) v = _mm256_add_ps(v, m);
      _mm256_storeu_ps(y + k + i, v);
    }
  }
}

template <class Dots>
SLUICE_INLINE void fill_matmul_32(KernelTable& t) {
  set_matmul<Drivers32<U8_0, Dots>>(t);
  set_matmul<Drivers32<U8_1, Dots>>(t);
  set_matmul<Drivers32<U4_0, Dots>>(t);
  set_matmul<Drivers32<U4_1, Dots>>(t);
  set_matmul<Drivers32<U5_0, Dots>>(t);
  set_matmul<Drivers32<U5_1, Dots>>(t);
  set_matmul<Drivers32<UIQ4_NL, Dots>>(t);
  set_matmul<Drivers32<UMXFP4, Dots>>(t);
}

}  // namespace
}  // namespace sluice::kernels::x86
