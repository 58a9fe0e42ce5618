// Starting sluiced for the user: by systemd where its unit is installed, else as a process of its
// own.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "client/globals.h"

namespace sluice {

// Path of the sluiced that belongs to this client: next to it, else in PATH. Errors: not_found.
Result<std::string> find_sluiced();

// Starts sluiced with `arguments` and waits (at most 5 s) until it accepts connections at
// `socket_path`. Its output goes to STATE/sluiced.log. Two clients may do this at once: the
// daemon's lock settles it, both find the winner. Errors: daemon_unreachable with the last line of
// the log; not_found; interrupted.
Result<void> start_daemon(const Globals& globals,
                          const std::string& socket_path,
                          const std::vector<std::string>& arguments);

std::string daemon_log_path();

}  // namespace sluice
