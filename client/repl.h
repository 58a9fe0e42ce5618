// The interactive session (INTERFACE 1.6): lines in, answers out, the conversation kept here.
#pragma once

#include <boost/json/array.hpp>
#include <optional>
#include <string>

#include "client/generate.h"
#include "client/line_editor.h"

namespace sluice {

class Repl {
 public:
  Repl(const Client& client,
       const DaemonLink& link,
       std::string model,
       GenerationFlags flags,
       std::string system);
  int run();  // the exit code

 private:
  enum class Next : uint8_t { kGoOn, kLeave };

  // A line, or several between """ and """. nullopt: Ctrl-D. Empty text: nothing to do (also after
  // Ctrl-C).
  std::optional<std::string> read_input();
  std::optional<std::string> read_block(std::string first);
  Next command(const std::string& line);
  Next answer(const std::string& text);
  Next generate(bool goes_on = false);
  bool note_interrupt();  // true: twice within a second
  void say(const std::string& text);
  void complain(const std::string& text);
  // What the daemon said on a question about itself, or why it did not; the conversation goes on.
  void tell(const Answer<std::string>& text, const char* what);
  void set_parameter(const std::string& assignment);
  void show() const;
  void send_file(const std::string& path);
  void undo();

  const Client& client_;
  const DaemonLink& link_;
  Generator generator_;
  std::string model_;
  std::string system_;
  LineEditor editor_;
  boost::json::array messages_;  // without the system message
  int64_t last_interrupt_ms_ = -10'000;
  int exit_code_ = 0;
  std::string pending_file_;  // text of /file, sent with the next line
};

}  // namespace sluice
