#include "kernels/x86/matmul_32.h"

#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {

void fill_matmul_32_avx2(KernelTable& t) noexcept {
  fill_matmul_32<Avx2Dots>(t);
  auto set = [&t](WeightType type, void (*f)(const void*, float*, int64_t) noexcept) {
    t.dequant[static_cast<int>(type)] = f;
  };
  set(WeightType::kQ8_0, dequant_32<U8_0>);
  set(WeightType::kQ8_1, dequant_32<U8_1>);
  set(WeightType::kQ4_0, dequant_32<U4_0>);
  set(WeightType::kQ4_1, dequant_32<U4_1>);
  set(WeightType::kQ5_0, dequant_32<U5_0>);
  set(WeightType::kQ5_1, dequant_32<U5_1>);
  set(WeightType::kIQ4_NL, dequant_32<UIQ4_NL>);
  set(WeightType::kMXFP4, dequant_32<UMXFP4>);
}

}  // namespace sluice::kernels::x86
