// The one place that chooses a variant.
#include <cstdlib>
#include <cstring>

#include "kernels/cpu_features.h"
#include "kernels/kernels.h"
#include "kernels/scalar/scalar.h"

namespace sluice::kernels {

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

const KernelTable* kernels_by_name(const char* name) noexcept {
  if (std::strcmp(name, "scalar") == 0) return &scalar_kernels();
  return nullptr;
}

const KernelTable& kernels() noexcept {
  static const KernelTable* const table = [] {
    // An unknown or unsupported name is ignored here; who wants to complain asks kernels_by_name.
    const char* forced = std::getenv("SLUICE_KERNELS");
    const KernelTable* t = forced != nullptr ? kernels_by_name(forced) : nullptr;
    if (t == nullptr) t = kernels_by_name("avx2");
    return t != nullptr ? t : &scalar_kernels();
  }();
  return *table;
}

}  // namespace sluice::kernels
