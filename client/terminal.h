// What we know about the three standard streams, and the ways of writing to them (INTERFACE 1.1).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "client/globals.h"

namespace sluice {

struct Terminal {
  bool stdin_tty = false, stdout_tty = false, stderr_tty = false;
  bool colour = false;    // on stdout
  bool progress = false;  // bars on stderr
  bool utf8 = true;       // the locale's

  static Terminal detect(const Globals& globals);
  int width() const;  // columns of the terminal; 80 when unknown

  std::string bold(std::string_view text) const;
  std::string dim(std::string_view text) const;
};

// Model text on its way to a terminal: control bytes except \n and \t become glyphs, C1 controls
// and invalid bytes U+FFFD, and only whole code points leave. A model must not drive the terminal.
class Sanitiser {
 public:
  explicit Sanitiser(bool utf8 = true) : utf8_(utf8) {}
  std::string feed(std::string_view bytes);
  std::string finish();  // what is left: an unfinished code point, as U+FFFD

 private:
  std::string clean(std::string_view whole) const;
  bool utf8_;
  std::string held_;
};

// A whole text at once.
std::string sanitise(std::string_view text, bool utf8 = true);

// One line of foreign text (a name, a message): as above, and without line breaks.
std::string one_line(std::string_view text, bool utf8 = true);

// All of stdout's writing goes through here: whole, unbuffered. Errors: pipe_closed, io_error.
Result<void> write_stdout(std::string_view text);
void write_stderr(std::string_view text);

// Headers, two-space gaps, left-aligned, no borders. `max_width` 0: nothing is cut.
std::string format_table(const std::vector<std::vector<std::string>>& rows, int max_width);

// A line on stderr that is redrawn at most 10 times a second and appears only after 300 ms.
class ProgressLine {
 public:
  explicit ProgressLine(const Terminal& terminal);
  void show(const std::string& text);
  void clear();

 private:
  const Terminal& terminal_;
  int64_t start_ms_;
  int64_t drawn_ms_ = 0;
  bool visible_ = false;
};

// "1m04s", "41s", "3h12m".
std::string format_duration(int64_t ms);

}  // namespace sluice
