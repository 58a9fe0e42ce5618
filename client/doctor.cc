#include "client/doctor.h"

#include <fmt/format.h>

#include "base/runtime_paths.h"

namespace sluice {
namespace {

namespace json = boost::json;

const char* state_name(DoctorCheck::State state) {
  switch (state) {
    case DoctorCheck::State::kOk:
      return "ok";
    case DoctorCheck::State::kWarn:
      return "warn";
    case DoctorCheck::State::kFail:
      return "fail";
  }
  return "fail";
}

std::optional<StatusDoc> fetch_status(const DaemonLink& link) {
  auto answer = link.call("GET", "/sluice/v1/status");
  if (!answer) return std::nullopt;
  auto status = status_from_json(answer.value());
  return status ? std::optional<StatusDoc>(std::move(status).value()) : std::nullopt;
}

void check_daemon(const Answer<DaemonLink>& link,
                  const std::optional<StatusDoc>& status,
                  std::vector<DoctorCheck>& checks) {
  if (status) {
    checks.push_back({"daemon",
                      DoctorCheck::State::kOk,
                      fmt::format("sluiced {} runs, pid {}", status->version, status->pid)});
  } else if (link) {
    checks.push_back({"daemon",
                      DoctorCheck::State::kFail,
                      "something listens but does not answer as sluiced",
                      "sluice daemon restart"});
  } else {
    const bool absent = link.error().error.code == kUnreachable;
    checks.push_back({"daemon",
                      absent ? DoctorCheck::State::kWarn : DoctorCheck::State::kFail,
                      link.error().error.what,
                      "sluice daemon start"});
  }
}

int print(const Client& client, const std::vector<DoctorCheck>& checks) {
  size_t n_fail = 0;
  size_t n_warn = 0;
  json::array rows;
  std::string text;
  for (const DoctorCheck& check : checks) {
    n_fail += check.state == DoctorCheck::State::kFail ? 1 : 0;
    n_warn += check.state == DoctorCheck::State::kWarn ? 1 : 0;
    rows.push_back(
        json::object{{"name", check.name},
                     {"state", state_name(check.state)},
                     {"detail", check.detail},
                     {"fix", check.fix.empty() ? json::value() : json::value(check.fix)}});
    const std::string fix = check.fix.empty() ? "" : fmt::format("  -> {}", one_line(check.fix));
    const std::string state = fmt::format("{:<4}", state_name(check.state));
    const bool bad = check.state != DoctorCheck::State::kOk;
    text += fmt::format("{}  {:<16} {}{}\n",
                        bad ? client.terminal.bold(state) : state,
                        one_line(check.name),
                        one_line(check.detail),
                        fix);
  }
  const int code = n_fail > 0 ? kExitFailure : 0;
  if (client.globals.json) {
    const int printed = print_document(
        client.globals, "doctor", {{"checks", rows}, {"warnings", n_warn}, {"failures", n_fail}});
    return printed != 0 ? printed : code;
  }
  return finish_stdout(client.globals, text, code);
}

int doctor(Client& client) {
  std::vector<DoctorCheck> checks;
  check_directories(checks);
  check_programs(checks);
  auto link = DaemonLink::find(client.globals, DaemonLink::Start::kNever);
  if (!link && link.error().error.code == kInterrupted)
    return report_failure(client.globals, "doctor", link.error());
  const std::optional<StatusDoc> status = link ? fetch_status(link.value()) : std::nullopt;
  const char* variable = std::getenv("SLUICE_HOST");
  auto list = find_addresses(client.globals.host, variable == nullptr ? "" : variable);
  if (!list) {
    checks.push_back({"socket", DoctorCheck::State::kFail, list.error().what, list.error().hint});
  } else {
    const Address& address = link ? link.value().address() : list.value().candidates.front();
    if (!address.path.empty()) check_socket(address.path, link.has_value(), checks);
  }
  check_daemon(link, status, checks);
  check_memory(status, checks);
  check_cpu(status, checks);
  if (status) {
    auto answer = link.value().call("GET", "/sluice/v1/models");
    auto models = answer ? models_from_json(answer.value())
                         : Result<std::vector<ModelDoc>>(answer.error().error);
    if (models) {
      for (const ModelDoc& model : models.value()) check_model_file(model.name, model.path, checks);
    }
  }
  return print(client, checks);
}

}  // namespace

void add_doctor_verb(CLI::App& app, Client& client) {
  CLI::App* verb = add_verb(app,
                            "doctor",
                            "read-only checks, one line each with the fix",
                            "  sluice doctor\n  sluice doctor --json");
  verb->callback([&client] { client.action = [&client] { return doctor(client); }; });
}

}  // namespace sluice
