// sluice budget show|set|reset|history.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/bytes.h"
#include "client/client.h"
#include "client/json_fields.h"
#include "client/repl_views.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct BudgetFlags {
  std::string size, gpu, model, timeout = "10s";
  bool force = false, save = false, dry_run = false;
};

std::string bytes_text(int64_t n) {
  return format_bytes(static_cast<uint64_t>(std::max<int64_t>(0, n)));
}

std::string limit_text(const json::object& o, std::string_view key, const char* absent) {
  const auto* v = field(o, key);
  return v == nullptr || v->is_null() ? absent : bytes_text(integer_field(o, key));
}

std::string state_text(const json::object& o) {
  std::string text;
  const auto row = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<10}{}\n", name, one_line(value));
  };
  row("budget",
      fmt::format("{}  effective {}  floor {}{}",
                  limit_text(o, "limit_bytes", "no limit"),
                  bytes_text(integer_field(o, "effective_bytes")),
                  bytes_text(integer_field(o, "floor_bytes")),
                  text_field(o, "pressure") == "none" || text_field(o, "pressure").empty()
                      ? ""
                      : "  pressure " + text_field(o, "pressure")));
  row("used", bytes_text(integer_field(o, "used_bytes")));
  if (const auto* classes = object_field(o, "accounted")) {
    for (const auto& c : *classes) {
      const auto* n = c.value().if_int64();
      if (n != nullptr && *n > 0)
        row("", fmt::format("{:<18}{}", std::string(c.key()), bytes_text(*n)));
    }
  }
  const std::string group_limit = limit_text(o, "cgroup_limit_bytes", "");
  row("kernel",
      fmt::format("rss {}  cgroup {}{}",
                  bytes_text(integer_field(o, "rss_bytes")),
                  limit_text(o, "cgroup_bytes", "unknown"),
                  group_limit.empty() ? "" : " of " + group_limit));
  const int64_t gap = integer_field(o, "gap_bytes");
  row("gap",
      gap > 0 ? fmt::format("rss is {} above what is accounted{}",
                            bytes_text(gap),
                            bool_field(o, "gap_is_defect") ? ": a defect, please report it" : "")
              : fmt::format("none, {} to spare", bytes_text(-gap)));
  return text;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& p : parts) out += (out.empty() ? "" : ", ") + p;
  return out;
}

// "evicted 1.92 GiB of pins (qwen2.5:7b)", "dropped 38 MiB idle pins (tinyllama)", ...
std::vector<std::string> evicted_texts(const json::object& o, bool dry_run) {
  std::vector<std::string> out;
  const auto* list = array_field(o, "evicted");
  if (list == nullptr) return out;
  for (const auto& item : *list) {
    const auto* e = item.if_object();
    if (e == nullptr) continue;
    const std::string model = one_line(text_field(*e, "model"));
    const std::string kind = text_field(*e, "kind");
    const std::string size = bytes_text(integer_field(*e, "bytes"));
    if (kind == "model") {
      out.push_back(fmt::format("{} {} ({})", dry_run ? "unload" : "unloaded", model, size));
    } else if (bool_field(*e, "idle")) {
      out.push_back(
          fmt::format("{} {} idle {} ({})", dry_run ? "drop" : "dropped", size, kind, model));
    } else {
      out.push_back(
          fmt::format("{} {} of {} ({})", dry_run ? "evict" : "evicted", size, kind, model));
    }
  }
  return out;
}

std::string changed_text(const json::object& o) {
  const bool dry_run = bool_field(o, "dry_run");
  const std::string sizes = fmt::format("budget {} -> {}",
                                        limit_text(o, "old_bytes", "no limit"),
                                        bytes_text(integer_field(o, "new_bytes")));
  std::vector<std::string> parts = evicted_texts(o, dry_run);
  if (dry_run) {
    return sizes + (parts.empty() ? " would take nothing\n" : " would " + joined(parts) + "\n");
  }
  const auto* cancelled = array_field(o, "cancelled");
  const bool stopped = cancelled != nullptr && !cancelled->empty();
  if (stopped) parts.push_back(fmt::format("cancelled {} requests", cancelled->size()));
  parts.push_back(fmt::format("in {} ms", integer_field(o, "elapsed_ms")));
  std::string text =
      fmt::format("{}: {}{}\n", sizes, joined(parts), stopped ? "" : "; running requests continue");
  if (bool_field(o, "lowered")) text += "  lowered to what this process may use at all\n";
  if (const std::string path = text_field(o, "saved"); !path.empty())
    text += fmt::format("  saved in {}\n", one_line(path));
  return text;
}

// Of a change that is not in force in time.
Error late_error(const json::object& doc) {
  const std::string note = text_field(doc, "note");
  return Error{"wait_over",
               fmt::format("not done after {}: {}",
                           format_duration(integer_field(doc, "elapsed_ms")),
                           note.empty() ? "the kernel still shows more than the new budget" : note),
               "sluice budget show"};
}

// Prints what the daemon said about a change; one that is not in force in time is exit code 7.
int print_change(const Client& client, json::object doc) {
  const bool late = bool_field(doc, "deadline_missed");
  const std::string note = text_field(doc, "note");
  const Error late_why = late_error(doc);
  const std::string text = changed_text(doc);
  const int code = client.globals.json ? print_document(client.globals, "budget", std::move(doc))
                   : late              ? 0
                                       : finish_stdout(client.globals, text);
  if (code != 0) return code;
  if (late) {
    return client.globals.json ? kExitBusy : report_failure(client.globals, "budget set", late_why);
  }
  if (!note.empty() && !client.globals.quiet && !client.globals.json)
    write_stderr(fmt::format("sluice: {}\n", one_line(note)));
  return 0;
}

Answer<json::object> call(const DaemonLink& link,
                          std::string_view method,
                          const char* path,
                          const std::optional<json::value>& body = std::nullopt,
                          int64_t timeout_ms = kAnswerTimeoutMs) {
  SLUICE_TRY(auto answer, link.call(method, path, body, timeout_ms));
  return answer.is_object() ? std::move(answer.get_object()) : json::object();
}

Answer<json::object> call(const Client& client,
                          std::string_view method,
                          const char* path,
                          const std::optional<json::value>& body = std::nullopt,
                          int64_t timeout_ms = kAnswerTimeoutMs) {
  SLUICE_TRY(const auto link, DaemonLink::find(client.globals, DaemonLink::Start::kNever));
  return call(link, method, path, body, timeout_ms);
}

int show(Client& client, const BudgetFlags&) {
  auto doc = call(client, "GET", "/sluice/v1/budget");
  if (!doc) return report_failure(client.globals, "budget show", doc.error());
  if (client.globals.json) return print_document(client.globals, "budget", std::move(doc).value());
  return finish_stdout(client.globals, state_text(doc.value()));
}

int change(Client& client, const BudgetFlags& flags, const char* verb, json::object body) {
  const int64_t timeout_ms = parse_duration_ms(flags.timeout).value();
  body["force"] = flags.force;
  body["save"] = flags.save;
  body["dry_run"] = flags.dry_run;
  body["timeout_ms"] = timeout_ms < 0 ? 600'000 : std::min<int64_t>(timeout_ms, 600'000);
  if (!flags.gpu.empty()) body["gpu_bytes"] = flags.gpu;
  if (!flags.model.empty()) body["model"] = flags.model;
  const int64_t wait_ms = body["timeout_ms"].get_int64() + kAnswerTimeoutMs;
  auto doc = call(client, "PUT", "/sluice/v1/budget", json::value(std::move(body)), wait_ms);
  if (!doc) return report_failure(client.globals, verb, doc.error());
  return print_change(client, std::move(doc).value());
}

int set(Client& client, const BudgetFlags& flags) {
  return change(client, flags, "budget set", {{"ram_bytes", flags.size}});
}

int reset(Client& client, const BudgetFlags& flags) {
  return change(client, flags, "budget reset", {{"reset", true}});
}

int history(Client& client, const BudgetFlags&) {
  auto doc = call(client, "GET", "/sluice/v1/budget/history");
  if (!doc) return report_failure(client.globals, "budget history", doc.error());
  if (client.globals.json)
    return print_document(client.globals, "budget_history", std::move(doc).value());
  std::vector<std::vector<std::string>> rows{{"TIME", "CAUSE", "UID", "OLD", "NEW", "TOOK"}};
  if (const auto* changes = array_field(doc.value(), "changes")) {
    for (const auto& item : *changes) {
      const auto* c = item.if_object();
      if (c == nullptr) continue;
      rows.push_back({one_line(text_field(*c, "at")),
                      one_line(text_field(*c, "cause")),
                      fmt::format("{}", integer_field(*c, "uid")),
                      limit_text(*c, "old_bytes", "-"),
                      limit_text(*c, "new_bytes", "no limit"),
                      format_duration(integer_field(*c, "elapsed_ms"))});
    }
  }
  return finish_stdout(
      client.globals, format_table(rows, client.terminal.stdout_tty ? client.terminal.width() : 0));
}

}  // namespace

Answer<std::string> budget_state(const DaemonLink& link) {
  SLUICE_TRY(const auto doc, call(link, "GET", "/sluice/v1/budget"));
  return state_text(doc);
}

Answer<std::string> set_budget(const DaemonLink& link, const std::string& size) {
  constexpr int64_t kTimeout_ms = 10'000;
  json::object body{{"ram_bytes", size}, {"timeout_ms", kTimeout_ms}};
  SLUICE_TRY(const auto doc,
             call(link,
                  "PUT",
                  "/sluice/v1/budget",
                  json::value(std::move(body)),
                  kTimeout_ms + kAnswerTimeoutMs));
  if (bool_field(doc, "deadline_missed")) return Failure(late_error(doc));
  return changed_text(doc);
}

void add_budget_verbs(CLI::App& app, Client& client) {
  auto flags = std::make_shared<BudgetFlags>();
  const auto act = [&client, flags](CLI::App* verb, int (*function)(Client&, const BudgetFlags&)) {
    verb->callback([&client, flags, function] {
      client.action = [&client, flags, function] { return function(client, *flags); };
    });
  };
  CLI::App* budget = add_verb(app,
                              "budget",
                              "the memory that models may take, now",
                              "  sluice budget show\n"
                              "  sluice budget set 2G\n"
                              "  sluice budget set 40% --save");
  budget->require_subcommand(1);
  act(add_verb(*budget,
               "show",
               "limit, what holds it, and what the kernel says",
               "  sluice budget show\n  sluice budget show --json"),
      show);
  CLI::App* set_verb = add_verb(*budget,
                                "set",
                                "change it while requests run",
                                "  sluice budget set 2G\n"
                                "  sluice budget set 1.5G --dry-run\n"
                                "  sluice budget set 300M --force");
  set_verb->add_option("SIZE", flags->size, "512M, 1.5G, or 40% of what this machine or cgroup has")
      ->required();
  set_verb->add_option("--gpu", flags->gpu, "of GPU-visible memory (only 0 in this version)");
  set_verb->add_option("--model", flags->model, "of one model (not in this version)");
  CLI::App* reset_verb = add_verb(*budget,
                                  "reset",
                                  "back to what is configured; with --save forget what was saved",
                                  "  sluice budget reset\n  sluice budget reset --save");
  for (CLI::App* verb : {set_verb, reset_verb}) {
    verb->add_flag("--force", flags->force, "cancel running requests where nothing else helps");
    verb->add_flag("--save", flags->save, "also for the next start, in a file beside the config");
    verb->add_flag("--dry-run", flags->dry_run, "only say what it would take");
    verb->add_option("--timeout", flags->timeout, "how long to wait for it (10s)")
        ->check(check_duration);
  }
  act(set_verb, set);
  act(reset_verb, reset);
  act(add_verb(*budget,
               "history",
               "the last 256 changes, whoever made them",
               "  sluice budget history\n  sluice budget history --json"),
      history);
}

}  // namespace sluice
