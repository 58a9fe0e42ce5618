// Read-only checks of the host, the paths, the daemon and its models (sluice doctor).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/client.h"
#include "daemon/protocol/native.h"

namespace sluice {

struct DoctorCheck {
  enum class State : uint8_t { kOk, kWarn, kFail };

  std::string name;
  State state = State::kOk;
  std::string detail;
  std::string fix{};  // a command, or what to change; empty when all is well
};

// Each adds one line per thing looked at. None of them starts, creates or changes anything.
void check_directories(std::vector<DoctorCheck>& checks);
void check_socket(const std::string& path, bool daemon_answers, std::vector<DoctorCheck>& checks);
void check_programs(std::vector<DoctorCheck>& checks);
void check_memory(const std::optional<StatusDoc>& status, std::vector<DoctorCheck>& checks);
void check_cpu(const std::optional<StatusDoc>& status, std::vector<DoctorCheck>& checks);
// Header by `sluiced check`, filesystem type, permissions, O_DIRECT.
void check_model_file(const std::string& name,
                      const std::string& path,
                      std::vector<DoctorCheck>& checks);

}  // namespace sluice
