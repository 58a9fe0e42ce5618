#include "daemon/measurements.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <utility>

#include "base/log.h"
#include "daemon/protocol/budget.h"
#include "daemon/protocol/json_text.h"
#include "kernels/kernels.h"
#include "storage/file.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr size_t kMostModels = 256;
constexpr size_t kMostHosts = 16;
constexpr uint64_t kMostBytes = 1u << 20;
constexpr int64_t kSaveEvery_ms = 30'000;

json::object to_json(const Estimate& e) { return {{"value", e.value}, {"spread", e.spread}}; }

json::object to_json(const Speeds& s) {
  return {{"disk_bytes_per_s", to_json(s.disk_bytes_per_s)},
          {"decode_s", to_json(s.decode_s)},
          {"prompt_token_s", to_json(s.prompt_token_s)},
          {"memory_bytes_per_s", s.memory_bytes_per_s}};
}

// Anything that is no sensible number counts as not measured.
double number_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  if (v == nullptr || !v->is_number()) return 0;
  const double d = v->to_number<double>();
  return std::isfinite(d) && d > 0 && d < 1e15 ? d : 0;
}

Estimate estimate_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  const auto* e = v == nullptr ? nullptr : v->if_object();
  if (e == nullptr) return {};
  return {number_of(*e, "value"), std::clamp(number_of(*e, "spread"), 0.05, 1.0)};
}

Speeds speeds_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  const auto* s = v == nullptr ? nullptr : v->if_object();
  if (s == nullptr) return {};
  return {estimate_of(*s, "disk_bytes_per_s"),
          estimate_of(*s, "decode_s"),
          estimate_of(*s, "prompt_token_s"),
          number_of(*s, "memory_bytes_per_s")};
}

ModelMeasurements model_of(const json::object& o) {
  ModelMeasurements m;
  m.probed = speeds_of(o, "probed");
  m.learned = speeds_of(o, "learned");
  m.disk_at_ms = static_cast<int64_t>(number_of(o, "disk_at_ms"));
  m.compute_at_ms = static_cast<int64_t>(number_of(o, "compute_at_ms"));
  m.learned_at_ms = static_cast<int64_t>(number_of(o, "learned_at_ms"));
  m.runs = static_cast<int64_t>(number_of(o, "runs"));
  m.tokenizer_bytes = static_cast<uint64_t>(number_of(o, "tokenizer_bytes"));
  if (const auto* by = o.if_contains("compute_by"); by != nullptr && by->is_string())
    m.compute_by = by->get_string();
  return m;
}

// As the kernels take them: -1 is the default.
int width_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  if (v == nullptr || !v->is_int64()) return -1;
  return static_cast<int>(std::clamp<int64_t>(v->get_int64(), -1, kernels::kMostTileTokens));
}

int64_t last_use(const ModelMeasurements& m) {
  return std::max({m.disk_at_ms, m.compute_at_ms, m.learned_at_ms});
}

// Empty when there is none. Errors: io.*, invalid_request.
Result<json::value> read_document(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT) return json::value();
  SLUICE_TRY(const File file, File::open_regular(path));
  SLUICE_TRY(const FileIdentity identity, file.identity());
  if (identity.size > kMostBytes) return Error{"invalid_request", "larger than 1 MiB"};
  std::string text(identity.size, '\0');
  SLUICE_TRY(file.pread_exact(text.data(), text.size(), 0));
  return parse_json(text);
}

bool write_document(const std::string& path, const std::string& text) {
  const std::string temp = path + ".tmp";
  const int fd = ::open(temp.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return false;
  bool ok = true;
  for (size_t done = 0; ok && done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    ok = n > 0;
    if (ok) done += static_cast<size_t>(n);
  }
  ok = ok && ::fdatasync(fd) == 0;
  ok = ::close(fd) == 0 && ok;
  return ok && ::rename(temp.c_str(), path.c_str()) == 0;
}

}  // namespace

std::string measurement_key(const FileIdentity& file) {
  return fmt::format("{:x}-{:x}-{:x}-{:x}", file.dev, file.ino, file.size, file.mtime_ns);
}

std::string compute_signature(int n_threads) {
  return fmt::format("{} {}", n_threads, kernels::kernels().name);
}

std::string driver_signature() {
  std::ifstream cpus("/proc/cpuinfo");
  std::string line, processor = "unknown";
  while (std::getline(cpus, line)) {
    if (line.rfind("model name", 0) != 0 || line.find(": ") == std::string::npos) continue;
    processor = line.substr(line.find(": ") + 2);
    break;
  }
  return fmt::format("{} {}", processor, kernels::kernels().name);
}

Measurements::Measurements(std::string state_dir)
    : path_(state_dir.empty() ? "" : state_dir + "/measurements.json"), host_(driver_signature()) {
  if (!path_.empty()) load();
}

Measurements::~Measurements() {
  const std::lock_guard lock(mutex_);
  if (unsaved_ || read_shapes.all() != saved_shapes_) save();
}

void Measurements::load() {
  auto document = read_document(path_);
  const auto* o = document ? document.value().if_object() : nullptr;
  const auto* models = o == nullptr ? nullptr : o->if_contains("models");
  if (models != nullptr && models->is_object()) {
    for (const auto& item : models->get_object()) {
      if (item.value().is_object() && models_.size() < kMostModels)
        models_[std::string(item.key())] = model_of(item.value().get_object());
    }
    load_drivers(*o);
    load_read_shapes(*o);
  } else if (!document || !document.value().is_null()) {
    spdlog::warn("measured speeds are ignored and measured anew: {} file={}",
                 document ? "no list of models" : document.error().what,
                 path_);
  }
}

void Measurements::load_drivers(const json::object& document) {
  const auto* hosts = document.if_contains("drivers");
  if (hosts == nullptr || !hosts->is_object()) return;
  for (const auto& host : hosts->get_object()) {
    if (!host.value().is_object() || drivers_.size() >= kMostHosts) continue;
    DriversOfHost& of_host = drivers_[std::string(host.key())];
    for (const auto& item : host.value().get_object()) {
      const auto* o = item.value().if_object();
      if (o == nullptr || of_host.size() >= static_cast<size_t>(kernels::kNWeightTypes)) continue;
      of_host[std::string(item.key())] = {width_of(*o, "row_tokens"), width_of(*o, "tile_tokens")};
    }
  }
}

void Measurements::load_read_shapes(const json::object& document) {
  const auto* reads = document.if_contains("reads");
  if (reads == nullptr || !reads->is_object()) return;
  for (const auto& item : reads->get_object()) {
    const std::string_view key = item.key();
    const auto* o = item.value().if_object();
    uint64_t device = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), device, 16);
    if (o == nullptr || error != std::errc() || end != key.data() + key.size()) continue;
    const double depth = number_of(*o, "depth"), request = number_of(*o, "request_bytes");
    if (depth < 1 || depth > ReadShape::kMostDepth || request < 1) continue;
    read_shapes.keep(device, {static_cast<int>(depth), static_cast<uint64_t>(request)});
  }
  saved_shapes_ = read_shapes.all();
}

void Measurements::save() {
  unsaved_ = false;
  saved_at_ms_ = unix_ms_now();
  if (path_.empty()) return;
  json::object models;
  for (const auto& [key, m] : models_) {
    models[key] = json::object{{"probed", to_json(m.probed)},
                               {"disk_at_ms", m.disk_at_ms},
                               {"compute_at_ms", m.compute_at_ms},
                               {"compute_by", m.compute_by},
                               {"learned", to_json(m.learned)},
                               {"runs", m.runs},
                               {"learned_at_ms", m.learned_at_ms},
                               {"tokenizer_bytes", m.tokenizer_bytes}};
  }
  json::object hosts;
  for (const auto& [host, of_host] : drivers_) {
    json::object types;
    for (const auto& [type, w] : of_host)
      types[type] = json::object{{"row_tokens", w.row_tokens}, {"tile_tokens", w.tile_tokens}};
    hosts[host] = std::move(types);
  }
  json::object reads;
  saved_shapes_ = read_shapes.all();
  for (const auto& [device, shape] : saved_shapes_)
    reads[fmt::format("{:x}", device)] =
        json::object{{"depth", shape.depth}, {"request_bytes", shape.request_bytes}};
  const json::object document{{"schema", "sluice.measurements.v1"},
                              {"models", std::move(models)},
                              {"drivers", std::move(hosts)},
                              {"reads", std::move(reads)}};
  if (!write_document(path_, json_text(document) + "\n"))
    spdlog::warn("measured speeds cannot be kept: {} file={}",
                 errno_error("io_error", "write", errno).what,
                 path_);
}

void Measurements::touch(bool now) {
  while (models_.size() > kMostModels) {
    models_.erase(
        std::min_element(models_.begin(), models_.end(), [](const auto& a, const auto& b) {
          return last_use(a.second) < last_use(b.second);
        }));
  }
  unsaved_ = true;
  if (now || unix_ms_now() - saved_at_ms_ >= kSaveEvery_ms) save();
}

ModelMeasurements Measurements::find(const std::string& key) const {
  const std::lock_guard lock(mutex_);
  const auto it = models_.find(key);
  return it == models_.end() ? ModelMeasurements() : it->second;
}

void Measurements::set_disk(const std::string& key, const Estimate& bytes_per_s) {
  const std::lock_guard lock(mutex_);
  ModelMeasurements& m = models_[key];
  m.probed.disk_bytes_per_s = bytes_per_s;
  m.disk_at_ms = unix_ms_now();
  touch(true);
}

void Measurements::set_compute(const std::string& key,
                               const Speeds& speeds,
                               const std::string& by) {
  const std::lock_guard lock(mutex_);
  ModelMeasurements& m = models_[key];
  if (m.compute_by != by) m.learned.decode_s = m.learned.prompt_token_s = {};
  m.probed.decode_s = speeds.decode_s;
  m.probed.prompt_token_s = speeds.prompt_token_s;
  m.probed.memory_bytes_per_s = speeds.memory_bytes_per_s;
  m.compute_by = by;
  m.compute_at_ms = unix_ms_now();
  touch(true);
}

void Measurements::set_tokenizer(const std::string& key, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  models_[key].tokenizer_bytes = bytes;
  touch(false);
}

std::optional<kernels::DriverWidths> Measurements::drivers(kernels::WeightType type) const {
  const std::lock_guard lock(mutex_);
  const auto host = drivers_.find(host_);
  if (host == drivers_.end()) return std::nullopt;
  const auto found = host->second.find(kernels::info(type).name);
  if (found == host->second.end()) return std::nullopt;
  return found->second;
}

void Measurements::set_drivers(kernels::WeightType type, const kernels::DriverWidths& widths) {
  const std::lock_guard lock(mutex_);
  // What is known of other processors makes room.
  while (drivers_.size() >= kMostHosts && drivers_.count(host_) == 0) {
    drivers_.erase(drivers_.begin());
  }
  drivers_[host_][kernels::info(type).name] = widths;
  touch(true);
}

void Measurements::learn(const Model& model,
                         const GenerationStats& stats,
                         const std::string& compute_by) {
  if (model.files().empty()) return;
  const auto identity = model.files().front().identity();
  if (!identity) return;
  const std::lock_guard lock(mutex_);
  ModelMeasurements& m = models_[measurement_key(identity.value())];
  if (m.compute_by != compute_by) {
    m.compute_by = compute_by;
    m.compute_at_ms = 0;
    m.probed.decode_s = m.probed.prompt_token_s = m.learned.decode_s =
        m.learned.prompt_token_s = {};
  }
  ::sluice::learn(m.learned, stats.prompt, stats.decode);
  ++m.runs;
  m.learned_at_ms = unix_ms_now();
  touch(false);
}

}  // namespace sluice
