// Which models there are (names -> files, kept in state_dir/models.json), which are loaded, and
// until when. A file is registered in place and recognised by size, mtime and header hash; one that
// changed is an error, not a crash. Thread-safe. Calls that read files (add, text, details) belong
// on a worker; acquire on the queue's thread only, since an engine runs one generation at a time.
#pragma once

#include <atomic>
#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "daemon/model_text.h"
#include "daemon/protocol/native.h"
#include "scheduler/block_residency.h"
#include "scheduler/engine.h"
#include "scheduler/kv_cache.h"
#include "scheduler/model_loader.h"
#include "scheduler/pin_shares.h"
#include "scheduler/thread_pool.h"
#include "storage/budget.h"

namespace sluice {

// What makes a file the same file.
struct ModelIdentity {
  uint64_t size = 0;     // of all parts
  int64_t mtime_ns = 0;  // the latest of the parts
  uint64_t header_hash = 0;
  bool operator==(const ModelIdentity&) const = default;
};

// What a listing shows; taken from the header when the model is registered.
struct ModelFacts {
  std::string arch, quantization;
  int64_t file_bytes = 0, parameters = 0, ctx = 0, blocks = 0;
  std::vector<std::string> parts;
};

struct LoadedModel {
  std::shared_ptr<const Model> model;
  std::unique_ptr<Engine> engine;
};

class ModelEntry {
 public:
  const std::string name, path;
  const int64_t created;  // unix seconds
  const ModelIdentity identity;
  const ModelFacts facts;
  const bool persistent;  // came from `models add`, not from the command line

  ModelEntry(std::string n, std::string p, int64_t c, ModelIdentity i, ModelFacts f, bool keep)
      : name(std::move(n)),
        path(std::move(p)),
        created(c),
        identity(i),
        facts(std::move(f)),
        persistent(keep) {}

 private:
  friend class ModelRegistry;
  std::mutex text_mutex;                          // one reader of the header at a time
  mutable std::atomic<uint64_t> header_bytes{0};  // what reading it takes; 0: not known yet
  // Guarded by the registry's mutex.
  std::shared_ptr<const ModelText> text;
  std::shared_ptr<LoadedModel> loaded;
  std::optional<std::string> load_error;
  std::chrono::steady_clock::time_point last_used{};
  std::optional<std::chrono::steady_clock::time_point> expires;  // none: never
  int users = 0;                                                 // jobs that hold it
  int parked = 0;             // jobs that stand aside and will be back
  EngineMemory parked_needs;  // while there are any: what going on takes
  bool ever_used = false;
  PassRate passes;
  std::string last_request;
  bool trim_done = false;               // since it was used last
  bool trimmed = false;                 // idle for so long that its pins were given back
  const char* evict_reason = "budget";  // why pins of it went last
};

// What one model holds now, for those who decide about memory.
struct ModelHoldings {
  std::string model;
  bool running = false;  // a job has it
  bool parked = false;   // one that stands aside will be back for it
  bool loaded = false;
  EngineMemory engine;
  EngineMemory to_load;  // parked and not loaded: what it will take again
  uint64_t tables = 0;   // tokenizer
  // All but pins, which the ledger counts by themselves.
  uint64_t unpinned() const { return engine.ring + engine.kv + engine.activations + tables; }
};

struct ModelRegistryOptions {
  std::string state_dir;    // empty: nothing is kept
  int64_t default_ctx = 0;  // 0: the file's own
  int64_t keep_alive_ms = 300'000;
  IoOptions io;               // how weights are read
  KvType kv_type = KvType::kF16;
  int64_t idle_trim_ms = -1;  // an idle model's pins stay this long; < 0: as long as it does
};

class ModelRegistry {
 public:
  using Clock = std::chrono::steady_clock;
  using EntryPtr = std::shared_ptr<ModelEntry>;

  ModelRegistry(ModelRegistryOptions options, Budget& budget, ThreadPool& pool);
  ~ModelRegistry();

  // Told "model.loaded" and the like; called from any thread, never under our lock. Set before
  // anything runs.
  std::function<void(std::string_view type, const std::string& model, boost::json::object more)>
      on_event;

  // Told of a model whose weights are about to be used; on the loading thread, never under our
  // lock. Set before anything runs.
  std::function<void(const Model&)> before_engine;

  // Reads models.json. An unreadable file is put aside with a log line: the daemon starts without
  // it.
  void restore();

  struct Added {
    EntryPtr entry;
    bool created = false;
  };
  // Checks and registers. `name` empty: from the file's name. Errors: invalid_request (path, name),
  // name_taken, gguf.*, model_unsupported, io.*.
  Result<Added> add(const std::string& path, const std::string& name, bool persistent);
  // Also unloads. Errors: model_not_found, io_error.
  struct Removed {
    bool file_deleted = false;
  };
  Result<Removed> remove(const std::string& name, bool delete_file);

  // Empty name: the only model there is, or the only one loaded. Errors: model_not_found (near
  // names in the hint), invalid_request when a name is needed.
  Result<EntryPtr> find(const std::string& name) const;
  std::vector<EntryPtr> list() const;
  ModelDoc doc(const ModelEntry& entry) const;
  // ModelDoc, metadata, tensors and template, read from the file. Errors: as text().
  Result<boost::json::object> details(const EntryPtr& entry) const;
  std::vector<LoadedModelDoc> loaded_docs() const;

  // Tokenizer and template, read on first use. Errors: model_changed, gguf.*, io.*,
  // budget_exceeded.
  Result<std::shared_ptr<const ModelText>> text(const EntryPtr& entry);

  // Tokens one generation may hold when `ctx` is asked for (none: the default). Errors:
  // invalid_request past the file's.
  Result<int64_t> context_of(const ModelEntry& entry, std::optional<int64_t> ctx) const;

  // A loaded model for one job; ends with release(). Unloads idle models, longest unused first,
  // while the budget is too small. Errors: model_does_not_fit, model_changed, gguf.*, io.*,
  // memory_pressure.
  Result<std::shared_ptr<LoadedModel>> acquire(const EntryPtr& entry, std::optional<int64_t> ctx);
  void release(const EntryPtr& entry, std::optional<int64_t> keep_alive_ms, bool generated);
  // Instead of release(), by a job that stands aside and `needs` so much to go on; ends with one of
  // the two below. Meanwhile the model's stay does not end; its pins and kept KV may go, and it is
  // the last to be unloaded for others.
  void park(const EntryPtr& entry, const EngineMemory& needs);
  // As acquire(), also while loads are refused: an answer that was begun is brought to its end.
  Result<std::shared_ptr<LoadedModel>> acquire_parked(const EntryPtr& entry,
                                                      std::optional<int64_t> ctx);
  // It was cancelled meanwhile. Any thread: ends the stay no sooner than the next tend_idle().
  void drop_parked(const EntryPtr& entry, std::optional<int64_t> keep_alive_ms);

  // A pass of it was computed; on the thread that computed it, between passes. Once a second at
  // most, pins move from models that have more than their share to those that are used more
  // (scheduler/pin_shares).
  void note_pass(const EntryPtr& entry);
  // The request that computes with it from now on, and the latest one that did; for stall events,
  // which come a moment later.
  void note_request(const EntryPtr& entry, const std::string& id);
  std::string last_request(const ModelEntry& entry) const;

  // The memory goes when the running generation, if any, has ended.
  void unload(const EntryPtr& entry);
  // Models no job has, longest unused first: gives back pins and kept KV until `bytes` are free.
  void trim_idle(uint64_t bytes);
  // A budget was raised: idle models read what they may keep of it, the one used last first. Those
  // that were trimmed stay so.
  void warm_idle();
  std::vector<ModelHoldings> holdings() const;
  // Of one model; empty when it is not loaded.
  std::vector<BlockResidency> blocks(const ModelEntry& entry) const;
  // While true, models that are not loaded yet are refused with memory_pressure.
  void refuse_loads(bool refuse) { refuse_loads_.store(refuse); }

  // Unloads what is due, and takes the pins of what has been idle for idle_trim; they come back
  // with the next generation. Returns when to come again (none: nothing is due).
  std::optional<Clock::time_point> tend_idle(Clock::time_point now);
  // Why pins of a model went last, as block.evict tells it: budget | idle | policy.
  const char* evict_reason(const ModelEntry& entry) const;
  bool running(const ModelEntry& entry) const;  // a job has it
  // Whether its pins were given back because it was idle.
  bool trimmed(const ModelEntry& entry) const;

 private:
  // A file that was checked, with the ledger's part for the copy of its header.
  struct Opened {
    Reservation header;  // ends after what it is for
    std::unique_ptr<CheckedModel> checked;
  };
  Result<Opened> open_unchanged(const ModelEntry& entry) const;
  Result<std::shared_ptr<LoadedModel>> load(const EntryPtr& entry, int64_t ctx);
  Result<std::shared_ptr<LoadedModel>> acquire_for(const EntryPtr& entry,
                                                   std::optional<int64_t> ctx,
                                                   bool was_parked);
  static bool sooner_unloaded(const EntryPtr& a, const EntryPtr& b);  // mutex_ held
  bool unload_longest_unused(const ModelEntry* except);
  void trim_long_idle(const EntryPtr& entry);
  void balance_pins(double now_s);
  std::vector<EntryPtr> idle_entries() const;  // longest unused first, those with parked jobs last
  void unload_idle(uint64_t bytes);
  uint64_t idle_unpinned() const;
  void tell(std::string_view type, const std::string& model, boost::json::object more = {}) const;
  std::string near_names(std::string_view name) const;  // mutex_ held
  Result<void> save();

  // The ledger's way to our idle models. Both leave the registry's mutex alone while they work.
  class IdleTrimmer final : public Reclaimer {
   public:
    explicit IdleTrimmer(ModelRegistry& r) : registry_(r) {}
    void reclaim(uint64_t bytes) override { registry_.trim_idle(bytes); }
    uint64_t most_unpinned() const override { return 0; }  // the other one counts it

   private:
    ModelRegistry& registry_;
  };
  class IdleUnloader final : public Reclaimer {
   public:
    explicit IdleUnloader(ModelRegistry& r) : registry_(r) {}
    void reclaim(uint64_t bytes) override { registry_.unload_idle(bytes); }
    uint64_t most_unpinned() const override { return registry_.idle_unpinned(); }

   private:
    ModelRegistry& registry_;
  };

  const ModelRegistryOptions options_;
  Budget& budget_;
  IdleTrimmer trimmer_{*this};
  IdleUnloader unloader_{*this};
  std::atomic<bool> refuse_loads_{false};
  ThreadPool& pool_;
  std::mutex save_mutex_;  // taken before mutex_
  mutable std::mutex mutex_;
  std::map<std::string, EntryPtr> entries_;  // guarded by mutex_
  double balanced_at_s_ = 0;                 // guarded by mutex_
};

// "Qwen2.5-7B-00001-of-00003.gguf" -> "qwen2.5-7b".
std::string default_model_name(const std::string& path);
// Letters, digits and ._:/@+- ; 1 to 128 bytes; no leading '-', '.' or '/', no "..".
bool valid_model_name(std::string_view name);

}  // namespace sluice
