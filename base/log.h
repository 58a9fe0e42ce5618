// One logger for the process: stderr, key=value after the message. Prompts are never logged.
#pragma once

#include <spdlog/spdlog.h>

#include <cstddef>
#include <functional>
#include <string>

namespace sluice {

// level: trace, debug, info, warn, error, off. Unknown levels leave the default (info) and return false.
bool init_log(const std::string& level);

// Lines of info and above go to `tap` too, without time and level, cut at kMostTappedBytes; null:
// to nobody. Called on the thread that logs, which must not log again from it. When this returns
// the former one is not running and will not be called any more.
inline constexpr size_t kMostTappedBytes = 1024;
using LogTap = std::function<void(const char* level, std::string line)>;
void set_log_tap(LogTap tap);

}  // namespace sluice
