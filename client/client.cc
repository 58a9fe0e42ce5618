#include "client/client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "base/bytes.h"
#include "base/text_escape.h"
#include "client/interrupt.h"
#include "daemon/protocol/native.h"

namespace sluice {
namespace {

constexpr size_t kMaxInputBytes = 8u << 20;  // what the daemon takes in one body

Result<std::string> read_all(int fd, const std::string& name) {
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n == 0) return text;
    if (n < 0 && errno == EINTR) {
      if (pending_signal() != 0) return interrupted_error();
      continue;
    }
    if (n < 0) return errno_error("io_error", "read " + name, errno);
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxInputBytes) {
      return Error{"body_too_large",
                   fmt::format("{} is larger than {}", name, format_bytes(kMaxInputBytes))};
    }
  }
}

}  // namespace

CLI::App* add_verb(CLI::App& parent,
                   const std::string& name,
                   const std::string& help,
                   const std::string& examples) {
  CLI::App* verb = parent.add_subcommand(name, help);
  verb->footer("Examples:\n" + examples);
  return verb;
}

Answer<std::string> resolve_model(const DaemonLink& link, const std::string& model) {
  const bool is_gguf = model.ends_with(".gguf");
  struct stat st {};
  const bool is_file = ::stat(model.c_str(), &st) == 0 && !S_ISDIR(st.st_mode);
  const bool looks_like_path =
      model.starts_with("/") || model.starts_with("./") || model.starts_with("../");
  if (!is_gguf && !(is_file && model.find('/') != std::string::npos) && !looks_like_path)
    return model;
  if (!is_file) {
    if (!looks_like_path && model.find('/') == std::string::npos)
      return model;  // a name may end in .gguf, too
    return Error{"model_not_found",
                 fmt::format("'{}' is not a file", escape_text(model, 200)),
                 "sluice models ls"};
  }
  std::error_code ec;
  const std::string path = std::filesystem::absolute(model, ec).lexically_normal().string();
  const boost::json::object body{{"path", path}};
  SLUICE_TRY(const auto answer, link.call("POST", "/sluice/v1/models", body));
  SLUICE_TRY(const ModelDoc doc, model_from_json(answer));
  return doc.name;
}

std::string check_duration(const std::string& text) {
  auto ms = parse_duration_ms(text);
  return ms ? "" : ms.error().what;
}

std::function<std::string(const std::string&)> number_between(double lo, double hi) {
  return [lo, hi](const std::string& text) -> std::string {
    double value = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool number =
        ec == std::errc{} && end == text.data() + text.size() && std::isfinite(value);
    if (number && value >= lo && value <= hi) return "";
    return fmt::format("found '{}', allowed: {} to {}", escape_text(text), lo, hi);
  };
}

Result<std::string> read_stdin() { return read_all(STDIN_FILENO, "stdin"); }

Result<std::string> read_file(const std::string& path) {
  if (path == "-") return read_stdin();
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno_error("io_error", escape_text(path, 200), errno);
  auto text = read_all(fd, path);
  ::close(fd);
  return text;
}

}  // namespace sluice
