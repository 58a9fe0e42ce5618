// BF16 matrices of prompts on the CPU's tiles.
#include "kernels/x86/matmul_bf16_amx.h"

namespace sluice::kernels::x86 {

void fill_matmul_bf16_amx(KernelTable& t) noexcept { fill_matmul_bf16_tiles<AmxTiles>(t); }

}  // namespace sluice::kernels::x86
