// CLI11's parse errors in our words: what was wrong and what was probably meant. Used by both
// main()s.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/suggest.h"
#include "base/text_escape.h"

namespace sluice {

struct CliProblem {
  std::string what;
  std::string hint;
};

// The innermost subcommand that was reached.
inline const CLI::App* reached_command(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().back();
  return at;
}

inline CliProblem describe_parse_error(const CLI::App& app, const CLI::ParseError& error) {
  if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr) return {error.what(), ""};
  std::vector<std::string> extras = app.remaining(true);
  if (extras.empty()) return {error.what(), ""};
  const CLI::App* command = reached_command(app);
  std::string word = extras.front();
  for (const std::string& extra : extras) {
    if (extra.starts_with("-")) {
      word = extra;
      break;
    }
  }
  if (word.starts_with("-")) {
    word = word.substr(0, word.find('='));
    std::vector<std::string> names;
    for (const CLI::App* at = command; at != nullptr; at = at->get_parent()) {
      for (const CLI::Option* option : at->get_options()) {
        for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
      }
    }
    const std::string near = nearest_word(word, names);
    return {"unknown flag '" + escape_text(word) + "'",
            near.empty() ? "" : "did you mean '" + near + "'?"};
  }
  std::vector<std::string> verbs;
  for (const CLI::App* sub : command->get_subcommands([](const CLI::App*) { return true; })) {
    if (sub->get_name().starts_with("__")) continue;
    verbs.push_back(sub->get_name());
    for (const std::string& alias : sub->get_aliases()) verbs.push_back(alias);
  }
  if (verbs.empty()) return {"unexpected argument '" + escape_text(word) + "'", ""};
  const std::string near = nearest_word(word, verbs);
  return {"unknown command '" + escape_text(word) + "'",
          near.empty() ? "" : "did you mean '" + near + "'?"};
}

}  // namespace sluice
