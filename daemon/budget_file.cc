#include "daemon/budget_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/text_escape.h"

namespace sluice {
namespace {

Result<void> write_file(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return errno_error("io_error", "write " + escape_text(path, 200), errno);
  const ssize_t n = ::write(fd, text.data(), text.size());
  const bool ok = n == static_cast<ssize_t>(text.size()) && ::fsync(fd) == 0;
  const int failed = n >= 0 && n < static_cast<ssize_t>(text.size()) ? ENOSPC : errno;
  ::close(fd);
  if (!ok) return errno_error("io_error", "write " + escape_text(path, 200), failed);
  return success();
}

}  // namespace

std::string budget_file(const std::string& config_path) {
  return config_path + ".d/90-budget.toml";
}

Result<std::string> save_budget(const std::string& config_path, const std::string& value) {
  const std::string path = budget_file(config_path);
  const std::string folder = config_path + ".d";
  std::error_code ec;
  std::filesystem::create_directories(folder, ec);
  if (ec) {
    return errno_error("io_error", "make the folder " + escape_text(folder, 200), ec.value());
  }
  const std::string unfinished = path + ".new";
  auto written = write_file(
      unfinished,
      fmt::format("# Written by `sluice budget set --save`.\n[budget]\nram = \"{}\"\n", value));
  if (written && ::rename(unfinished.c_str(), path.c_str()) != 0)
    written = errno_error("io_error", "rename " + escape_text(unfinished, 200), errno);
  if (!written) {
    ::unlink(unfinished.c_str());
    return std::move(written).error();
  }
  return path;
}

Result<void> forget_budget(const std::string& config_path) {
  const std::string path = budget_file(config_path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return errno_error("io_error", "remove " + escape_text(path, 200), errno);
  return success();
}

}  // namespace sluice
