#include "base/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

namespace sluice {
namespace {

class TapSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void set(LogTap tap) {
    const std::lock_guard lock(mutex_);
    tap_ = std::move(tap);
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& msg) override {
    if (!tap_ || msg.level < spdlog::level::info) return;
    const auto level = spdlog::level::to_string_view(msg.level);
    tap_(std::string(level.data(), level.size()).c_str(),
         std::string(msg.payload.data(), std::min(msg.payload.size(), kMostTappedBytes)));
  }
  void flush_() override {}

 private:
  LogTap tap_;  // guarded by mutex_
};

const std::shared_ptr<TapSink>& tap_sink() {
  static const auto sink = std::make_shared<TapSink>();
  return sink;
}

}  // namespace

void set_log_tap(LogTap tap) { tap_sink()->set(std::move(tap)); }

bool init_log(const std::string& level) {
  auto logger = spdlog::get("sluice");
  if (!logger) {
    logger = spdlog::stderr_logger_mt("sluice");
    logger->sinks().push_back(tap_sink());
    spdlog::set_default_logger(logger);
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ %v", spdlog::pattern_time_type::utc);
  }
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off") return false;
  spdlog::set_level(parsed);
  return true;
}

}  // namespace sluice
