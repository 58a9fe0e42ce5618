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
    const __m512i values = _mm512_broadcast_i32x4(
        _mm_xor_si128(_mm256_castsi256_si128(iq4_values()), _mm_set1_epi8(-128)));
    return _mm512_shuffle_epi8(values, nibbles_of_two(a + 2, b + 2));
  } else if constexpr (U::kType == WeightType::kMXFP4) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(mxfp4_values()),
                               nibbles_of_two(a + 1, b + 1));
  } else {
    return _mm512_xor_si512(halves_512(U::unpack(a), U::unpack(b)), _mm512_set1_epi8(-128));
  }
}

template <class U>
void row_driver(const uint8_t* const* at,
                const uint8_t* next,
                int64_t n_groups,
                const ActQ8x32* x,
                float* y,
                __mmask16 rows) {
  __m512 acc = _mm512_setzero_ps();
  int64_t offset = 0;
  for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(typename U::Group)) {
    prefetch_share_16<typename U::Group>(next, g);
    const __m512i xq = twice_512(load_256(x[g].qs));
    __m512i dot[8];
    for (int i = 0; i < 8; ++i) {
      dot[i] =
          dot_bytes(_mm512_setzero_si512(), unpack_two<U>(at[i] + offset, at[i + 8] + offset), xq);
    }
    __m512i idot = sum_rows_of_8(dot);
    if constexpr (kBias<U> != 0)
      idot = _mm512_sub_epi32(idot, _mm512_set1_epi32(kBias<U> * x[g].sum));
    __m512 m = _mm512_setzero_ps();
    if constexpr (U::kHasMin) m = gather_halves_16(at, offset + 2);
    acc = accumulate<U>(acc, idot, scales_of_16<U>(at, offset), m, x[g]);
  }
  _mm512_mask_storeu_ps(y, rows, acc);
}

// 16 rows of up to kPanelGroups groups: vector j of a group holds weights 4j .. 4j + 3 of every
// row.
struct Panel {
  __m512i q[kPanelGroups][8];
  __m512 d[kPanelGroups];
  __m512 m[kPanelGroups];
};

template <class U>
void fill_panel(Panel& p, const uint8_t* const* at, int64_t first, int64_t n_groups) {
  int64_t offset = first * static_cast<int64_t>(sizeof(typename U::Group));
  for (int64_t g = 0; g < n_groups; ++g, offset += sizeof(typename U::Group)) {
    __m512i q[8];
    for (int i = 0; i < 8; ++i) q[i] = unpack_two<U>(at[i] + offset, at[i + 8] + offset);
    transpose_16x8(q, p.q[g]);
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
  static constexpr int64_t kGroup = 32;
  static constexpr int64_t kPanelGroups = x86::kPanelGroups;
  static constexpr WeightType kType = U::kType;
  static constexpr auto row = row_driver<U>;
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
