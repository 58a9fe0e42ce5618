#include "daemon/model_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <cerrno>
#include <cstdio>
#include <string_view>

#include "daemon/protocol/json_text.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr size_t kMaxStoreBytes = 16u << 20;

std::string store_path(const std::string& state_dir) { return state_dir + "/models.json"; }

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

Result<std::string> read_all(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) {
    if (errno == ENOENT) return std::string();
    return errno_error("io_error", "open " + path, errno);
  }
  std::string out;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("io_error", "read " + path, errno);
    if (n == 0) return out;
    out.append(buffer, static_cast<size_t>(n));
    if (out.size() > kMaxStoreBytes)
      return Error{"invalid_request", path + " is larger than 16 MiB"};
  }
}

Result<void> write_all(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("io_error", "write " + path, errno);
    text.remove_prefix(static_cast<size_t>(n));
  }
  if (::fsync(fd) != 0) return errno_error("io_error", "fsync " + path, errno);
  return success();
}

json::object entry_to_json(const ModelEntry& e) {
  json::array parts;
  for (const std::string& p : e.facts.parts) parts.push_back(json::value(p));
  return {{"name", e.name},
          {"path", e.path},
          {"created", e.created},
          {"size", e.identity.size},
          {"mtime_ns", e.identity.mtime_ns},
          {"header_hash", e.identity.header_hash},
          {"arch", e.facts.arch},
          {"quantization", e.facts.quantization},
          {"parameters", e.facts.parameters},
          {"ctx", e.facts.ctx},
          {"blocks", e.facts.blocks},
          {"parts", std::move(parts)}};
}

std::shared_ptr<ModelEntry> entry_from_json(const json::value& v) {
  const auto* o = v.if_object();
  if (o == nullptr) return nullptr;
  bool ok = true;
  const auto text = [&](const char* key) {
    const auto* f = o->if_contains(key);
    if (f == nullptr || !f->is_string()) {
      ok = false;
      return std::string();
    }
    return std::string(f->get_string());
  };
  const auto number = [&]<class T>(const char* key, T& out) {
    const auto* f = o->if_contains(key);
    json::error_code ec;
    if (f == nullptr || !f->is_number()) {
      ok = false;
      return;
    }
    const T n = f->to_number<T>(ec);
    if (ec) ok = false;
    out = n;
  };
  ModelIdentity id;
  ModelFacts facts;
  int64_t created = 0;
  number("created", created);
  number("size", id.size);
  number("mtime_ns", id.mtime_ns);
  number("header_hash", id.header_hash);
  number("parameters", facts.parameters);
  number("ctx", facts.ctx);
  number("blocks", facts.blocks);
  facts.arch = text("arch");
  facts.quantization = text("quantization");
  facts.file_bytes = static_cast<int64_t>(id.size);
  const std::string name = text("name");
  const std::string path = text("path");
  if (const auto* parts = o->if_contains("parts"); parts != nullptr && parts->is_array()) {
    for (const auto& p : parts->get_array()) {
      if (p.is_string()) facts.parts.emplace_back(p.get_string());
    }
  }
  if (!ok || !valid_model_name(name) || !path.starts_with('/')) return nullptr;
  return std::make_shared<ModelEntry>(name, path, created, id, std::move(facts), true);
}

}  // namespace

Result<std::vector<std::shared_ptr<ModelEntry>>> read_model_store(const std::string& state_dir) {
  std::vector<std::shared_ptr<ModelEntry>> out;
  SLUICE_TRY(const std::string text, read_all(store_path(state_dir)));
  if (text.empty()) return out;
  SLUICE_TRY(const json::value doc, parse_json(text));
  const auto* o = doc.if_object();
  const auto* models = o == nullptr ? nullptr : o->if_contains("models");
  if (models == nullptr || !models->is_array())
    return Error{"invalid_request", "models.json holds no list of models"};
  for (const auto& m : models->get_array()) {
    auto entry = entry_from_json(m);
    if (!entry) return Error{"invalid_request", "models.json holds an entry that is no model"};
    out.push_back(std::move(entry));
  }
  return out;
}

Result<void> write_model_store(const std::string& state_dir,
                               const std::vector<std::shared_ptr<ModelEntry>>& entries) {
  json::array models;
  for (const auto& e : entries) models.push_back(entry_to_json(*e));
  const std::string text =
      json_text(json::object{{"schema", "sluice.model_store.v1"}, {"models", std::move(models)}}) +
      "\n";
  const std::string path = store_path(state_dir);
  const std::string temp = path + ".tmp";
  const auto write_temp = [&]() -> Result<void> {
    const Fd fd(::open(temp.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (fd.get() < 0) return errno_error("io_error", "create " + temp, errno);
    return write_all(fd.get(), text, temp);
  };
  if (auto written = write_temp(); !written) {
    ::unlink(temp.c_str());
    return written;
  }
  if (::rename(temp.c_str(), path.c_str()) != 0) {
    const int errnum = errno;
    ::unlink(temp.c_str());
    return errno_error("io_error", "rename " + temp, errnum);
  }
  const Fd folder(::open(state_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0 || ::fsync(folder.get()) != 0)
    return errno_error("io_error", "fsync " + state_dir, errno);
  return success();
}

std::string set_aside_model_store(const std::string& state_dir) {
  const std::string aside = store_path(state_dir) + ".damaged";
  return ::rename(store_path(state_dir).c_str(), aside.c_str()) == 0 ? aside : std::string();
}

}  // namespace sluice
