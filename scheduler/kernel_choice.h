// SLUICE_KERNELS, which forces a kernel variant. Who asks for one must not be given another in silence: what starts a
// process asks here before it computes.
#pragma once

#include "base/result.h"

namespace sluice {

// `name` is the variable's value, null when it is not set; an empty one is as good as unset. Errors: invalid_config,
// with the names this CPU allows.
Result<void> check_kernel_choice(const char* name);
// The same of this process's environment.
Result<void> check_kernel_choice();

}  // namespace sluice
