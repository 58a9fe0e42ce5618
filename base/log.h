// One logger for the process: stderr, key=value after the message. Prompts are never logged.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace sluice {

// level: trace, debug, info, warn, error, off. Unknown levels leave the default (info) and return false.
bool init_log(const std::string& level);

}  // namespace sluice
