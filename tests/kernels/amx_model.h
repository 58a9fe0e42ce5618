// A model of the AMX tile registers in plain C++, after the instructions' pseudo-code, and the
// kernels of kernels/x86/matmul_amx.h on it: what no CPU at hand has is tested bit for bit all the
// same.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace sluice::kernels {

// "avx512" with the tile kernels on the model; null where the CPU lacks AVX-512.
const KernelTable* amx_model_kernels() noexcept;

namespace amx_model {

// One thread's tiles. What would be a fault of the CPU is an abort with a line on stderr.
// `config` is the 64 bytes that LDTILECFG reads.
void configure(const void* config);
void release();
void zero(int tile);
void load(int tile, const void* from, int64_t stride);
void store(int tile, void* to, int64_t stride);
void dot_signed(int c, int a, int b);  // TDPBSSD c, a, b

bool in_use();       // between configure and release
int64_t products();  // dot_signed calls of this thread so far

// The table's tile kernels; needs cpu_features().avx512_vnni.
void fill_matmul(KernelTable& t) noexcept;

}  // namespace amx_model
}  // namespace sluice::kernels
