// Small vector helpers of the AVX-512 files, beside those of AVX2. Anonymous namespace: every
// including file gets its own copy.
#pragma once

#include "kernels/x86/unpack_avx2.h"

namespace sluice::kernels::x86 {
namespace {

constexpr int kWide = 16;  // rows that one vector of results holds

SLUICE_INLINE __m512i load_512(const void* p) { return _mm512_loadu_si512(p); }
SLUICE_INLINE __m512i broadcast_i32_512(const void* p) {
  return _mm512_set1_epi32(load_as<int32_t>(p));
}
SLUICE_INLINE __m512i halves_512(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
SLUICE_INLINE __m512i twice_512(__m256i v) { return _mm512_broadcast_i64x4(v); }
SLUICE_INLINE __m512i dot_bytes(__m512i acc, __m512i u8, __m512i s8) {
  return _mm512_dpbusd_epi32(acc, u8, s8);
}
SLUICE_INLINE __m512i dot_words(__m512i acc, __m512i a, __m512i b) {
  return _mm512_dpwssd_epi32(acc, a, b);
}

// One bit for each of the first n of 16 rows.
SLUICE_INLINE __mmask16 first_rows(int64_t n) {
  return static_cast<__mmask16>(n >= kWide ? 0xffffu : (1u << n) - 1u);
}

// Row pointers of 16 rows; what lies past the last row repeats it and is not stored.
SLUICE_INLINE void rows_of_16(
    const void* w, int64_t w_stride, int64_t r, int64_t n_rows, const uint8_t** at) {
  for (int i = 0; i < kWide; ++i) {
    const int64_t row = r + i < n_rows ? r + i : n_rows - 1;
    at[i] = static_cast<const uint8_t*>(w) + row * w_stride;
  }
}

// Sixteen rows are sixteen short streams that a hardware prefetcher follows badly; each group asks
// for its share of the next sixteen rows, which lie behind these ones.
template <class Group>
SLUICE_INLINE void prefetch_share_16(const uint8_t* next, int64_t g) {
  constexpr int64_t kShare = kWide * static_cast<int64_t>(sizeof(Group));
  for (int64_t i = 0; i < kShare; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(next + g * kShare + i), _MM_HINT_T1);
  }
}

// Asks for what lies as far behind the n bytes at p as memory needs time to bring it: into L2,
// where more is under way at once than L1 could wait for.
SLUICE_INLINE void prefetch_ahead(const uint8_t* p, int64_t n) {
  constexpr int64_t kAhead = 12 << 10;
  for (int64_t i = 0; i < n; i += 64)
    _mm_prefetch(reinterpret_cast<const char*>(p + kAhead + i), _MM_HINT_T1);
}

SLUICE_INLINE int64_t next_rows_16(int64_t r, int64_t n_rows) {
  return r + kWide < n_rows ? r + kWide : r;
}

// The halves at 16 addresses, `offset` bytes further, as floats.
SLUICE_INLINE __m512 gather_halves_16(const uint8_t* const* at, int64_t offset) {
  auto eight = [&](int r) {
    auto half = [&](int i) { return load_as<int16_t>(at[r + i] + offset); };
    return _mm_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7));
  };
  return _mm512_cvtph_ps(_mm256_set_m128i(eight(8), eight(0)));
}

// Within each 128-bit lane: element r of the result is the sum of the four of v[r].
SLUICE_INLINE __m512i sum_of_four(__m512i v0, __m512i v1, __m512i v2, __m512i v3) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v0, v1), _mm512_unpackhi_epi32(v0, v1));
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v2, v3), _mm512_unpackhi_epi32(v2, v3));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// v[i]: row i in the low half, row i + 8 in the high one. Lane r of the result: the sum of row r's
// 8 elements.
SLUICE_INLINE __m512i sum_rows_of_8(const __m512i* v) {
  const __m512i a = sum_of_four(v[0], v[1], v[2], v[3]);
  const __m512i b = sum_of_four(v[4], v[5], v[6], v[7]);
  const __m512i low = _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), b);
  const __m512i high =
      _mm512_permutex2var_epi64(a, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), b);
  return _mm512_add_epi32(low, high);
}

// Lane r of the result: the sum of the 16 elements of v[r].
SLUICE_INLINE __m512i sum_rows_of_16(const __m512i* v) {
  __m512i folded[8];
  for (int i = 0; i < 8; ++i) {
    folded[i] = _mm512_add_epi32(_mm512_shuffle_i64x2(v[i], v[i + 8], 0x44),
                                 _mm512_shuffle_i64x2(v[i], v[i + 8], 0xee));
  }
  return sum_rows_of_8(folded);
}

// 16 rows of 8 dwords, transposed: v[i] holds row i in the low half, row i + 8 in the high one;
// out[i] lane r = dword i of row r.
SLUICE_INLINE void transpose_16x8(const __m512i* v, __m512i* out) {
  __m512i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (int i = 0; i < 4; ++i) {
    out[i] = _mm512_permutex2var_epi64(b[i], low, b[i + 4]);
    out[i + 4] = _mm512_permutex2var_epi64(b[i], high, b[i + 4]);
  }
}

// The sixteen values of IQ4, moved up by 128.
SLUICE_INLINE __m512i biased_iq4_values() {
  return _mm512_broadcast_i32x4(
      _mm_xor_si128(_mm256_castsi256_si128(iq4_values()), _mm_set1_epi8(-128)));
}

// Within each 128-bit lane: element e of out[i] is element i of v[e].
SLUICE_INLINE void transpose_lanes_4x4(const __m512i* v, __m512i* out) {
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  out[0] = _mm512_unpacklo_epi64(a, c);
  out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d);
  out[3] = _mm512_unpackhi_epi64(b, d);
}

// 16 bytes at each of 16 addresses as columns: out[i] lane r = dword i of row r. Loads put rows
// into lanes, so that two shuffles a column are left of a transposition.
SLUICE_INLINE void columns_of_16(const uint8_t* const* at, int64_t offset, __m512i* out) {
  __m512i v[4];  // lane k: row 4k + e
  for (int e = 0; e < 4; ++e) {
    v[e] = _mm512_broadcast_i32x4(load_128(at[e] + offset));
    v[e] = _mm512_mask_broadcast_i32x4(v[e], 0x00f0, load_128(at[4 + e] + offset));
    v[e] = _mm512_mask_broadcast_i32x4(v[e], 0x0f00, load_128(at[8 + e] + offset));
    v[e] = _mm512_mask_broadcast_i32x4(v[e], 0xf000, load_128(at[12 + e] + offset));
  }
  transpose_lanes_4x4(v, out);
}

SLUICE_INLINE __m512i low_nibbles(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
SLUICE_INLINE __m512i high_nibbles(__m512i v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }
// Bits kFrom .. of each byte, as many as `mask` has, at the mask's place.
template <int kFrom, int kTo>
SLUICE_INLINE __m512i bits_to(__m512i v, __m512i mask) {
  if constexpr (kFrom > kTo)
    return _mm512_and_si512(_mm512_srli_epi16(v, kFrom - kTo), mask);
  else
    return _mm512_and_si512(_mm512_slli_epi16(v, kTo - kFrom), mask);
}

// The tree of the F32 definition over 16 partial sums, for sixteen of them: lane r is the sum of
// v[r].
SLUICE_INLINE __m512 sum_partials_of_16(const __m512* v) {
  __m512 a[8], b[4];
  for (int i = 0; i < 8; ++i) {  // elements 8 apart; then rows i and i + 8 lie in one vector
    a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44),
                         _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));
  }
  for (int i = 0; i < 4; ++i) {  // 4 apart: rows 2i, 2i + 8, 2i + 1, 2i + 9
    b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x88),
                         _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xdd));
  }
  const __m512 c = _mm512_add_ps(_mm512_unpacklo_ps(b[0], b[1]), _mm512_unpackhi_ps(b[0], b[1]));
  const __m512 d = _mm512_add_ps(_mm512_unpacklo_ps(b[2], b[3]), _mm512_unpackhi_ps(b[2], b[3]));
  const __m512d even = _mm512_unpacklo_pd(_mm512_castps_pd(c), _mm512_castps_pd(d));
  const __m512d odd = _mm512_unpackhi_pd(_mm512_castps_pd(c), _mm512_castps_pd(d));
  const __m512 sums = _mm512_add_ps(_mm512_castpd_ps(even), _mm512_castpd_ps(odd));
  // Lanes hold rows 0 2 4 6, 8 10 12 14, 1 3 5 7, 9 11 13 15.
  const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  return _mm512_permutexvar_ps(order, sums);
}

}  // namespace
}  // namespace sluice::kernels::x86
