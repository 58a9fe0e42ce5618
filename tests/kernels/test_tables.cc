#include "tests/kernels/test_tables.h"

#include <cstring>

#include "kernels/cpu_features.h"

namespace sluice::kernels {

#if defined(__x86_64__)
namespace {

KernelTable table_like(const char* base, const char* name, void (*fill)(KernelTable&) noexcept) {
  KernelTable t = *kernels_by_name(base);
  t.name = name;
  fill(t);
  return t;
}

}  // namespace

const KernelTable* table_by_name(const char* name) noexcept {
  const bool has_avx512 = cpu_features().avx512_vnni;
  if (std::strcmp(name, "amx_model") == 0) {
    if (!has_avx512) return nullptr;
    static const KernelTable table = table_like("avx512", "amx_model", fill_matmul_amx_model);
    return &table;
  }
  if (std::strcmp(name, "avxvnni_evex") == 0) {
    if (!has_avx512) return nullptr;
    static const KernelTable table = table_like("avx2", "avxvnni_evex", fill_matmul_avxvnni_evex);
    return &table;
  }
  return kernels_by_name(name);
}
#else
const KernelTable* table_by_name(const char* name) noexcept { return kernels_by_name(name); }
#endif

}  // namespace sluice::kernels
