#include "client/terminal.h"

#include <fmt/format.h>
#include <langinfo.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <utility>

#include "base/text_escape.h"
#include "client/connection.h"
#include "client/failure.h"
#include "client/interrupt.h"

namespace sluice {
namespace {

constexpr int64_t kFirstDrawMs = 300;
constexpr int64_t kRedrawMs = 100;

bool variable_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] != '\0';
}

bool wants_colour(const Globals& globals, bool tty) {
  if (globals.color != ColorMode::kAuto) return globals.color == ColorMode::kAlways;
  const char* force = std::getenv("CLICOLOR_FORCE");
  if (force != nullptr && force[0] != '\0' && std::string_view(force) != "0") return true;
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::string_view(term) == "dumb";
  return tty && !dumb && !variable_set("NO_COLOR");
}

// Columns a text takes: code points, which is right for all that our tables hold.
size_t columns(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string cut(std::string_view text, size_t n_columns) {
  size_t end = 0;
  for (size_t seen = 0; end < text.size(); ++end) {
    const bool starts = (static_cast<unsigned char>(text[end]) & 0xC0) != 0x80;
    if (starts && seen++ == n_columns) break;
  }
  return std::string(text.substr(0, end));
}

}  // namespace

Terminal Terminal::detect(const Globals& globals) {
  const bool chosen = variable_set("LC_ALL") || variable_set("LC_CTYPE") || variable_set("LANG");
  // A bare container has no locale at all; taking it for ASCII would lose what people type.
  if (std::setlocale(LC_CTYPE, chosen ? "" : "C.UTF-8") == nullptr) std::setlocale(LC_CTYPE, "");
  Terminal t;
  t.stdin_tty = ::isatty(STDIN_FILENO) == 1;
  t.stdout_tty = ::isatty(STDOUT_FILENO) == 1;
  t.stderr_tty = ::isatty(STDERR_FILENO) == 1;
  t.colour = wants_colour(globals, t.stdout_tty);
  t.progress = t.stderr_tty && !globals.no_progress && !globals.quiet && !globals.json;
  t.utf8 = std::string_view(::nl_langinfo(CODESET)) == "UTF-8";
  return t;
}

int Terminal::width() const {
  winsize size{};
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  }
  return 80;
}

std::string Terminal::bold(std::string_view text) const {
  return colour ? fmt::format("\x1b[1m{}\x1b[0m", text) : std::string(text);
}

std::string Terminal::dim(std::string_view text) const {
  return colour ? fmt::format("\x1b[2m{}\x1b[0m", text) : std::string(text);
}

std::string Sanitiser::feed(std::string_view bytes) {
  held_ += bytes;
  const size_t whole = complete_utf8_prefix(held_);
  std::string out = clean(std::string_view(held_).substr(0, whole));
  held_.erase(0, whole);
  return out;
}

std::string Sanitiser::finish() { return clean(std::exchange(held_, {})); }

std::string Sanitiser::clean(std::string_view whole) const {
  const std::string valid = to_valid_utf8(whole);
  std::string out;
  out.reserve(valid.size());
  for (size_t i = 0; i < valid.size(); ++i) {
    const auto c = static_cast<unsigned char>(valid[i]);
    const bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F;
    const bool c1 =
        c == 0xC2 && i + 1 < valid.size() && static_cast<unsigned char>(valid[i + 1]) < 0xA0;
    if (control && utf8_) {
      out += "\xE2\x90";  // U+2400 + c, and U+2421 for DEL: the control pictures
      out += static_cast<char>(c == 0x7F ? 0xA1 : 0x80 + c);
    } else if (control) {
      out += '^';
      out += static_cast<char>(c ^ 0x40);
    } else if (c1) {
      out += utf8_ ? "\xEF\xBF\xBD" : "?";
      ++i;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out;
}

std::string sanitise(std::string_view text, bool utf8) {
  Sanitiser sanitiser(utf8);
  std::string out = sanitiser.feed(text);
  out += sanitiser.finish();
  return out;
}

std::string one_line(std::string_view text, bool utf8) {
  std::string out = sanitise(text, utf8);
  std::replace(out.begin(), out.end(), '\n', ' ');
  std::replace(out.begin(), out.end(), '\t', ' ');
  return out;
}

Result<void> write_stdout(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
      continue;
    }
    if (errno == EINTR || errno == EAGAIN) {
      if (pending_signal() != 0) return interrupted_error();
      pollfd fds{STDOUT_FILENO, POLLOUT, 0};
      if (errno == EAGAIN) ::poll(&fds, 1, 1000);
      continue;
    }
    if (errno == EPIPE) return Error{kPipeClosed, "the reader closed the pipe"};
    return errno_error("io_error", "write to stdout", errno);
  }
  return success();
}

void write_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
    if (n < 0 && errno != EINTR) return;  // nowhere left to say so
    if (n > 0) text.remove_prefix(static_cast<size_t>(n));
  }
}

std::string format_table(const std::vector<std::vector<std::string>>& rows, int max_width) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - columns(row[i]) + 2, ' ');
    }
    if (max_width > 0) line = cut(line, static_cast<size_t>(max_width));
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

ProgressLine::ProgressLine(const Terminal& terminal) : terminal_(terminal), start_ms_(now_ms()) {}

void ProgressLine::show(const std::string& text) {
  const int64_t now = now_ms();
  if (!terminal_.progress || now - start_ms_ < kFirstDrawMs || now - drawn_ms_ < kRedrawMs) return;
  drawn_ms_ = now;
  visible_ = true;
  const int width = terminal_.width();
  write_stderr("\r\x1b[K" +
               cut(one_line(text, terminal_.utf8), static_cast<size_t>(std::max(10, width - 1))));
}

void ProgressLine::clear() {
  if (visible_) write_stderr("\r\x1b[K");
  visible_ = false;
  drawn_ms_ = 0;
}

std::string format_duration(int64_t ms) {
  if (ms < 0) return "forever";
  const int64_t s = ms / 1000;
  if (ms == 0) return "0s";  // also of clocks that count seconds
  if (ms < 1000) return fmt::format("{}ms", ms);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
}

}  // namespace sluice
