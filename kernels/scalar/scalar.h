// What the files of kernels/scalar share: the F32 definition of a sum, and the functions that fill
// the table.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/kernels.h"

namespace sluice::kernels::scalar {

// The fixed tree over 16 partial sums (kernels.h).
inline float sum_partials(const float* partial) noexcept {
  float p[8];
  for (int i = 0; i < 8; ++i) p[i] = partial[i] + partial[i + 8];
  for (int i = 0; i < 4; ++i) p[i] += p[i + 4];
  for (int i = 0; i < 2; ++i) p[i] += p[i + 2];
  return p[0] + p[1];
}

inline float dot_f32(const float* a, const float* b, int64_t n) noexcept {
  float p[16] = {};
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    for (int i = 0; i < 16; ++i) p[i] = std::fma(a[k + i], b[k + i], p[i]);
  }
  for (int i = 0; k < n; ++k, ++i) p[i] = std::fma(a[k], b[k], p[i]);
  return sum_partials(p);
}

inline float sum_f32(const float* x, int64_t n) noexcept {
  float p[16] = {};
  for (int64_t k = 0; k < n; ++k) p[k % 16] += x[k];
  return sum_partials(p);
}

// Largest element; -inf for none. NaN is passed over here and comes back through the exponentials.
// The sum with zero makes -0 into 0, so that the order of comparisons cannot be seen.
inline float max_f32(const float* x, int64_t n) noexcept {
  float m = -INFINITY;
  for (int64_t i = 0; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m + 0.0f;
}

void fill_dequant(KernelTable& t) noexcept;
void fill_matvec(KernelTable& t) noexcept;
void fill_matmul_bf16(KernelTable& t) noexcept;        // the prompt definition kBF16Dot
void fill_matmul_bf16_tiles(KernelTable& t) noexcept;  // ... kBF16Tiles
void fill_elementwise(KernelTable& t) noexcept;
void fill_attention(KernelTable& t) noexcept;

}  // namespace sluice::kernels::scalar
