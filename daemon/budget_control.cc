#include "daemon/budget_control.h"

#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/host_memory.h"
#include "base/log.h"
#include "base/process_memory.h"
#include "scheduler/plan.h"

namespace sluice {
namespace {

constexpr auto kLookAgain = std::chrono::milliseconds(5);
constexpr int kTries = 100;
constexpr uint64_t kGapBytes = 16u << 20;

int64_t signed_bytes(uint64_t n) { return static_cast<int64_t>(std::min<uint64_t>(n, INT64_MAX)); }

std::optional<int64_t> limit_or_null(uint64_t bytes) {
  if (bytes == Budget::kUnlimited) return std::nullopt;
  return signed_bytes(bytes);
}

uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

int64_t ms_since(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - t)
      .count();
}

// INTERFACE's names. Nothing is allocated from an arena or for profiles yet.
std::vector<std::pair<std::string, int64_t>> accounted(const Budget& budget) {
  using enum MemoryClass;
  const auto held = [&](MemoryClass c) { return signed_bytes(budget.used(c)); };
  return {{"weights_pinned", held(kWeightsPinned) + held(kWeightsMapped)},
          {"weights_streamed", held(kRing)},
          {"kv", held(kKv) + held(kPrefixCache)},
          {"activations", held(kActivations)},
          {"arena", 0},
          {"tokenizer", held(kTokenizer)},
          {"http", held(kHttp)},
          {"profile", held(kTelemetry)},
          {"fixed", held(kFixed)}};
}

// What a model lost between two looks.
void add_losses(const ModelHoldings& before,
                const ModelHoldings* after,
                std::vector<EvictedDoc>& out) {
  const bool unloaded = before.loaded && (after == nullptr || !after->loaded);
  const auto add = [&](const char* kind, uint64_t had, uint64_t has) {
    if (had > has) out.push_back({before.model, kind, !before.running, signed_bytes(had - has)});
  };
  if (unloaded) {
    add("model", before.engine.weights_resident + before.unpinned(), 0);
    return;
  }
  if (after == nullptr) return;
  add("pins", before.engine.weights_resident, after->engine.weights_resident);
  add("kv", before.engine.kv, after->engine.kv);
}

std::vector<EvictedDoc> losses(const std::vector<ModelHoldings>& before,
                               const std::vector<ModelHoldings>& after) {
  std::vector<EvictedDoc> out;
  for (const ModelHoldings& b : before) {
    const auto a = std::find_if(
        after.begin(), after.end(), [&](const ModelHoldings& x) { return x.model == b.model; });
    add_losses(b, a == after.end() ? nullptr : &*a, out);
  }
  return out;
}

}  // namespace

std::string BudgetFloor::holds() const {
  std::string out;
  const auto add = [&](const char* name, uint64_t n) {
    if (n > 0) out += fmt::format("{}{} {}", out.empty() ? "" : " · ", name, format_bytes(n));
  };
  add("KV", kv);
  add("ring", ring);
  add("activations", activations);
  add("other", other);
  add("fixed", process);
  add("headroom", headroom);
  return out;
}

BudgetControl::BudgetControl(Budget& budget,
                             ProcessBase& base,
                             ModelRegistry& registry,
                             RunQueue& queue)
    : budget_(budget), base_(base), registry_(registry), queue_(queue) {
  constrained_ = budget_.effective();
  note("start", ::geteuid(), Budget::kUnlimited, budget_.limit(), 0);
}

BudgetFloor BudgetControl::floor(bool idle) const {
  BudgetFloor f;
  uint64_t givable = budget_.used(MemoryClass::kWeightsPinned) + budget_.used(MemoryClass::kWeightsMapped) +
                     budget_.used(MemoryClass::kFixed);
  EngineMemory to_load;  // of the parked ones that were unloaded, the largest
  for (const ModelHoldings& h : registry_.holdings()) {
    if ((!h.running && !h.parked) || idle) {
      givable += h.unpinned();
      continue;
    }
    f.running.push_back(h.model);
    if (!h.loaded) {
      if (h.to_load.kv + h.to_load.ring + h.to_load.activations >
          to_load.kv + to_load.ring + to_load.activations)
        to_load = h.to_load;
      continue;
    }
    f.kv += h.engine.kv + h.engine.kv_to_come;
    f.ring += h.engine.ring;
    f.activations += h.engine.activations;
    givable += h.engine.kv + h.engine.ring + h.engine.activations;
  }
  // It is loaded again when nothing else runs: the others' memory is there then.
  if (to_load.kv + to_load.ring + to_load.activations > f.kv + f.ring + f.activations) {
    f.kv = to_load.kv;
    f.ring = to_load.ring;
    f.activations = to_load.activations;
  }
  f.other = less(budget_.used(), givable);
  f.process = base_.process_bytes();
  const uint64_t base = f.kv + f.ring + f.activations + f.other + f.process;
  f.bytes = floor_for(base);
  f.headroom = headroom_for(f.bytes);
  return f;
}

BudgetStateDoc BudgetControl::state() const {
  BudgetStateDoc d;
  d.limit_bytes = limit_or_null(budget_.limit());
  d.effective_bytes = signed_bytes(budget_.effective());
  d.floor_bytes = signed_bytes(floor().bytes);
  const uint64_t used = budget_.used();
  d.used_bytes = signed_bytes(used);
  d.accounted = accounted(budget_);
  const uint64_t rss = process_resident_bytes();
  d.rss_bytes = signed_bytes(rss);
  if (const auto n = cgroup_memory_current()) d.cgroup_bytes = signed_bytes(*n);
  if (const uint64_t n = cgroup_memory_limit(); n != kNoMemoryLimit)
    d.cgroup_limit_bytes = signed_bytes(n);
  d.gap_bytes = d.rss_bytes - d.used_bytes;
  d.gap_is_defect =
      budget_.limit() != Budget::kUnlimited && less(rss, used) > std::max(kGapBytes, used / 20);
  return d;
}

std::vector<BudgetChangeDoc> BudgetControl::history() const {
  const std::lock_guard lock(history_mutex_);
  return {history_.begin(), history_.end()};
}

void BudgetControl::note(
    std::string cause, uint32_t uid, uint64_t before, uint64_t after, int64_t elapsed_ms) {
  BudgetChangeDoc d{unix_ms_now(),
                    std::move(cause),
                    uid,
                    limit_or_null(before),
                    limit_or_null(after),
                    elapsed_ms};
  if (d.cause != "start") {
    spdlog::info("budget cause={} uid={} old={} new={} ms={}",
                 d.cause,
                 uid,
                 format_bytes(before),
                 format_bytes(after),
                 elapsed_ms);
  }
  if (on_change) on_change(d);
  const std::lock_guard lock(history_mutex_);
  if (history_.size() >= kHistory) history_.pop_front();
  history_.push_back(std::move(d));
}

ApiError BudgetControl::below_floor(uint64_t bytes, bool force) const {
  const BudgetFloor f = floor(force);
  const BudgetFloor idle = floor(true);
  const uint64_t works = f.bytes;
  std::string what;
  if (!force && !f.running.empty()) {
    std::string ids;
    for (const auto& job : queue_.list()) {
      if (job.running || job.parked) ids += (ids.empty() ? "" : ", ") + job.id;
    }
    what = fmt::format("budget {} is below the floor of the running request {} ({})",
                       format_bytes(bytes),
                       ids,
                       format_bytes(works));
  } else {
    what = fmt::format("budget {} is below the floor of {}, what the daemon itself needs",
                       format_bytes(bytes),
                       format_bytes(works));
  }
  ApiError e{.error = Error{"budget_below_floor",
                            std::move(what),
                            fmt::format("sluice budget set {}M", works >> 20)}};
  if (!force && bytes >= idle.bytes && !f.running.empty()) {
    e.error.hint += fmt::format(
        "\nsluice budget set {} --force      # cancels what runs, unloads idle models",
        bytes % (1u << 20) == 0 ? fmt::format("{}M", bytes >> 20) : fmt::format("{}", bytes));
  }
  e.holds = f.holds();
  return e;
}

void BudgetControl::cancel_begun(std::vector<std::string>& cancelled, bool running_too) {
  for (const auto& job : queue_.list()) {
    if (!job.parked && !(job.running && running_too)) continue;
    if (!queue_.cancel(job.id, 0, true)) continue;
    if (std::find(cancelled.begin(), cancelled.end(), job.id) == cancelled.end()) {
      spdlog::warn("cancelled for a smaller budget request={}", job.id);
      cancelled.push_back(job.id);
    }
  }
}

bool BudgetControl::wait_for_kernel(uint64_t limit_bytes, Clock::time_point deadline) const {
  if (process_resident_bytes_exact() <= limit_bytes) return true;
  ::malloc_trim(0);
  for (;;) {
    if (process_resident_bytes_exact() <= limit_bytes) return true;
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kLookAgain);
  }
}

// What a shrink would take, in its order: idle pins and KV, pins of what runs, idle models.
std::vector<EvictedDoc> BudgetControl::foreseen(uint64_t limit_bytes) const {
  std::vector<EvictedDoc> out;
  const uint64_t headroom = less(headroom_for(budget_.limit()), headroom_for(limit_bytes));
  uint64_t missing = less(less(budget_.used(), headroom), limit_bytes);
  const auto take = [&](const ModelHoldings& h, const char* kind, uint64_t bytes) {
    const uint64_t n = std::min(missing, bytes);
    if (n > 0) out.push_back({h.model, kind, !h.running, signed_bytes(n)});
    missing -= n;
  };
  const auto all = registry_.holdings();
  for (const ModelHoldings& h : all) {
    if (h.running) continue;
    take(h, "pins", h.engine.weights_resident);
    take(h, "kv", h.engine.kv);
  }
  for (const ModelHoldings& h : all) {
    if (h.running) take(h, "pins", h.engine.weights_resident);
  }
  for (const ModelHoldings& h : all) {
    if (!h.running && !h.parked && missing > 0) take(h, "model", h.unpinned());
  }
  return out;
}

std::variant<BudgetChangedDoc, ApiError> BudgetControl::change(const BudgetOrder& order) {
  const auto begun = Clock::now();
  const auto deadline = begun + std::chrono::milliseconds(order.timeout_ms);
  const uint64_t bytes = order.limit_bytes;
  const uint64_t before = budget_.limit();
  BudgetChangedDoc done;
  done.old_bytes = limit_or_null(before);
  done.new_bytes = signed_bytes(bytes);
  done.dry_run = order.dry_run;
  if (bytes < floor(order.force).bytes) return below_floor(bytes, order.force);
  if (order.dry_run) {
    done.evicted = foreseen(bytes);
    done.elapsed_ms = ms_since(begun);
    return done;
  }
  const auto held = registry_.holdings();
  // A parked one holds nothing that could not be taken: it would find out when it goes on.
  if (order.force && bytes < floor().bytes) cancel_begun(done.cancelled, false);
  if (bytes < before) base_.fit(bytes);
  for (int tries = 0;; ++tries) {
    auto set = budget_.set_limit(bytes);
    if (set) break;
    const bool late = Clock::now() >= deadline;
    // By the floor it fits. A model that another thread is ending waits for the ledger until we let
    // go of it: a moment later its memory is there.
    if (tries >= kTries && (late || !order.force)) {
      base_.fit(before);
      return below_floor(bytes, order.force);
    }
    if (order.force && tries >= 2) cancel_begun(done.cancelled, true);
    std::this_thread::sleep_for(kLookAgain);
  }
  if (bytes > before) {
    base_.fit(bytes);
    registry_.warm_idle();
  }
  if (bytes < before) done.kernel_confirmed = wait_for_kernel(bytes, deadline);
  done.evicted = losses(held, registry_.holdings());
  done.elapsed_ms = ms_since(begun);
  done.deadline_missed = !done.kernel_confirmed || done.elapsed_ms > order.timeout_ms;
  if (!done.kernel_confirmed) {
    spdlog::error("resident memory is above the budget limit={} rss={}",
                  format_bytes(bytes),
                  format_bytes(process_resident_bytes_exact()));
  }
  note("user", order.uid, before, bytes, done.elapsed_ms);
  return done;
}

void BudgetControl::constrain(uint64_t ceiling_bytes, uint64_t pressure_bytes, const char* cause) {
  const auto begun = Clock::now();
  budget_.set_ceiling(ceiling_bytes);
  budget_.set_pressure(pressure_bytes);
  const uint64_t now = budget_.effective();
  if (cause != nullptr) note(cause, ::geteuid(), constrained_, now, ms_since(begun));
  constrained_ = now;
}

void BudgetControl::check_gap() {
  for (const auto& job : queue_.list()) {
    if (job.running) return;  // it may be loading; what it touches comes a moment after its charge
  }
  const BudgetStateDoc d = state();
  if (d.gap_is_defect && !gap_reported_) {
    spdlog::error("defect: resident memory is {} above the ledger rss={} accounted={}",
                  format_bytes(static_cast<uint64_t>(d.gap_bytes)),
                  format_bytes(static_cast<uint64_t>(d.rss_bytes)),
                  format_bytes(static_cast<uint64_t>(d.used_bytes)));
  }
  gap_reported_ = d.gap_is_defect;
}

}  // namespace sluice
