// A GGUF file as a list of keys and tensors that tests take apart, change and write again. Writes
// what it is told, valid or not.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "storage/gguf_reader.h"

namespace sluice::test {

// A folder that goes with the test.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sluice-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A file that lives in memory: thousands of them cost no disk.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("sluice-test", MFD_CLOEXEC)) {}
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(fd_); }
  void assign(std::string_view bytes) {
    (void)!::ftruncate(fd_, 0);
    (void)!::pwrite(fd_, bytes.data(), bytes.size(), 0);
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

template <class T>
std::string raw(T v) {
  return std::string(reinterpret_cast<const char*>(&v), sizeof v);
}
inline std::string raw_string(std::string_view s) {
  return raw<uint64_t>(s.size()) + std::string(s);
}

struct DocKey {
  std::string key;
  GgufValueType type;
  std::string value;  // as it lies in the file
};

struct DocTensor {
  std::string name;
  std::vector<uint64_t> dims;
  uint32_t type = 0;
  std::string data;
  uint64_t offset = UINT64_MAX;  // in the data section; default: after the one before
};

class GgufDoc {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  // of the layout; general.alignment is a key like others
  std::vector<DocKey> keys;
  std::vector<DocTensor> tensors;

  static GgufDoc read(const std::string& path) {
    GgufDoc doc;
    auto opened = GgufFile::open(path);
    const GgufFile& file = opened.value();
    doc.version = file.version();
    for (const GgufValue& v : file.values()) {
      std::string bytes(reinterpret_cast<const char*>(v.bytes.data()), v.bytes.size());
      if (v.type == GgufValueType::kString) bytes = raw_string(bytes);
      if (v.type == GgufValueType::kArray) bytes = raw(v.elem_type) + raw(v.count) + bytes;
      doc.keys.push_back({std::string(v.key), v.type, std::move(bytes)});
    }
    for (const GgufTensor& t : file.tensors()) {
      DocTensor tensor{.name = std::string(t.name),
                       .dims = {t.dims, t.dims + t.n_dims},
                       .type = t.type_id,
                       .data = {}};
      tensor.data.resize(t.n_bytes);
      (void)file.parts()[t.part].file.pread_exact(tensor.data.data(), t.n_bytes, t.file_offset);
      doc.tensors.push_back(std::move(tensor));
    }
    return doc;
  }

  GgufDoc& drop(std::string_view key) {
    std::erase_if(keys, [&](const DocKey& k) { return k.key == key; });
    return *this;
  }
  GgufDoc& set(const std::string& key, GgufValueType type, std::string value) {
    for (DocKey& k : keys) {
      if (k.key == key) {
        k.type = type;
        k.value = std::move(value);
        return *this;
      }
    }
    keys.push_back({key, type, std::move(value)});
    return *this;
  }
  GgufDoc& set_u32(const std::string& key, uint32_t v) {
    return set(key, GgufValueType::kU32, raw(v));
  }
  GgufDoc& set_f32(const std::string& key, float v) {
    return set(key, GgufValueType::kF32, raw(v));
  }
  GgufDoc& set_bool(const std::string& key, bool v) {
    return set(key, GgufValueType::kBool, raw<uint8_t>(v));
  }
  GgufDoc& set_string(const std::string& key, std::string_view v) {
    return set(key, GgufValueType::kString, raw_string(v));
  }
  GgufDoc& set_strings(const std::string& key, const std::vector<std::string>& v) {
    std::string bytes = raw(GgufValueType::kString) + raw<uint64_t>(v.size());
    for (const std::string& s : v) bytes += raw_string(s);
    return set(key, GgufValueType::kArray, std::move(bytes));
  }
  template <class T>
  GgufDoc& set_array(const std::string& key, GgufValueType type, const std::vector<T>& v) {
    std::string bytes = raw(type) + raw<uint64_t>(v.size());
    for (const T& x : v) bytes += raw(x);
    return set(key, GgufValueType::kArray, std::move(bytes));
  }
  DocTensor* tensor(std::string_view name) {
    for (DocTensor& t : tensors) {
      if (t.name == name) return &t;
    }
    return nullptr;
  }
  GgufDoc& drop_tensor(std::string_view name) {
    std::erase_if(tensors, [&](const DocTensor& t) { return t.name == name; });
    return *this;
  }

  // The header only, padded to the alignment.
  std::string header() const {
    std::string out =
        "GGUF" + raw(version) + raw<uint64_t>(tensors.size()) + raw<uint64_t>(keys.size());
    for (const DocKey& k : keys) out += raw_string(k.key) + raw(k.type) + k.value;
    uint64_t at = 0;
    for (const DocTensor& t : tensors) {
      out += raw_string(t.name) + raw<uint32_t>(static_cast<uint32_t>(t.dims.size()));
      for (const uint64_t d : t.dims) out += raw(d);
      out += raw(t.type) + raw<uint64_t>(t.offset != UINT64_MAX ? t.offset : at);
      at = padded(at + t.data.size());
    }
    out.resize(padded(out.size()), '\0');
    return out;
  }
  std::string bytes() const {
    std::string out = header();
    for (const DocTensor& t : tensors) {
      out += t.data;
      out.resize(padded(out.size()),
                 '\0');  // the header is padded, so positions in the file align too
    }
    return out;
  }
  std::string write(const std::string& path) const {
    write_file(path, bytes());
    return path;
  }

 private:
  uint64_t padded(uint64_t n) const { return (n + alignment - 1) / alignment * alignment; }
};

}  // namespace sluice::test
