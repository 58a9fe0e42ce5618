// exp, sin, cos and half conversions of our own: a fixed list of operations, so that every machine,
// libm and vector width gives the same bits. Only std::fma is taken from the C library: it is exact
// by definition.
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/kernels.h"

namespace sluice::kernels {

namespace {

// 1.5 * 2^23: adding it to |v| < 2^22 leaves round-to-nearest-even(v) in the low mantissa bits.
constexpr float kRoundMagic = 12582912.0f;
constexpr uint32_t kRoundMagicBits = 0x4b400000u;

float power_of_two(int32_t n) noexcept {
  return std::bit_cast<float>((static_cast<uint32_t>(n) + 127u) << 23);
}

}  // namespace

// exp(x) = 2^n * exp(r), |r| <= ln2 / 2; exp(r) by Cephes' polynomial (error < 2 ulp in all). 2^n
// is applied in two halves so that overflow and gradual underflow round once. x86/math_avx2.h
// repeats these operations.
float exp_f32(float x) noexcept {
  x = 89.0f < x ? 89.0f : x;  // exp(89) is inf and exp(-104) is 0; written so that NaN passes
  x = -104.0f > x ? -104.0f : x;
  const float t = std::fma(x, 1.44269504f, kRoundMagic);
  const float n = t - kRoundMagic;
  float r = std::fma(n, -0.693359375f, x);
  r = std::fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  p = std::fma(p, r * r, r) + 1.0f;
  // From the bits, not by a conversion: that would be undefined for NaN.
  const int32_t k = static_cast<int32_t>(std::bit_cast<uint32_t>(t) - kRoundMagicBits);
  const int32_t half = k >> 1;
  return p * power_of_two(half) * power_of_two(k - half);
}

// Reduction by pi/2 in double (two fmas, good for 2^26 and beyond), Taylor series on [-pi/4, pi/4].
void sin_cos_f32(float angle, float* sin_out, float* cos_out) noexcept {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  const double x = static_cast<double>(angle);
  const double t = std::fma(x, 0.63661977236758134308, kMagic);
  const double k = t - kMagic;
  double r = std::fma(k, -1.57079632679489655800, x);
  r = std::fma(k, -6.12323399573676603587e-17, r);
  const double r2 = r * r;
  double s = 1.0 / 6227020800.0;
  s = std::fma(s, r2, -1.0 / 39916800.0);
  s = std::fma(s, r2, 1.0 / 362880.0);
  s = std::fma(s, r2, -1.0 / 5040.0);
  s = std::fma(s, r2, 1.0 / 120.0);
  s = std::fma(s, r2, -1.0 / 6.0);
  s = std::fma(s * r2, r, r);
  double c = -1.0 / 87178291200.0;
  c = std::fma(c, r2, 1.0 / 479001600.0);
  c = std::fma(c, r2, -1.0 / 3628800.0);
  c = std::fma(c, r2, 1.0 / 40320.0);
  c = std::fma(c, r2, -1.0 / 720.0);
  c = std::fma(c, r2, 1.0 / 24.0);
  c = std::fma(c, r2, -0.5);
  c = std::fma(c, r2, 1.0);
  const uint64_t quadrant = std::bit_cast<uint64_t>(t) & 3u;
  const double sin_value = (quadrant & 1u) != 0 ? c : s;
  const double cos_value = (quadrant & 1u) != 0 ? s : c;
  *sin_out = static_cast<float>((quadrant & 2u) != 0 ? -sin_value : sin_value);
  *cos_out = static_cast<float>(((quadrant + 1) & 2u) != 0 ? -cos_value : cos_value);
}

// Round to nearest even; NaN stays NaN (made quiet), what rounds past 65504 becomes Inf.
Half half_from_f32(float x) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t mag = bits & 0x7fffffffu;
  if (mag > 0x7f800000u) return static_cast<Half>(sign | 0x7e00u | ((mag >> 13) & 0x3ffu));
  if (mag >= 0x477ff000u) return static_cast<Half>(sign | 0x7c00u);  // 65520 and above
  if (mag < 0x38800000u) {
    // Below 2^-14: adding 0.5 puts the unit of the last place of a subnormal half at the float's
    // last bit.
    const float shifted = std::bit_cast<float>(mag) + 0.5f;
    return static_cast<Half>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (mag >> 13) & 1u;
  return static_cast<Half>(sign | ((mag - 0x38000000u + 0xfffu + odd) >> 13));
}

float half_to_f32(Half h) noexcept {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) {
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) |
                                (mantissa != 0 ? 0x400000u : 0u));
  }
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

}  // namespace sluice::kernels
