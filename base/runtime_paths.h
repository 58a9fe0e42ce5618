// Where the socket, the state and the configuration of one user live. Client and daemon must agree
// on it. Nothing here creates or opens anything.
#pragma once

#include <cstddef>
#include <string>

#include "base/result.h"

namespace sluice {

// sockaddr_un holds 108 bytes with the NUL.
inline constexpr size_t kMaxSocketPath = 107;
inline constexpr const char* kSystemSocket = "/run/sluice/sluice.sock";

std::string home_dir();   // $HOME, else the password file's, else "/"
std::string state_dir();  // $XDG_STATE_HOME/sluice, else ~/.local/state/sluice
std::string
config_file();  // $XDG_CONFIG_HOME/sluice/sluiced.toml, else ~/.config/sluice/sluiced.toml

// $XDG_RUNTIME_DIR/sluice; without it /run/user/UID/sluice if /run/user/UID is ours and 0700; else
// state_dir()/run. Never a guessable name in /tmp.
std::string runtime_dir();
std::string default_socket_path();  // runtime_dir()/sluice.sock

// Errors: invalid_socket_path, naming the length and a shorter path; also for relative paths.
Result<void> check_socket_path(const std::string& path);

// "~/x" -> home_dir()/x; everything else unchanged.
std::string expand_home(const std::string& path);

}  // namespace sluice
