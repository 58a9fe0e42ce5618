// Where `budget set --save` writes: a drop-in beside the configuration file, read after it.
#pragma once

#include <string>

#include "base/result.h"

namespace sluice {

// CONFIG.d/90-budget.toml.
std::string budget_file(const std::string& config_path);

// Writes it whole or not at all (0600, folders made as needed). `value` as people write it; it must
// have been checked. Returns the path. Errors: io_error.
Result<std::string> save_budget(const std::string& config_path, const std::string& value);

// A file that is not there is fine. Errors: io_error.
Result<void> forget_budget(const std::string& config_path);

}  // namespace sluice
