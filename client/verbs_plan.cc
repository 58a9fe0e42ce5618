// sluice plan: what a budget would buy, before the model is loaded.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/bytes.h"
#include "client/client.h"
#include "client/repl_views.h"
#include "daemon/protocol/plan.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct PlanFlags {
  std::string model, kv;
  std::vector<std::string> budgets;
  int64_t ctx = 0;
  bool measure_disk = false;
};

uint64_t bytes_of(int64_t n) { return static_cast<uint64_t>(std::max<int64_t>(0, n)); }

// "1.0 GiB", "354 MiB": short, for columns and sums.
std::string size_text(int64_t n) {
  if (n >= int64_t{1} << 30) return fmt::format("{:.1f} GiB", static_cast<double>(n) / 1073741824);
  return n == 0 ? "0" : format_bytes(bytes_of(n));
}

// Rounded up: a budget that is typed as it is printed must do.
std::string size_text_up(int64_t n) {
  constexpr int64_t kTenth = (int64_t{1} << 30) / 10;
  return size_text(n >= int64_t{1} << 30 ? (n + kTenth - 1) / kTenth * kTenth + 1024 : n);
}

std::string rate_text(double bytes_per_s) {
  return bytes_per_s >= 1e9 ? fmt::format("{:.1f} GiB/s", bytes_per_s / 1073741824)
                            : fmt::format("{:.0f} MiB/s", bytes_per_s / 1048576);
}

// Two digits that matter.
std::string speed_text(double v) {
  return v >= 9.95    ? fmt::format("{:.0f}", v)
         : v >= 0.095 ? fmt::format("{:.1f}", v)
                      : fmt::format("{:.2f}", v);
}

std::string age_text(int64_t ms) {
  if (ms < 5000) return "now";
  const int64_t days = ms / (24 * 3600 * 1000);
  return days >= 2 ? fmt::format("{}d ago", days) : format_duration(ms) + " ago";
}

std::string input_text(const PlanInputDoc& input) {
  return fmt::format(
      "{} {}", input.source == "runs" ? "seen in runs" : "measured", age_text(input.age_ms));
}

std::string rows_text(const PlanDoc& plan, int width) {
  std::vector<std::vector<std::string>> rows{
      {"BUDGET", "FLOOR?", "PINNED", "STREAMED/TOK", "PREDICTED TOK/S", "LIMITED BY"}};
  for (const PlanRowDoc& r : plan.rows) {
    if (!r.fits) {
      rows.push_back({size_text(r.budget_bytes), "below", "-", "-", "-", "-"});
      continue;
    }
    // All but the last slice is not all.
    const int percent = r.streamed_bytes_per_token > 0
                            ? std::min(99, static_cast<int>(r.pinned_ratio * 100 + 0.5))
                            : 100;
    rows.push_back({size_text(r.budget_bytes),
                    "ok",
                    fmt::format("{}%", percent),
                    size_text(r.streamed_bytes_per_token),
                    fmt::format("{} ({}-{})",
                                speed_text(r.tok_per_s.likely),
                                speed_text(r.tok_per_s.low),
                                speed_text(r.tok_per_s.high)),
                    one_line(r.limited_by)});
  }
  return format_table(rows, width);
}

std::string plan_text(const PlanDoc& plan, int width) {
  const auto mib = [](int64_t n) { return (n + (1 << 19)) >> 20; };
  std::string text = fmt::format("{}  {}  {} blocks  {}   ctx {}   disk {} ({})\n",
                                 one_line(plan.model),
                                 one_line(plan.quantization),
                                 plan.blocks,
                                 size_text(plan.file_bytes),
                                 plan.ctx,
                                 rate_text(plan.disk_bytes_per_s.value),
                                 input_text(plan.disk_bytes_per_s));
  text += rows_text(plan, width);
  const PlanFloorDoc& f = plan.floor;
  text += fmt::format(
      "floor {} MiB = {} KV + {} ring + {} activations + {} fixed + {} headroom.  Next step that "
      "pays: {} (all resident).\n",
      mib(f.floor_bytes),
      mib(f.kv_bytes),
      mib(f.ring_bytes),
      mib(f.activations_bytes),
      mib(f.fixed_bytes),
      mib(f.headroom_bytes),
      size_text_up(plan.resident_budget_bytes));
  return text;
}

// A file need not be registered to be planned; names go as they are.
std::string model_or_path(const std::string& model) {
  struct stat st {};
  const bool has_slash = model.find('/') != std::string::npos;
  if (!(has_slash || model.ends_with(".gguf")) || ::stat(model.c_str(), &st) != 0 ||
      !S_ISREG(st.st_mode))
    return model;
  std::error_code ec;
  return std::filesystem::absolute(model, ec).lexically_normal().string();
}

// "1G,2G" and "1G 2G" alike.
json::array budgets_json(const std::vector<std::string>& given) {
  json::array out;
  for (const std::string& text : given) {
    for (size_t first = 0; first <= text.size();) {
      const size_t comma = std::min(text.find(',', first), text.size());
      if (comma > first) out.push_back(json::value(text.substr(first, comma - first)));
      first = comma + 1;
    }
  }
  return out;
}

constexpr int64_t kPlanTimeoutMs = 120'000;  // others may be probing, and a tokenizer may be built
constexpr const char* kDisturbed = "measured while a request ran: ask again when nothing does\n";

int plan(Client& client, const PlanFlags& flags) {
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kIfNeeded);
  if (!link) return report_failure(client.globals, "plan", link.error());
  json::object body{{"model", model_or_path(flags.model)}};
  if (!flags.kv.empty()) body["kv_type"] = flags.kv;
  if (json::array budgets = budgets_json(flags.budgets); !budgets.empty())
    body["budgets"] = std::move(budgets);
  if (flags.ctx > 0) body["ctx"] = flags.ctx;
  if (flags.measure_disk) body["measure_disk"] = true;
  auto answer =
      link.value().call("POST", "/sluice/v1/plan", json::value(std::move(body)), kPlanTimeoutMs);
  if (!answer) return report_failure(client.globals, "plan", answer.error());
  auto doc = plan_from_json(answer.value());
  if (!doc) return report_failure(client.globals, "plan", doc.error());
  if (client.globals.json)
    return print_document(client.globals, "plan", std::move(answer.value().get_object()));
  const std::string text =
      plan_text(doc.value(), client.terminal.stdout_tty ? client.terminal.width() : 0);
  if (doc.value().disturbed && !client.globals.quiet)
    write_stderr(std::string("sluice: ") + kDisturbed);
  return finish_stdout(client.globals, text);
}

}  // namespace

Answer<std::string> plan_table(const DaemonLink& link,
                               const std::string& model,
                               std::optional<int64_t> ctx,
                               int width) {
  json::object body{{"model", model}};
  if (ctx) body["ctx"] = *ctx;
  SLUICE_TRY(const auto answer,
             link.call("POST", "/sluice/v1/plan", json::value(std::move(body)), kPlanTimeoutMs));
  const auto doc = plan_from_json(answer);
  if (!doc) return Failure(doc.error());
  return plan_text(doc.value(), width) + (doc.value().disturbed ? kDisturbed : "");
}

void add_plan_verb(CLI::App& app, Client& client) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* verb =
      add_verb(app,
               "plan",
               "what a memory budget would buy: floor, residency and speed, before loading",
               "  sluice plan qwen2.5:7b\n  sluice plan qwen2.5:7b --budget 1G,2G,4G --ctx 4096\n"
               "  sluice plan ./model.gguf --json");
  verb->add_option("MODEL", flags->model, "a registered name, or the path of a .gguf")->required();
  verb->add_option("--budget",
                   flags->budgets,
                   "SIZES, separated by commas (a ladder from the floor to all resident)");
  verb->add_option(
          "--ctx", flags->ctx, "tokens of context that must fit (4096, or the daemon's own)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31));
  verb->add_option("--kv", flags->kv, "type of the KV: f16, q8_0 (default: the daemon's)")
      ->check(CLI::IsMember({"f16", "q8_0"}));
  verb->add_flag("--measure-disk", flags->measure_disk, "measure the disk again");
  verb->callback(
      [&client, flags] { client.action = [&client, flags] { return plan(client, *flags); }; });
}

}  // namespace sluice
