// sluice completion bash|zsh|fish, and the hidden __complete that the scripts call for live names.
// The words come from the same tables that parse the command line.
#include <fmt/format.h>

#include <memory>

#include "client/client.h"
#include "daemon/protocol/native.h"

namespace sluice {
namespace {

constexpr int64_t kLiveNamesMs = 50;

// The names are compared and quoted by the shell, never handed to `compgen -W`, which would expand
// them: a model may be called "$(...)".
constexpr const char* kBash = R"sh(# sluice completion for bash: eval "$(sluice completion bash)"
_sluice() {
  local word="${COMP_WORDS[COMP_CWORD]}" candidate
  COMPREPLY=()
  while IFS= read -r candidate; do
    if [[ "$candidate" == "$word"* ]]; then COMPREPLY+=("$(printf '%q' "$candidate")"); fi
  done < <(sluice __complete "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
}
complete -o default -F _sluice sluice
)sh";

constexpr const char* kZsh = R"sh(#compdef sluice
# sluice completion for zsh: eval "$(sluice completion zsh)"
_sluice() {
  local -a words_found
  words_found=("${(@f)$(sluice __complete "${(@)words[2,CURRENT-1]}" 2>/dev/null)}")
  compadd -- $words_found
  _files
}
compdef _sluice sluice
)sh";

constexpr const char* kFish = R"sh(# sluice completion for fish: sluice completion fish | source
complete -c sluice -a '(sluice __complete (commandline -opc)[2..-1] 2>/dev/null)'
)sh";

struct CompletionFlags {
  std::string shell;
};

int completion(Client& client, const CompletionFlags& flags) {
  const char* script = flags.shell == "bash" ? kBash : flags.shell == "zsh" ? kZsh : kFish;
  if (client.globals.json)
    return print_document(
        client.globals, "completion", {{"shell", flags.shell}, {"script", script}});
  return finish_stdout(client.globals, script);
}

// Silent and quick whatever happens: a shell waits for it.
std::string live_model_names(const Client& client) {
  Globals globals = client.globals;
  globals.connect_timeout_ms = kLiveNamesMs;
  const int64_t deadline = now_ms() + kLiveNamesMs;
  auto link = DaemonLink::find(globals, DaemonLink::Start::kNever);
  if (!link) return "";
  auto answer = link.value().call(
      "GET", "/sluice/v1/models", std::nullopt, std::max<int64_t>(1, deadline - now_ms()));
  if (!answer) return "";
  auto models = models_from_json(answer.value());
  std::string text;
  for (const ModelDoc& model : models ? models.value() : std::vector<ModelDoc>())
    text += one_line(model.name) + "\n";
  return text;
}

}  // namespace

int complete_words(Client& client, const std::vector<std::string>& words) {
  const CLI::App* at = client.root;
  for (const std::string& word : words) {
    for (const CLI::App* sub : at->get_subcommands([](const CLI::App*) { return true; })) {
      if (sub->get_name() == word) {
        at = sub;
        break;
      }
    }
  }
  std::string text;
  bool takes_model = false;
  for (const CLI::App* sub : at->get_subcommands([](const CLI::App*) { return true; })) {
    if (!sub->get_name().starts_with("__")) text += sub->get_name() + "\n";
  }
  for (const CLI::App* from = at; from != nullptr; from = from->get_parent()) {
    for (const CLI::Option* option : from->get_options()) {
      for (const std::string& name : option->get_lnames()) text += "--" + name + "\n";
      takes_model = takes_model || option->get_name(true) == "MODEL";
    }
  }
  if (takes_model) text += live_model_names(client);
  return finish_stdout(client.globals, text);
}

void add_completion_verbs(CLI::App& app, Client& client) {
  auto flags = std::make_shared<CompletionFlags>();
  CLI::App* verb =
      add_verb(app,
               "completion",
               "completion script for a shell",
               "  eval \"$(sluice completion bash)\"\n  sluice completion fish | source");
  verb->add_option("SHELL", flags->shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->callback([&client, flags] {
    client.action = [&client, flags] { return completion(client, *flags); };
  });
}

}  // namespace sluice
