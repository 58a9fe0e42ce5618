// Tables of tests alone, beside the library's: kernels whose instructions no CPU at hand has, on a
// model of them or in another encoding.
//   amx_model      kernels/x86/matmul_amx.h and matmul_bf16_amx.h on tests/kernels/amx_model.h
//   avxvnni_evex   the drivers of kernels/x86/matmul_avxvnni.cc with the same instructions in
//   AVX-512's encoding
#pragma once

#include "kernels/kernels.h"

namespace sluice::kernels {

// kernels_by_name and those; null where the CPU lacks what the table needs (for those: AVX-512 with
// VNNI).
const KernelTable* table_by_name(const char* name) noexcept;

// Each overwrites the matrix products that its file has.
void fill_matmul_amx_model(KernelTable& t) noexcept;
void fill_matmul_avxvnni_evex(KernelTable& t) noexcept;

}  // namespace sluice::kernels
