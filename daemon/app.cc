#include "daemon/app.h"

#include <unistd.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string_view>

#include "base/log.h"
#include "base/process_memory.h"
#include "base/text_escape.h"
#include "kernels/kernels.h"
#include "scheduler/driver_probe.h"
#include "scheduler/residency.h"

namespace sluice {
namespace {

constexpr int kWorkerThreads = 2;
constexpr auto kRememberFor = std::chrono::seconds(120);
constexpr size_t kRemembered = 64;
// Pages of code and heap that the first requests touch after the base was measured (6 MiB seen,
// with what HttpMemory keeps for them).
constexpr uint64_t kBaseGrowth = (8u << 20) - HttpMemory::kKept;

}  // namespace

const char* phase_name(Phase p) {
  switch (p) {
    case Phase::kQueued:
      return "queued";
    case Phase::kLoad:
      return "load";
    case Phase::kPrefill:
      return "prefill";
    case Phase::kDecode:
      return "decode";
  }
  return "";
}

void ProgressTable::add(const std::string& id, const std::shared_ptr<const Progress>& progress) {
  const std::lock_guard lock(mutex_);
  std::erase_if(by_id_, [](const auto& item) { return item.second.expired(); });
  by_id_[id] = progress;
}

std::shared_ptr<const Progress> ProgressTable::find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second.lock();
}

RequestKey request_key(const HttpRequest& request) {
  const std::hash<std::string_view> hash;
  return {request.uid, hash(request.body) ^ hash(request.path), request.body.size()};
}

void FailedAnswers::remember(const RequestKey& key, const ApiError& error) {
  const std::lock_guard lock(mutex_);
  if (items_.size() >= kRemembered) items_.erase(items_.begin());
  Item item{key, std::chrono::steady_clock::now() + kRememberFor, error};
  item.error.no_retry = true;
  items_.push_back(std::move(item));
}

std::optional<ApiError> FailedAnswers::find(const RequestKey& key) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  std::erase_if(items_, [&](const Item& i) { return i.until < now; });
  for (const Item& i : items_) {
    if (i.key == key) return i.error;
  }
  return std::nullopt;
}

namespace {

IoOptions with_shared(IoOptions io, ReadBook& shapes, FillShare& share) {
  io.shapes = &shapes;
  io.share = &share;
  return io;
}

}  // namespace

App::App(ServerOptions o, int threads)
    : options(std::move(o)),
      budget(options.budget_bytes),
      // Times since 1970 rise faster than maps are asked for and change.
      residency_log(static_cast<uint64_t>(unix_ms_now())),
      base(budget, kBaseGrowth),
      http_memory(budget),
      pool(threads),
      measurements(options.state_dir),
      registry(ModelRegistryOptions{options.state_dir,
                                    options.default_ctx,
                                    options.keep_alive_ms,
                                    with_shared(options.io, measurements.read_shapes, fill_share),
                                    options.kv_type,
                                    options.idle_trim_ms},
               budget,
               pool),
      queue(options.queue),
      budget_control(budget, base, registry, queue),
      memory_watch(MemoryWatchOptions{options.pressure, 1000, 100, {}},
                   budget,
                   budget_control,
                   registry,
                   events),
      worker(kWorkerThreads) {
  registry.on_event = [this](std::string_view type, const std::string&, boost::json::object more) {
    events.publish(type, std::move(more));
  };
  registry.before_engine = [this](const Model& model) { tune_drivers(model); };
  budget_control.on_change = [this](const BudgetChangeDoc& c) {
    const BudgetStateDoc now = budget_control.state();
    boost::json::object e{{"limit", nullptr},
                          {"effective", now.effective_bytes},
                          {"floor", now.floor_bytes},
                          {"cause", c.cause},
                          {"by_uid", c.uid}};
    if (now.limit_bytes) e["limit"] = *now.limit_bytes;
    events.publish("budget", std::move(e));
  };
  // Lines may name other users' requests: those who may manage the daemon see them.
  set_log_tap([this](const char* level, std::string line) {
    events.publish("log", {{"level", level}, {"msg", to_valid_utf8(line)}}, ::geteuid());
  });
  memory_watch.start();
}

App::~App() { set_log_tap(nullptr); }

void App::tune_drivers(const Model& model) {
  const std::lock_guard one_at_a_time(measurements.probing);
  std::optional<DriverProbe> probe;
  for (const kernels::WeightType type : matrix_types(model)) {
    if (const auto known = measurements.drivers(type)) {
      kernels::set_driver_widths(type, *known);
      continue;
    }
    if (!probe) {
      // Other models' pins are not given up for it.
      if (budget.available() < DriverProbe::memory_bytes()) return;
      auto made = DriverProbe::create(budget);
      if (!made) return;
      probe.emplace(std::move(made).value());
    }
    measurements.set_drivers(type, probe->find(type));
  }
}

bool App::may_manage(uint32_t uid) const { return uid == 0 || uid == ::geteuid(); }

std::vector<RequestDoc> App::requests(uint32_t uid) const {
  std::vector<RequestDoc> out;
  for (const RunQueue::JobInfo& job : queue.list()) {
    if (job.uid != uid && !may_manage(uid)) continue;
    RequestDoc d;
    d.id = job.id;
    d.model = job.model;
    const bool begun = job.running || job.parked;
    d.state = job.running ? "running" : job.parked ? "paused" : "queued";
    d.phase = phase_name(begun ? Phase::kLoad : Phase::kQueued);
    if (const auto p = progress.find(job.id); p && begun) {
      d.phase = phase_name(p->phase.load(std::memory_order_relaxed));
      d.done = p->done.load(std::memory_order_relaxed);
      d.total = p->total.load(std::memory_order_relaxed);
    }
    d.position = static_cast<int64_t>(job.position);
    d.age_ms = static_cast<int64_t>(job.age_s * 1000);
    out.push_back(std::move(d));
  }
  return out;
}

StatusDoc App::status(uint32_t uid) const {
  StatusDoc d;
  d.version = options.version;
  d.pid = ::getpid();
  d.uptime_s =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - started)
          .count();
  d.socket = options.socket_path;
  d.threads = pool.n_threads();
  d.kernels = kernels::kernels().name;
  d.draining = draining.load();
  if (budget.limit() != Budget::kUnlimited)
    d.budget.limit_bytes = static_cast<int64_t>(budget.limit());
  d.budget.used_bytes = static_cast<int64_t>(budget.used());
  for (size_t i = 0; i < static_cast<size_t>(MemoryClass::kCount); ++i) {
    const auto c = static_cast<MemoryClass>(i);
    d.budget.by_class.emplace_back(memory_class_name(c), static_cast<int64_t>(budget.used(c)));
  }
  const BudgetStateDoc truth = budget_control.state();
  d.budget.effective_bytes = truth.effective_bytes;
  d.budget.floor_bytes = truth.floor_bytes;
  d.rss_bytes = truth.rss_bytes;
  d.cgroup_bytes = truth.cgroup_bytes;
  d.cgroup_limit_bytes = truth.cgroup_limit_bytes;
  d.gap_bytes = truth.gap_bytes;
  d.models = registry.loaded_docs();
  d.requests = requests(uid);
  d.queue_waiting = static_cast<int64_t>(queue.waiting());
  d.queue_max = static_cast<int64_t>(options.queue.max_waiting);
  return d;
}

ApiError App::admission_error(Error error) const {
  ApiError e;
  e.error = std::move(error);
  e.retry_after_s = queue.retry_after_s();
  return e;
}

}  // namespace sluice
