// The one place that chooses a variant.
#include <cstdlib>
#include <cstring>

#include "kernels/cpu_features.h"
#include "kernels/kernels.h"
#include "kernels/scalar/scalar.h"
#if defined(__x86_64__)
#include "kernels/x86/x86.h"
#elif defined(__aarch64__)
#include "kernels/arm/arm.h"
#endif

namespace sluice::kernels {
namespace {

// The best last.
constexpr const char* kNames[] = {
    "scalar", "avx2", "avxvnni", "avx512", "avx512_bf16", "amx", "neon", "neon_i8mm"};

}  // namespace

const KernelTable& scalar_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = {};
    t.name = "scalar";
    scalar::fill_dequant(t);
    scalar::fill_matvec(t);
    scalar::fill_elementwise(t);
    scalar::fill_attention(t);
    return t;
  }();
  return table;
}

const KernelTable& scalar_bf16_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = scalar_kernels();
    t.name = "scalar_bf16";
    scalar::fill_matmul_bf16(t);
    return t;
  }();
  return table;
}

const KernelTable& scalar_bf16_tiles_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = scalar_kernels();
    t.name = "scalar_bf16_tiles";
    scalar::fill_matmul_bf16_tiles(t);
    return t;
  }();
  return table;
}

#if defined(__x86_64__)
const KernelTable& x86::avx2_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = scalar_kernels();
    t.name = "avx2";
    fill_matmul_32_avx2(t);
    fill_matmul_256_avx2(t);
    fill_matmul_float_avx2(t);
    fill_quantize_avx2(t);
    fill_elementwise_avx2(t);
    fill_attention_avx2(t);
    return t;
  }();
  return table;
}

const KernelTable& x86::avxvnni_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = avx2_kernels();
    t.name = "avxvnni";
    fill_matmul_avxvnni(t);
    return t;
  }();
  return table;
}

const KernelTable& x86::avx512_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = avx2_kernels();
    t.name = "avx512";
    fill_matmul_32_avx512(t);
    fill_matmul_256_avx512(t);
    fill_matmul_float_avx512(t);
    fill_attention_avx512(t);
    return t;
  }();
  return table;
}

const KernelTable& x86::avx512_bf16_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = avx512_kernels();
    t.name = "avx512_bf16";
    fill_matmul_bf16_avx512(t);
    return t;
  }();
  return table;
}

const KernelTable& x86::amx_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = avx512_bf16_kernels();
    t.name = "amx";
    fill_matmul_amx(t);
    if (cpu_features().amx_bf16) fill_matmul_bf16_amx(t);
    return t;
  }();
  return table;
}
#elif defined(__aarch64__)
const KernelTable& arm::neon_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = scalar_kernels();
    t.name = "neon";
    fill_matmul_32_neon(t);
    fill_matmul_256_neon(t);
    fill_matmul_float_neon(t);
    fill_quantize_neon(t);
    fill_elementwise_neon(t);
    fill_attention_neon(t);
    return t;
  }();
  return table;
}

const KernelTable& arm::neon_i8mm_kernels() noexcept {
  static const KernelTable table = [] {
    KernelTable t = neon_kernels();
    t.name = "neon_i8mm";
    fill_matmul_32_i8mm(t);
    fill_matmul_256_i8mm(t);
    return t;
  }();
  return table;
}
#endif

const KernelTable* kernels_by_name(const char* name) noexcept {
  if (std::strcmp(name, "scalar") == 0) return &scalar_kernels();
  if (std::strcmp(name, "scalar_bf16") == 0) return &scalar_bf16_kernels();
  if (std::strcmp(name, "scalar_bf16_tiles") == 0) return &scalar_bf16_tiles_kernels();
#if defined(__x86_64__)
  if (std::strcmp(name, "avx2") == 0 && cpu_features().avx2) return &x86::avx2_kernels();
  if (std::strcmp(name, "avxvnni") == 0 && cpu_features().avx_vnni) return &x86::avxvnni_kernels();
  if (std::strcmp(name, "avx512") == 0 && cpu_features().avx512_vnni) return &x86::avx512_kernels();
  if (std::strcmp(name, "avx512_bf16") == 0 && cpu_features().avx512_bf16)
    return &x86::avx512_bf16_kernels();
  if (std::strcmp(name, "amx") == 0 && cpu_features().amx_int8) return &x86::amx_kernels();
#elif defined(__aarch64__)
  if (std::strcmp(name, "neon") == 0 && cpu_features().neon_dotprod) return &arm::neon_kernels();
  if (std::strcmp(name, "neon_i8mm") == 0 && cpu_features().neon_i8mm)
    return &arm::neon_i8mm_kernels();
#endif
  return nullptr;
}

const char* kernel_name(int i) noexcept {
  for (const char* name : kNames) {
    if (kernels_by_name(name) != nullptr && i-- == 0) return name;
  }
  return nullptr;
}

const KernelTable& kernels() noexcept {
  static const KernelTable* const table = [] {
    const char* forced = std::getenv("SLUICE_KERNELS");
    const KernelTable* t = forced != nullptr ? kernels_by_name(forced) : nullptr;
    if (t != nullptr) return t;
    for (int i = 0; kernel_name(i) != nullptr; ++i) t = kernels_by_name(kernel_name(i));
    return t;
  }();
  return *table;
}

}  // namespace sluice::kernels
