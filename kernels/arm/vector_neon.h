// Small vector helpers of the NEON files. Anonymous namespace: every including file gets its own
// copy.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels/kernels.h"

#define SLUICE_INLINE inline __attribute__((always_inline))

namespace sluice::kernels::arm {
namespace {

constexpr int kLanes = 4;  // rows that one vector of results holds

template <class T>
SLUICE_INLINE T load_as(const void* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// Up to 4 floats, the missing ones 0; n may be 0 or less.
SLUICE_INLINE float32x4_t load_some(const float* p, int64_t n) {
  if (n >= 4) return vld1q_f32(p);
  float some[4] = {};
  if (n > 0) __builtin_memcpy(some, p, static_cast<uint64_t>(n) * 4);
  return vld1q_f32(some);
}
SLUICE_INLINE void store_some(float* p, int64_t n, float32x4_t v) {
  if (n >= 4) {
    vst1q_f32(p, v);
  } else if (n > 0) {
    float some[4];
    vst1q_f32(some, v);
    __builtin_memcpy(p, some, static_cast<uint64_t>(n) * 4);
  }
}

// All bits set in the first n of 4 lanes.
SLUICE_INLINE uint32x4_t first_lanes(int64_t n) {
  const int32x4_t index = {0, 1, 2, 3};
  return vcltq_s32(index, vdupq_n_s32(static_cast<int>(n < 4 ? n : 4)));
}

// Lane i of the result: the sum of the 4 lanes of v[i].
SLUICE_INLINE int32x4_t sum_lanes_of_4(const int32x4_t* v) {
  return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

// The low 64 bits of a and b, and the high ones.
SLUICE_INLINE int8x16_t low_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vtrn1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
SLUICE_INLINE int8x16_t high_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vtrn2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

SLUICE_INLINE float half_to_float(const void* p) {
  const float16x4_t h = vreinterpret_f16_u16(vdup_n_u16(load_as<Half>(p)));
  return vgetq_lane_f32(vcvt_f32_f16(h), 0);
}

// The halves at 4 addresses, `offset` bytes further, as floats.
SLUICE_INLINE float32x4_t gather_halves(const uint8_t* const* at, int64_t offset) {
  uint16_t h[4];
  for (int i = 0; i < 4; ++i) h[i] = load_as<uint16_t>(at[i] + offset);
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h)));
}

// 8 floats of 8 halves.
SLUICE_INLINE void widen_halves(const void* p, float32x4_t* v) {
  const float16x8_t h = vreinterpretq_f16_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
  v[0] = vcvt_f32_f16(vget_low_f16(h));
  v[1] = vcvt_high_f32_f16(h);
}

// 16 floats of 16 bytes.
SLUICE_INLINE void widen_bytes(int8x16_t q, float32x4_t* v) {
  const int16x8_t low = vmovl_s8(vget_low_s8(q)), high = vmovl_high_s8(q);
  v[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
  v[1] = vcvtq_f32_s32(vmovl_high_s16(low));
  v[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
  v[3] = vcvtq_f32_s32(vmovl_high_s16(high));
}

// The tree of the F32 definition over 16 partial sums.
SLUICE_INLINE float sum_partials(const float32x4_t* p) {
  const float32x4_t p4 = vaddq_f32(vaddq_f32(p[0], p[2]), vaddq_f32(p[1], p[3]));
  const float32x2_t p2 = vadd_f32(vget_low_f32(p4), vget_high_f32(p4));
  return vget_lane_f32(p2, 0) + vget_lane_f32(p2, 1);
}

// The larger one; m where v is NaN.
SLUICE_INLINE float32x4_t larger(float32x4_t v, float32x4_t m) {
  return vbslq_f32(vcgtq_f32(v, m), v, m);
}

// exp_f32 of kernels/scalar/math.cc, operation by operation.
SLUICE_INLINE float32x4_t exp_4(float32x4_t x) {
  const float32x4_t magic = vdupq_n_f32(12582912.0f);
  const float32x4_t most = vdupq_n_f32(89.0f), least = vdupq_n_f32(-104.0f);
  x = vbslq_f32(vcltq_f32(most, x), most, x);
  x = vbslq_f32(vcgtq_f32(least, x), least, x);
  const float32x4_t t = vfmaq_f32(magic, x, vdupq_n_f32(1.44269504f));
  const float32x4_t n = vsubq_f32(t, magic);
  float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-0.693359375f));
  r = vfmaq_f32(r, n, vdupq_n_f32(2.12194440e-4f));
  float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
  p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
  p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
  p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
  p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
  p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
  const int32x4_t k = vsubq_s32(vreinterpretq_s32_f32(t), vreinterpretq_s32_f32(magic));
  const int32x4_t half = vshrq_n_s32(k, 1), bias = vdupq_n_s32(127);
  const int32x4_t s1 = vshlq_n_s32(vaddq_s32(half, bias), 23);
  const int32x4_t s2 = vshlq_n_s32(vaddq_s32(vsubq_s32(k, half), bias), 23);
  return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(s1)), vreinterpretq_f32_s32(s2));
}

}  // namespace
}  // namespace sluice::kernels::arm
