// How a matrix is gone through four rows at a time, whatever the definition: row by row for few
// tokens, or a panel that is unpacked once for all of them.
#pragma once

#include "kernels/arm/unpack_neon.h"
#include "kernels/driver_widths.h"

namespace sluice::kernels::arm {
namespace {

// Row pointers of 4 rows; what lies past the last row repeats it and is not stored.
SLUICE_INLINE void rows_of_4(
    const void* w, int64_t w_stride, int64_t r, int64_t n_rows, const uint8_t** at) {
  for (int i = 0; i < kLanes; ++i) {
    const int64_t row = r + i < n_rows ? r + i : n_rows - 1;
    at[i] = static_cast<const uint8_t*>(w) + row * w_stride;
  }
}

// Each group asks for its share of the next four rows, as on x86 (x86/matmul_32.h says why).
template <class Group>
SLUICE_INLINE void prefetch_share(const uint8_t* next, int64_t g) {
  constexpr int64_t kShare = kLanes * static_cast<int64_t>(sizeof(Group));
  for (int64_t i = 0; i < kShare; i += 64) __builtin_prefetch(next + g * kShare + i, 0, 2);
}

// KernelTable::matmul. D names the activation group (Act, of kGroup columns), a Panel of
// kPanelGroups groups, up to how many tokens rows go one
// by one unless set otherwise (kRowTokens), and the drivers: row (4
// rows, one token), fill (4 rows into a panel), panel<kTokens> (a panel times that many tokens;
// `first`: y is not added to). `rows`: how many of the 4 are stored.
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
  const bool by_row = n_tokens <= row_tokens(D::kType, D::kRowTokens);
  const uint8_t* at[kLanes];
  for (int64_t r = 0; r < n_rows; r += kLanes) {
    rows_of_4(w, w_stride, r, n_rows, at);
    const int64_t next_row = r + kLanes < n_rows ? r + kLanes : r;
    const uint8_t* next = static_cast<const uint8_t*>(w) + next_row * w_stride;
    const int64_t rows = n_rows - r;
    if (by_row) {
      for (int64_t t = 0; t < n_tokens; ++t) {
        const auto* act = reinterpret_cast<const typename D::Act*>(xs + t * x_stride);
        D::row(at, next, n_groups, act, y + t * y_stride + r, rows);
      }
      continue;
    }
    typename D::Panel panel;
    for (int64_t g0 = 0; g0 < n_groups; g0 += D::kPanelGroups) {
      const int64_t n = n_groups - g0 < D::kPanelGroups ? n_groups - g0 : D::kPanelGroups;
      D::fill(panel, at, next, g0, n);
      const uint8_t* act = xs + g0 * static_cast<int64_t>(sizeof(typename D::Act));
      const auto run = [&]<int kTokens>(int64_t t) {
        const typename D::Act* acts[kTokens];
        for (int i = 0; i < kTokens; ++i) {
          acts[i] = reinterpret_cast<const typename D::Act*>(act + (t + i) * x_stride);
        }
        D::template panel<kTokens>(panel, n, g0 == 0, acts, y + t * y_stride + r, y_stride, rows);
      };
      int64_t t = 0;
      for (; t + 4 <= n_tokens; t += 4) run.template operator()<4>(t);
      if (t + 2 <= n_tokens) run.template operator()<2>(t), t += 2;
      if (t < n_tokens) run.template operator()<1>(t);
    }
  }
}

template <class D>
void set_matmul(KernelTable& t) {
  t.matmul[static_cast<int>(D::kType)] = matmul<D>;
}

}  // namespace
}  // namespace sluice::kernels::arm
