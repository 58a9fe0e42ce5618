#include "kernels/arm/matmul_256.h"

#include "kernels/arm/arm.h"
#include "kernels/arm/core_dotprod.h"

namespace sluice::kernels::arm {

namespace {

template <class U>
void set_dequant_256(KernelTable& t) {
  t.dequant[static_cast<int>(U::kType)] = dequant_256<U>;
}

}  // namespace

void fill_matmul_256_neon(KernelTable& t) noexcept {
  fill_matmul_256<CoreDotprod>(t);
  set_dequant_256<U2_K>(t);
  set_dequant_256<U3_K>(t);
  set_dequant_256<U4_K>(t);
  set_dequant_256<U5_K>(t);
  set_dequant_256<U6_K>(t);
  set_dequant_256<UIQ4_XS>(t);
}

}  // namespace sluice::kernels::arm
