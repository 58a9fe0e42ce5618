#include "kernels/x86/matmul_256.h"

#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {

void fill_matmul_256_avx2(KernelTable& t) noexcept {
  fill_matmul_256<Avx2Dots>(t);
  auto set = [&t](WeightType type, void (*f)(const void*, float*, int64_t) noexcept) {
    t.dequant[static_cast<int>(type)] = f;
  };
  set(WeightType::kQ2_K, dequant_256<U2_K>);
  set(WeightType::kQ3_K, dequant_256<U3_K>);
  set(WeightType::kQ4_K, dequant_256<U4_K>);
  set(WeightType::kQ5_K, dequant_256<U5_K>);
  set(WeightType::kQ6_K, dequant_256<U6_K>);
  set(WeightType::kIQ4_XS, dequant_256<UIQ4_XS>);
}

}  // namespace sluice::kernels::x86
