// The doors of kernels/x86: each function overwrites the entries of a table that its file has
// faster. Call one only after cpu_features() allows it. Each .cc here is compiled with flags of its
// own; it includes intrinsics, <cstdint> and our plain headers only, and everything else in it lies
// in an anonymous namespace: a std inline compiled with AVX2 could be the copy that the linker
// keeps for everybody (test: isa_symbols).
#pragma once

#include "kernels/kernels.h"

namespace sluice::kernels::x86 {

// Need cpu_features().avx2.
void fill_matmul_32_avx2(KernelTable& t) noexcept;
void fill_matmul_256_avx2(KernelTable& t) noexcept;
void fill_matmul_float_avx2(KernelTable& t) noexcept;
void fill_quantize_avx2(KernelTable& t) noexcept;
void fill_elementwise_avx2(KernelTable& t) noexcept;
void fill_attention_avx2(KernelTable& t) noexcept;

// Needs cpu_features().avx_vnni.
void fill_matmul_avxvnni(KernelTable& t) noexcept;

// Need cpu_features().avx512_vnni.
void fill_matmul_32_avx512(KernelTable& t) noexcept;
void fill_matmul_256_avx512(KernelTable& t) noexcept;
void fill_matmul_float_avx512(KernelTable& t) noexcept;
void fill_attention_avx512(KernelTable& t) noexcept;

// Needs cpu_features().avx512_bf16.
void fill_matmul_bf16_avx512(KernelTable& t) noexcept;

// Needs cpu_features().amx_int8. Calls for few tokens go on to the AVX-512 table.
void fill_matmul_amx(KernelTable& t) noexcept;

// Needs cpu_features().amx_bf16.
void fill_matmul_bf16_amx(KernelTable& t) noexcept;

// dispatch.cc's tables, for entries that call others of it.
const KernelTable& avx2_kernels() noexcept;
const KernelTable& avxvnni_kernels() noexcept;
const KernelTable& avx512_kernels() noexcept;
const KernelTable& avx512_bf16_kernels() noexcept;
const KernelTable& amx_kernels() noexcept;

}  // namespace sluice::kernels::x86
