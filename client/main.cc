// sluice: parse, act, exit. Verbs register themselves (client.h); INTERFACE section 1.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>

#include "base/bytes.h"
#include "base/cli_errors.h"
#include "client/client.h"
#include "client/interrupt.h"

namespace sluice {
namespace {

void add_global_flags(CLI::App& app, Client& client, std::string& timeout, std::string& color) {
  Globals& g = client.globals;
  app.add_option("-H,--host",
                 g.host,
                 "daemon: unix:///PATH, /PATH or http://127.0.0.1:PORT (else SLUICE_HOST)");
  app.add_flag("--json", g.json, "machine-readable: one JSON document, or one per line");
  app.add_flag("-q,--quiet", g.quiet, "no notes on stderr");
  app.add_flag("-v,--verbose", g.verbose, "more notes on stderr");
  app.add_option("--color", color, "auto, always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}));
  app.add_flag("--no-progress", g.no_progress, "no progress line");
  app.add_flag("--no-autostart", g.no_autostart, "never start sluiced");
  app.add_option("--connect-timeout", timeout, "how long to try to connect (3s)")
      ->check(check_duration);
}

// Verbs that INTERFACE names and this version does not have.
bool is_planned(const std::string& what) {
  for (const char* verb : {"top",
                           "profile",
                           "bench",
                           "embed",
                           "sessions",
                           "logs"}) {
    if (what == fmt::format("unknown command '{}'", verb)) return true;
  }
  return false;
}

int usage_error(const Client& client, const std::string& verb, const CliProblem& problem) {
  CliProblem shown = problem;
  if (is_planned(problem.what)) shown.hint = "it is not part of this version";
  report_failure(client.globals, verb, Error{"usage", shown.what, shown.hint});
  if (!client.globals.json)
    write_stderr(fmt::format("  try:    sluice {}-h\n", verb == "command line" ? "" : verb + " "));
  return kExitUsage;
}

std::string verb_path(const CLI::App& app) {
  std::string path;
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().back();
    path += (path.empty() ? "" : " ") + at->get_name();
  }
  return path.empty() ? "command line" : path;
}

int run_client(int argc, char** argv) {
  CLI::App app{
      "sluice: talk with sluiced, which runs language models larger than the memory you give them",
      "sluice"};
  app.fallthrough();
  app.require_subcommand(0, 1);
  app.footer(
      "Examples:\n"
      "  sluice run ./model.gguf \"Tell me a story.\"\n"
      "  sluice ps\n"
      "  sluice status --json");
  Client client;
  client.root = &app;
  std::string timeout = "3s";
  std::string color = "auto";
  bool version = false;
  add_global_flags(app, client, timeout, color);
  app.add_flag("--version", version, "print the client's version and exit");
  add_run_verbs(app, client);
  add_model_verbs(app, client);
  add_state_verbs(app, client);
  add_budget_verbs(app, client);
  add_plan_verb(app, client);
  add_watch_verbs(app, client);
  add_text_verbs(app, client);
  add_api_verbs(app, client);
  add_daemon_verbs(app, client);
  add_completion_verbs(app, client);
  add_doctor_verb(app, client);
  if (argc >= 2 && std::strcmp(argv[1], "__complete") == 0)
    return complete_words(client, {argv + 2, argv + argc});
  // What no verb knows arrives here, fallen through to the root: the daemon verbs hand it to
  // sluiced, others refuse it.
  app.allow_extras();
  try {
    app.parse(argc, argv);
    client.extras = app.remaining(true);
    const CLI::App* reached = reached_command(app);
    const bool passes_on = reached != &app && reached->get_allow_extras();
    if (!client.extras.empty() && !passes_on) throw CLI::ExtrasError(client.extras);
  } catch (const CLI::CallForHelp&) {
    return finish_stdout(client.globals, app.help());
  } catch (const CLI::ParseError& e) {
    // Parsing stopped before --json may have been stored.
    client.globals.json = std::any_of(
        argv + 1, argv + argc, [](const char* a) { return std::strcmp(a, "--json") == 0; });
    return usage_error(client, verb_path(app), describe_parse_error(app, e));
  }
  if (version) return finish_stdout(client.globals, fmt::format("sluice {}\n", SLUICE_VERSION));
  client.globals.color = color == "always"  ? ColorMode::kAlways
                         : color == "never" ? ColorMode::kNever
                                            : ColorMode::kAuto;
  const int64_t timeout_ms = parse_duration_ms(timeout).value();
  client.globals.connect_timeout_ms = timeout_ms < 0 ? 86'400'000 : timeout_ms;
  client.terminal = Terminal::detect(client.globals);
  if (!client.action) {
    finish_stdout(client.globals, app.help());
    return kExitUsage;
  }
  return client.action();
}

}  // namespace
}  // namespace sluice

// std may throw; this thread's entry is where that ends.
int main(int argc, char** argv) {
  // A closed standard stream would hand its number, and our output, to the next file that is
  // opened.
  for (int fd = 0; fd < 3; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd) return sluice::kExitFailure;
  }
  sluice::install_interrupts();
  try {
    return sluice::run_client(argc, argv);
  } catch (const std::exception& e) {
    sluice::write_stderr(std::string("sluice: failed: ") + e.what() + "   [internal]\n");
    return 1;
  }
}
