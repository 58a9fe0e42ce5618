// The flags every verb has (INTERFACE 1.1).
#pragma once

#include <cstdint>
#include <string>

namespace sluice {

enum class ColorMode : uint8_t { kAuto, kAlways, kNever };

struct Globals {
  std::string host;  // --host
  bool json = false;
  bool quiet = false;
  bool verbose = false;
  bool no_progress = false;
  bool no_autostart = false;
  ColorMode color = ColorMode::kAuto;
  int64_t connect_timeout_ms = 3000;
};

}  // namespace sluice
