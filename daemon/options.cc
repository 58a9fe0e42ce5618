#include "daemon/options.h"

#include <fmt/format.h>

#include <map>

#include "base/cli_errors.h"
#include "base/runtime_paths.h"

namespace sluice {
namespace {

struct Flags {
  std::map<std::string, std::string> keys;  // "budget.ram" -> value, for flags given
  std::vector<std::string> listen, sets, models, names;
  std::string config;
  std::string file;
  bool json = false, origins = false, version = false;
};

struct KeyFlag {
  const char* flag;
  const char* key;
  const char* placeholder;
  const char* help;
};
constexpr KeyFlag kKeyFlags[] = {
    {"--budget", "budget.ram", "SIZE", "memory the daemon may use: 2G, 40%, auto"},
    {"--state-dir", "daemon.state_dir", "DIR", "registered models and saved state"},
    {"--io", "stream.io", "auto|direct|buffered|mmap", "how weights are read"},
    {"--threads", "daemon.threads", "N", "compute threads; auto = what the process may use"},
    {"--log-level", "log.level", "LEVEL", "trace, debug, info, warn, error, off"},
    {"--idle-exit",
     "daemon.idle_exit",
     "DURATION",
     "leave after this long without work; -1 = never"},
};

// --name belongs to the --model before it.
Result<std::vector<ModelArgument>> pair_models(const CLI::App& app, const Flags& flags) {
  std::vector<ModelArgument> models;
  size_t next_model = 0;
  size_t next_name = 0;
  for (const CLI::Option* option : app.parse_order()) {
    if (option->check_lname("model")) models.push_back({flags.models.at(next_model++), ""});
    if (!option->check_lname("name")) continue;
    if (models.empty() || !models.back().name.empty()) {
      return Error{"usage", "--name follows the --model it names", "--model FILE --name NAME"};
    }
    models.back().name = flags.names.at(next_name++);
  }
  return models;
}

void define_flags(CLI::App& app, Flags& flags) {
  app.add_flag("--version", flags.version, "print the version and exit");
  app.add_flag("--json", flags.json, "one JSON document (version, check, config)");
  app.add_option("--listen", flags.listen, "unix:///PATH, auto, or fd:// (socket activation)")
      ->type_name("ADDRESS")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--config", flags.config, "settings file")->type_name("FILE");
  app.add_option("--model", flags.models, "register this GGUF file; may be repeated")
      ->type_name("FILE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--name", flags.names, "name of the --model before it")
      ->type_name("NAME")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  for (const KeyFlag& flag : kKeyFlags) {
    app.add_option(flag.flag, flags.keys[flag.key], flag.help)->type_name(flag.placeholder);
  }
  app.add_option("--set", flags.sets, "section.key=value for any other key; see `config example`")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

Result<void> apply_listen(DaemonCommand& command, const std::vector<std::string>& addresses) {
  int n_unix = 0;
  for (const std::string& address : addresses) {
    if (address.starts_with("tcp://")) {
      SLUICE_TRY(command.config.set("listen.tcp", address.substr(6), "flag --listen"));
    } else if (address == "fd://") {
      command.activated = true;
    } else {
      SLUICE_TRY(const std::string path, unix_listen_path(address));
      SLUICE_TRY(command.config.set("listen.unix", path, "flag --listen"));
      ++n_unix;
    }
  }
  if (n_unix > 1 || (n_unix == 1 && command.activated)) {
    return Error{
        "invalid_config", "flag --listen: one socket is supported", "--listen unix:///PATH"};
  }
  return success();
}

Result<void> apply_flags(DaemonCommand& command, const CLI::App& app, const Flags& flags) {
  for (const KeyFlag& flag : kKeyFlags) {
    if (app.get_option(flag.flag)->count() == 0) continue;
    SLUICE_TRY(
        command.config.set(flag.key, flags.keys.at(flag.key), fmt::format("flag {}", flag.flag)));
  }
  SLUICE_TRY(apply_listen(command, flags.listen));
  for (const std::string& assignment : flags.sets) {
    SLUICE_TRY(command.config.set_assignment(assignment));
  }
  return success();
}

std::string variable(const char* const* environment, std::string_view name) {
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view entry(*environment);
    if (entry.starts_with(name) && entry.size() > name.size() && entry[name.size()] == '=') {
      return std::string(entry.substr(name.size() + 1));
    }
  }
  return "";
}

}  // namespace

Result<std::string> unix_listen_path(const std::string& text) {
  if (text == "auto") return text;
  std::string path = text;
  if (path.starts_with("unix://")) {
    path = path.substr(7);
  } else if (path.starts_with("unix:")) {
    path = path.substr(5);
  } else if (path.find("://") != std::string::npos) {
    return Error{
        "invalid_config",
        fmt::format(
            "address '{}' is not understood; allowed: unix:///PATH, tcp://127.0.0.1:PORT, fd://",
            escape_text(text)),
        "--listen unix:///run/user/1000/sluice/sluice.sock"};
  }
  SLUICE_TRY(check_socket_path(path));
  return path;
}

Result<Config> load_config(const std::string& path,
                           bool must_exist,
                           const char* const* environment) {
  Config config;
  SLUICE_TRY(config.merge_file(path, must_exist));
  SLUICE_TRY(config.merge_drop_ins(path));
  SLUICE_TRY(config.merge_environment(environment));
  return config;
}

Result<DaemonCommand> parse_daemon_command(int argc,
                                           const char* const* argv,
                                           const char* const* environment) {
  CLI::App app{"sluiced: serves language models larger than the memory you give them", "sluiced"};
  app.fallthrough();
  app.footer(
      "Examples:\n"
      "  sluiced --budget 2G --model ~/models/qwen2.5-7b.gguf\n"
      "  sluiced --listen unix:///tmp/me/s.sock --set queue.max=16\n"
      "  sluiced check model.gguf");
  Flags flags;
  define_flags(app, flags);
  app.add_subcommand("run", "serve (this is also what happens without a command)");
  CLI::App* check = app.add_subcommand("check", "validate a model file; maps no weights");
  check->add_option("FILE", flags.file, "a .gguf file")->required();
  app.add_subcommand("forward",
                     "logits of given token ids, without a daemon; see `sluiced forward -h`");
  CLI::App* config = app.add_subcommand("config", "show, check or explain the settings");
  config->require_subcommand(1);
  CLI::App* show = config->add_subcommand("show", "the settings in force");
  show->add_flag("--origin", flags.origins, "and where each comes from");
  CLI::App* check_config = config->add_subcommand("check", "validate a settings file");
  check_config->add_option("FILE", flags.file, "default: the one that would be read");
  CLI::App* path = config->add_subcommand("path", "which file is read");
  CLI::App* example = config->add_subcommand("example", "a commented file of all keys");

  DaemonCommand command;
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    command.verb = DaemonVerb::kHelp;
    command.text = app.help();
    return command;
  } catch (const CLI::ParseError& e) {
    const CliProblem problem = describe_parse_error(app, e);
    return Error{"usage", problem.what, problem.hint.empty() ? "sluiced --help" : problem.hint};
  }
  command.file = flags.file;
  command.json = flags.json;
  command.origins = flags.origins;
  if (flags.version) command.verb = DaemonVerb::kVersion;
  if (check->parsed()) command.verb = DaemonVerb::kCheck;
  if (show->parsed()) command.verb = DaemonVerb::kConfigShow;
  if (check_config->parsed()) command.verb = DaemonVerb::kConfigCheck;
  if (path->parsed()) command.verb = DaemonVerb::kConfigPath;
  if (example->parsed()) command.verb = DaemonVerb::kConfigExample;

  command.config_path =
      flags.config.empty() ? variable(environment, "SLUICED_CONFIG") : flags.config;
  command.config_named = !command.config_path.empty();
  if (!command.config_named) command.config_path = config_file();
  const bool needs_config =
      command.verb == DaemonVerb::kRun || command.verb == DaemonVerb::kConfigShow;
  if (!needs_config) return command;
  SLUICE_TRY(command.config, load_config(command.config_path, command.config_named, environment));
  SLUICE_TRY(apply_flags(command, app, flags));
  SLUICE_TRY(command.models, pair_models(app, flags));
  return command;
}

}  // namespace sluice
