#include "client/report.h"

#include <fmt/format.h>

#include <csignal>
#include <iterator>
#include <utility>

#include "client/interrupt.h"
#include "client/terminal.h"
#include "daemon/protocol/errors.h"
#include "daemon/protocol/json_text.h"

namespace sluice {
namespace {

struct OwnCode {
  std::string_view code;
  int exit;
};
constexpr OwnCode kOwnCodes[] = {
    {"usage", kExitUsage},
    {"invalid_host", kExitUsage},
    {"invalid_socket_path", kExitUsage},
    {"daemon_unreachable", kExitNoDaemon},
    {"not_permitted", 4},
    {"timed_out", kExitFailure},
    {"wait_over", kExitBusy},
    {"connection_lost", kExitFailure},
    {"protocol", kExitFailure},
    {"io_error", kExitFailure},
    {"pipe_closed", kExitPipeClosed},
    {"partial", kExitPartial},
};

// A line each; the first says what they are.
std::string hint_lines(std::string_view hint) {
  std::string text;
  const bool a_command = hint.starts_with("sluice") || hint.starts_with("tail ");
  const char* label = a_command ? "try:   " : "detail:";
  while (!hint.empty()) {
    const size_t end = std::min(hint.find('\n'), hint.size());
    text += fmt::format("  {} {}\n", label, one_line(hint.substr(0, end)));
    hint.remove_prefix(std::min(end + 1, hint.size()));
    label = "       ";
  }
  return text;
}

}  // namespace

int exit_code_for(const Failure& failure) {
  const std::string& code = failure.error.code;
  if (code == kInterrupted) return pending_signal() == SIGTERM ? 143 : 130;
  for (const OwnCode& own : kOwnCodes) {
    if (failure.status == 0 && own.code == code) return own.exit;
  }
  return exit_code_of(code, failure.status);
}

int report_failure(const Globals& globals, const std::string& what, const Failure& failure) {
  const Error& e = failure.error;
  const int exit_code = exit_code_for(failure);
  if (e.code == kPipeClosed || e.code == kInterrupted) return exit_code;
  if (globals.json) {
    ApiError api{e};
    api.status = failure.status;
    api.holds = failure.holds;
    write_stderr(json_text(error_document(api, "")) + "\n");
    return exit_code;
  }
  const bool says_it_all =
      e.code == kUnreachable;  // "cannot reach sluiced at ...": the verb adds nothing
  std::string text = says_it_all ? "sluice: " : fmt::format("sluice: {} failed: ", one_line(what));
  text += fmt::format("{}   [{}]\n", one_line(e.what), one_line(e.code));
  if (!failure.holds.empty()) text += fmt::format("  holds:  {}\n", one_line(failure.holds));
  text += hint_lines(e.hint);
  write_stderr(text);
  return exit_code;
}

boost::json::object with_schema(const std::string& verb, boost::json::object fields) {
  boost::json::object document{{"schema", fmt::format("sluice.{}.v1", verb)}};
  for (auto& field : fields) {
    if (field.key() != "schema") document[field.key()] = std::move(field.value());
  }
  return document;
}

int print_document(const Globals& globals, const std::string& verb, boost::json::object fields) {
  return finish_stdout(globals, json_text(with_schema(verb, std::move(fields))) + "\n");
}

int finish_stdout(const Globals& globals, const std::string& text, int code) {
  auto written = write_stdout(text);
  return written ? code : report_failure(globals, "write", written.error());
}

}  // namespace sluice
