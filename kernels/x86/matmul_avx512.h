// How a matrix is gone through sixteen rows at a time, whatever the definition: row by row for few
// tokens, or a panel that is unpacked once for all of them.
#pragma once

#include "kernels/driver_widths.h"
#include "kernels/x86/vector_avx512.h"

namespace sluice::kernels::x86 {
namespace {

// From one token more on, a panel is unpacked once for all of them, unless set otherwise.
constexpr int kRowTokens = 2;

// kMostRowTokens tokens at most, rows in the order of memory. R names what a token (Prepared) and
// sixteen rows (Sums) are kept as for kGroups groups, and how: prepare (a token), sum (one row
// times one token into Sums), accumulate (the definition's fmas of sixteen rows), reorder (floats
// from the order of rows to that of Sums, and back).
template <class R>
void rows_in_turn(const uint8_t* w,
                  int64_t w_stride,
                  int64_t n_rows,
                  int64_t n_groups,
                  const uint8_t* x,
                  int64_t x_stride,
                  int64_t n_tokens,
                  float* y,
                  int64_t y_stride) {
  typename R::Prepared prepared[kMostRowTokens];
  typename R::Sums sums;
  for (int64_t g0 = 0; g0 < n_groups; g0 += R::kGroups) {
    const int64_t n = n_groups - g0 < R::kGroups ? n_groups - g0 : R::kGroups;
    const typename R::Act* act[kMostRowTokens];
    for (int64_t t = 0; t < n_tokens; ++t) {
      act[t] = reinterpret_cast<const typename R::Act*>(x + t * x_stride) + g0;
      R::prepare(act[t], n, prepared[t]);
    }
    const uint8_t* at = w + g0 * static_cast<int64_t>(sizeof(typename R::Group));
    for (int64_t r = 0; r < n_rows; r += kWide, at += kWide * w_stride) {
      const int64_t n_here = n_rows - r < kWide ? n_rows - r : kWide;
      const __mmask16 rows = first_rows(n_here);
      for (int64_t t = 0; t < n_tokens; ++t) {
        for (int64_t i = 0; i < n_here; ++i)
          R::sum(at + i * w_stride, n, prepared[t], act[t], i, sums);
        float* out = y + t * y_stride + r;
        __m512 acc = _mm512_setzero_ps();
        if (g0 > 0) acc = R::reorder(_mm512_maskz_loadu_ps(rows, out));
        acc = R::accumulate(sums, n, act[t], acc);
        _mm512_mask_storeu_ps(out, rows, R::reorder(acc));
      }
    }
  }
}

// KernelTable::matmul. D names the activation group (Act, of kGroup columns), the weight group
// (Group), its Rows (R of rows_in_turn), a Panel of kPanelGroups groups, and the panel's drivers:
// fill (16 rows into a panel), panel<kTokens> (a panel times that many tokens; `first`: y is not
// added to).
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
  if (n_tokens <= row_tokens(D::kType, kRowTokens))
    return rows_in_turn<typename D::Rows>(static_cast<const uint8_t*>(w),
                                          w_stride,
                                          n_rows,
                                          n_groups,
                                          xs,
                                          x_stride,
                                          n_tokens,
                                          y,
                                          y_stride);
  const uint8_t* at[kWide];
  for (int64_t r = 0; r < n_rows; r += kWide) {
    rows_of_16(w, w_stride, r, n_rows, at);
    const uint8_t* next = static_cast<const uint8_t*>(w) + next_rows_16(r, n_rows) * w_stride;
    const __mmask16 rows = first_rows(n_rows - r);
    typename D::Panel panel;
    for (int64_t g0 = 0; g0 < n_groups; g0 += D::kPanelGroups) {
      const int64_t n = n_groups - g0 < D::kPanelGroups ? n_groups - g0 : D::kPanelGroups;
      D::fill(panel, at, g0, n);
      // The first tokens ask for the next rows, so that memory works while they are computed.
      const uint8_t* ahead = next + g0 * kWide * static_cast<int64_t>(sizeof(typename D::Group));
      const uint8_t* act = xs + g0 * static_cast<int64_t>(sizeof(typename D::Act));
      const auto run = [&]<int kTokens>(int64_t t) {
        D::template panel<kTokens>(panel,
                                   n,
                                   t == 0 ? ahead : nullptr,
                                   g0 == 0,
                                   act + t * x_stride,
                                   x_stride,
                                   y + t * y_stride + r,
                                   y_stride,
                                   rows);
      };
      int64_t t = 0;
      for (; t + 8 <= n_tokens; t += 8) run.template operator()<8>(t);
      if (t + 4 <= n_tokens) run.template operator()<4>(t), t += 4;
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
}  // namespace sluice::kernels::x86
