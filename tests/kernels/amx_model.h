// A model of the AMX tile registers in plain C++, after the instructions' pseudo-code: what no CPU
// at hand has is tested bit for bit all the same. One thread's tiles; what would be a fault of the
// CPU is an abort with a line on stderr.
#pragma once

#include <cstdint>

namespace sluice::kernels::amx_model {

// `config` is the 64 bytes that LDTILECFG reads.
void configure(const void* config);
void release();
void zero(int tile);
void load(int tile, const void* from, int64_t stride);
void store(int tile, void* to, int64_t stride);
void dot_signed(int c, int a, int b);  // TDPBSSD c, a, b
void dot_bf16(int c, int a, int b);    // TDPBF16PS c, a, b

bool in_use();       // between configure and release
int64_t products();  // dot_... calls of this thread so far

}  // namespace sluice::kernels::amx_model
