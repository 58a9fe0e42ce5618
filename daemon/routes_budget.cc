// /sluice/v1/budget: what the ledger and the kernel say, and moving the limit while it runs.
#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <mutex>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "base/host_memory.h"
#include "base/log.h"
#include "daemon/config.h"
#include "daemon/protocol/budget.h"
#include "daemon/protocol/messages.h"
#include "daemon/routes.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr size_t kMaxBody = 4096;  // read on the io thread

BudgetStateDoc state_of(const App& app) {
  BudgetStateDoc d = app.budget_control.state();
  d.pressure = app.pressure_level();
  return d;
}

// Waits for the one thread that changes budgets; when its time is up it says how far things are,
// and the change goes on.
class BudgetAnswer final : public LongAnswer, public std::enable_shared_from_this<BudgetAnswer> {
 public:
  BudgetAnswer(App& app, std::string request_id, BudgetRequest request, uint32_t uid)
      : app_(app), request_id_(std::move(request_id)), request_(std::move(request)), uid_(uid) {}

  void start(std::function<void()> wake) override {
    begun_ = SteadyClock::now();
    // A little later than the change's own deadline: its answer says more.
    deadline_ = begun_ + std::chrono::milliseconds(request_.timeout_ms + 250);
    app_.budget_worker.post([self = shared_from_this(), wake = std::move(wake)] {
      HttpResponse made = self->run();
      {
        const std::lock_guard lock(self->mutex_);
        self->made_ = std::move(made);
      }
      wake();
    });
  }

  AnswerStep next(SteadyClock::time_point now, bool /*can_chunk*/) override {
    AnswerStep step;
    const std::lock_guard lock(mutex_);
    if (made_) {
      step.kind = AnswerStep::Kind::kRespond;
      step.response = std::move(*made_);
    } else if (now >= deadline_) {
      step.kind = AnswerStep::Kind::kRespond;
      step.response = late();
    } else {
      step.until = deadline_;
    }
    return step;
  }

  void cancel(Gone) override {}  // what was ordered is done, whoever waits for it

 private:
  HttpResponse late() const {
    BudgetChangedDoc c;
    const BudgetStateDoc now = state_of(app_);
    c.old_bytes = now.limit_bytes;
    c.kernel_confirmed = false;
    c.deadline_missed = true;
    c.elapsed_ms = request_.timeout_ms;
    c.note = "the change is not in force yet; it goes on";
    return json_response(200, to_json(now, c));
  }

  HttpResponse run() {
    try {
      return change();
    } catch (const std::exception& e) {
      spdlog::error("a budget change failed: {} request={}", e.what(), request_id_);
      return error_response(
          Error{"internal", "the daemon failed on this request; its log says more"}, request_id_);
    }
  }

  Result<RamBudget> wanted() const {
    const auto& settings = app_.options.budget_settings;
    std::string text = request_.ram.value_or("");
    if (request_.reset) {
      if (request_.save && settings.forget) {
        SLUICE_TRY(settings.forget());
      }
      if (!settings.configured) return RamBudget{app_.options.budget_bytes, false};
      SLUICE_TRY(text, settings.configured());
    }
    auto bytes = ram_budget(text, memory_ceiling_bytes());
    if (bytes) return bytes;
    Error e = std::move(bytes).error();
    e.code = "invalid_request";
    e.field = "ram_bytes";
    e.hint = "sluice budget set 2G";
    return e;
  }

  HttpResponse change() {
    const auto ram = wanted();
    if (!ram) return error_response(ram.error(), request_id_);
    BudgetOrder order;
    order.limit_bytes = ram.value().bytes;
    order.force = request_.force;
    order.dry_run = request_.dry_run;
    order.uid = uid_;
    const auto left = deadline_ - std::chrono::milliseconds(250) - SteadyClock::now();
    order.timeout_ms =
        std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::milliseconds>(left).count());
    auto changed = app_.budget_control.change(order);
    if (auto* refused = std::get_if<ApiError>(&changed)) {
      if (refused->error.code == "budget_below_floor" && request_.force) refused->status = 409;
      return error_response(*refused, request_id_);
    }
    BudgetChangedDoc& done = std::get<BudgetChangedDoc>(changed);
    done.lowered = ram.value().lowered;
    if (request_.save && !request_.reset && !request_.dry_run) {
      auto saved = app_.options.budget_settings.save(*request_.ram);
      if (!saved) return error_response(saved.error(), request_id_);
      done.saved = std::move(saved).value();
      const std::string& origin = app_.options.budget_settings.origin;
      if (origin.starts_with("flag") || origin.starts_with("env")) {
        done.note = fmt::format("{} was given at this start and wins over the file", origin);
      }
    }
    return json_response(200, to_json(state_of(app_), done));
  }

  App& app_;
  const std::string request_id_;
  const BudgetRequest request_;
  const uint32_t uid_;
  SteadyClock::time_point begun_{}, deadline_{};
  std::mutex mutex_;
  std::optional<HttpResponse> made_;  // guarded by mutex_
};

Answer get_budget(App& app, HttpRequest, std::string) {
  return json_response(200, to_json(state_of(app)));
}

Answer history(App& app, HttpRequest, std::string) {
  json::array changes;
  for (const BudgetChangeDoc& d : app.budget_control.history()) changes.push_back(to_json(d));
  return json_response(
      200, json::object{{"schema", "sluice.budget_history.v1"}, {"changes", std::move(changes)}});
}

Answer put_budget(App& app, HttpRequest request, std::string) {
  if (!app.may_manage(request.uid)) {
    return error_response(
        Error{"not_permitted", "only the daemon's user and root may change its budget"},
        request.id);
  }
  if (request.body.size() > kMaxBody) {
    return error_response(Error{"body_too_large", "a budget takes a few fields, not kilobytes"},
                          request.id);
  }
  auto body = parse_json(request.body, JsonLimits{8, 64});
  if (!body) return error_response(std::move(body).error(), request.id);
  auto wanted = budget_request_from_json(body.value());
  if (!wanted) return error_response(std::move(wanted).error(), request.id);
  if (wanted.value().save && !app.options.budget_settings.save) {
    return error_response(Error{"not_supported", "this daemon has no configuration to save to"},
                          request.id);
  }
  return std::make_shared<BudgetAnswer>(app, request.id, std::move(wanted).value(), request.uid);
}

constexpr Route kRoutes[] = {
    {"GET", "/sluice/v1/budget", get_budget},
    {"PUT", "/sluice/v1/budget", put_budget},
    {"GET", "/sluice/v1/budget/history", history},
};

}  // namespace

std::span<const Route> budget_routes() { return kRoutes; }

}  // namespace sluice
