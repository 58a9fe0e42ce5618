// Which daemon to talk to (INTERFACE 2.2).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace sluice {

struct Address {
  std::string path;  // AF_UNIX; empty: TCP
  std::string host;  // a loopback literal
  uint16_t port = 0;

  std::string text() const;  // "/run/.../sluice.sock" or "http://127.0.0.1:11434"
};

// "unix:///abs/path", "/abs/path", "http://127.0.0.1:PORT" (loopback only). Errors: invalid_host,
// invalid_socket_path.
Result<Address> parse_address(const std::string& text);

struct AddressList {
  std::vector<Address> candidates;  // tried in order; at least one
  bool named = false;               // by --host or SLUICE_HOST: never auto-start then
};

// --host > SLUICE_HOST > the user's socket > /run/sluice/sluice.sock. Empty texts count as absent.
Result<AddressList> find_addresses(const std::string& host_flag, const std::string& host_variable);

}  // namespace sluice
