// What the verbs `budget` and `plan` say, for the conversation that asks in between.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "client/daemon_link.h"

namespace sluice {

// As `sluice budget show` prints it.
Answer<std::string> budget_state(const DaemonLink& link);
// As `sluice budget set SIZE`. Errors: the daemon's, and wait_over when it is not in force in time.
Answer<std::string> set_budget(const DaemonLink& link, const std::string& size);
// As `sluice plan MODEL`; `width` 0: as wide as it gets.
Answer<std::string> plan_table(const DaemonLink& link,
                               const std::string& model,
                               std::optional<int64_t> ctx,
                               int width);

}  // namespace sluice
