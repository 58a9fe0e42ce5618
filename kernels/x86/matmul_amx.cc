// Matrix products on the CPU's tiles.
#include "kernels/x86/matmul_amx.h"

namespace sluice::kernels::x86 {

void fill_matmul_amx(KernelTable& t) noexcept { fill_matmul_tiles<AmxTiles>(t); }

}  // namespace sluice::kernels::x86
