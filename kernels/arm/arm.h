// The doors of kernels/arm: each function overwrites the entries of a table that its file has
// faster. Call one only after cpu_features() allows it. The rules of x86/x86.h hold here too: flags
// of its own for each .cc, intrinsics, <cstdint> and our plain headers only, everything else in an
// anonymous namespace (test: ArmObjectsHaveNoWeakSymbols).
#pragma once

#include "kernels/kernels.h"

namespace sluice::kernels::arm {

// Need cpu_features().neon_dotprod.
void fill_matmul_32_neon(KernelTable& t) noexcept;
void fill_matmul_256_neon(KernelTable& t) noexcept;
void fill_matmul_float_neon(KernelTable& t) noexcept;
void fill_quantize_neon(KernelTable& t) noexcept;
void fill_elementwise_neon(KernelTable& t) noexcept;
void fill_attention_neon(KernelTable& t) noexcept;

// Need cpu_features().neon_i8mm.
void fill_matmul_32_i8mm(KernelTable& t) noexcept;
void fill_matmul_256_i8mm(KernelTable& t) noexcept;

// dispatch.cc's tables, for entries that call others of it.
const KernelTable& neon_kernels() noexcept;
const KernelTable& neon_i8mm_kernels() noexcept;

}  // namespace sluice::kernels::arm
