// Line editing with libedit: history per user, UTF-8, and a Ctrl-C that is an event instead of an
// end.
#pragma once

#include <string>

#include "client/terminal.h"

namespace sluice {

class LineEditor {
 public:
  enum class Event : uint8_t { kLine, kSignal, kEnd };

  // History lives in STATE/history (0600) unless SLUICE_NOHISTORY=1. Without a terminal plain lines
  // are read.
  explicit LineEditor(const Terminal& terminal);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // One line without its line end. kSignal: a signal is pending; what had been typed is
  // dropped.
  Event read_line(const std::string& prompt, std::string& line);
  void remember(const std::string& entry);

  struct Impl;

 private:
  Event read_plain(std::string& line);
  Impl* impl_ = nullptr;  // null without a terminal
  std::string plain_;     // read, not yet returned
};

}  // namespace sluice
