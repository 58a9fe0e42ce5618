#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

namespace sluice {

bool init_log(const std::string& level) {
  auto logger = spdlog::get("sluice");
  if (!logger) {
    logger = spdlog::stderr_logger_mt("sluice");
    spdlog::set_default_logger(logger);
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ %v", spdlog::pattern_time_type::utc);
  }
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off") return false;
  spdlog::set_level(parsed);
  return true;
}

}  // namespace sluice
