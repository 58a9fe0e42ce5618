#include "kernels/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <cstdint>

namespace sluice::kernels {

namespace {

#if defined(__x86_64__)
uint64_t read_xcr0() noexcept {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return static_cast<uint64_t>(hi) << 32 | lo;
}

// Linux makes room for a process's tiles only when asked to, once for all of its threads.
bool may_use_tiles() noexcept {
#if defined(__linux__)
  constexpr int kArchReqXcompPerm = 0x1023, kXfeatureXtiledata = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
#else
  return false;
#endif
}

CpuFeatures read_features() noexcept {
  CpuFeatures f;
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return f;
  const bool fma = (c >> 12 & 1) != 0, osxsave = (c >> 27 & 1) != 0;
  const bool avx = (c >> 28 & 1) != 0, f16c = (c >> 29 & 1) != 0;
  if (!osxsave || !avx || !fma || !f16c) return f;
  const uint64_t xcr0 = read_xcr0();
  if ((xcr0 & 0x6) != 0x6) return f;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return f;
  const uint32_t last_subleaf = a;
  f.avx2 = (b >> 5 & 1) != 0;
  const bool avx512 =
      (b >> 16 & 1) != 0 && (b >> 17 & 1) != 0 && (b >> 30 & 1) != 0 && b >> 31 != 0;
  f.avx512_vnni = f.avx2 && avx512 && (c >> 11 & 1) != 0 && (xcr0 & 0xe6) == 0xe6;
  const bool amx = (d >> 24 & 1) != 0 && (d >> 25 & 1) != 0 && (xcr0 >> 17 & 3) == 3;
  const bool tiles_of_bf16 = (d >> 22 & 1) != 0;
  if (last_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
    f.avx_vnni = f.avx2 && (a >> 4 & 1) != 0;
    f.avx512_bf16 = f.avx512_vnni && (a >> 5 & 1) != 0;
  }
  f.amx_int8 = f.avx512_bf16 && amx && may_use_tiles();
  f.amx_bf16 = f.amx_int8 && tiles_of_bf16;
  return f;
}
#elif defined(__aarch64__) && defined(__linux__)
CpuFeatures read_features() noexcept {
  CpuFeatures f;
  f.neon_dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  f.neon_i8mm = f.neon_dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
  return f;
}
#else
CpuFeatures read_features() noexcept { return {}; }
#endif

}  // namespace

const CpuFeatures& cpu_features() noexcept {
  static const CpuFeatures features = read_features();
  return features;
}

}  // namespace sluice::kernels
