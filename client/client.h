// What every verb works with, and the registration of the verbs: each family file adds its
// subcommands with their one table of flags (parsing, help and completion come from it) and leaves
// in `action` what to do.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "client/daemon_link.h"
#include "client/globals.h"
#include "client/report.h"
#include "client/terminal.h"

namespace sluice {

struct Client {
  Globals globals;
  Terminal terminal;                // set before `action` runs
  std::function<int()> action;      // set by the verb that was named
  const CLI::App* root = nullptr;   // for completion
  std::vector<std::string> extras;  // flags for sluiced, of the verbs that allow them
};

// A subcommand whose help ends in `examples` (2-3 lines).
CLI::App* add_verb(CLI::App& parent,
                   const std::string& name,
                   const std::string& help,
                   const std::string& examples);

void add_run_verbs(CLI::App& app, Client& client);         // run, chat
void add_model_verbs(CLI::App& app, Client& client);       // models, load, unload, list, stop
void add_state_verbs(CLI::App& app, Client& client);       // ps, status, requests, version
void add_budget_verbs(CLI::App& app, Client& client);      // budget
void add_plan_verb(CLI::App& app, Client& client);         // plan
void add_watch_verbs(CLI::App& app, Client& client);       // residency, events, metrics
void add_text_verbs(CLI::App& app, Client& client);        // tokenize, detokenize
void add_api_verbs(CLI::App& app, Client& client);         // api, env
void add_daemon_verbs(CLI::App& app, Client& client);      // daemon, serve, config
void add_completion_verbs(CLI::App& app, Client& client);  // completion
void add_doctor_verb(CLI::App& app, Client& client);       // doctor

// The hidden `__complete WORDS...` that the completion scripts call: what may follow, one word a
// line.
int complete_words(Client& client, const std::vector<std::string>& words);

// MODEL as people write it: the path of a .gguf is registered (made absolute) and its name
// returned; anything else is a name already. Errors: model_not_found for a path that is no file,
// and the daemon's.
Answer<std::string> resolve_model(const DaemonLink& link, const std::string& model);

// Checks for option values; the text is what CLI11 prints (and exit code 2).
std::string check_duration(const std::string& text);
std::function<std::string(const std::string&)> number_between(double lo, double hi);

// All of stdin, at most 8 MiB. Errors: io_error, body_too_large, interrupted.
Result<std::string> read_stdin();
// A file, same limit; "-" is stdin.
Result<std::string> read_file(const std::string& path);

}  // namespace sluice
