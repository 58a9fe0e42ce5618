#include "base/runtime_paths.h"

#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "base/text_escape.h"

namespace sluice {
namespace {

// XDG: a relative path in these variables is to be ignored.
std::string absolute_env(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] == '/' ? value : "";
}

std::string xdg_dir(const char* variable, const char* under_home) {
  std::string base = absolute_env(variable);
  if (base.empty()) base = home_dir() + "/" + under_home;
  return base + "/sluice";
}

}  // namespace

std::string home_dir() {
  const std::string home = absolute_env("HOME");
  if (!home.empty()) return home == "/" ? "" : home;
  const passwd* entry = ::getpwuid(::getuid());
  if (entry != nullptr && entry->pw_dir != nullptr && entry->pw_dir[0] == '/') return entry->pw_dir;
  return "/";
}

std::string state_dir() { return xdg_dir("XDG_STATE_HOME", ".local/state"); }

std::string config_file() { return xdg_dir("XDG_CONFIG_HOME", ".config") + "/sluiced.toml"; }

std::string runtime_dir() {
  const std::string runtime = absolute_env("XDG_RUNTIME_DIR");
  if (!runtime.empty()) return runtime + "/sluice";
  const std::string run_user = fmt::format("/run/user/{}", ::getuid());
  struct stat st {};
  const bool there = ::lstat(run_user.c_str(), &st) == 0;
  if (there && S_ISDIR(st.st_mode) && st.st_uid == ::getuid() && (st.st_mode & 0777) == 0700) {
    return run_user + "/sluice";
  }
  return state_dir() + "/run";
}

std::string default_socket_path() { return runtime_dir() + "/sluice.sock"; }

Result<void> check_socket_path(const std::string& path) {
  if (path.empty() || path[0] != '/') {
    return Error{"invalid_socket_path",
                 fmt::format("socket path '{}' is not absolute", escape_text(path)),
                 "use unix:///run/user/1000/sluice/sluice.sock"};
  }
  if (path.find('\0') != std::string::npos) {
    return Error{"invalid_socket_path", "socket path holds a NUL byte"};
  }
  if (path.size() > kMaxSocketPath) {
    return Error{
        "invalid_socket_path",
        fmt::format("socket path '{}' is {} bytes long; the kernel allows {}",
                    escape_text(path),
                    path.size(),
                    kMaxSocketPath),
        fmt::format("use a shorter one: unix:///run/user/{}/sluice/sluice.sock", ::getuid())};
  }
  return success();
}

std::string expand_home(const std::string& path) {
  if (path == "~") return home_dir();
  if (path.starts_with("~/")) return home_dir() + path.substr(1);
  return path;
}

}  // namespace sluice
