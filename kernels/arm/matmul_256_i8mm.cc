#include "kernels/arm/arm.h"
#include "kernels/arm/core_i8mm.h"
#include "kernels/arm/matmul_256.h"

namespace sluice::kernels::arm {

void fill_matmul_256_i8mm(KernelTable& t) noexcept { fill_matmul_256<CoreI8mm>(t); }

}  // namespace sluice::kernels::arm
