// models.json: the registered models on disk. Written whole (temp, fsync, rename, fsync of the
// folder), so that a crash leaves the old or the new list.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/model_registry.h"

namespace sluice {

// Errors: io_error (errno), invalid_request when the file is no list of models. A missing file is
// an empty list.
Result<std::vector<std::shared_ptr<ModelEntry>>> read_model_store(const std::string& state_dir);
// Errors: io_error; the old file is then untouched.
Result<void> write_model_store(const std::string& state_dir,
                               const std::vector<std::shared_ptr<ModelEntry>>& entries);
// Moves a damaged list aside. Returns the new path, empty when that failed too.
std::string set_aside_model_store(const std::string& state_dir);

}  // namespace sluice
