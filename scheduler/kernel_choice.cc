#include "scheduler/kernel_choice.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "base/text_escape.h"
#include "kernels/kernels.h"

namespace sluice {

Result<void> check_kernel_choice(const char* name) {
  if (name == nullptr || *name == '\0' || kernels::kernels_by_name(name) != nullptr) return success();
  std::string allowed;
  for (int i = 0; kernels::kernel_name(i) != nullptr; ++i) {
    if (i > 0) allowed += ", ";
    allowed += kernels::kernel_name(i);
  }
  return Error{"invalid_config",
               fmt::format("env SLUICE_KERNELS: '{}' is no kernel variant of this CPU; allowed: {}", escape_text(name, 40),
                           allowed)};
}

Result<void> check_kernel_choice() { return check_kernel_choice(std::getenv("SLUICE_KERNELS")); }

}  // namespace sluice
