// What this CPU and its operating system allow; read once.
#pragma once

namespace sluice::kernels {

struct CpuFeatures {
  bool avx2 = false;  // AVX2, FMA and F16C, and the OS keeps ymm registers
  bool avx512_vnni =
      false;  // avx2, and AVX-512 F, BW, DQ, VL and VNNI, and the OS keeps zmm registers
  bool avx512_bf16 = false;  // avx512_vnni, and AVX512_BF16
};

const CpuFeatures& cpu_features() noexcept;

}  // namespace sluice::kernels
