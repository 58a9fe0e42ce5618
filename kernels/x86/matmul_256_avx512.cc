// Matrix times vectors for the types with groups of 256, AVX-512 with VNNI (definition in
// kernels.h). dpbusd wants unsigned weights: where a type has an offset, or is signed and moved up
// by 128, kBias times the activations' sums is taken off again, exactly, in int32.
#include "kernels/x86/rows_256_avx512.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

// Columns whose unpacked weights are kept while all tokens pass by.
constexpr int64_t kPanelGroups = 2;

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

// Element L of the result's row 4k + L: element 0 of lane L of v[k].
SLUICE_INLINE __m512i first_of_lanes(const __m512i* v) {
  const __m512i pairs =
      _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
  return _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), pairs);
}

// Scales and minima from the heads of four times four rows.
SLUICE_INLINE void fill_six_bit(Panel::Group& out, const uint8_t* const* at, int64_t offset) {
  const __m512i row_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i heads[4], p[4];
  for (int k = 0; k < 4; ++k) {
    const uint8_t* const* four = at + 4 * k;
    heads[k] =
        heads_of_four(four[0] + offset, four[1] + offset, four[2] + offset, four[3] + offset);
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

// Two chunks of 32 dwords of nibbles are eight sub-blocks of eight columns: chunk i of 32 bytes
// holds sub-blocks 2i (low nibbles) and 2i + 1.
SLUICE_INLINE void fill_q4(__m512i* q, const uint8_t* const* at, int64_t offset) {
  for (int c = 0; c < 32; c += 4) {
    __m512i b[4];
    columns_of_16(at, offset + 16 + 4 * c, b);
    for (int k = 0; k < 4; ++k) {
      const int j = c / 8 * 16 + c % 8 + k;
      q[j] = low_nibbles(b[k]);
      q[j + 8] = high_nibbles(b[k]);
    }
  }
}

// As Q4_K; bit b of the 32 bytes before it belongs to sub-block b.
SLUICE_INLINE void fill_q5(__m512i* q, const uint8_t* const* at, int64_t offset) {
  const __m512i bit = _mm512_set1_epi8(16);
  fill_q4(q, at, offset + 32);
  __m512i high[8];
  columns_of_16(at, offset + 16, high);
  columns_of_16(at, offset + 32, high + 4);
  const auto add = [&]<int kBlock>() {
    for (int k = 0; k < 8; ++k) {
      __m512i& of = q[8 * kBlock + k];
      of = _mm512_or_si512(of, bits_to<kBlock, 4>(high[k], bit));
    }
  };
  add.template operator()<0>();
  add.template operator()<1>();
  add.template operator()<2>();
  add.template operator()<3>();
  add.template operator()<4>();
  add.template operator()<5>();
  add.template operator()<6>();
  add.template operator()<7>();
}

// Per half: 64 bytes of nibbles, low ones of sub-blocks 0 and 1, high ones of 2 and 3; and 32 bytes
// of their upper two bits.
SLUICE_INLINE void fill_q6(__m512i* q, const uint8_t* const* at, int64_t offset) {
  const __m512i bits = _mm512_set1_epi8(48);
  for (int h = 0; h < 2; ++h, q += 32) {
    __m512i high[8];
    columns_of_16(at, offset + 128 + 32 * h, high);
    columns_of_16(at, offset + 144 + 32 * h, high + 4);
    for (int c = 0; c < 8; c += 4) {
      __m512i a[4], b[4];
      columns_of_16(at, offset + 64 * h + 4 * c, a);
      columns_of_16(at, offset + 64 * h + 32 + 4 * c, b);
      for (int k = 0; k < 4; ++k) {
        const __m512i top = high[c + k];
        q[c + k] = _mm512_or_si512(low_nibbles(a[k]), bits_to<0, 4>(top, bits));
        q[c + k + 8] = _mm512_or_si512(low_nibbles(b[k]), bits_to<2, 4>(top, bits));
        q[c + k + 16] = _mm512_or_si512(high_nibbles(a[k]), bits_to<4, 4>(top, bits));
        q[c + k + 24] = _mm512_or_si512(high_nibbles(b[k]), bits_to<6, 4>(top, bits));
      }
    }
  }
}

// 16 bytes a sub-block: low nibbles, then high ones.
SLUICE_INLINE void fill_iq4(__m512i* q, const uint8_t* const* at, int64_t offset) {
  const __m512i values = biased_iq4_values();
  for (int s = 0; s < 8; ++s, q += 8) {
    __m512i b[4];
    columns_of_16(at, offset + 8 + 16 * s, b);
    for (int k = 0; k < 4; ++k) {
      q[k] = _mm512_shuffle_epi8(values, low_nibbles(b[k]));
      q[k + 4] = _mm512_shuffle_epi8(values, high_nibbles(b[k]));
    }
  }
}

template <class U>
SLUICE_INLINE void fill_any(__m512i* q, const uint8_t* const* at, int64_t offset) {
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
  for (int j = 0; j < 8; ++j) transpose_16x8(blocks[j], q + 8 * j);
}

template <class U>
void fill_panel(Panel& p, const uint8_t* const* at, int64_t first, int64_t n_groups) {
  int64_t offset = first * static_cast<int64_t>(sizeof(typename U::Group));
  for (int64_t n = 0; n < n_groups; ++n, offset += sizeof(typename U::Group)) {
    Panel::Group& out = p.group[n];
    if constexpr (U::kType == WeightType::kQ4_K)
      fill_q4(out.q, at, offset);
    else if constexpr (U::kType == WeightType::kQ5_K)
      fill_q5(out.q, at, offset);
    else if constexpr (U::kType == WeightType::kQ6_K)
      fill_q6(out.q, at, offset);
    else if constexpr (U::kType == WeightType::kIQ4_XS)
      fill_iq4(out.q, at, offset);
    else
      fill_any<U>(out.q, at, offset);
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
  using Rows = x86::Rows<U>;
  static constexpr int64_t kGroup = 256;
  static constexpr int64_t kPanelGroups = x86::kPanelGroups;
  static constexpr WeightType kType = U::kType;
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
