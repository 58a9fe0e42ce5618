// How a matrix is gone through eight rows at a time, whatever the definition: row by row for few
// tokens, or a panel that is unpacked once for all of them.
#pragma once

#include "kernels/driver_widths.h"
#include "kernels/x86/vector_avx2.h"

namespace sluice::kernels::x86 {
namespace {

// From one token more on, a panel is unpacked once for all of them, unless set otherwise.
constexpr int kRowTokens = 3;

// The integer products of a set of instructions. kDotBytes: add_bytes(sum, u8, s8) adds the
// products of four bytes each to int32. Otherwise pairs of bytes are multiplied to int16, with
// whatever care that takes.
struct Avx2Dots {
  static constexpr bool kDotBytes = false;
  // sum + the products of two words each.
  static SLUICE_INLINE __m256i add_words(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }
};

// What is to be taken off a dot product, times the activations' sum: add_bytes wants unsigned
// weights, so signed ones are moved up by 128.
template <class U, class Dots>
constexpr int kBias = Dots::kDotBytes&& U::kSigned ? 128 : U::kOffset;

// Unpacked weights as Dots multiplies them.
template <class U, class Dots>
SLUICE_INLINE __m256i as_multiplied(__m256i q) {
  return Dots::kDotBytes && U::kSigned ? _mm256_xor_si256(q, _mm256_set1_epi8(-128)) : q;
}

// Row pointers of 8 rows; what lies past the last row repeats it and is not stored.
SLUICE_INLINE void rows_of_8(
    const void* w, int64_t w_stride, int64_t r, int64_t n_rows, const uint8_t** at) {
  for (int i = 0; i < kLanes; ++i) {
    const int64_t row = r + i < n_rows ? r + i : n_rows - 1;
    at[i] = static_cast<const uint8_t*>(w) + row * w_stride;
  }
}

// Eight rows are eight short streams that a hardware prefetcher follows badly: from memory it costs
// a factor of 2 to 4. So each group asks for its share of the next eight rows, which lie behind
// these ones.
template <class Group>
SLUICE_INLINE void prefetch_share(const uint8_t* next, int64_t g) {
  constexpr int64_t kShare = kLanes * static_cast<int64_t>(sizeof(Group));
  for (int64_t i = 0; i < kShare; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(next + g * kShare + i), _MM_HINT_T1);
  }
}

SLUICE_INLINE int64_t next_rows(int64_t r, int64_t n_rows) {
  return r + kLanes < n_rows ? r + kLanes : r;
}

// KernelTable::matmul. D names the activation group (Act, of kGroup columns), a Panel of
// kPanelGroups groups, and the drivers: row (8 rows, one token), fill (8 rows into a panel),
// panel<kTokens> (a panel times that many tokens; `first`: y is not added to).
template <class D>
void matmul(const void* w,
            int64_t w_stride,
            int64_t n_rows,
            int64_t n_cols,
            const void* x,
            int64_t x_stride,
            int64_t n_tokens,
            float* y,
            int64_t y_stride) noexcept {
  const int64_t n_groups = n_cols / D::kGroup;
  const auto* xs = static_cast<const uint8_t*>(x);
  const bool by_row = n_tokens <= row_tokens(D::kType, kRowTokens);
  const uint8_t* at[kLanes];
  for (int64_t r = 0; r < n_rows; r += kLanes) {
    rows_of_8(w, w_stride, r, n_rows, at);
    const uint8_t* next = static_cast<const uint8_t*>(w) + next_rows(r, n_rows) * w_stride;
    const __m256i lanes = first_lanes(n_rows - r);
    if (by_row) {
      for (int64_t t = 0; t < n_tokens; ++t) {
        const auto* act = reinterpret_cast<const typename D::Act*>(xs + t * x_stride);
        D::row(at, next, n_groups, act, y + t * y_stride + r, lanes);
      }
      continue;
    }
    typename D::Panel panel;
    for (int64_t g0 = 0; g0 < n_groups; g0 += D::kPanelGroups) {
      const int64_t n = n_groups - g0 < D::kPanelGroups ? n_groups - g0 : D::kPanelGroups;
      D::fill(panel, at, next, g0, n);
      const uint8_t* act = xs + g0 * static_cast<int64_t>(sizeof(typename D::Act));
      const auto run = [&]<int kTokens>(int64_t t) {
        D::template panel<kTokens>(
            panel, n, g0 == 0, act + t * x_stride, x_stride, y + t * y_stride + r, y_stride, lanes);
      };
      int64_t t = 0;
      for (; t + 4 <= n_tokens; t += 4) run.template operator()<4>(t);
      for (; t < n_tokens; ++t) run.template operator()<1>(t);
    }
  }
}

template <class D>
void set_matmul(KernelTable& t) {
  t.matmul[static_cast<int>(D::kType)] = matmul<D>;
}

}  // namespace
}  // namespace sluice::kernels::x86
