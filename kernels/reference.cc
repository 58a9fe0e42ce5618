// Some rows are dequantised, then multiplied as an F32 matrix: as many as the fastest driver takes
// at once.
#include "kernels/kernels.h"

namespace sluice::kernels {

void matmul_reference(const KernelTable& table,
                      WeightType type,
                      const void* w,
                      int64_t w_stride,
                      int64_t n_rows,
                      int64_t n_cols,
                      const float* x,
                      int64_t x_stride,
                      int64_t n_tokens,
                      float* y,
                      int64_t y_stride,
                      float* scratch) noexcept {
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  const auto dequant = table.dequant[static_cast<int>(type)];
  const auto* row = static_cast<const uint8_t*>(w);
  for (int64_t r = 0; r < n_rows; r += kReferenceRows) {
    const int64_t n = n_rows - r < kReferenceRows ? n_rows - r : kReferenceRows;
    for (int64_t i = 0; i < n; ++i, row += w_stride) dequant(row, scratch + i * n_cols, n_cols);
    table.matmul[static_cast<int>(WeightType::kF32)](
        scratch, n_cols * kFloat, n, n_cols, x, x_stride * kFloat, n_tokens, y + r, y_stride);
  }
}

}  // namespace sluice::kernels
