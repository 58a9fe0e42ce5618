// Norm, rotation, activation function and sums of vectors.
#include "kernels/arm/arm.h"
#include "kernels/arm/vector_neon.h"

namespace sluice::kernels::arm {
namespace {

// f(i, n): elements [i, i + n), n <= 4. Where n is the constant 4, load_some and store_some are
// plain.
template <class F>
SLUICE_INLINE void by_fours(int64_t n, F f) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) f(i, int64_t{4});
  if (i < n) f(i, n - i);
}

// Sum of squares by the F32 definition.
SLUICE_INLINE float sum_of_squares(const float* x, int64_t n) {
  float32x4_t p[4];
  for (float32x4_t& v : p) v = vdupq_n_f32(0.0f);
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    for (int i = 0; i < 4; ++i) {
      const float32x4_t v = vld1q_f32(x + k + 4 * i);
      p[i] = vfmaq_f32(p[i], v, v);
    }
  }
  // Squares are never below +0, so that adding a padded zero changes no partial sum.
  for (int i = 0; i < 4; ++i) {
    const float32x4_t v = load_some(x + k + 4 * i, n - k - 4 * i);
    p[i] = vfmaq_f32(p[i], v, v);
  }
  return sum_partials(p);
}

void rms_norm(const float* x, const float* w, float eps, float* y, int64_t n) noexcept {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const float root = vgetq_lane_f32(vsqrtq_f32(vdupq_n_f32(mean + eps)), 0);
  const float inverse = 1.0f / root;
  by_fours(n, [&](int64_t i, int64_t len) {
    const float32x4_t v = vmulq_n_f32(load_some(x + i, len), inverse);
    store_some(y + i, len, vmulq_f32(v, load_some(w + i, len)));
  });
}

SLUICE_INLINE void rotate(float32x4_t& a, float32x4_t& b, float32x4x2_t cos_sin) {
  const float32x4_t c = cos_sin.val[0], s = cos_sin.val[1];
  const float32x4_t rotated = vfmaq_f32(vnegq_f32(vmulq_f32(b, s)), a, c);
  b = vfmaq_f32(vmulq_f32(a, s), b, c);
  a = rotated;
}

SLUICE_INLINE void rotate_one(float& a, float& b, float c, float s) {
  const float rotated = __builtin_fmaf(a, c, -(b * s));
  b = __builtin_fmaf(b, c, a * s);
  a = rotated;
}

void rope(float* x,
          const float* cos_sin,
          int64_t n_heads,
          int64_t head_dim,
          int64_t rot,
          bool interleaved) noexcept {
  const int64_t half = rot / 2;
  for (int64_t h = 0; h < n_heads; ++h, x += head_dim) {
    int64_t i = 0;
    if (interleaved) {
      for (; i + 4 <= half; i += 4) {
        float32x4x2_t v = vld2q_f32(x + 2 * i);
        rotate(v.val[0], v.val[1], vld2q_f32(cos_sin + 2 * i));
        vst2q_f32(x + 2 * i, v);
      }
      for (; i < half; ++i) rotate_one(x[2 * i], x[2 * i + 1], cos_sin[2 * i], cos_sin[2 * i + 1]);
    } else {
      for (; i + 4 <= half; i += 4) {
        float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + i + half);
        rotate(a, b, vld2q_f32(cos_sin + 2 * i));
        vst1q_f32(x + i, a);
        vst1q_f32(x + i + half, b);
      }
      for (; i < half; ++i) rotate_one(x[i], x[i + half], cos_sin[2 * i], cos_sin[2 * i + 1]);
    }
  }
}

void swiglu(const float* gate, const float* up, float* y, int64_t n) noexcept {
  const float32x4_t one = vdupq_n_f32(1.0f);
  by_fours(n, [&](int64_t i, int64_t len) {
    const float32x4_t g = load_some(gate + i, len);
    const float32x4_t denominator = vaddq_f32(one, exp_4(vnegq_f32(g)));
    store_some(y + i, len, vmulq_f32(vdivq_f32(g, denominator), load_some(up + i, len)));
  });
}

void add(float* x, const float* y, int64_t n) noexcept {
  by_fours(n, [&](int64_t i, int64_t len) {
    store_some(x + i, len, vaddq_f32(load_some(x + i, len), load_some(y + i, len)));
  });
}

void add_scaled(float* x, const float* y, float a, int64_t n) noexcept {
  by_fours(n, [&](int64_t i, int64_t len) {
    store_some(x + i, len, vfmaq_n_f32(load_some(x + i, len), load_some(y + i, len), a));
  });
}

void softmax(float* x, int64_t n) noexcept {
  const float infinity = __builtin_inff();
  const float32x4_t least = vdupq_n_f32(-infinity);
  float32x4_t m = least;
  by_fours(n, [&](int64_t i, int64_t len) {
    m = larger(vbslq_f32(first_lanes(len), load_some(x + i, len), least), m);
  });
  const float largest = vmaxvq_f32(m) + 0.0f;
  const float32x4_t base = vdupq_n_f32(largest == -infinity ? 0.0f : largest);
  float32x4_t p[4];
  for (float32x4_t& v : p) v = vdupq_n_f32(0.0f);
  by_fours(n, [&](int64_t i, int64_t len) {
    store_some(x + i, len, exp_4(vsubq_f32(load_some(x + i, len), base)));
    float32x4_t& sum = p[i / 4 % 4];
    sum = vaddq_f32(sum, load_some(x + i, len));
  });
  const float sum = sum_partials(p);
  if (sum == 0.0f) return;
  const float32x4_t divisor = vdupq_n_f32(sum);
  by_fours(n, [&](int64_t i, int64_t len) {
    store_some(x + i, len, vdivq_f32(load_some(x + i, len), divisor));
  });
}

}  // namespace

void fill_elementwise_neon(KernelTable& t) noexcept {
  t.rms_norm = rms_norm;
  t.rope = rope;
  t.swiglu = swiglu;
  t.add = add;
  t.add_scaled = add_scaled;
  t.softmax = softmax;
}

}  // namespace sluice::kernels::arm
