// Norm, rotation, activation function and sums of vectors.
#include <cmath>

#include "kernels/scalar/scalar.h"

namespace sluice::kernels::scalar {

namespace {

void rms_norm(const float* x, const float* w, float eps, float* y, int64_t n) noexcept {
  const float mean = dot_f32(x, x, n) / static_cast<float>(n);
  const float inverse = 1.0f / std::sqrt(mean + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] * inverse) * w[i];
}

void rope(float* x,
          const float* cos_sin,
          int64_t n_heads,
          int64_t head_dim,
          int64_t rot,
          bool interleaved) noexcept {
  const int64_t half = rot / 2;
  for (int64_t h = 0; h < n_heads; ++h, x += head_dim) {
    for (int64_t i = 0; i < half; ++i) {
      float& a = x[interleaved ? 2 * i : i];
      float& b = x[interleaved ? 2 * i + 1 : i + half];
      const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
      const float rotated = std::fma(a, c, -(b * s));
      b = std::fma(b, c, a * s);
      a = rotated;
    }
  }
}

void swiglu(const float* gate, const float* up, float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (1.0f + exp_f32(-gate[i])) * up[i];
}

void add(float* x, const float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void add_scaled(float* x, const float* y, float a, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) x[i] = std::fma(a, y[i], x[i]);
}

void softmax(float* x, int64_t n) noexcept {
  float max = max_f32(x, n);
  if (max == -INFINITY)
    max = 0.0f;  // nothing but -inf: exp gives zeros, and 0 / 0 is replaced below
  for (int64_t i = 0; i < n; ++i) x[i] = exp_f32(x[i] - max);
  const float sum = sum_f32(x, n);
  if (sum == 0.0f) return;
  for (int64_t i = 0; i < n; ++i) x[i] /= sum;
}

}  // namespace

void fill_elementwise(KernelTable& t) noexcept {
  t.rms_norm = rms_norm;
  t.rope = rope;
  t.swiglu = swiglu;
  t.add = add;
  t.add_scaled = add_scaled;
  t.softmax = softmax;
}

}  // namespace sluice::kernels::scalar
