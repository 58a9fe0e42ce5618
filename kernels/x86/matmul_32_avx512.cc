// Matrix times vectors for the types with groups of 32, AVX-512 with VNNI (definition in
// kernels.h). dpbusd wants unsigned weights: signed ones are moved up by 128, and kBias times the
// activations' sum is taken off again, exactly, in int32.
#include "kernels/x86/definitions_avx512.h"
#include "kernels/x86/matmul_avx512.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

// Columns whose unpacked weights are kept while all tokens pass by: 16 rows of 1024 bytes and their
// scales stay in L1.
constexpr int64_t kPanelGroups = 32;

template <class U>
constexpr int kBias = U::kSigned ? 128 : U::kOffset;

// --- two rows at once, as unsigned bytes: one in the low half, one in the high half ---

// Low nibbles of 16 bytes, then high nibbles, of both.
SLUICE_INLINE __m512i nibbles_of_two(const void* a, const void* b) {
  const __m512i v =
      _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(load_128(a)), 0xff00, load_128(b));
  const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
  return _mm512_and_si512(_mm512_srlv_epi64(v, shift), _mm512_set1_epi8(15));
}

// 16 more where the bit of a (byte i of the low half: bit i) or b (high half) is set.
SLUICE_INLINE __m512i add_fifth_bits(__m512i q, const void* a, const void* b) {
  const auto bits = static_cast<uint64_t>(load_as<uint32_t>(b)) << 32 | load_as<uint32_t>(a);
  return _mm512_mask_add_epi8(q, _cvtu64_mask64(bits), q, _mm512_set1_epi8(16));
}

template <class U>
SLUICE_INLINE __m512i unpack_two(const uint8_t* a, const uint8_t* b) {
  if constexpr (U::kType == WeightType::kQ4_0) {
    return nibbles_of_two(a + 2, b + 2);
  } else if constexpr (U::kType == WeightType::kQ4_1) {
    return nibbles_of_two(a + 4, b + 4);
  } else if constexpr (U::kType == WeightType::kQ5_0) {
    return add_fifth_bits(nibbles_of_two(a + 6, b + 6), a + 2, b + 2);
  } else if constexpr (U::kType == WeightType::kQ5_1) {
    return add_fifth_bits(nibbles_of_two(a + 8, b + 8), a + 4, b + 4);
  } else if constexpr (U::kType == WeightType::kIQ4_NL) {
    const __m512i values = biased_iq4_values();
    return _mm512_shuffle_epi8(values, nibbles_of_two(a + 2, b + 2));
  } else if constexpr (U::kType == WeightType::kMXFP4) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(mxfp4_values()),
                               nibbles_of_two(a + 1, b + 1));
  } else {
    return _mm512_xor_si512(halves_512(U::unpack(a), U::unpack(b)), _mm512_set1_epi8(-128));
  }
}

// 2^(e - 128) for sixteen e.
SLUICE_INLINE __m512 powers_of_two(__m512i e) {
  const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
  const __m512i tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
  const __mmask16 is_tiny = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_tiny, tiny));
}

// Memory gives most when it is read in order: rows one after another from end to end, eight groups
// at a time, whose integer sums are put down; then the fmas for sixteen rows at once.
constexpr int64_t kRowGroups = 512;  // groups between two turns of fmas
constexpr int64_t kRowBlocks = kRowGroups / 8;

// What sixteen rows put down. Row r is at place_of(r).
struct RowSums {
  __m256i idot[kRowBlocks][kWide];  // groups 0 2 4 6, then 1 3 5 7; rows in order
  uint32_t d[kRowGroups][kWide];    // d, and m in the upper half
};

// Groups of four rows: the second and the third change places.
SLUICE_INLINE int64_t place_of(int64_t row) { return (row & 3) | (row & 4) << 1 | (row & 8) >> 1; }

// One token's activations: two groups a vector.
struct PreparedToken {
  __m512i x[kRowGroups / 2];
};

void prepare(const ActQ8x32* x, int64_t n_groups, PreparedToken& out) {
  for (int64_t g = 0; g < n_groups; g += 2)
    out.x[g / 2] = halves_512(load_256(x[g].qs), load_256(x[g + 1 < n_groups ? g + 1 : g].qs));
}

// Puts down the sums of row `row` of sixteen.
template <class U>
SLUICE_INLINE void sum_row(
    const uint8_t* w, int64_t n_groups, const PreparedToken& x, int64_t row, RowSums& out) {
  constexpr int64_t kBytes = sizeof(typename U::Group);
  const int64_t place = place_of(row);
  const auto block = [&](int64_t g0, int64_t n) {
    const uint8_t* at = w + g0 * kBytes;
    prefetch_ahead(at, n * kBytes);
    __m512i dot[4];
    for (int i = 0; i < 4; ++i) {
      dot[i] = _mm512_setzero_si512();
      if (2 * i >= n) continue;
      const uint8_t* a = at + 2 * i * kBytes;
      const uint8_t* b = 2 * i + 1 < n ? a + kBytes : a;
      dot[i] = dot_bytes(dot[i], unpack_two<U>(a, b), x.x[g0 / 2 + i]);
    }
    const __m512i lanes = sum_of_four(dot[0], dot[1], dot[2], dot[3]);
    out.idot[g0 / 8][row] =
        _mm256_add_epi32(_mm512_castsi512_si256(_mm512_shuffle_i64x2(lanes, lanes, 0x08)),
                         _mm512_castsi512_si256(_mm512_shuffle_i64x2(lanes, lanes, 0x0d)));
    for (int64_t k = 0; k < n; ++k) {
      const uint8_t* g = at + k * kBytes;
      if constexpr (U::kHasMin)
        out.d[g0 + k][place] = load_as<uint32_t>(g);
      else if constexpr (U::kHalfScale)
        out.d[g0 + k][place] = load_as<uint16_t>(g);
      else
        out.d[g0 + k][place] = *g;
    }
  };
  int64_t g = 0;
  for (; g + 8 <= n_groups; g += 8) block(g, 8);
  if (g < n_groups) block(g, n_groups - g);
}

// From sixteen rows' sums of eight groups to those of each group, rows at place_of().
SLUICE_INLINE void fold_rows(const __m256i* sums, __m512i* out) {
  const auto half = [&](int first, __m512i* v) {  // rows first .. first + 3 and first + 8 ..
    __m512i t[4];
    for (int i = 0; i < 4; ++i) t[i] = halves_512(sums[first + i], sums[first + 8 + i]);
    transpose_lanes_4x4(t, v);
  };
  __m512i low[4], high[4];
  half(0, low);
  half(4, high);
  for (int e = 0; e < 4; ++e) {
    out[2 * e] = _mm512_shuffle_i64x2(low[e], high[e], 0x88);
    out[2 * e + 1] = _mm512_shuffle_i64x2(low[e], high[e], 0xdd);
  }
}

template <class U>
SLUICE_INLINE __m512
accumulate_rows(const RowSums& sums, int64_t n_groups, const ActQ8x32* act, __m512 acc) {
  for (int64_t g0 = 0; g0 < n_groups; g0 += 8) {
    __m512i idot[8];
    fold_rows(sums.idot[g0 / 8], idot);
    for (int64_t g = g0; g < n_groups && g < g0 + 8; ++g) {
      __m512i of_g = idot[g - g0];
      if constexpr (kBias<U> != 0)
        of_g = _mm512_sub_epi32(of_g, _mm512_set1_epi32(kBias<U> * act[g].sum));
      const __m512i raw = load_512(sums.d[g]);
      __m512 d, m = _mm512_setzero_ps();
      if constexpr (U::kHalfScale)
        d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(raw));
      else
        d = powers_of_two(raw);
      if constexpr (U::kHasMin)
        m = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(raw, 16)));
      acc = accumulate<U>(acc, of_g, d, m, act[g]);
    }
  }
  return acc;
}

// How matmul_avx512.h goes through the rows.
template <class U>
struct Rows {
  using Act = ActQ8x32;
  using Group = typename U::Group;
  using Prepared = PreparedToken;
  using Sums = RowSums;
  static constexpr int64_t kGroups = kRowGroups;
  static SLUICE_INLINE void prepare(const Act* x, int64_t n_groups, Prepared& out) {
    x86::prepare(x, n_groups, out);
  }
  static SLUICE_INLINE void sum(
      const uint8_t* w, int64_t n_groups, const Prepared& x, const Act*, int64_t row, Sums& out) {
    sum_row<U>(w, n_groups, x, row, out);
  }
  static SLUICE_INLINE __m512 accumulate(const Sums& sums,
                                         int64_t n_groups,
                                         const Act* act,
                                         __m512 acc) {
    return accumulate_rows<U>(sums, n_groups, act, acc);
  }
  // From and to place_of(): it undoes itself.
  static SLUICE_INLINE __m512 reorder(__m512 v) { return _mm512_shuffle_f32x4(v, v, 0xd8); }
};

// 16 rows of up to kPanelGroups groups: vector j of a group holds weights 4j .. 4j + 3 of every
// row.
struct Panel {
  __m512i q[kPanelGroups][8];
  __m512 d[kPanelGroups];
  __m512 m[kPanelGroups];
};

// Column j: weights 4j .. 4j + 3 of 16 rows.
template <class U>
SLUICE_INLINE void fill_group(const uint8_t* const* at, int64_t offset, __m512i* q) {
  constexpr bool kTable = U::kType == WeightType::kIQ4_NL || U::kType == WeightType::kMXFP4;
  if constexpr (kTable || U::kType == WeightType::kQ4_0 || U::kType == WeightType::kQ4_1) {
    constexpr int64_t kNibbles = sizeof(typename U::Group) - 16;
    __m512i b[4];
    columns_of_16(at, offset + kNibbles, b);
    for (int k = 0; k < 4; ++k) {
      q[k] = low_nibbles(b[k]);
      q[k + 4] = high_nibbles(b[k]);
    }
    if constexpr (kTable) {
      const __m512i values = U::kType == WeightType::kIQ4_NL
                                 ? biased_iq4_values()
                                 : _mm512_broadcast_i32x4(mxfp4_values());
      for (int j = 0; j < 8; ++j) q[j] = _mm512_shuffle_epi8(values, q[j]);
    }
  } else {  // fifth bits come cheaper by rows, and 32 bytes are two columns_of_16
    __m512i rows[8];
    for (int i = 0; i < 8; ++i) rows[i] = unpack_two<U>(at[i] + offset, at[i + 8] + offset);
    transpose_16x8(rows, q);
  }
}

template <class U>
void fill_panel(Panel& p, const uint8_t* const* at, int64_t first, int64_t n_groups) {
  int64_t offset = first * static_cast<int64_t>(sizeof(typename U::Group));
  for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(typename U::Group)) {
    fill_group<U>(at, offset, p.q[g]);
    p.d[g] = scales_of_16<U>(at, offset);
    if constexpr (U::kHasMin) p.m[g] = gather_halves_16(at, offset + 2);
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
  const ActQ8x32* act[kTokens];
  __m512 acc[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    act[t] = reinterpret_cast<const ActQ8x32*>(x + t * x_stride);
    acc[t] = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, y + t * y_stride);
  }
  for (int64_t g = 0; g < n_groups; ++g) {
    if (ahead != nullptr) prefetch_share_16<typename U::Group>(ahead, g);
    __m512i idot[kTokens];
    for (int t = 0; t < kTokens; ++t) idot[t] = _mm512_set1_epi32(-kBias<U> * act[t][g].sum);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const __m512i w = p.q[g][j];
      for (int t = 0; t < kTokens; ++t)
        idot[t] = dot_bytes(idot[t], w, broadcast_i32_512(act[t][g].qs + 4 * j));
    }
    for (int t = 0; t < kTokens; ++t)
      acc[t] = accumulate<U>(acc[t], idot[t], p.d[g], p.m[g], act[t][g]);
  }
  for (int t = 0; t < kTokens; ++t) _mm512_mask_storeu_ps(y + t * y_stride, rows, acc[t]);
}

template <class U>
struct Drivers {
  using Act = ActQ8x32;
  using Group = typename U::Group;
  using Panel = x86::Panel;
  using Rows = x86::Rows<U>;
  static constexpr int64_t kGroup = 32;
  static constexpr int64_t kPanelGroups = x86::kPanelGroups;
  static constexpr WeightType kType = U::kType;
  static constexpr auto fill = fill_panel<U>;
  template <int kTokens>
  static constexpr auto panel = panel_driver<U, kTokens>;
};

}  // namespace

void fill_matmul_32_avx512(KernelTable& t) noexcept {
  set_matmul<Drivers<U8_0>>(t);
  set_matmul<Drivers<U8_1>>(t);
  set_matmul<Drivers<U4_0>>(t);
  set_matmul<Drivers<U4_1>>(t);
  set_matmul<Drivers<U5_0>>(t);
  set_matmul<Drivers<U5_1>>(t);
  set_matmul<Drivers<UIQ4_NL>>(t);
  set_matmul<Drivers<UMXFP4>>(t);
}

}  // namespace sluice::kernels::x86
