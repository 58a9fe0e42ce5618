// Activation quantisation (definition in kernels.h).
#include "kernels/arm/arm.h"
#include "kernels/arm/vector_neon.h"

namespace sluice::kernels::arm {
namespace {

// Largest absolute value of n floats, as bits: as integers NaN > Inf > every number.
template <int kN>
SLUICE_INLINE uint32_t largest_bits(const float* x) {
  const uint32x4_t magnitude = vdupq_n_u32(0x7fffffffu);
  uint32x4_t m = vdupq_n_u32(0);
  for (int i = 0; i < kN; i += 4) {
    m = vmaxq_u32(m, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), magnitude));
  }
  return vmaxvq_u32(m);
}

// What a group's scale is and what its values are multiplied with.
struct GroupScale {
  float d, inverse;
  bool zero;  // q is 0 whatever x is
};
SLUICE_INLINE GroupScale group_scale(uint32_t amax_bits) {
  const auto amax = load_as<float>(&amax_bits);
  if (amax_bits >= 0x7f800000u) return {__builtin_nanf(""), 0.0f, true};
  const float inverse = 127.0f / amax;
  if (__builtin_isinf(inverse)) return {0.0f, 0.0f, true};
  return {amax / 127.0f, inverse, false};
}

SLUICE_INLINE int8x16_t quantize_16_values(const float* x, const GroupScale& s) {
  if (s.zero) return vdupq_n_s8(0);
  int32x4_t v[4];  // rounded to nearest even
  for (int i = 0; i < 4; ++i) v[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), s.inverse));
  const int16x8_t low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
  return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

void quantize_q8x32(const float* x, void* y, int64_t n) noexcept {
  auto* out = static_cast<ActQ8x32*>(y);
  for (int64_t k = 0; k < n; k += 32, ++out) {
    const GroupScale s = group_scale(largest_bits<32>(x + k));
    const int8x16_t a = quantize_16_values(x + k, s), b = quantize_16_values(x + k + 16, s);
    out->d = s.d;
    out->sum = vaddlvq_s8(a) + vaddlvq_s8(b);
    vst1q_s8(out->qs, a);
    vst1q_s8(out->qs + 16, b);
  }
}

void quantize_q8x256(const float* x, void* y, int64_t n) noexcept {
  auto* out = static_cast<ActQ8x256*>(y);
  for (int64_t k = 0; k < n; k += 256, ++out) {
    const GroupScale s = group_scale(largest_bits<256>(x + k));
    out->d = s.d;
    for (int j = 0; j < 16; ++j) {
      const int8x16_t q = quantize_16_values(x + k + 16 * j, s);
      vst1q_s8(out->qs + 16 * j, q);
      out->sums[j] = vaddlvq_s8(q);
    }
  }
}

}  // namespace

void fill_quantize_neon(KernelTable& t) noexcept {
  t.quantize[static_cast<int>(ActFormat::kQ8x32)] = quantize_q8x32;
  t.quantize[static_cast<int>(ActFormat::kQ8x256)] = quantize_q8x256;
}

}  // namespace sluice::kernels::arm
