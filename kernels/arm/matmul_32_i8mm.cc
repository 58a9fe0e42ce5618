#include "kernels/arm/arm.h"
#include "kernels/arm/core_i8mm.h"
#include "kernels/arm/matmul_32.h"

namespace sluice::kernels::arm {

void fill_matmul_32_i8mm(KernelTable& t) noexcept { fill_matmul_32<CoreI8mm>(t); }

}  // namespace sluice::kernels::arm
