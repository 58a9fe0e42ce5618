// sluice run, sluice chat.
#include <fmt/format.h>

#include <csignal>
#include <memory>

#include "base/bytes.h"
#include "client/client.h"
#include "client/generate.h"
#include "client/interrupt.h"
#include "client/repl.h"
#include "daemon/protocol/json_text.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct RunFlags {
  std::string model, file, system, wait;
  std::vector<std::string> prompt;
  GenerationFlags generation;
  bool no_stream = false;
};

void add_generation_flags(CLI::App& verb, RunFlags& flags) {
  GenerationFlags& g = flags.generation;
  verb.add_option("MODEL", flags.model, "a registered name, or the path of a .gguf file")
      ->required();
  verb.add_option("--system", flags.system, "system message");
  verb.add_option("-n,--max-tokens", g.max_tokens, "longest answer, in tokens")
      ->check(number_between(1, 1e9));
  verb.add_option("--temp,--temperature", g.temperature, "0 = always the likeliest token")
      ->check(number_between(0, 2));
  verb.add_option("--top-p", g.top_p, "")->check(number_between(0, 1));
  verb.add_option("--top-k", g.top_k, "")->check(number_between(-1, 1e9));
  verb.add_option("--min-p", g.min_p, "")->check(number_between(0, 1));
  verb.add_option("--repeat-penalty", g.repeat_penalty, "")->check(number_between(0.01, 100));
  verb.add_option("--seed", g.seed, "same seed, same text");
  verb.add_option("--stop", g.stop, "end before this text; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  verb.add_option("--ctx", g.ctx, "context length")->check(number_between(1, 16777216));
  verb.add_option("--keep-alive", g.keep_alive, "keep the model loaded this long: 5m, 0, -1")
      ->check(check_duration);
  verb.add_option("--priority", g.priority, "low, normal or high")
      ->check(CLI::IsMember({"low", "normal", "high"}));
  verb.add_option("--wait", flags.wait, "wait this long for a free place (-1: for ever)")
      ->check(check_duration);
  verb.add_flag("--stats", g.stats, "tokens and speeds on stderr afterwards");
  verb.add_flag("--no-stream", flags.no_stream, "print the answer when it is whole");
  verb.add_flag_callback(
      "--think", [&flags] { flags.generation.think = true; }, "let the model think, if it can");
  verb.add_flag_callback(
      "--no-think", [&flags] { flags.generation.think = false; }, "tell it not to");
}

// Stdin is put before the prompt, joined by a blank line; -f comes before both.
Result<std::string> gather_prompt(const Client& client, const RunFlags& flags) {
  std::vector<std::string> parts;
  if (!flags.file.empty()) {
    SLUICE_TRY(parts.emplace_back(), read_file(flags.file));
  }
  if (!client.terminal.stdin_tty && flags.file != "-") {
    SLUICE_TRY(parts.emplace_back(), read_stdin());
  }
  parts.push_back(fmt::format("{}", fmt::join(flags.prompt, " ")));
  std::string prompt;
  for (std::string& part : parts) {
    while (parts.size() > 1 && part.ends_with('\n')) part.pop_back();
    if (part.empty()) continue;
    prompt += prompt.empty() ? part : "\n\n" + part;
  }
  return prompt;
}

json::array first_messages(const RunFlags& flags, const std::string& prompt) {
  json::array messages;
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return messages;
}

// Text is out already: what failed afterwards is exit code 8, with a newline so that the error
// starts its own line.
int report_generation_failure(const Client& client,
                              const Failure& failure,
                              const Generation& partial) {
  if (failure.error.code == kInterrupted) {
    // finish_text() has ended the line when something was printed.
    if (client.terminal.stdout_tty && partial.text.empty()) write_stderr("\n");
    return exit_code_for(failure);
  }
  if (failure.error.code == kPipeClosed || partial.text.empty()) {
    return report_failure(client.globals, "run", failure);
  }
  if (!client.terminal.stdout_tty && client.terminal.stderr_tty) write_stderr("\n");
  report_failure(client.globals, "run", failure);
  return kExitPartial;
}

int finish(const Client& client,
           const Generator& generator,
           const std::string& verb,
           const std::string& model,
           int code) {
  const Generation& g = generator.generation();
  if (client.globals.json && (code == 0 || !g.text.empty())) {
    json::object document = g.document(model);
    document["type"] = "done";
    const int printed = print_document(client.globals, verb, std::move(document));
    if (printed != 0) return printed;
  }
  if (generator.generation().completion_tokens > 0 && code == 0 && (client.globals.verbose)) {
    write_stderr(fmt::format("  finished: {}\n", g.finish_reason));
  }
  return code;
}

int run_one_shot(Client& client, const RunFlags& flags) {
  auto prompt = gather_prompt(client, flags);
  if (!prompt) return report_failure(client.globals, "run", prompt.error());
  if (prompt.value().empty()) {
    return report_failure(
        client.globals,
        "run",
        Error{"usage", "there is no prompt", fmt::format("sluice run {} \"Hello\"", flags.model)});
  }
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, "run", link.error());
  auto model = resolve_model(link.value(), flags.model);
  if (!model) return report_failure(client.globals, "run", model.error());
  Generator generator(client, link.value(), model.value(), flags.generation);
  const GenerationFlags& g = flags.generation;
  auto done = g.raw ? generator.complete(prompt.value(), "run")
                    : generator.chat(first_messages(flags, prompt.value()), "run");
  const int code =
      done ? 0 : report_generation_failure(client, done.error(), generator.generation());
  const bool show_stats =
      g.stats && !client.globals.json && generator.generation().completion_tokens > 0;
  if (show_stats) write_stderr(generator.generation().stats_line(client.terminal.utf8));
  return finish(client, generator, "run", model.value(), code);
}

int run_interactive(Client& client, const RunFlags& flags) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, "chat", link.error());
  auto model = resolve_model(link.value(), flags.model);
  if (!model) return report_failure(client.globals, "chat", model.error());
  Repl repl(client, link.value(), model.value(), flags.generation, flags.system);
  return repl.run();
}

std::optional<std::string> common_checks(RunFlags& flags) {
  flags.generation.stream = !flags.no_stream;
  if (!flags.wait.empty()) {
    auto ms = parse_duration_ms(flags.wait);
    if (!ms) return ms.error().what;
    flags.generation.wait_ms = ms.value();
  }
  if (flags.generation.raw && !flags.system.empty())
    return "--raw uses no chat template, so --system has no place";
  return std::nullopt;
}

int run_verb(Client& client, RunFlags& flags) {
  if (auto wrong = common_checks(flags))
    return report_failure(client.globals, "run", Error{"usage", *wrong, "sluice run -h"});
  const bool interactive = flags.prompt.empty() && flags.file.empty() &&
                           client.terminal.stdin_tty && client.terminal.stdout_tty &&
                           !client.globals.json && !flags.generation.raw;
  return interactive ? run_interactive(client, flags) : run_one_shot(client, flags);
}

int chat_verb(Client& client, RunFlags& flags) {
  if (auto wrong = common_checks(flags))
    return report_failure(client.globals, "chat", Error{"usage", *wrong, "sluice chat -h"});
  return run_interactive(client, flags);
}

}  // namespace

void add_run_verbs(CLI::App& app, Client& client) {
  auto run_flags = std::make_shared<RunFlags>();
  CLI::App* run =
      add_verb(app,
               "run",
               "answer a prompt; interactive when there is none and this is a terminal",
               "  sluice run qwen2.5-coder \"Write a haiku about rivers.\"\n"
               "  cat notes.txt | sluice run qwen2.5-coder \"Three bullet points.\" --stats\n"
               "  sluice run ./model.gguf -n 64 --temp 0 \"Once upon a time\"");
  add_generation_flags(*run, *run_flags);
  run->add_option("PROMPT", run_flags->prompt, "words of the prompt");
  run->add_option("-f,--file", run_flags->file, "prompt from a file (- = stdin)");
  run->add_flag("--raw", run_flags->generation.raw, "complete the text; no chat template");
  run->callback([run_flags, &client] {
    client.action = [run_flags, &client] { return run_verb(client, *run_flags); };
  });

  auto chat_flags = std::make_shared<RunFlags>();
  CLI::App* chat = add_verb(app,
                            "chat",
                            "talk with a model; /help lists what can be typed",
                            "  sluice chat qwen2.5-coder\n"
                            "  sluice chat qwen3 --system \"Answer in one sentence.\" --no-think");
  add_generation_flags(*chat, *chat_flags);
  chat->callback([chat_flags, &client] {
    client.action = [chat_flags, &client] { return chat_verb(client, *chat_flags); };
  });
}

}  // namespace sluice
