// See tests/kernels/test_tables.h.
#include "kernels/x86/matmul_256.h"
#include "kernels/x86/matmul_32.h"
#include "tests/kernels/test_tables.h"

namespace sluice::kernels {
namespace {

struct EvexDots {
  static constexpr bool kDotBytes = true;
  static SLUICE_INLINE __m256i add_bytes(__m256i sum, __m256i u8, __m256i s8) {
    return _mm256_dpbusd_epi32(sum, u8, s8);
  }
  static SLUICE_INLINE __m256i add_words(__m256i sum, __m256i a, __m256i b) {
    return _mm256_dpwssd_epi32(sum, a, b);
  }
};

}  // namespace

void fill_matmul_avxvnni_evex(KernelTable& t) noexcept {
  x86::fill_matmul_32<EvexDots>(t);
  x86::fill_matmul_256<EvexDots>(t);
}

}  // namespace sluice::kernels
