#include "client/repl.h"

#include <fmt/format.h>

#include <charconv>
#include <csignal>

#include "base/suggest.h"
#include "base/text_escape.h"
#include "client/interrupt.h"
#include "client/json_fields.h"
#include "client/repl_views.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr int64_t kTwiceWithinMs = 1000;
constexpr const char* kFence = "\"\"\"";

constexpr const char* kHelp =
    "  /help              this list\n"
    "  /bye               leave (also Ctrl-D)\n"
    "  /new               forget the conversation\n"
    "  /system [TEXT]     set or clear the system message\n"
    "  /set K=V           temp, top_p, top_k, min_p, repeat_penalty, seed, max_tokens, ctx; V "
    "empty = default\n"
    "  /show              model, parameters, length of the conversation\n"
    "  /budget [SIZE]     show the memory budget, or change it while all goes on\n"
    "  /plan              what other budgets would buy for this model\n"
    "  /stats             show speeds after each answer, or stop showing them\n"
    "  /retry             answer the last message again\n"
    "  /continue          write the last answer on, from where it ended\n"
    "  /undo              take back the last message and its answer\n"
    "  /file PATH         put a file before the next message\n"
    "  \"\"\"                begin a message of several lines, and end it\n"
    "  Ctrl-C             stop the answer; what came stays in the conversation\n";

const std::vector<std::string>& commands() {
  static const std::vector<std::string> kCommands = {"/help",
                                                     "/bye",
                                                     "/new",
                                                     "/system",
                                                     "/set",
                                                     "/show",
                                                     "/budget",
                                                     "/plan",
                                                     "/stats",
                                                     "/retry",
                                                     "/continue",
                                                     "/undo",
                                                     "/file",
                                                     "/exit",
                                                     "/quit"};
  return kCommands;
}

// Of INTERFACE 1.6, not built yet; said plainly instead of being "unknown".
bool is_planned(const std::string& name) {
  return name == "/sessions" || name == "/save" || name == "/edit";
}

template <class T>
bool set_number(
    std::optional<T>& target, const std::string& value, double lo, double hi, std::string& wrong) {
  if (value.empty()) {
    target.reset();
    return true;
  }
  wrong = number_between(lo, hi)(value);
  T parsed{};
  const auto [end, ec] = std::from_chars(value.data(), value.data() + value.size(), parsed);
  if (wrong.empty() && (ec != std::errc{} || end != value.data() + value.size()))
    wrong = "an integer is expected";
  if (wrong.empty()) target = parsed;
  return true;
}

template <class T>
std::string shown(const char* name, const std::optional<T>& value) {
  return value ? fmt::format("  {:<15} {}\n", name, *value) : "";
}

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

Repl::Repl(const Client& client,
           const DaemonLink& link,
           std::string model,
           GenerationFlags flags,
           std::string system)
    : client_(client),
      link_(link),
      generator_(client, link, model, std::move(flags)),
      model_(std::move(model)),
      system_(std::move(system)),
      editor_(client.terminal) {}

void Repl::say(const std::string& text) {
  if (!client_.globals.quiet) write_stderr(text);
}

void Repl::complain(const std::string& text) {
  write_stderr("  " + one_line(text, client_.terminal.utf8) + "\n");
}

void Repl::tell(const Answer<std::string>& text, const char* what) {
  if (text) {
    write_stderr(text.value());
  } else {
    report_failure(client_.globals, what, text.error());
  }
}

int Repl::run() {
  if (client_.terminal.stdin_tty)
    say(fmt::format("{}: /help for commands, /bye or Ctrl-D to leave\n", one_line(model_)));
  for (;;) {
    const auto input = read_input();
    if (!input) break;
    if (exit_code_ != 0) break;
    const std::string line = trimmed(*input);
    if (line.empty()) continue;
    editor_.remember(line);
    const bool is_command = line[0] == '/' && line.find('\n') == std::string::npos;
    if ((is_command ? command(line) : answer(*input)) == Next::kLeave) break;
  }
  return exit_code_;
}

bool Repl::note_interrupt() {
  const int64_t now = now_ms();
  const bool twice = now - last_interrupt_ms_ < kTwiceWithinMs;
  last_interrupt_ms_ = now;
  return twice;
}

std::optional<std::string> Repl::read_input() {
  std::string line;
  switch (editor_.read_line(">>> ", line)) {
    case LineEditor::Event::kEnd:
      if (client_.terminal.stdin_tty) say("\n");
      return std::nullopt;
    case LineEditor::Event::kSignal:
      exit_code_ = pending_signal() == SIGTERM ? 143 : note_interrupt() ? 130 : 0;
      clear_interrupt();
      say(exit_code_ == 0 ? "\n(Ctrl-D or /bye to leave)\n" : "\n");
      return "";
    case LineEditor::Event::kLine:
      break;
  }
  if (trimmed(line).starts_with(kFence)) return read_block(trimmed(line).substr(3));
  return line;
}

std::optional<std::string> Repl::read_block(std::string first) {
  std::string block = std::move(first);
  const size_t closed = block.find(kFence);
  if (closed != std::string::npos) return block.substr(0, closed);
  for (;;) {
    std::string line;
    const LineEditor::Event event = editor_.read_line("... ", line);
    if (event == LineEditor::Event::kSignal) {
      clear_interrupt();
      say("\n");
      return "";
    }
    if (event == LineEditor::Event::kEnd) return block;
    const size_t fence = line.find(kFence);
    if (!block.empty()) block += '\n';
    block += line.substr(0, fence);
    if (fence != std::string::npos) return block;
  }
}

Repl::Next Repl::command(const std::string& line) {
  const size_t space = line.find(' ');
  const std::string name = line.substr(0, space);
  const std::string rest = space == std::string::npos ? "" : trimmed(line.substr(space));
  if (name == "/bye" || name == "/exit" || name == "/quit") return Next::kLeave;
  if (name == "/help") {
    say(kHelp);
  } else if (name == "/new") {
    messages_.clear();
    pending_file_.clear();
    say("  a new conversation\n");
  } else if (name == "/system") {
    system_ = rest;
    say(rest.empty() ? "  no system message\n" : "  system message set\n");
  } else if (name == "/set") {
    set_parameter(rest);
  } else if (name == "/show") {
    show();
  } else if (name == "/stats") {
    generator_.flags().stats = !generator_.flags().stats;
    say(generator_.flags().stats ? "  stats on\n" : "  stats off\n");
  } else if (name == "/budget") {
    tell(rest.empty() ? budget_state(link_) : set_budget(link_, rest),
         rest.empty() ? "budget show" : "budget set");
  } else if (name == "/plan") {
    if (!rest.empty()) {
      complain("/plan takes nothing: it is about this model; other ones: sluice plan MODEL");
    } else {
      const Terminal& t = client_.terminal;
      tell(plan_table(link_, model_, generator_.flags().ctx, t.stdin_tty ? t.width() : 0), "plan");
    }
  } else if (name == "/undo") {
    undo();
  } else if (name == "/file") {
    send_file(rest);
  } else if (name == "/retry") {
    if (!messages_.empty() && text_field(messages_.back().get_object(), "role") == "assistant")
      messages_.pop_back();
    if (messages_.empty()) {
      complain("there is nothing to retry");
    } else {
      return generate();
    }
  } else if (name == "/continue") {
    if (messages_.empty() || text_field(messages_.back().get_object(), "role") != "assistant") {
      complain("there is no answer to continue");
    } else {
      return generate(/*goes_on=*/true);
    }
  } else if (is_planned(name)) {
    complain(fmt::format("{} is not part of this version", name));
  } else {
    const std::string near = nearest_word(name, commands());
    complain(fmt::format("unknown command {}{}",
                         escape_text(name),
                         near.empty() ? "; /help lists them" : "; did you mean " + near + "?"));
  }
  return Next::kGoOn;
}

void Repl::undo() {
  bool taken = false;
  while (!messages_.empty() && !taken) {
    taken = text_field(messages_.back().get_object(), "role") == "user";
    messages_.pop_back();
  }
  say(taken ? "  taken back\n" : "  there is nothing to take back\n");
}

void Repl::send_file(const std::string& path) {
  if (path.empty()) return complain("/file needs a path");
  auto text =
      path == "-" ? Result<std::string>(Error{"usage", "stdin is this terminal"}) : read_file(path);
  if (!text) return complain(text.error().what);
  pending_file_ = std::move(text).value();
  say(fmt::format("  {} bytes go before the next message\n", pending_file_.size()));
}

void Repl::set_parameter(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  const std::string key = trimmed(assignment.substr(0, equals));
  if (equals == std::string::npos) return complain("/set takes K=V, as in /set temp=0.7");
  const std::string value = trimmed(assignment.substr(equals + 1));
  GenerationFlags& g = generator_.flags();
  std::string wrong;
  bool known = true;
  if (key == "temp" || key == "temperature") {
    set_number(g.temperature, value, 0, 2, wrong);
  } else if (key == "top_p") {
    set_number(g.top_p, value, 0, 1, wrong);
  } else if (key == "top_k") {
    set_number(g.top_k, value, -1, 1e9, wrong);
  } else if (key == "min_p") {
    set_number(g.min_p, value, 0, 1, wrong);
  } else if (key == "repeat_penalty") {
    set_number(g.repeat_penalty, value, 0.01, 100, wrong);
  } else if (key == "seed") {
    set_number(g.seed, value, -9.2e18, 9.2e18, wrong);
  } else if (key == "max_tokens") {
    set_number(g.max_tokens, value, 1, 1e9, wrong);
  } else if (key == "ctx") {
    set_number(g.ctx, value, 1, 16777216, wrong);
  } else {
    known = false;
  }
  if (!known) {
    const std::string near = nearest_word(
        key, {"temp", "top_p", "top_k", "min_p", "repeat_penalty", "seed", "max_tokens", "ctx"});
    return complain(fmt::format("unknown parameter {}{}",
                                escape_text(key),
                                near.empty() ? "" : "; did you mean " + near + "?"));
  }
  if (!wrong.empty()) complain(fmt::format("{}: {}", key, wrong));
}

void Repl::show() const {
  const GenerationFlags& g = const_cast<Repl*>(this)->generator_.flags();
  std::string text = fmt::format("  {:<15} {}\n", "model", one_line(model_));
  if (!system_.empty()) text += fmt::format("  {:<15} {}\n", "system", one_line(system_));
  text += shown("temp", g.temperature) + shown("top_p", g.top_p) + shown("top_k", g.top_k) +
          shown("min_p", g.min_p);
  text += shown("repeat_penalty", g.repeat_penalty) + shown("seed", g.seed) +
          shown("max_tokens", g.max_tokens);
  text += shown("ctx", g.ctx) + fmt::format("  {:<15} {}\n", "messages", messages_.size());
  write_stderr(text);
}

Repl::Next Repl::answer(const std::string& text) {
  std::string content = pending_file_.empty() ? text : pending_file_ + "\n\n" + text;
  pending_file_.clear();
  messages_.push_back({{"role", "user"}, {"content", to_valid_utf8(content)}});
  return generate();
}

Repl::Next Repl::generate(bool goes_on) {
  json::array all;
  if (!system_.empty()) all.push_back({{"role", "system"}, {"content", to_valid_utf8(system_)}});
  for (const json::value& message : messages_) all.push_back(message);
  auto done = generator_.chat(all, "chat", goes_on);
  const Generation& g = generator_.generation();
  const bool interrupted = pending_signal() != 0;
  const int signal = pending_signal();
  clear_interrupt();
  if (goes_on) {
    json::string& answer = messages_.back().get_object()["content"].as_string();
    answer += g.text;
  } else if (!g.text.empty()) {
    // An interrupted answer stays: the model then knows what the person has seen.
    messages_.push_back({{"role", "assistant"}, {"content", g.text}});
  } else if (!done) {
    messages_.pop_back();  // an unanswered question would only confuse the next turn
  }
  if (signal == SIGTERM) {
    exit_code_ = 143;
    return Next::kLeave;
  }
  if (interrupted) {
    last_interrupt_ms_ = now_ms();
    say(g.text.empty() ? "\n" : "");
    return Next::kGoOn;
  }
  if (!done) {
    const Failure& failure = done.error();
    const int code = report_failure(client_.globals, "chat", failure);
    const bool gone = failure.error.code == kConnectionLost || failure.error.code == kUnreachable;
    if (!gone && code != kExitPipeClosed) return Next::kGoOn;
    exit_code_ = gone && !g.text.empty() ? kExitPartial : code;
    return Next::kLeave;
  }
  if (generator_.flags().stats && !client_.globals.json)
    write_stderr(g.stats_line(client_.terminal.utf8));
  return Next::kGoOn;
}

}  // namespace sluice
