#include "kernels/arm/matmul_32.h"

#include "kernels/arm/arm.h"
#include "kernels/arm/core_dotprod.h"

namespace sluice::kernels::arm {

namespace {

template <class U>
void set_dequant_32(KernelTable& t) {
  t.dequant[static_cast<int>(U::kType)] = dequant_32<U>;
}

}  // namespace

void fill_matmul_32_neon(KernelTable& t) noexcept {
  fill_matmul_32<CoreDotprod>(t);
  set_dequant_32<U8_0>(t);
  set_dequant_32<U8_1>(t);
  set_dequant_32<U4_0>(t);
  set_dequant_32<U4_1>(t);
  set_dequant_32<U5_0>(t);
  set_dequant_32<U5_1>(t);
  set_dequant_32<UIQ4_NL>(t);
  set_dequant_32<UMXFP4>(t);
}

}  // namespace sluice::kernels::arm
