#include "daemon/model_registry.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <cerrno>

#include "base/bytes.h"
#include "base/log.h"
#include "base/suggest.h"
#include "base/text_escape.h"
#include "daemon/model_store.h"
#include "storage/gguf_types.h"

namespace sluice {
namespace {

namespace json = boost::json;

ModelIdentity identity_of(const CheckedModel& m) {
  ModelIdentity id;
  for (const GgufPart& part : m.file.parts()) {
    id.size += part.file_bytes;
    id.mtime_ns = std::max(id.mtime_ns, part.identity.mtime_ns);
  }
  id.header_hash = m.file.header_hash();
  return id;
}

ModelFacts facts_of(const CheckedModel& m) {
  ModelFacts f;
  f.arch = architecture_name(m.hparams.arch);
  f.quantization = quantization_name(m.file);
  for (const GgufPart& part : m.file.parts()) {
    f.file_bytes += static_cast<int64_t>(part.file_bytes);
    f.parts.push_back(part.path);
  }
  uint64_t parameters = 0;  // the reader has checked every product
  for (const GgufTensor& t : m.file.tensors()) {
    if (t.name != "rope_freqs.weight") parameters += t.dims[0] * t.dims[1] * t.dims[2] * t.dims[3];
  }
  f.parameters = static_cast<int64_t>(parameters);
  f.ctx = m.hparams.max_seq_len;
  f.blocks = m.hparams.n_layers;
  return f;
}

Error not_found(const std::string& name, const std::string& near) {
  return Error{
      "model_not_found", fmt::format("there is no model named \"{}\"", escape_text(name)), near};
}

json::value metadata_value(const GgufFile& file, const GgufValue& v) {
  constexpr uint64_t kMaxArray = 16;
  constexpr size_t kMaxText = 4096;
  const auto scalar = [&](const GgufValue& of, uint64_t i, GgufValueType type) -> json::value {
    switch (type) {
      case GgufValueType::kF32:
      case GgufValueType::kF64:
        return GgufFile::array_real(of, i);
      case GgufValueType::kBool:
        return GgufFile::array_uint(of, i) != 0;
      case GgufValueType::kI8:
      case GgufValueType::kI16:
      case GgufValueType::kI32:
      case GgufValueType::kI64:
        return static_cast<int64_t>(GgufFile::array_uint(of, i));
      default:
        return GgufFile::array_uint(of, i);
    }
  };
  if (v.type == GgufValueType::kString) {
    const auto text = file.string(v.key).value_or(std::string_view());
    return json::value(to_valid_utf8(text.substr(0, kMaxText)));
  }
  if (v.type != GgufValueType::kArray) {
    GgufValue one = v;
    one.elem_type = v.type;
    one.count = 1;
    return scalar(one, 0, v.type);
  }
  if (v.count > kMaxArray) {
    return json::object{
        {"type", "array"}, {"of", gguf_value_type_name(v.elem_type)}, {"count", v.count}};
  }
  json::array out;
  if (v.elem_type == GgufValueType::kString) {
    GgufStringArray strings = GgufFile::array_strings(v);
    while (const auto s = strings.next())
      out.push_back(json::value(to_valid_utf8(s->substr(0, kMaxText))));
    return out;
  }
  for (uint64_t i = 0; i < v.count; ++i) out.push_back(scalar(v, i, v.elem_type));
  return out;
}

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

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::string default_model_name(const std::string& path) {
  std::string stem = path.substr(path.rfind('/') + 1);
  for (char& c : stem) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  if (stem.ends_with(".gguf")) stem.resize(stem.size() - 5);
  // The tail of a split file's first part.
  constexpr size_t kTail = std::string_view("-00001-of-00001").size();
  if (stem.size() > kTail) {
    const std::string_view tail = std::string_view(stem).substr(stem.size() - kTail);
    const auto digits = [](std::string_view s) {
      return std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
    };
    if (tail[0] == '-' && digits(tail.substr(1, 5)) && tail.substr(6, 4) == "-of-" &&
        digits(tail.substr(10))) {
      stem.resize(stem.size() - kTail);
    }
  }
  for (char& c : stem) {
    if (!valid_model_name(std::string("x") + c)) c = '-';
  }
  for (size_t at = stem.find(".."); at != std::string::npos; at = stem.find(".."))
    stem.erase(at, 1);
  while (!stem.empty() && (stem.front() == '-' || stem.front() == '.')) stem.erase(0, 1);
  stem.resize(std::min<size_t>(stem.size(), 128));
  return stem.empty() ? "model" : stem;
}

bool valid_model_name(std::string_view name) {
  if (name.empty() || name.size() > 128 || name.find("..") != std::string_view::npos) return false;
  if (name.front() == '-' || name.front() == '.' || name.front() == '/') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != 0 && std::string_view("._:/@+-").find(c) != std::string_view::npos);
  });
}

ModelRegistry::ModelRegistry(ModelRegistryOptions options, Budget& budget, ThreadPool& pool)
    : options_(std::move(options)), budget_(budget), pool_(pool) {
  budget_.add_reclaimer(&trimmer_, ReclaimRank::kIdle);
  budget_.add_reclaimer(&unloader_, ReclaimRank::kUnload);
}

ModelRegistry::~ModelRegistry() {
  budget_.remove_reclaimer(&trimmer_);
  budget_.remove_reclaimer(&unloader_);
}

void ModelRegistry::tell(std::string_view type, const std::string& model, json::object more) const {
  more["model"] = model;
  if (on_event) on_event(type, model, std::move(more));
}

void ModelRegistry::restore() {
  if (options_.state_dir.empty()) return;
  auto stored = read_model_store(options_.state_dir);
  if (!stored) {
    const std::string aside =
        stored.error().code == "io_error" ? "" : set_aside_model_store(options_.state_dir);
    spdlog::error("the list of models cannot be read: {} aside={}", stored.error().what, aside);
    return;
  }
  const std::lock_guard lock(mutex_);
  for (EntryPtr& e : stored.value()) entries_[e->name] = std::move(e);
}

Result<ModelRegistry::Added> ModelRegistry::add(const std::string& path,
                                                const std::string& given_name,
                                                bool persistent) {
  if (!path.starts_with('/')) {
    Error e{"invalid_request", fmt::format("path \"{}\" is not absolute", escape_text(path))};
    e.field = "path";
    return e;
  }
  if (path.find('\0') != std::string::npos)
    return Error{"invalid_request", "the path holds a NUL byte"};
  const std::string name = given_name.empty() ? default_model_name(path) : given_name;
  if (!valid_model_name(name)) {
    Error e{"invalid_request",
            fmt::format("\"{}\" is no model name", escape_text(name)),
            "letters, digits and ._:/@+-, at most 128 bytes"};
    e.field = "name";
    return e;
  }
  const std::lock_guard saving(save_mutex_);
  EntryPtr old;
  {
    const std::lock_guard lock(mutex_);
    const auto it = entries_.find(name);
    if (it != entries_.end()) old = it->second;
  }
  if (old && old->path != path) {
    return Error{"name_taken",
                 fmt::format("the name {} is taken by {}", name, escape_text(old->path, 400)),
                 "choose another name, or remove that model first"};
  }
  SLUICE_TRY(Reservation header, budget_.reserve(0, MemoryClass::kTokenizer));
  SLUICE_TRY(const auto checked, check_model(path));
  // Its size is known only now. A model given at the start is not refused for the moment in which
  // nothing else is held yet.
  if (auto held = header.resize(checked->file.header_bytes()); !held && persistent)
    return std::move(held).error();
  const ModelIdentity identity = identity_of(*checked);
  if (old && old->identity == identity) {
    old->header_bytes.store(checked->file.header_bytes());
    return Added{old, false};
  }
  for (const std::string& w : checked->file.warnings()) spdlog::warn("{} model={}", w, name);
  auto entry = std::make_shared<ModelEntry>(name,
                                            path,
                                            unix_seconds(),
                                            identity,
                                            facts_of(*checked),
                                            persistent || (old && old->persistent));
  // From now on it is charged before it is read.
  entry->header_bytes.store(checked->file.header_bytes());
  {
    const std::lock_guard lock(mutex_);
    entries_[name] = entry;
  }
  if (entry->persistent) {
    if (auto saved = save(); !saved) {
      const std::lock_guard lock(mutex_);
      if (old) {
        entries_[name] = old;
      } else {
        entries_.erase(name);
      }
      return saved.error();
    }
  }
  return Added{entry, !old};
}

Result<void> ModelRegistry::save() {
  if (options_.state_dir.empty()) return success();
  std::vector<EntryPtr> keep;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, e] : entries_) {
      if (e->persistent) keep.push_back(e);
    }
  }
  return write_model_store(options_.state_dir, keep);
}

Result<ModelRegistry::Removed> ModelRegistry::remove(const std::string& name, bool delete_file) {
  const std::lock_guard saving(save_mutex_);
  SLUICE_TRY(const EntryPtr entry, find(name));
  if (name.empty()) return Error{"invalid_request", "a model name is needed"};
  {
    const std::lock_guard lock(mutex_);
    entries_.erase(entry->name);
  }
  if (auto saved = save(); !saved) {
    const std::lock_guard lock(mutex_);
    entries_[entry->name] = entry;
    return saved.error();
  }
  unload(entry);
  Removed removed;
  if (delete_file) {
    for (const std::string& part : entry->facts.parts) {
      if (::unlink(part.c_str()) != 0 && errno != ENOENT)
        return errno_error("io_error", "delete " + part, errno);
    }
    removed.file_deleted = true;
  }
  return removed;
}

std::string ModelRegistry::near_names(std::string_view name) const {
  std::vector<std::string> names;
  for (const auto& [key, e] : entries_) names.push_back(key);
  if (names.empty()) return "register one: sluice models add FILE.gguf";
  const std::string near = nearest_word(name, names);
  if (!near.empty()) return fmt::format("did you mean {}?", near);
  constexpr size_t kShown = 5;
  std::string list;
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i)
    list += (i > 0 ? ", " : "") + names[i];
  return fmt::format("there is: {}{}", list, names.size() > kShown ? ", ..." : "");
}

Result<ModelRegistry::EntryPtr> ModelRegistry::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  if (!name.empty()) {
    const auto it = entries_.find(name);
    if (it != entries_.end()) return it->second;
    return not_found(name, near_names(name));
  }
  if (entries_.empty()) {
    return Error{
        "model_not_found", "no model is registered", "register one: sluice models add FILE.gguf"};
  }
  if (entries_.size() == 1) return entries_.begin()->second;
  EntryPtr only;
  for (const auto& [key, e] : entries_) {
    if (!e->loaded) continue;
    if (only) {
      only = nullptr;
      break;
    }
    only = e;
  }
  if (only) return only;
  Error e{"invalid_request", "the request names no model and there are several", near_names("")};
  e.field = "model";
  return e;
}

std::vector<ModelRegistry::EntryPtr> ModelRegistry::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<EntryPtr> out;
  for (const auto& [name, e] : entries_) out.push_back(e);
  return out;
}

ModelDoc ModelRegistry::doc(const ModelEntry& e) const {
  ModelDoc d;
  d.name = e.name;
  d.path = to_valid_utf8(e.path);
  d.arch = e.facts.arch;
  d.quantization = e.facts.quantization;
  d.file_bytes = e.facts.file_bytes;
  d.parameters = e.facts.parameters;
  d.ctx = e.facts.ctx;
  d.blocks = e.facts.blocks;
  d.created = e.created;
  const std::lock_guard lock(mutex_);
  d.loaded = e.loaded != nullptr;
  d.load_error = e.load_error;
  return d;
}

Result<json::object> ModelRegistry::details(const EntryPtr& entry) const {
  SLUICE_TRY(const Opened opened, open_unchanged(*entry));
  const auto& checked = opened.checked;
  json::object out{{"schema", "sluice.model.v1"}};
  for (auto& item : to_json(doc(*entry))) out[item.key()] = item.value();
  json::object metadata;
  for (const GgufValue& v : checked->file.values()) {
    if (v.key != "tokenizer.chat_template")
      metadata[to_valid_utf8(v.key)] = metadata_value(checked->file, v);
  }
  json::array tensors;
  for (const GgufTensor& t : checked->file.tensors()) {
    json::array dims;
    for (uint32_t i = 0; i < t.n_dims; ++i) dims.push_back(json::value(t.dims[i]));
    tensors.push_back(json::object{{"name", to_valid_utf8(t.name)},
                                   {"type", gguf_tensor_type(t.type_id).name},
                                   {"dims", std::move(dims)},
                                   {"bytes", t.n_bytes},
                                   {"offset", t.file_offset}});
  }
  out["metadata"] = std::move(metadata);
  out["tensors"] = std::move(tensors);
  out["template"] = nullptr;
  if (!checked->vocab.chat_template.empty())
    out["template"] = to_valid_utf8(checked->vocab.chat_template);
  return out;
}

std::vector<LoadedModelDoc> ModelRegistry::loaded_docs() const {
  const auto now = Clock::now();
  std::vector<LoadedModelDoc> out;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, e] : entries_) {
    if (!e->loaded) continue;
    const EngineMemory memory = e->loaded->engine->memory();
    LoadedModelDoc d;
    d.name = name;
    d.path = to_valid_utf8(e->path);
    d.state = e->users > 0 || e->parked > 0 ? "running" : e->ever_used ? "idle" : "loaded";
    d.file_bytes = e->facts.file_bytes;
    d.resident_bytes = static_cast<int64_t>(memory.weights_resident + memory.ring + memory.kv +
                                            memory.activations);
    d.kv_bytes = static_cast<int64_t>(memory.kv);
    d.pinned_bytes = static_cast<int64_t>(memory.weights_resident);
    d.trimmed = e->trimmed;
    d.ctx = e->loaded->engine->max_seq_len();
    if (e->users == 0 && e->parked == 0 && e->expires) {
      d.expires_in_ms = std::max<int64_t>(
          0, std::chrono::duration_cast<std::chrono::milliseconds>(*e->expires - now).count());
    }
    out.push_back(std::move(d));
  }
  return out;
}

Result<ModelRegistry::Opened> ModelRegistry::open_unchanged(const ModelEntry& entry) const {
  SLUICE_TRY(Reservation header,
             budget_.reserve(entry.header_bytes.load(), MemoryClass::kTokenizer));
  SLUICE_TRY(auto checked, check_model(entry.path));
  SLUICE_TRY(header.resize(checked->file.header_bytes()));
  entry.header_bytes.store(header.bytes());
  if (identity_of(*checked) != entry.identity) {
    Error e{
        "model_changed",
        fmt::format("{} is no longer the file that was registered as {}",
                    escape_text(entry.path, 400),
                    entry.name),
        fmt::format("sluice models add {} --name {}", escape_text(entry.path, 400), entry.name)};
    return e;
  }
  return Opened{std::move(header), std::move(checked)};
}

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
