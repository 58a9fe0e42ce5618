// Pointer, type and shape; owns nothing.
#pragma once

#include <cstdint>

#include "kernels/quant_groups.h"

namespace sluice::kernels {

// A matrix of n_rows x n_cols weights, or one expert's part of a stack of them. It names a tensor: its
// rows may be anywhere (pinned, in the ring, on disk); they arrive through a MatrixSource.
struct MatrixRef {
  int32_t tensor = -1;    // index the source understands; -1: absent
  WeightType type = WeightType::kF32;
  int64_t n_rows = 0;     // per expert
  int64_t n_cols = 0;
  int32_t expert = -1;    // >= 0: this part of an expert stack
  bool present() const noexcept { return tensor >= 0; }
};

}  // namespace sluice::kernels
