// The registry's models in memory: loaded when asked for, kept while they are used, idle, trimmed and
// unloaded. What models there are is model_registry.cc's.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/bytes.h"
#include "base/log.h"
#include "base/text_escape.h"
#include "daemon/model_registry.h"

namespace sluice {
namespace {

bool too_small(const Error& e) {
  return e.code == "budget_exceeded" || e.code == "budget_below_floor";
}

Error does_not_fit(Error e) {
  e.code = "model_does_not_fit";
  if (e.hint.empty()) e.hint = "ask for a smaller ctx, or start the daemon with a larger --budget";
  return e;
}

// None: never.
std::optional<ModelRegistry::Clock::time_point> expiry(ModelRegistry::Clock::time_point used,
                                                       int64_t keep_ms) {
  constexpr int64_t kCentury_ms = int64_t{100} * 365 * 24 * 3600 * 1000;
  if (keep_ms < 0) return std::nullopt;
  return used + std::chrono::milliseconds(std::min(keep_ms, kCentury_ms));
}

}  // namespace

Result<std::shared_ptr<const ModelText>> ModelRegistry::text(const EntryPtr& entry) {
  const std::lock_guard reading(entry->text_mutex);
  {
    const std::lock_guard lock(mutex_);
    if (entry->text) return entry->text;
  }
  SLUICE_TRY(const Opened opened, open_unchanged(*entry));
  auto made = ModelText::create(*opened.checked, budget_);
  while (!made && too_small(made.error()) && unload_longest_unused(entry.get())) {
    made = ModelText::create(*opened.checked, budget_);
  }
  SLUICE_TRY(auto text, std::move(made));
  const std::lock_guard lock(mutex_);
  entry->text = text;
  entry->last_used = Clock::now();
  // Tables of a model that never gets loaded must go too.
  if (!entry->loaded && options_.keep_alive_ms >= 0) {
    entry->expires =
        Clock::now() + std::chrono::milliseconds(std::max<int64_t>(options_.keep_alive_ms, 1000));
  }
  return text;
}

Result<int64_t> ModelRegistry::context_of(const ModelEntry& entry,
                                          std::optional<int64_t> ctx) const {
  if (ctx && *ctx > entry.facts.ctx) {
    Error e{"invalid_request",
            fmt::format("ctx is {}, the model's own context is {}", *ctx, entry.facts.ctx)};
    e.field = "sluice.ctx";
    return e;
  }
  if (ctx) return *ctx;
  return options_.default_ctx > 0 ? std::min(options_.default_ctx, entry.facts.ctx)
                                  : entry.facts.ctx;
}

Result<std::shared_ptr<LoadedModel>> ModelRegistry::load(const EntryPtr& entry, int64_t ctx) {
  std::shared_ptr<const Model> model;
  {
    // A larger context needs a new engine, not the weights again.
    std::shared_ptr<LoadedModel> old;  // freed outside the lock, which its end may need
    const std::lock_guard lock(mutex_);
    if (entry->loaded) model = entry->loaded->model;
    old.swap(entry->loaded);
  }
  if (!model) {
    auto opened = open_unchanged(*entry);
    if (!opened) return too_small(opened.error()) ? does_not_fit(opened.error()) : opened.error();
    SLUICE_TRY(model, Model::load(std::move(opened.value().checked)));
    if (before_engine) before_engine(*model);
  }
  EngineOptions options;
  options.max_seq_len = ctx;
  options.kv_type = options_.kv_type;
  options.io = options_.io;
  for (;;) {
    auto engine = Engine::create(model, options, budget_, pool_);
    if (engine) {
      auto loaded = std::make_shared<LoadedModel>();
      loaded->model = model;
      loaded->engine = std::move(engine).value();
      loaded->engine->warm();
      return loaded;
    }
    if (!too_small(engine.error())) return engine.error();
    if (unload_longest_unused(entry.get())) continue;
    return does_not_fit(std::move(engine).error());
  }
}

Result<std::shared_ptr<LoadedModel>> ModelRegistry::acquire(const EntryPtr& entry,
                                                            std::optional<int64_t> ctx) {
  return acquire_for(entry, ctx, false);
}

Result<std::shared_ptr<LoadedModel>> ModelRegistry::acquire_parked(const EntryPtr& entry,
                                                                   std::optional<int64_t> ctx) {
  return acquire_for(entry, ctx, true);
}

Result<std::shared_ptr<LoadedModel>> ModelRegistry::acquire_for(const EntryPtr& entry,
                                                                std::optional<int64_t> ctx,
                                                                bool was_parked) {
  std::shared_ptr<LoadedModel> loaded;
  const auto context = context_of(*entry, ctx);
  const int64_t wanted = context ? context.value() : 0;
  {
    const std::lock_guard lock(mutex_);
    if (was_parked) --entry->parked;
    if (!context) return context.error();
    ++entry->users;
    entry->trim_done = entry->trimmed = false;
    entry->evict_reason = "budget";
    loaded = entry->loaded;
    if (loaded && loaded->engine->max_seq_len() < wanted) loaded = nullptr;
  }
  if (!loaded && refuse_loads_.load() && !was_parked) {
    const std::lock_guard lock(mutex_);
    --entry->users;
    return Error{"memory_pressure",
                 "the machine is short of memory; no model is loaded until that is over",
                 "sluice budget show"};
  }
  if (!loaded) {
    tell("model.loading", entry->name);
    const auto begun = Clock::now();
    // Asked for less than the default: the engine is made for the default, the request is held to
    // its own.
    auto made = load(entry, std::max(wanted, context_of(*entry, std::nullopt).value()));
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun);
    if (made) {
      tell("model.loaded", entry->name, {{"ms", ms.count()}});
    } else {
      tell("model.failed",
           entry->name,
           {{"code", made.error().code}, {"message", to_valid_utf8(made.error().what)}});
    }
    const std::lock_guard lock(mutex_);
    if (!made) {
      --entry->users;
      entry->load_error = made.error().what;
      return std::move(made).error();
    }
    loaded = std::move(made).value();
    entry->load_error.reset();
    entry->loaded = loaded;
    entry->ever_used = false;
  }
  return loaded;
}

void ModelRegistry::release(const EntryPtr& entry,
                            std::optional<int64_t> keep_alive_ms,
                            bool generated) {
  const int64_t keep = keep_alive_ms.value_or(options_.keep_alive_ms);
  bool unload_now = false;
  bool idle = false;
  bool failed = false;
  {
    const std::lock_guard lock(mutex_);
    --entry->users;
    idle = entry->users == 0;
    entry->last_used = Clock::now();
    entry->ever_used = entry->ever_used || generated;
    entry->expires = expiry(entry->last_used, keep);
    unload_now = keep == 0 && entry->users == 0 && entry->parked == 0;
    failed = idle && entry->loaded && entry->loaded->engine->failed();
  }
  if (failed) {
    spdlog::error(
        "model failed: three reads within a minute; the next request opens it anew model={}",
        entry->name);
    return unload(entry);
  }
  if (unload_now) return unload(entry);
  if (idle) tell("model.idle", entry->name);
}

void ModelRegistry::park(const EntryPtr& entry, const EngineMemory& needs) {
  {
    const std::lock_guard lock(mutex_);
    const uint64_t others = entry->parked++ > 0 ? entry->parked_needs.kv : 0;
    entry->parked_needs = {};
    entry->parked_needs.ring = needs.ring;
    entry->parked_needs.activations = needs.activations;
    // They go on one after the other.
    entry->parked_needs.kv = std::max(others, needs.kv + needs.kv_to_come);
  }
  release(entry, std::nullopt, true);
}

void ModelRegistry::drop_parked(const EntryPtr& entry, std::optional<int64_t> keep_alive_ms) {
  {
    const std::lock_guard lock(mutex_);
    --entry->parked;
    entry->last_used = Clock::now();
    entry->expires = expiry(entry->last_used, keep_alive_ms.value_or(options_.keep_alive_ms));
  }
}

void ModelRegistry::note_pass(const EntryPtr& entry) {
  constexpr double kEvery_s = 1;
  const double now_s = std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
  {
    const std::lock_guard lock(mutex_);
    entry->passes.add(now_s);
    if (now_s - balanced_at_s_ < kEvery_s) return;
    balanced_at_s_ = now_s;
  }
  balance_pins(now_s);
}

void ModelRegistry::note_request(const EntryPtr& entry, const std::string& id) {
  const std::lock_guard lock(mutex_);
  entry->last_request = id;
}

std::string ModelRegistry::last_request(const ModelEntry& entry) const {
  const std::lock_guard lock(mutex_);
  return entry.last_request;
}

void ModelRegistry::balance_pins(double now_s) {
  struct Holder {
    EntryPtr entry;
    std::shared_ptr<LoadedModel> loaded;
    EngineMemory memory;
  };
  std::vector<Holder> holders;
  std::vector<PinClaim> claims;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, e] : entries_) {
      if (!e->loaded) continue;
      holders.push_back({e, e->loaded, e->loaded->engine->memory()});
      claims.push_back({e->passes.at(now_s), holders.back().memory.weights_pinnable});
    }
  }
  if (holders.size() == 1) return holders.front().loaded->engine->limit_pins(UINT64_MAX);
  uint64_t room = budget_.available();
  uint64_t kv_to_come = 0;
  for (const Holder& h : holders) {
    room += h.memory.weights_charged;
    kv_to_come += h.memory.kv_to_come;
  }
  const auto shares = share_pins(room > kv_to_come ? room - kv_to_come : 0, claims);
  for (size_t i = 0; i < holders.size(); ++i) holders[i].loaded->engine->limit_pins(shares[i]);
  for (size_t i = 0; i < holders.size(); ++i) {
    const uint64_t held = holders[i].memory.weights_charged;
    if (!above_share(held, shares[i])) continue;
    {
      const std::lock_guard lock(mutex_);
      holders[i].entry->evict_reason = "policy";
    }
    holders[i].loaded->engine->give_back_pins(held - shares[i]);
    spdlog::debug("pins move to models that are used more model={} bytes={}",
                  holders[i].entry->name,
                  format_bytes(held - shares[i]));
  }
}

void ModelRegistry::unload(const EntryPtr& entry) {
  std::shared_ptr<LoadedModel> loaded;  // freed outside the lock
  std::shared_ptr<const ModelText> text;
  {
    const std::lock_guard lock(mutex_);
    loaded.swap(entry->loaded);
    text.swap(entry->text);
    entry->expires.reset();
  }
  if (loaded) tell("model.unloaded", entry->name);
}

bool ModelRegistry::sooner_unloaded(const EntryPtr& a, const EntryPtr& b) {
  if ((a->parked > 0) != (b->parked > 0)) return b->parked > 0;
  return a->last_used < b->last_used;
}

bool ModelRegistry::unload_longest_unused(const ModelEntry* except) {
  EntryPtr victim;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, e] : entries_) {
      if (e.get() == except || e->users > 0 || (!e->loaded && !e->text)) continue;
      if (!victim || sooner_unloaded(e, victim)) victim = e;
    }
  }
  if (!victim) return false;
  spdlog::info("unloading to make room model={}", victim->name);
  unload(victim);
  return true;
}

std::vector<ModelRegistry::EntryPtr> ModelRegistry::idle_entries() const {
  std::vector<EntryPtr> out;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, e] : entries_) {
    if (e->users == 0 && (e->loaded || e->text)) out.push_back(e);
  }
  std::sort(out.begin(), out.end(), sooner_unloaded);
  return out;
}

void ModelRegistry::warm_idle() {
  const std::vector<EntryPtr> entries = idle_entries();
  for (auto e = entries.rbegin(); e != entries.rend(); ++e) {
    std::shared_ptr<LoadedModel> loaded;
    {
      const std::lock_guard lock(mutex_);
      // What was idle for so long that it was trimmed reads again when it is used.
      if ((*e)->users == 0 && !(*e)->trimmed) loaded = (*e)->loaded;
    }
    if (loaded) loaded->engine->warm();
  }
}

void ModelRegistry::trim_idle(uint64_t bytes) {
  const uint64_t before = budget_.used();
  const auto missing = [&] {
    const uint64_t now = budget_.used();
    const uint64_t freed = before > now ? before - now : 0;
    return bytes > freed ? bytes - freed : 0;
  };
  for (const EntryPtr& e : idle_entries()) {
    std::shared_ptr<LoadedModel> loaded;
    {
      const std::lock_guard lock(mutex_);
      if (e->users == 0) loaded = e->loaded;
    }
    if (!loaded) continue;
    loaded->engine->give_back_pins(missing());
    if (missing() == 0) return;
    loaded->engine->give_back_kv();
    if (missing() == 0) return;
  }
}

void ModelRegistry::unload_idle(uint64_t bytes) {
  const uint64_t before = budget_.used();
  for (const EntryPtr& e : idle_entries()) {
    std::shared_ptr<LoadedModel> loaded;  // freed outside the lock
    std::shared_ptr<const ModelText> text;
    {
      const std::lock_guard lock(mutex_);
      if (e->users > 0) continue;
      loaded.swap(e->loaded);
      text.swap(e->text);
      e->expires.reset();
    }
    spdlog::info("unloading to make room model={}", e->name);
    if (loaded) tell("model.unloaded", e->name, {{"reason", "budget"}});
    loaded.reset();
    text.reset();
    const uint64_t now = budget_.used();
    if (before > now && before - now >= bytes) return;
  }
}

uint64_t ModelRegistry::idle_unpinned() const {
  constexpr uint64_t kBesides = 1u << 20;  // rows that are read apart from the ring, and the like
  uint64_t sum = 0;
  for (const ModelHoldings& h : holdings()) sum += h.running ? 0 : h.unpinned() + kBesides;
  return sum;
}

std::vector<ModelHoldings> ModelRegistry::holdings() const {
  std::vector<ModelHoldings> out;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, e] : entries_) {
    if (!e->loaded && !e->text && e->parked == 0) continue;
    ModelHoldings h;
    h.model = name;
    h.running = e->users > 0;
    h.parked = e->parked > 0;
    h.loaded = e->loaded != nullptr;
    if (e->loaded) h.engine = e->loaded->engine->memory();
    if (h.parked) {
      if (!h.loaded) {
        h.to_load = e->parked_needs;
      } else if (e->parked_needs.kv > h.engine.kv + h.engine.kv_to_come) {
        h.engine.kv_to_come = e->parked_needs.kv - h.engine.kv;
      }
    }
    if (e->text) h.tables = e->text->tokenizer().memory_bytes();
    out.push_back(std::move(h));
  }
  return out;
}

std::vector<BlockResidency> ModelRegistry::blocks(const ModelEntry& entry) const {
  std::shared_ptr<LoadedModel> loaded;
  {
    const std::lock_guard lock(mutex_);
    loaded = entry.loaded;
  }
  return loaded ? loaded->engine->blocks() : std::vector<BlockResidency>();
}

const char* ModelRegistry::evict_reason(const ModelEntry& entry) const {
  const std::lock_guard lock(mutex_);
  return entry.evict_reason;
}

bool ModelRegistry::running(const ModelEntry& entry) const {
  const std::lock_guard lock(mutex_);
  return entry.users > 0;
}

bool ModelRegistry::trimmed(const ModelEntry& entry) const {
  const std::lock_guard lock(mutex_);
  return entry.trimmed;
}

void ModelRegistry::trim_long_idle(const EntryPtr& entry) {
  std::shared_ptr<LoadedModel> loaded;
  {
    const std::lock_guard lock(mutex_);
    if (entry->users > 0 || !entry->loaded) return;
    loaded = entry->loaded;
    entry->trim_done = true;
    entry->evict_reason = "idle";
  }
  const uint64_t held = loaded->engine->memory().weights_resident;
  loaded->engine->give_back_pins(UINT64_MAX);
  const uint64_t left = loaded->engine->memory().weights_resident;
  if (held <= left) return;
  {
    const std::lock_guard lock(mutex_);
    entry->trimmed = entry->users == 0;
  }
  spdlog::info("idle, pins given back model={} bytes={}", entry->name, format_bytes(held - left));
  tell("model.trimmed", entry->name, {{"bytes", held - left}, {"reason", "idle"}});
}

std::optional<ModelRegistry::Clock::time_point> ModelRegistry::tend_idle(Clock::time_point now) {
  std::vector<EntryPtr> due, trim;
  std::optional<Clock::time_point> next;
  const auto sooner = [&next](Clock::time_point t) { next = next ? std::min(*next, t) : t; };
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, e] : entries_) {
      if (e->users > 0 || (!e->loaded && !e->text)) continue;
      const bool expires = e->expires && e->parked == 0;
      if (expires && *e->expires <= now) {
        due.push_back(e);
        continue;
      }
      if (expires) sooner(*e->expires);
      if (!e->loaded || e->trim_done || options_.idle_trim_ms < 0) continue;
      const auto at = e->last_used + std::chrono::milliseconds(options_.idle_trim_ms);
      if (at <= now) {
        trim.push_back(e);
      } else {
        sooner(at);
      }
    }
  }
  for (const EntryPtr& e : trim) trim_long_idle(e);
  for (const EntryPtr& e : due) {
    spdlog::info("unloading an idle model model={}", e->name);
    unload(e);
  }
  return next;
}

}  // namespace sluice
