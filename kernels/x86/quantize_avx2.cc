// Activation quantisation (definition in kernels.h).
#include "kernels/x86/vector_avx2.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

// Largest absolute value of kVectors * 8 floats, as bits: as integers NaN > Inf > every number.
template <int kVectors>
SLUICE_INLINE uint32_t largest_bits(const float* x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i m = _mm256_setzero_si256();
  for (int i = 0; i < kVectors; ++i)
    m = _mm256_max_epi32(m, _mm256_and_si256(load_256(x + 8 * i), magnitude));
  __m128i m4 = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  m4 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0x4e));
  m4 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(m4));
}

// What a group's scale is and what its values are multiplied with.
struct GroupScale {
  float d, inverse;
  bool zero;  // q is 0 whatever x is
};
SLUICE_INLINE GroupScale group_scale(uint32_t amax_bits) {
  float amax;
  __builtin_memcpy(&amax, &amax_bits, 4);
  if (amax_bits >= 0x7f800000u) return {__builtin_nanf(""), 0.0f, true};
  const float inverse = 127.0f / amax;
  if (__builtin_isinf(inverse)) return {0.0f, 0.0f, true};
  return {amax / 127.0f, inverse, false};
}

SLUICE_INLINE __m256i quantize_32_values(const float* x, __m256 inverse) {
  __m256i v[4];
  for (int i = 0; i < 4; ++i)
    v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

void quantize_q8x32(const float* x, void* y, int64_t n) noexcept {
  auto* out = static_cast<ActQ8x32*>(y);
  for (int64_t k = 0; k < n; k += 32, ++out) {
    const GroupScale s = group_scale(largest_bits<4>(x + k));
    const __m256i q =
        s.zero ? _mm256_setzero_si256() : quantize_32_values(x + k, _mm256_set1_ps(s.inverse));
    out->d = s.d;
    store_256(out->qs, q);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    const __m256i quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(quads), _mm256_extracti128_si256(quads, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    out->sum = _mm_cvtsi128_si32(sum);
  }
}

void quantize_q8x256(const float* x, void* y, int64_t n) noexcept {
  auto* out = static_cast<ActQ8x256*>(y);
  for (int64_t k = 0; k < n; k += 256, ++out) {
    const GroupScale s = group_scale(largest_bits<32>(x + k));
    out->d = s.d;
    for (int j = 0; j < 8; ++j) {
      const __m256i q = s.zero ? _mm256_setzero_si256()
                               : quantize_32_values(x + k + 32 * j, _mm256_set1_ps(s.inverse));
      store_256(out->qs + 32 * j, q);
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
      // Sums of 16 bytes: one per 128-bit half.
      __m256i sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
      sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0x4e));
      sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xb1));
      out->sums[2 * j] = static_cast<int16_t>(_mm256_extract_epi32(sum, 0));
      out->sums[2 * j + 1] = static_cast<int16_t>(_mm256_extract_epi32(sum, 4));
    }
  }
}

}  // namespace

void fill_quantize_avx2(KernelTable& t) noexcept {
  t.quantize[static_cast<int>(ActFormat::kQ8x32)] = quantize_q8x32;
  t.quantize[static_cast<int>(ActFormat::kQ8x256)] = quantize_q8x256;
}

}  // namespace sluice::kernels::x86
