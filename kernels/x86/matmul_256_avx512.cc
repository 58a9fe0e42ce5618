// Matrix times vectors for the types with groups of 256, AVX-512 with VNNI (definition in
// kernels.h). dpbusd wants unsigned weights: where a type has an offset, or is signed and moved up
// by 128, kBias times the activations' sums is taken off again, exactly, in int32.
#include "kernels/x86/definitions_avx512.h"
#include "kernels/x86/matmul_avx512.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

// Columns whose unpacked weights are kept while all tokens pass by.
constexpr int64_t kPanelGroups = 2;

template <class U>
constexpr int kBias = U::kSigned ? 128 : U::kOffset;

// --- one row of a group: four vectors of 64 weights as unsigned bytes, for the row driver ---

// The order in which a type's weights come easily: sub-blocks of 32 in pairs (0, 1) (2, 3) .. or
// (0, 2) (1, 3) (4, 6) (5, 7).
enum class Order : uint8_t { kNatural, kCrossed };

// Sub-block in half `half` of vector i.
template <Order kOrder>
constexpr int sub_block(int i, int half) {
  return kOrder == Order::kNatural ? 2 * i + half : 4 * (i / 2) + i % 2 + 2 * half;
}

// The activations of a group in a type's order.
template <Order kOrder>
SLUICE_INLINE void arrange(const int8_t* qs, __m512i* x) {
  for (int i = 0; i < 4; ++i) {
    x[i] = halves_512(load_256(qs + 32 * sub_block<kOrder>(i, 0)),
                      load_256(qs + 32 * sub_block<kOrder>(i, 1)));
  }
}

// Packed to int16 in pairs of vectors (packs_epi32(dot 2h, dot 2h + 1)), which of `per` scales a
// group goes with which word.
struct ScaleWords {
  int16_t at[2][32];
};
template <Order kOrder, int kPer>
constexpr ScaleWords scale_words() {
  ScaleWords s = {};
  for (int h = 0; h < 2; ++h) {
    for (int w = 0; w < 32; ++w) {
      const int lane = w / 8, i = 2 * h + w % 8 / 4;
      const int block = sub_block<kOrder>(i, lane / 2);
      s.at[h][w] = static_cast<int16_t>(kPer == 8 ? block : 2 * block + lane % 2);
    }
  }
  return s;
}
template <Order kOrder, int kPer>
constexpr ScaleWords kScaleWords = scale_words<kOrder, kPer>();

SLUICE_INLINE void unpack_two_bits(__m256i b, __m512i& q01, __m512i& q23) {
  const __m512i v = twice_512(b), three = _mm512_set1_epi8(3);
  q01 = _mm512_and_si512(_mm512_srlv_epi64(v, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2)), three);
  q23 = _mm512_and_si512(_mm512_srlv_epi64(v, _mm512_setr_epi64(4, 4, 4, 4, 6, 6, 6, 6)), three);
}

struct Row2_K : U2_K {
  static constexpr Order kOrder = Order::kNatural;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    unpack_two_bits(load_256(g + 16), q[0], q[1]);
    unpack_two_bits(load_256(g + 48), q[2], q[3]);
  }
};

struct Row3_K : U3_K {
  static constexpr Order kOrder = Order::kNatural;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i mask = twice_512(load_256(g)), four = _mm512_set1_epi8(4);
    unpack_two_bits(load_256(g + 32), q[0], q[1]);
    unpack_two_bits(load_256(g + 64), q[2], q[3]);
    // Bit j of a byte of the mask belongs to sub-block j: it goes to place 2.
    const __m512i up = _mm512_sllv_epi64(mask, _mm512_setr_epi64(2, 2, 2, 2, 1, 1, 1, 1));
    const __m512i b23 = _mm512_srlv_epi64(mask, _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1));
    const __m512i b45 = _mm512_srlv_epi64(mask, _mm512_setr_epi64(2, 2, 2, 2, 3, 3, 3, 3));
    const __m512i b67 = _mm512_srlv_epi64(mask, _mm512_setr_epi64(4, 4, 4, 4, 5, 5, 5, 5));
    q[0] = _mm512_or_si512(q[0], _mm512_and_si512(up, four));
    q[1] = _mm512_or_si512(q[1], _mm512_and_si512(b23, four));
    q[2] = _mm512_or_si512(q[2], _mm512_and_si512(b45, four));
    q[3] = _mm512_or_si512(q[3], _mm512_and_si512(b67, four));
  }
};

struct Row4_K : U4_K {
  static constexpr Order kOrder = Order::kCrossed;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int h = 0; h < 2; ++h) {
      const __m512i b = load_512(g + 16 + 64 * h);
      q[2 * h] = _mm512_and_si512(b, low);
      q[2 * h + 1] = _mm512_and_si512(_mm512_srli_epi16(b, 4), low);
    }
  }
};

struct Row5_K : U5_K {
  static constexpr Order kOrder = Order::kCrossed;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i low = _mm512_set1_epi8(15), bit = _mm512_set1_epi8(16);
    const __m512i high = twice_512(load_256(g + 16));
    for (int h = 0; h < 2; ++h) {
      const __m512i b = load_512(g + 48 + 64 * h);
      // Bit j of a byte of `high` belongs to sub-block j: it goes to place 4.
      const __m512i even = h == 0
                               ? _mm512_sllv_epi64(high, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2))
                               : _mm512_srlv_epi64(high, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2));
      const __m512i odd = h == 0
                              ? _mm512_sllv_epi64(high, _mm512_setr_epi64(3, 3, 3, 3, 1, 1, 1, 1))
                              : _mm512_srlv_epi64(high, _mm512_setr_epi64(1, 1, 1, 1, 3, 3, 3, 3));
      q[2 * h] = _mm512_or_si512(_mm512_and_si512(b, low), _mm512_and_si512(even, bit));
      q[2 * h + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(b, 4), low),
                                     _mm512_and_si512(odd, bit));
    }
  }
};

struct Row6_K : U6_K {
  static constexpr Order kOrder = Order::kNatural;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i low = _mm512_set1_epi8(15), bits = _mm512_set1_epi8(48);
    for (int h = 0; h < 2; ++h) {
      const __m512i a = load_512(g + 64 * h), c = twice_512(load_256(g + 128 + 32 * h));
      const __m512i c01 = _mm512_sllv_epi64(c, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2));
      const __m512i c23 = _mm512_srlv_epi64(c, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2));
      q[2 * h] = _mm512_or_si512(_mm512_and_si512(a, low), _mm512_and_si512(c01, bits));
      q[2 * h + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(a, 4), low),
                                     _mm512_and_si512(c23, bits));
    }
  }
};

struct Row4_XS : UIQ4_XS {
  static constexpr Order kOrder = Order::kNatural;
  static SLUICE_INLINE void unpack_row(const uint8_t* g, __m512i* q) {
    const __m512i values = _mm512_broadcast_i32x4(
        _mm_xor_si128(_mm256_castsi256_si128(iq4_values()), _mm_set1_epi8(-128)));
    const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    for (int i = 0; i < 4; ++i) {
      const __m512i two = twice_512(load_256(g + 8 + 32 * i));  // 16 bytes a sub-block: a b a b
      const __m512i b = _mm512_shuffle_i64x2(two, two, 0x50);   // a a b b
      q[i] = _mm512_shuffle_epi8(
          values, _mm512_and_si512(_mm512_srlv_epi64(b, shift), _mm512_set1_epi8(15)));
    }
  }
};

// --- the row driver ---

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

// The first 16 bytes of rows r .. r + 3.
SLUICE_INLINE __m512i heads_of_four(const uint8_t* const* at, int64_t offset) {
  const __m512i a = _mm512_castsi128_si512(load_128(at[0] + offset));
  const __m512i b = _mm512_inserti32x4(a, load_128(at[1] + offset), 1);
  const __m512i c = _mm512_inserti32x4(b, load_128(at[2] + offset), 2);
  return _mm512_inserti32x4(c, load_128(at[3] + offset), 3);
}

// Element L of the result's row 4k + L: element 0 of lane L of v[k].
SLUICE_INLINE __m512i first_of_lanes(const __m512i* v) {
  const __m512i pairs =
      _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
  return _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), pairs);
}
SLUICE_INLINE __m512i sums_of_lanes(const __m512i* v) {
  return _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
      sum_of_four(v[0], v[1], v[2], v[3]));
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

// Q4_K, Q5_K.
template <class U>
SLUICE_INLINE void sums_of_16_six_bit(
    const uint8_t* const* at, int64_t offset, const ActQ8x256& x, const __m512i* xq, Sums& s) {
  static_assert(U::kHasMin && U::kOrder == Order::kCrossed && 4 * U::kMaxQ * 127 <= 32767);
  // Bytes of a row's lane to the words of scale_words<kCrossed, 8>: sub-blocks 0 1, lanes 2 and 3:
  // 2 3; then 4 5, 6 7.
  const __m512i first = _mm512_set_epi8(-1,
                                        3,
                                        -1,
                                        3,
                                        -1,
                                        3,
                                        -1,
                                        3,
                                        -1,
                                        2,
                                        -1,
                                        2,
                                        -1,
                                        2,
                                        -1,
                                        2,
                                        -1,
                                        3,
                                        -1,
                                        3,
                                        -1,
                                        3,
                                        -1,
                                        3,
                                        -1,
                                        2,
                                        -1,
                                        2,
                                        -1,
                                        2,
                                        -1,
                                        2,
                                        -1,
                                        1,
                                        -1,
                                        1,
                                        -1,
                                        1,
                                        -1,
                                        1,
                                        -1,
                                        0,
                                        -1,
                                        0,
                                        -1,
                                        0,
                                        -1,
                                        0,
                                        -1,
                                        1,
                                        -1,
                                        1,
                                        -1,
                                        1,
                                        -1,
                                        1,
                                        -1,
                                        0,
                                        -1,
                                        0,
                                        -1,
                                        0,
                                        -1,
                                        0);
  const __m512i second = _mm512_or_si512(first, _mm512_set1_epi16(8));
  const __m512i min_words = _mm512_broadcast_i32x4(
      _mm_setr_epi8(4, -1, 5, -1, 6, -1, 7, -1, 12, -1, 13, -1, 14, -1, 15, -1));
  const __m512i x_sums = _mm512_broadcast_i32x4(sums_per_32(x));
  __m512i heads[4], mins[4], isum[kWide];
  for (int k = 0; k < 4; ++k) {
    heads[k] = heads_of_four(at + 4 * k, offset);
    const __m512i pairs = six_bit_pairs(heads[k]);
    mins[k] = dot_words(_mm512_setzero_si512(), _mm512_shuffle_epi8(pairs, min_words), x_sums);
    const auto row = [&](int i, __m512i scales) {
      __m512i dot[4];
      dot_row<U>(at[4 * k + i] + offset, xq, dot);
      isum[4 * k + i] = scale_words_sum(
          dot, _mm512_shuffle_epi8(scales, first), _mm512_shuffle_epi8(scales, second));
    };
    row(0, _mm512_shuffle_i32x4(pairs, pairs, 0x00));
    row(1, _mm512_shuffle_i32x4(pairs, pairs, 0x55));
    row(2, _mm512_shuffle_i32x4(pairs, pairs, 0xaa));
    row(3, _mm512_shuffle_i32x4(pairs, pairs, 0xff));
  }
  s.isum = sum_rows_of_16(isum);
  s.imin = sums_of_lanes(mins);
  const __m512i d = first_of_lanes(heads);
  s.d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(d));
  s.dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(d, 16)));
}

// All others: scales as int16 per 16 weights from the AVX2 unpacker's scale half.
template <class U>
SLUICE_INLINE void sums_of_16(
    const uint8_t* const* at, int64_t offset, const ActQ8x256& x, const __m512i* xq, Sums& s) {
  constexpr bool kWords = 4 * U::kMaxQ * 127 <= 32767 && !U::kSigned;
  const __m256i x_sums = load_256(x.sums);
  __m512i isum[kWide];
  __m256i imin[kWide];
  for (int i = 0; i < kWide; ++i) {
    const uint8_t* g = at[i] + offset;
    Unpacked256 u;
    U::unpack_scales(g, u);
    __m512i dot[4];
    dot_row<U>(g, xq, dot);
    const __m512i scales = _mm512_castsi256_si512(u.scales);
    if constexpr (kWords) {
      const auto& words = kScaleWords<U::kOrder, 16>;
      isum[i] = scale_words_sum(dot,
                                _mm512_permutexvar_epi16(load_512(words.at[0]), scales),
                                _mm512_permutexvar_epi16(load_512(words.at[1]), scales));
    } else {
      const __m512i wide = _mm512_cvtepi16_epi32(u.scales);  // lane k: of weights 16k ..
      __m512i sum = _mm512_setzero_si512();
      for (int v = 0; v < 4; ++v) {
        static_assert(kWords || U::kOrder == Order::kNatural);
        const __m512i of_v = _mm512_permutexvar_epi32(
            _mm512_add_epi32(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                             _mm512_set1_epi32(4 * v)),
            wide);
        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(dot[v], of_v));
      }
      isum[i] = sum;
    }
    if constexpr (kBias<U> != 0) {
      static_assert((kBias<U> & (kBias<U> - 1)) == 0);
      const __m256i low =
          _mm256_slli_epi32(_mm256_madd_epi16(u.scales, x_sums), __builtin_ctz(kBias<U>));
      isum[i] = _mm512_sub_epi32(isum[i], _mm512_zextsi256_si512(low));
    }
    if constexpr (U::kHasMin) imin[i] = _mm256_madd_epi16(u.mins, x_sums);
  }
  s.isum = sum_rows_of_16(isum);
  s.d = gather_halves_16(at, offset + U::kD);
  if constexpr (U::kHasMin) {
    __m512i folded[8];
    for (int i = 0; i < 8; ++i) folded[i] = halves_512(imin[i], imin[i + 8]);
    s.imin = sum_rows_of_8(folded);
    s.dmin = gather_halves_16(at, offset + U::kDmin);
  }
}

template <class U>
constexpr bool kSixBit = U::kType == WeightType::kQ4_K || U::kType == WeightType::kQ5_K;

template <class U>
void row_driver(const uint8_t* const* at,
                const uint8_t* next,
                int64_t n_groups,
                const ActQ8x256* x,
                float* y,
                __mmask16 rows) {
  __m512 acc = _mm512_setzero_ps();
  int64_t offset = 0;
  for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(typename U::Group)) {
    prefetch_share_16<typename U::Group>(next, g);
    __m512i xq[4];
    arrange<U::kOrder>(x[g].qs, xq);
    Sums s;
    if constexpr (kSixBit<U>)
      sums_of_16_six_bit<U>(at, offset, x[g], xq, s);
    else
      sums_of_16<U>(at, offset, x[g], xq, s);
    acc = accumulate<U>(acc, s, x[g].d);
  }
  _mm512_mask_storeu_ps(y, rows, acc);
}

// --- the panel driver ---

// Scales that a group of the type has.
template <class U>
constexpr int kScales = kSixBit<U> || U::kType == WeightType::kIQ4_XS ? 8 : 16;

// 16 rows of up to kPanelGroups groups.
struct Panel {
  struct Group {
    __m512i q[64];       // per 4 weights: one dword per row
    __m512i scales[16];  // per scale: one int32 per row
    __m512i mins[8];     // per 64 or 32 weights: two minima per row
    __m512 d, dmin;
  } group[kPanelGroups];
};

// Scales and minima from the heads of four times four rows.
SLUICE_INLINE void fill_six_bit(Panel::Group& out, const uint8_t* const* at, int64_t offset) {
  const __m512i row_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i heads[4], p[4];
  for (int k = 0; k < 4; ++k) {
    heads[k] = heads_of_four(at + 4 * k, offset);
    p[k] = six_bit_pairs(heads[k]);
  }
  const __m512i a = _mm512_unpacklo_epi32(p[0], p[1]), b = _mm512_unpacklo_epi32(p[2], p[3]);
  const __m512i c = _mm512_unpackhi_epi32(p[0], p[1]), d = _mm512_unpackhi_epi32(p[2], p[3]);
  // Per row four bytes: scales 0..3, minima 0..3, scales 4..7, minima 4..7.
  const __m512i bytes[4] = {_mm512_permutexvar_epi32(row_order, _mm512_unpacklo_epi64(a, b)),
                            _mm512_permutexvar_epi32(row_order, _mm512_unpackhi_epi64(a, b)),
                            _mm512_permutexvar_epi32(row_order, _mm512_unpacklo_epi64(c, d)),
                            _mm512_permutexvar_epi32(row_order, _mm512_unpackhi_epi64(c, d))};
  const __m512i byte = _mm512_set1_epi32(255);
  const __m512i low_words = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
  const __m512i high_words = _mm512_broadcast_i32x4(
      _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
  for (int h = 0; h < 2; ++h) {
    const __m512i s = bytes[2 * h];
    out.scales[4 * h] = _mm512_and_si512(s, byte);
    out.scales[4 * h + 1] = _mm512_and_si512(_mm512_srli_epi32(s, 8), byte);
    out.scales[4 * h + 2] = _mm512_and_si512(_mm512_srli_epi32(s, 16), byte);
    out.scales[4 * h + 3] = _mm512_srli_epi32(s, 24);
    out.mins[2 * h] = _mm512_shuffle_epi8(bytes[2 * h + 1], low_words);
    out.mins[2 * h + 1] = _mm512_shuffle_epi8(bytes[2 * h + 1], high_words);
  }
  const __m512i dd = first_of_lanes(heads);
  out.d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(dd));
  out.dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(dd, 16)));
}

template <class U>
SLUICE_INLINE void fill_scales(Panel::Group& out, const uint8_t* const* at, int64_t offset) {
  __m256i scales[kWide], mins[kWide];
  for (int i = 0; i < kWide; ++i) {
    Unpacked256 u;
    U::unpack_scales(at[i] + offset, u);
    scales[i] = u.scales;
    if constexpr (U::kHasMin) mins[i] = u.mins;
  }
  __m512i pairs[8];
  transpose_words(scales, pairs);
  for (int j = 0; j < 8; ++j) {
    const __m512i low = _mm512_srai_epi32(_mm512_slli_epi32(pairs[j], 16), 16);
    if constexpr (kScales<U> == 8) {
      out.scales[j] = low;
    } else {
      out.scales[2 * j] = low;
      out.scales[2 * j + 1] = _mm512_srai_epi32(pairs[j], 16);
    }
  }
  out.d = gather_halves_16(at, offset + U::kD);
  if constexpr (U::kHasMin) {
    static_assert(kScales<U> == 16);
    transpose_words(mins, out.mins);
    out.dmin = gather_halves_16(at, offset + U::kDmin);
  }
}

template <class U>
void fill_panel(Panel& p, const uint8_t* const* at, int64_t first, int64_t n_groups) {
  int64_t offset = first * static_cast<int64_t>(sizeof(typename U::Group));
  for (int64_t n = 0; n < n_groups; ++n, offset += sizeof(typename U::Group)) {
    Panel::Group& out = p.group[n];
    __m512i blocks[8][8];  // of a sub-block: rows i and i + 8
    for (int i = 0; i < 8; ++i) {
      __m512i a[4], b[4];
      U::unpack_row(at[i] + offset, a);
      U::unpack_row(at[i + 8] + offset, b);
      for (int v = 0; v < 4; ++v) {
        blocks[sub_block<U::kOrder>(v, 0)][i] = _mm512_shuffle_i64x2(a[v], b[v], 0x44);
        blocks[sub_block<U::kOrder>(v, 1)][i] = _mm512_shuffle_i64x2(a[v], b[v], 0xee);
      }
    }
    for (int j = 0; j < 8; ++j) transpose_16x8(blocks[j], out.q + 8 * j);
    if constexpr (kSixBit<U>)
      fill_six_bit(out, at, offset);
    else
      fill_scales<U>(out, at, offset);
  }
}

// What the driver wants of a group of activations beside its bytes.
struct alignas(64) ActSums {
  int32_t biased[16];  // per scale: -kBias times the sum
  int16_t words[16];   // per minimum: the sum
};

template <class U>
SLUICE_INLINE void make_sums(const ActQ8x256& x, ActSums& out) {
  const __m256i per_16 = load_256(x.sums);
  if constexpr (kScales<U> == 8) {
    const __m256i per_32 = _mm256_madd_epi16(per_16, _mm256_set1_epi16(1));
    if constexpr (kBias<U> != 0)
      store_256(out.biased, _mm256_mullo_epi32(per_32, _mm256_set1_epi32(-kBias<U>)));
    if constexpr (U::kHasMin)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out.words), _mm256_cvtepi32_epi16(per_32));
  } else {
    if constexpr (kBias<U> != 0) {
      _mm512_storeu_si512(
          out.biased,
          _mm512_mullo_epi32(_mm512_cvtepi16_epi32(per_16), _mm512_set1_epi32(-kBias<U>)));
    }
    if constexpr (U::kHasMin) store_256(out.words, per_16);
  }
}

// One group of the panel times kTokens tokens.
template <class U, int kTokens>
SLUICE_INLINE void dot_panel(
    const Panel::Group& p, const ActQ8x256* const* x, int64_t g, __m512i* isum, __m512i* imin) {
  constexpr int kDwords = 64 / kScales<U>;  // vectors of 4 weights under one scale
  ActSums sums[kTokens];
  if constexpr (kBias<U> != 0 || U::kHasMin) {
    for (int t = 0; t < kTokens; ++t) make_sums<U>(x[t][g], sums[t]);
  }
  for (int t = 0; t < kTokens; ++t) isum[t] = imin[t] = _mm512_setzero_si512();
  for (int s = 0; s < kScales<U>; ++s) {
    __m512i dot[kTokens];
    for (int t = 0; t < kTokens; ++t)
      dot[t] = kBias<U> != 0 ? _mm512_set1_epi32(sums[t].biased[s]) : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int j = 0; j < kDwords; ++j) {
      const __m512i w = p.q[s * kDwords + j];
      for (int t = 0; t < kTokens; ++t)
        dot[t] = dot_bytes(dot[t], w, broadcast_i32_512(x[t][g].qs + 4 * (s * kDwords + j)));
    }
    for (int t = 0; t < kTokens; ++t)
      isum[t] = _mm512_add_epi32(isum[t], _mm512_mullo_epi32(dot[t], p.scales[s]));
  }
  if constexpr (U::kHasMin) {
    for (int j = 0; j < kScales<U> / 2; ++j) {
      for (int t = 0; t < kTokens; ++t)
        imin[t] = dot_words(imin[t], p.mins[j], broadcast_i32_512(sums[t].words + 2 * j));
    }
  }
}

template <class U, int kTokens>
void panel_driver(const Panel& p,
                  int64_t n_groups,
                  const uint8_t* ahead,
                  bool first,
                  const uint8_t* x,
                  int64_t x_stride,
                  float* y,
                  int64_t y_stride,
                  __mmask16 rows) {
  const ActQ8x256* act[kTokens];
  __m512 acc[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    act[t] = reinterpret_cast<const ActQ8x256*>(x + t * x_stride);
    acc[t] = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, y + t * y_stride);
  }
  for (int64_t g = 0; g < n_groups; ++g) {
    if (ahead != nullptr) prefetch_share_16<typename U::Group>(ahead, g);
    __m512i isum[kTokens], imin[kTokens];
    dot_panel<U, kTokens>(p.group[g], act, g, isum, imin);
    for (int t = 0; t < kTokens; ++t) {
      acc[t] =
          accumulate<U>(acc[t], {p.group[g].d, p.group[g].dmin, isum[t], imin[t]}, act[t][g].d);
    }
  }
  for (int t = 0; t < kTokens; ++t) _mm512_mask_storeu_ps(y + t * y_stride, rows, acc[t]);
}

template <class U>
struct Drivers {
  using Act = ActQ8x256;
  using Group = typename U::Group;
  using Panel = x86::Panel;
  static constexpr int64_t kGroup = 256;
  static constexpr int64_t kPanelGroups = x86::kPanelGroups;
  static constexpr WeightType kType = U::kType;
  static constexpr auto row = row_driver<U>;
  static constexpr auto fill = fill_panel<U>;
  template <int kTokens>
  static constexpr auto panel = panel_driver<U, kTokens>;
};

}  // namespace

void fill_matmul_256_avx512(KernelTable& t) noexcept {
  set_matmul<Drivers<Row2_K>>(t);
  set_matmul<Drivers<Row3_K>>(t);
  set_matmul<Drivers<Row4_K>>(t);
  set_matmul<Drivers<Row5_K>>(t);
  set_matmul<Drivers<Row6_K>>(t);
  set_matmul<Drivers<Row4_XS>>(t);
}

}  // namespace sluice::kernels::x86
