// What the files with sixteen rows to a vector share of the definitions (kernels.h): their fmas,
// and scales and minima of sixteen rows.
#pragma once

#include "kernels/x86/vector_avx512.h"

namespace sluice::kernels::x86 {
namespace {

// --- groups of 32 ---

// d of 16 rows.
template <class U>
SLUICE_INLINE __m512 scales_of_16(const uint8_t* const* at, int64_t offset) {
  if constexpr (U::kHalfScale) {
    return gather_halves_16(at, offset);
  } else {
    return _mm512_insertf32x8(
        _mm512_castps256_ps512(U::scales(at, offset)), U::scales(at + 8, offset), 1);
  }
}

// The definition's one or two fmas for a group.
template <class U>
SLUICE_INLINE __m512 accumulate(__m512 acc, __m512i idot, __m512 d, __m512 m, const ActQ8x32& x) {
  acc = _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(x.d)), _mm512_cvtepi32_ps(idot), acc);
  if constexpr (U::kHasMin) {
    acc = _mm512_fmadd_ps(m, _mm512_set1_ps(x.d * static_cast<float>(x.sum)), acc);
  }
  return acc;
}

// --- groups of 256 ---

struct Sums {
  __m512 d, dmin;
  __m512i isum, imin;
};

// The definition's one or two fmas for a group.
template <class U>
SLUICE_INLINE __m512 accumulate(__m512 acc, const Sums& s, float x_d) {
  const __m512 xd = _mm512_set1_ps(x_d);
  acc = _mm512_fmadd_ps(_mm512_mul_ps(s.d, xd), _mm512_cvtepi32_ps(s.isum), acc);
  if constexpr (U::kHasMin)
    acc = _mm512_fnmadd_ps(_mm512_mul_ps(s.dmin, xd), _mm512_cvtepi32_ps(s.imin), acc);
  return acc;
}

// The words of 16 rows, transposed by pairs: those of 32 weights per vector.
SLUICE_INLINE void transpose_words(const __m256i* words, __m512i* pairs) {
  __m512i v[8];
  for (int i = 0; i < 8; ++i) v[i] = halves_512(words[i], words[i + 8]);
  transpose_16x8(v, pairs);
}

}  // namespace
}  // namespace sluice::kernels::x86
