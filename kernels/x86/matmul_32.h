// Matrix times vectors for the types with groups of 32 (definition in kernels.h). Included by one
// .cc per ISA. Eight rows make one vector of results, so that the serial chain of fmas per row runs
// in eight lanes.
#pragma once

#include "kernels/x86/unpack_avx2.h"

namespace sluice::kernels::x86 {
namespace {

// Columns whose unpacked weights are kept while all tokens pass by: 8 rows of 1024 bytes stay in
// L1.
constexpr int64_t kPanelGroups32 = 32;
// From this many tokens on, a panel is unpacked once for all of them.
constexpr int64_t kPanelTokens = 4;

// A group of one row times a group of activations, as 8 partial sums.
template <class U>
SLUICE_INLINE __m256i dot_row_32(__m256i q, __m256i x) {
  // |q| <= 128 and |x| <= 127: two products stay below 2^15, maddubs never saturates.
  const __m256i pairs = U::kSigned
                            ? _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q))
                            : _mm256_maddubs_epi16(q, x);
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// The definition's one or two fmas for a group.
template <class U>
SLUICE_INLINE __m256
accumulate_32(__m256 acc, __m256i idot, __m256 d, __m256 m, const ActQ8x32& x) {
  if constexpr (U::kOffset != 0)
    idot = _mm256_sub_epi32(idot, _mm256_set1_epi32(U::kOffset * x.sum));
  acc = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(x.d)), _mm256_cvtepi32_ps(idot), acc);
  if constexpr (U::kHasMin) {
    acc = _mm256_fmadd_ps(m, _mm256_set1_ps(x.d * static_cast<float>(x.sum)), acc);
  }
  return acc;
}

// Row pointers of 8 rows; what lies past the last row repeats it and is not stored.
SLUICE_INLINE void rows_of_8(
    const void* w, int64_t w_stride, int64_t r, int64_t n_rows, const uint8_t** at) {
  for (int i = 0; i < kLanes; ++i) {
    const int64_t row = r + i < n_rows ? r + i : n_rows - 1;
    at[i] = static_cast<const uint8_t*>(w) + row * w_stride;
  }
}

// Eight rows are eight short streams that a hardware prefetcher follows badly: from memory it costs
// a factor of 2 to
// 4. So each group asks for its share of the next eight rows, which lie behind these ones.
template <class Group>
SLUICE_INLINE void prefetch_share(const uint8_t* next, int64_t g) {
  constexpr int64_t kShare = kLanes * static_cast<int64_t>(sizeof(Group));
  for (int64_t i = 0; i < kShare; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(next + g * kShare + i), _MM_HINT_T1);
  }
}

SLUICE_INLINE int64_t next_rows(int64_t r, int64_t n_rows) {
  return r + kLanes < n_rows ? r + kLanes : r;
}

template <class U>
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
    for (int i = 0; i < kLanes; ++i) dot[i] = dot_row_32<U>(U::unpack(at[i] + offset), xq);
    __m256 m = _mm256_setzero_ps();
    if constexpr (U::kHasMin) m = gather_halves(at, offset + 2);
    acc = accumulate_32<U>(acc, sum_lanes_of_8(dot), scales_32<U>(at, offset), m, x[g]);
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

template <class U>
void fill_panel_32(
    Panel32& p, const uint8_t* const* at, const uint8_t* next, int64_t first, int64_t n_groups) {
  int64_t offset = first * static_cast<int64_t>(sizeof(typename U::Group));
  for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(typename U::Group)) {
    prefetch_share<typename U::Group>(next, first + g);
    __m256i q[kLanes];
    for (int i = 0; i < kLanes; ++i) q[i] = U::unpack(at[i] + offset);
    transpose_8x8(q, p.q[g]);
    p.d[g] = scales_32<U>(at, offset);
    if constexpr (U::kHasMin) p.m[g] = gather_halves(at, offset + 2);
  }
}

// One group of the panel times kTokens tokens.
template <class U, int kTokens>
SLUICE_INLINE void dot_panel_32(const __m256i* q,
                                const ActQ8x32* const* x,
                                int64_t g,
                                __m256i* idot) {
  // As many pairs as fit int16 are added before they are widened.
  constexpr int kAdds = U::kSigned ? 1 : U::kMaxQ <= 15 ? 8 : 4;
  static_assert(U::kMaxQ * 127 * 2 * kAdds <= 32767);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int t = 0; t < kTokens; ++t) idot[t] = _mm256_setzero_si256();
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

template <class U, int kTokens>
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
    dot_panel_32<U, kTokens>(p.q[g], act, g, idot);
    for (int t = 0; t < kTokens; ++t) {
      acc[t] = accumulate_32<U>(acc[t], idot[t], p.d[g], p.m[g], act[t][g]);
    }
  }
  for (int t = 0; t < kTokens; ++t) _mm256_maskstore_ps(y + t * y_stride, lanes, acc[t]);
}

template <class U>
void matmul_32(const void* w,
               int64_t w_stride,
               int64_t n_rows,
               int64_t n_cols,
               const void* x,
               int64_t x_stride,
               int64_t n_tokens,
               float* y,
               int64_t y_stride) noexcept {
  const int64_t n_groups = n_cols / 32;
  const auto* xs = static_cast<const uint8_t*>(x);
  const uint8_t* at[kLanes];
  for (int64_t r = 0; r < n_rows; r += kLanes) {
    rows_of_8(w, w_stride, r, n_rows, at);
    const uint8_t* next = static_cast<const uint8_t*>(w) + next_rows(r, n_rows) * w_stride;
    const __m256i lanes = first_lanes(n_rows - r);
    if (n_tokens < kPanelTokens) {
      for (int64_t t = 0; t < n_tokens; ++t) {
        const auto* act = reinterpret_cast<const ActQ8x32*>(xs + t * x_stride);
        row_driver_32<U>(at, next, n_groups, act, y + t * y_stride + r, lanes);
      }
      continue;
    }
    Panel32 panel;
    for (int64_t g0 = 0; g0 < n_groups; g0 += kPanelGroups32) {
      const int64_t n = n_groups - g0 < kPanelGroups32 ? n_groups - g0 : kPanelGroups32;
      fill_panel_32<U>(panel, at, next, g0, n);
      const uint8_t* act = xs + g0 * static_cast<int64_t>(sizeof(ActQ8x32));
      int64_t t = 0;
      for (; t + 4 <= n_tokens; t += 4) {
        panel_driver_32<U, 4>(
            panel, n, g0 == 0, act + t * x_stride, x_stride, y + t * y_stride + r, y_stride, lanes);
      }
      for (; t < n_tokens; ++t) {
        panel_driver_32<U, 1>(
            panel, n, g0 == 0, act + t * x_stride, x_stride, y + t * y_stride + r, y_stride, lanes);
      }
    }
  }
}

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

template <class U>
void set_matmul_32(KernelTable& t) {
  t.matmul[static_cast<int>(U::kType)] = matmul_32<U>;
}

SLUICE_INLINE void fill_matmul_32(KernelTable& t) {
  set_matmul_32<U8_0>(t);
  set_matmul_32<U8_1>(t);
  set_matmul_32<U4_0>(t);
  set_matmul_32<U4_1>(t);
  set_matmul_32<U5_0>(t);
  set_matmul_32<U5_1>(t);
  set_matmul_32<UIQ4_NL>(t);
  set_matmul_32<UMXFP4>(t);
}

}  // namespace
}  // namespace sluice::kernels::x86
