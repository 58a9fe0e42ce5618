// Norm, rotation, activation function and sums of vectors. Tails are masked.
#include "kernels/x86/vector_avx2.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

// Up to 8 floats, the missing ones 0. Where n is the constant 8, no mask remains.
SLUICE_INLINE __m256 load_some(const float* p, int64_t n) {
  return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first_lanes(n));
}
SLUICE_INLINE void store_some(float* p, int64_t n, __m256 v) {
  if (n >= 8) {
    _mm256_storeu_ps(p, v);
  } else {
    _mm256_maskstore_ps(p, first_lanes(n), v);
  }
}

// f(i, n): elements [i, i + n), n <= 8.
template <class F>
SLUICE_INLINE void by_eights(int64_t n, F f) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) f(i, int64_t{8});
  if (i < n) f(i, n - i);
}

// Sum of squares by the F32 definition.
SLUICE_INLINE float sum_of_squares(const float* x, int64_t n) {
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    const __m256 a = _mm256_loadu_ps(x + k), b = _mm256_loadu_ps(x + k + 8);
    low = _mm256_fmadd_ps(a, a, low);
    high = _mm256_fmadd_ps(b, b, high);
  }
  // Squares are never below +0, so that adding a padded zero changes no partial sum.
  const __m256 a = load_some(x + k, n - k);
  low = _mm256_fmadd_ps(a, a, low);
  if (n - k > 8) {
    const __m256 b = load_some(x + k + 8, n - k - 8);
    high = _mm256_fmadd_ps(b, b, high);
  }
  return sum_partials(low, high);
}

void rms_norm(const float* x, const float* w, float eps, float* y, int64_t n) noexcept {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const float inverse = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + eps)));
  const __m256 factor = _mm256_set1_ps(inverse);
  by_eights(n, [&](int64_t i, int64_t len) {
    const __m256 v =
        _mm256_mul_ps(_mm256_mul_ps(load_some(x + i, len), factor), load_some(w + i, len));
    store_some(y + i, len, v);
  });
}

// 8 pairs {cos, sin} -> 8 cosines, 8 sines.
SLUICE_INLINE void split_pairs(const float* cos_sin, __m256& c, __m256& s) {
  const __m256 a = _mm256_loadu_ps(cos_sin), b = _mm256_loadu_ps(cos_sin + 8);
  const __m256 low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
  c = _mm256_shuffle_ps(low, high, 0x88);
  s = _mm256_shuffle_ps(low, high, 0xdd);
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
        const __m256 v = _mm256_loadu_ps(x + 2 * i), cs = _mm256_loadu_ps(cos_sin + 2 * i);
        const __m256 c = _mm256_moveldup_ps(cs), s = _mm256_movehdup_ps(cs);
        // Even lanes a * c - b * s, odd lanes b * c + a * s: the products with s are negated or
        // not, exactly.
        const __m256 swapped = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), s);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, c, swapped));
      }
      for (; i < half; ++i) rotate_one(x[2 * i], x[2 * i + 1], cos_sin[2 * i], cos_sin[2 * i + 1]);
    } else {
      for (; i + 8 <= half; i += 8) {
        __m256 c, s;
        split_pairs(cos_sin + 2 * i, c, s);
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + half);
        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + i + half, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
      }
      for (; i < half; ++i) rotate_one(x[i], x[i + half], cos_sin[2 * i], cos_sin[2 * i + 1]);
    }
  }
}

void swiglu(const float* gate, const float* up, float* y, int64_t n) noexcept {
  const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
  by_eights(n, [&](int64_t i, int64_t len) {
    const __m256 g = load_some(gate + i, len);
    const __m256 denominator = _mm256_add_ps(one, exp_8(_mm256_xor_ps(g, sign)));
    store_some(y + i, len, _mm256_mul_ps(_mm256_div_ps(g, denominator), load_some(up + i, len)));
  });
}

void add(float* x, const float* y, int64_t n) noexcept {
  by_eights(n, [&](int64_t i, int64_t len) {
    store_some(x + i, len, _mm256_add_ps(load_some(x + i, len), load_some(y + i, len)));
  });
}

void add_scaled(float* x, const float* y, float a, int64_t n) noexcept {
  const __m256 factor = _mm256_set1_ps(a);
  by_eights(n, [&](int64_t i, int64_t len) {
    store_some(x + i, len, _mm256_fmadd_ps(factor, load_some(y + i, len), load_some(x + i, len)));
  });
}

void softmax(float* x, int64_t n) noexcept {
  const float infinity = __builtin_inff();
  __m256 m = _mm256_set1_ps(-infinity);
  by_eights(n, [&](int64_t i, int64_t len) {
    const __m256 lanes = _mm256_castsi256_ps(first_lanes(len));
    const __m256 v = _mm256_blendv_ps(_mm256_set1_ps(-infinity), load_some(x + i, len), lanes);
    m = _mm256_max_ps(v, m);  // m where v is NaN
  });
  const float largest = max_of_8(m) + 0.0f;
  const __m256 base = _mm256_set1_ps(largest == -infinity ? 0.0f : largest);
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  by_eights(n, [&](int64_t i, int64_t len) {
    const __m256 v = exp_8(_mm256_sub_ps(load_some(x + i, len), base));
    store_some(x + i, len, v);
    __m256& sum = sums[i / 8 % 2];
    sum = _mm256_add_ps(sum, load_some(x + i, len));
  });
  const float sum = sum_partials(sums[0], sums[1]);
  if (sum == 0.0f) return;
  const __m256 divisor = _mm256_set1_ps(sum);
  by_eights(n, [&](int64_t i, int64_t len) {
    store_some(x + i, len, _mm256_div_ps(load_some(x + i, len), divisor));
  });
}

}  // namespace

void fill_elementwise_avx2(KernelTable& t) noexcept {
  t.rms_norm = rms_norm;
  t.rope = rope;
  t.swiglu = swiglu;
  t.add = add;
  t.add_scaled = add_scaled;
  t.softmax = softmax;
}

}  // namespace sluice::kernels::x86
