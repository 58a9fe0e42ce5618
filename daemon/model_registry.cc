#include "daemon/model_registry.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <cerrno>

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

}  // namespace sluice
