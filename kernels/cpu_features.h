// What this CPU and its operating system allow; read once.
#pragma once

namespace sluice::kernels {

struct CpuFeatures {
  bool avx2 = false;      // AVX2, FMA and F16C, and the OS keeps ymm registers
  bool avx_vnni = false;  // avx2, and AVX-VNNI
  bool avx512_vnni =
      false;  // avx2, and AVX-512 F, BW, DQ, VL and VNNI, and the OS keeps zmm registers
  bool avx512_bf16 = false;   // avx512_vnni, and AVX512_BF16
  bool amx_int8 = false;      // avx512_bf16, and AMX-TILE and AMX-INT8, and the OS keeps tiles
  bool amx_bf16 = false;      // amx_int8, and AMX-BF16
  bool neon_dotprod = false;  // 64-bit ARM with sdot
  bool neon_i8mm = false;     // neon_dotprod, and smmla
};

const CpuFeatures& cpu_features() noexcept;

}  // namespace sluice::kernels
