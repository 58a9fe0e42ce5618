// Matrix products of the quantised types with AVX-VNNI: the AVX2 drivers with dot products of bytes
// and words.
#include "kernels/x86/matmul_256.h"
#include "kernels/x86/matmul_32.h"
#include "kernels/x86/x86.h"

namespace sluice::kernels::x86 {
namespace {

struct AvxVnniDots {
  static constexpr bool kDotBytes = true;
  static SLUICE_INLINE __m256i add_bytes(__m256i sum, __m256i u8, __m256i s8) {
    return _mm256_dpbusd_avx_epi32(sum, u8, s8);
  }
  static SLUICE_INLINE __m256i add_words(__m256i sum, __m256i a, __m256i b) {
    return _mm256_dpwssd_avx_epi32(sum, a, b);
  }
};

}  // namespace

void fill_matmul_avxvnni(KernelTable& t) noexcept {
  fill_matmul_32<AvxVnniDots>(t);
  fill_matmul_256<AvxVnniDots>(t);
}

}  // namespace sluice::kernels::x86
