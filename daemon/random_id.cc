#include "daemon/random_id.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <cstdint>
#include <random>

namespace sluice {

std::string random_id() {
  uint64_t bits[2];
  // 16 bytes come whole or not at all; only an ancient or sandboxed kernel refuses.
  if (::getrandom(bits, sizeof bits, 0) != static_cast<ssize_t>(sizeof bits)) {
    std::random_device device;
    for (uint64_t& b : bits) b = static_cast<uint64_t>(device()) << 32 | device();
  }
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

}  // namespace sluice
