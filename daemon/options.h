// sluiced's command line: flags, SLUICED_* and the file become one Config (INTERFACE 2.1).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/config.h"

namespace sluice {

enum class DaemonVerb : uint8_t {
  kRun,
  kCheck,
  kConfigShow,
  kConfigCheck,
  kConfigPath,
  kConfigExample,
  kVersion,
  kHelp,  // `text` holds it
};

struct ModelArgument {
  std::string path;
  std::string name;  // empty: from the file
};

struct DaemonCommand {
  DaemonVerb verb = DaemonVerb::kRun;
  std::string text;  // kHelp
  std::string file;  // of check and config check
  bool json = false;
  bool origins = false;
  Config config;              // complete for kRun and kConfigShow
  std::string config_path;    // the file that is read, whether or not it exists
  bool config_named = false;  // by --config or SLUICED_CONFIG, so that it must exist
  bool activated = false;     // --listen fd://
  std::vector<ModelArgument> models;
};

// Errors: usage (flags), invalid_config, io_error (a named file that cannot be read).
Result<DaemonCommand> parse_daemon_command(int argc,
                                           const char* const* argv,
                                           const char* const* environment);

// Config as kRun uses it: built-in, then the file and its drop-ins, then `environment`. For a
// reload, too.
Result<Config> load_config(const std::string& path,
                           bool must_exist,
                           const char* const* environment);

// "unix:///a/b", "/a/b", "auto" -> what [listen] unix takes. Errors: invalid_config,
// invalid_socket_path.
Result<std::string> unix_listen_path(const std::string& text);

}  // namespace sluice
