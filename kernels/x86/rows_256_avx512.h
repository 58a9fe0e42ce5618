// Few tokens times the rows of types with groups of 256: as fast as memory gives them.
#pragma once

#include "kernels/x86/definitions_avx512.h"
#include "kernels/x86/matmul_avx512.h"
#include "kernels/x86/unpack_256_avx512.h"

namespace sluice::kernels::x86 {
namespace {

// Scales and minima of a type whose group begins with d, dmin and twelve bytes of eight 6-bit
// pairs, for four rows: lane L holds row L's bytes: scales 0..3, minima 0..3, scales 4..7,
// minima 4..7.
SLUICE_INLINE __m512i six_bit_pairs(__m512i head) {
  const __m512i low_mask =
      _mm512_broadcast_i32x4(_mm_setr_epi32(0x3f3f3f3f, 0x3f3f3f3f, 0x0f0f0f0f, 0x0f0f0f0f));
  const __m512i high_mask = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0x30303030, 0x30303030));
  const __m512i low = _mm512_srlv_epi32(_mm512_shuffle_epi32(head, _MM_PERM_DDCB),
                                        _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4)));
  const __m512i high = _mm512_srli_epi32(_mm512_shuffle_epi32(head, _MM_PERM_CBAA), 2);
  return _mm512_or_si512(_mm512_and_si512(low, low_mask), _mm512_and_si512(high, high_mask));
}

// The first 16 bytes at four addresses.
SLUICE_INLINE __m512i heads_of_four(const uint8_t* a,
                                    const uint8_t* b,
                                    const uint8_t* c,
                                    const uint8_t* d) {
  const __m512i one = _mm512_castsi128_si512(load_128(a));
  const __m512i two = _mm512_inserti32x4(one, load_128(b), 1);
  const __m512i three = _mm512_inserti32x4(two, load_128(c), 2);
  return _mm512_inserti32x4(three, load_128(d), 3);
}

// Sums of the activations per 32, as eight words.
SLUICE_INLINE __m128i sums_per_32(const ActQ8x256& x) {
  const __m256i pairs = _mm256_madd_epi16(load_256(x.sums), _mm256_set1_epi16(1));
  return _mm_packs_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

// Dot products of a row with one activation group, by vectors of 64.
template <class U>
SLUICE_INLINE void dot_row(const uint8_t* g, const __m512i* x, __m512i* dot) {
  __m512i q[4];
  U::unpack_row(g, q);
  for (int i = 0; i < 4; ++i) dot[i] = dot_bytes(_mm512_setzero_si512(), q[i], x[i]);
}

// Four products of at most kMaxQ * 127 fit int16.
SLUICE_INLINE __m512i scale_words_sum(const __m512i* dot, __m512i scales_low, __m512i scales_high) {
  const __m512i sum =
      dot_words(_mm512_setzero_si512(), _mm512_packs_epi32(dot[0], dot[1]), scales_low);
  return dot_words(sum, _mm512_packs_epi32(dot[2], dot[3]), scales_high);
}

// Memory gives most when it is read in order: rows one after another from end to end, four groups
// at a time, whose integer sums are put down; then the fmas for sixteen rows at once.
constexpr int64_t kRowGroups = 64;  // groups between two turns of fmas
constexpr int64_t kRowBlocks = kRowGroups / 4;

// One token's activations as the rows want them.
struct PreparedToken {
  __m512i x[kRowGroups][4];
  __m512i sums_per_32[kRowBlocks];  // lane k: of the block's group k
};

// What sixteen rows put down.
struct RowSums {
  __m512i isum[kRowBlocks][kWide];  // in each lane: parts of the sums of the block's four groups
  __m512i imin[kRowBlocks][kWide];
  uint32_t d[kRowGroups][kWide];  // d, and dmin in the upper half; row 4k + r at 4r + k
};

template <class U>
constexpr bool kSixBit = U::kType == WeightType::kQ4_K || U::kType == WeightType::kQ5_K;

// Lanes of the low nibbles of four sub-blocks, then of the high ones; twice.
SLUICE_INLINE void arrange_lanes(const int8_t* qs, __m512i* x) {
  for (int i = 0; i < 4; ++i) {
    const int8_t* at = qs + 128 * (i / 2) + 16 * (i % 2);
    x[i] = halves_512(_mm256_set_m128i(load_128(at + 32), load_128(at)),
                      _mm256_set_m128i(load_128(at + 96), load_128(at + 64)));
  }
}

// Scales of 16 weights to the words of arrange_lanes.
constexpr ScaleWords lane_scales() {
  ScaleWords s = {};
  for (int h = 0; h < 2; ++h) {
    for (int w = 0; w < 32; ++w) s.at[h][w] = static_cast<int16_t>(2 * (4 * h + w / 8));
  }
  return s;
}
constexpr ScaleWords kLaneScales = lane_scales();

template <class U>
void prepare(const ActQ8x256* x, int64_t n_groups, PreparedToken& out) {
  for (int64_t g = 0; g < n_groups; ++g) {
    if constexpr (U::kType == WeightType::kIQ4_XS)
      arrange_lanes(x[g].qs, out.x[g]);
    else
      arrange<U::kOrder>(x[g].qs, out.x[g]);
  }
  if constexpr (kSixBit<U>) {
    for (int64_t g = 0; g < n_groups; g += 4) {
      __m128i s[4];
      for (int64_t k = 0; k < 4; ++k)
        s[k] = g + k < n_groups ? sums_per_32(x[g + k]) : _mm_setzero_si128();
      out.sums_per_32[g / 4] =
          halves_512(_mm256_set_m128i(s[1], s[0]), _mm256_set_m128i(s[3], s[2]));
    }
  }
}

// Bytes of a lane of six_bit_pairs to the words of scale_words<kCrossed, 8>: sub-blocks 0 1, lanes
// 2 and 3: 2 3; 8 more: 4 5, 6 7.
struct SixBitWords {
  int8_t at[64];
};
constexpr SixBitWords six_bit_words() {
  SixBitWords w = {};
  for (int i = 0; i < 64; ++i)
    w.at[i] = static_cast<int8_t>(i % 2 == 1 ? -1 : i / 32 * 2 + i % 16 / 8);
  return w;
}
constexpr SixBitWords kSixBitWords = six_bit_words();

// Up to four groups of one row of Q4_K or Q5_K.
template <class U>
SLUICE_INLINE void block_of_six_bit(
    const uint8_t* g, int n, const __m512i (*x)[4], __m512i x_sums, __m512i* isum, __m512i* imin) {
  static_assert(U::kHasMin && U::kOrder == Order::kCrossed && 4 * U::kMaxQ * 127 <= 32767);
  constexpr int64_t kBytes = sizeof(typename U::Group);
  const __m512i first = load_512(kSixBitWords.at);
  const __m512i second = _mm512_or_si512(first, _mm512_set1_epi16(8));
  const __m512i min_words = _mm512_broadcast_i32x4(
      _mm_setr_epi8(4, -1, 5, -1, 6, -1, 7, -1, 12, -1, 13, -1, 14, -1, 15, -1));
  const auto at = [&](int k) { return g + (k < n ? k : 0) * kBytes; };
  const __m512i pairs = six_bit_pairs(heads_of_four(at(0), at(1), at(2), at(3)));
  const __m512i min_parts =
      dot_words(_mm512_setzero_si512(), _mm512_shuffle_epi8(pairs, min_words), x_sums);
  __m512i sums[4];
  const auto group = [&](int k, __m512i scales) {
    __m512i dot[4];
    dot_row<U>(g + k * kBytes, x[k], dot);
    sums[k] = scale_words_sum(
        dot, _mm512_shuffle_epi8(scales, first), _mm512_shuffle_epi8(scales, second));
  };
  group(0, _mm512_shuffle_i32x4(pairs, pairs, 0x00));
  if (n > 1)
    group(1, _mm512_shuffle_i32x4(pairs, pairs, 0x55));
  else
    sums[1] = _mm512_setzero_si512();
  if (n > 2)
    group(2, _mm512_shuffle_i32x4(pairs, pairs, 0xaa));
  else
    sums[2] = _mm512_setzero_si512();
  if (n > 3)
    group(3, _mm512_shuffle_i32x4(pairs, pairs, 0xff));
  else
    sums[3] = _mm512_setzero_si512();
  *isum = sum_of_four(sums[0], sums[1], sums[2], sums[3]);
  *imin = min_parts;
}

// One group of a row of any other type: scales as int16 per 16 weights from the AVX2 unpacker's
// scale half.
template <class U>
SLUICE_INLINE void sums_of_group(
    const uint8_t* g, const __m512i* x, __m256i x_sums, __m512i* isum, __m512i* imin) {
  static_assert(4 * U::kMaxQ * 127 <= 32767 && !U::kSigned);
  Unpacked256 u;
  U::unpack_scales(g, u);
  __m512i dot[4];
  dot_row<U>(g, x, dot);
  const __m512i scales = _mm512_castsi256_si512(u.scales);
  const auto& words = kScaleWords<U::kOrder, 16>;
  __m512i sum = scale_words_sum(dot,
                                _mm512_permutexvar_epi16(load_512(words.at[0]), scales),
                                _mm512_permutexvar_epi16(load_512(words.at[1]), scales));
  if constexpr (kBias<U> != 0) {
    static_assert((kBias<U> & (kBias<U> - 1)) == 0);
    const __m256i low =
        _mm256_slli_epi32(_mm256_madd_epi16(u.scales, x_sums), __builtin_ctz(kBias<U>));
    sum = _mm512_sub_epi32(sum, _mm512_zextsi256_si512(low));
  }
  *isum = sum;
  if constexpr (U::kHasMin) *imin = _mm512_zextsi256_si512(_mm256_madd_epi16(u.mins, x_sums));
}

// IQ4_XS. Magnitudes are unsigned and the sign goes to the activation: two products fit int16.
SLUICE_INLINE __m512i sum_of_iq4(const uint8_t* g, const __m512i* x) {
  const __m512i magnitudes =
      _mm512_broadcast_i32x4(_mm_abs_epi8(_mm256_castsi256_si128(iq4_values())));
  const __m512i low = _mm512_set1_epi8(15), positive = _mm512_set1_epi8(8);
  Unpacked256 u;
  UIQ4_XS::unpack_scales(g, u);
  const __m512i scales = _mm512_castsi256_si512(u.scales);
  __m512i sum = _mm512_setzero_si512();
  for (int h = 0; h < 2; ++h) {
    const __m512i b = load_512(g + 8 + 64 * h);
    const __m512i of_lanes = _mm512_permutexvar_epi16(load_512(kLaneScales.at[h]), scales);
    for (int p = 0; p < 2; ++p) {
      const __m512i q = _mm512_and_si512(p == 0 ? b : _mm512_srli_epi16(b, 4), low);
      const __m512i signed_x = _mm512_mask_sub_epi8(
          x[2 * h + p], _mm512_testn_epi8_mask(q, positive), _mm512_setzero_si512(), x[2 * h + p]);
      const __m512i words = _mm512_maddubs_epi16(_mm512_shuffle_epi8(magnitudes, q), signed_x);
      sum = dot_words(sum, words, of_lanes);
    }
  }
  return sum;
}

template <class U>
SLUICE_INLINE void block_of_others(const uint8_t* g,
                                   int n,
                                   const __m512i (*x)[4],
                                   const ActQ8x256* act,
                                   __m512i* isum,
                                   __m512i* imin) {
  constexpr int64_t kBytes = sizeof(typename U::Group);
  __m512i sums[4], mins[4];
  for (int k = 0; k < 4; ++k) {
    sums[k] = mins[k] = _mm512_setzero_si512();
    if (k >= n) continue;
    if constexpr (U::kType == WeightType::kIQ4_XS)
      sums[k] = sum_of_iq4(g + k * kBytes, x[k]);
    else
      sums_of_group<U>(g + k * kBytes, x[k], load_256(act[k].sums), &sums[k], &mins[k]);
  }
  *isum = sum_of_four(sums[0], sums[1], sums[2], sums[3]);
  if constexpr (U::kHasMin) *imin = sum_of_four(mins[0], mins[1], mins[2], mins[3]);
}

// Puts down the sums of row `row` of sixteen.
template <class U>
SLUICE_INLINE void sum_row(const uint8_t* w,
                           int64_t n_groups,
                           const PreparedToken& x,
                           const ActQ8x256* act,
                           int64_t row,
                           RowSums& out) {
  constexpr int64_t kBytes = sizeof(typename U::Group);
  const int64_t place = row % 4 * 4 + row / 4;
  const auto block = [&](int64_t g, int n) {
    const uint8_t* at = w + g * kBytes;
    prefetch_ahead(at, n * kBytes);
    for (int k = 0; k < n; ++k) {
      if constexpr (U::kHasMin) {
        static_assert(U::kDmin == U::kD + 2);
        out.d[g + k][place] = load_as<uint32_t>(at + k * kBytes + U::kD);
      } else {
        out.d[g + k][place] = load_as<uint16_t>(at + k * kBytes + U::kD);
      }
    }
    if constexpr (kSixBit<U>)
      block_of_six_bit<U>(
          at, n, x.x + g, x.sums_per_32[g / 4], &out.isum[g / 4][row], &out.imin[g / 4][row]);
    else
      block_of_others<U>(at, n, x.x + g, act + g, &out.isum[g / 4][row], &out.imin[g / 4][row]);
  };
  int64_t g = 0;
  for (; g + 4 <= n_groups; g += 4) block(g, 4);
  if (g < n_groups) block(g, static_cast<int>(n_groups - g));
}

// From sixteen rows' parts of four groups to the sums: element 4r + k of out[g] is row 4k + r's.
SLUICE_INLINE void fold_rows(const __m512i* parts, __m512i* out) {
  __m512i v[4];  // lane r: the four groups of row 4k + r
  for (int k = 0; k < 4; ++k) {
    const __m512i* p = parts + 4 * k;
    const __m512i a = _mm512_add_epi32(_mm512_shuffle_i64x2(p[0], p[1], 0x44),
                                       _mm512_shuffle_i64x2(p[0], p[1], 0xee));
    const __m512i b = _mm512_add_epi32(_mm512_shuffle_i64x2(p[2], p[3], 0x44),
                                       _mm512_shuffle_i64x2(p[2], p[3], 0xee));
    v[k] = _mm512_add_epi32(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
  }
  transpose_lanes_4x4(v, out);
}

// The same where lane g of a row's parts is group g's alone.
SLUICE_INLINE void fold_lanes(const __m512i* parts, __m512i* out) {
  __m512i v[4];  // lane g: rows r, 4 + r, 8 + r, 12 + r
  for (int r = 0; r < 4; ++r)
    v[r] = sum_of_four(parts[r], parts[4 + r], parts[8 + r], parts[12 + r]);
  const __m512i a = _mm512_shuffle_i64x2(v[0], v[1], 0x44),
                b = _mm512_shuffle_i64x2(v[0], v[1], 0xee);
  const __m512i c = _mm512_shuffle_i64x2(v[2], v[3], 0x44),
                d = _mm512_shuffle_i64x2(v[2], v[3], 0xee);
  out[0] = _mm512_shuffle_i64x2(a, c, 0x88);
  out[1] = _mm512_shuffle_i64x2(a, c, 0xdd);
  out[2] = _mm512_shuffle_i64x2(b, d, 0x88);
  out[3] = _mm512_shuffle_i64x2(b, d, 0xdd);
}

// Sixteen rows' results, in the order of RowSums::d.
template <class U>
SLUICE_INLINE __m512
accumulate_rows(const RowSums& sums, int64_t n_groups, const ActQ8x256* act, __m512 acc) {
  for (int64_t g0 = 0; g0 < n_groups; g0 += 4) {
    __m512i isum[4], imin[4];
    fold_rows(sums.isum[g0 / 4], isum);
    if constexpr (kSixBit<U>)
      fold_lanes(sums.imin[g0 / 4], imin);
    else if constexpr (U::kHasMin)
      fold_rows(sums.imin[g0 / 4], imin);
    for (int64_t g = g0; g < n_groups && g < g0 + 4; ++g) {
      const __m512i d = load_512(sums.d[g]);
      Sums s = {};
      s.d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(d));
      s.isum = isum[g - g0];
      if constexpr (U::kHasMin) {
        s.dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(d, 16)));
        s.imin = imin[g - g0];
      }
      acc = accumulate<U>(acc, s, act[g].d);
    }
  }
  return acc;
}

// How matmul_avx512.h goes through the rows.
template <class U>
struct Rows {
  using Act = ActQ8x256;
  using Group = typename U::Group;
  using Prepared = PreparedToken;
  using Sums = RowSums;
  static constexpr int64_t kGroups = kRowGroups;
  static SLUICE_INLINE void prepare(const Act* x, int64_t n_groups, Prepared& out) {
    x86::prepare<U>(x, n_groups, out);
  }
  static SLUICE_INLINE void sum(const uint8_t* w,
                                int64_t n_groups,
                                const Prepared& x,
                                const Act* act,
                                int64_t row,
                                Sums& out) {
    sum_row<U>(w, n_groups, x, act, row, out);
  }
  static SLUICE_INLINE __m512 accumulate(const Sums& sums,
                                         int64_t n_groups,
                                         const Act* act,
                                         __m512 acc) {
    return accumulate_rows<U>(sums, n_groups, act, acc);
  }
  // From and to the order of RowSums::d: it undoes itself.
  static SLUICE_INLINE __m512 reorder(__m512 v) {
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
  }
};

}  // namespace
}  // namespace sluice::kernels::x86
