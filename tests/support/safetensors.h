// Reads and writes safetensors files (8-byte little-endian header length, JSON header, raw data):
// the form of all golden data. Only what tests need: F32, I32, U8, I64, F16, BF16 by name; whole
// file in memory.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace sluice::test {

struct Tensor {
  std::string dtype;           // "F32", "I32", "U8", ...
  std::vector<int64_t> shape;  // row-major
  std::vector<uint8_t> bytes;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  const float* f32() const { return as<float>("F32"); }
  const int32_t* i32() const { return as<int32_t>("I32"); }
  const uint8_t* u8() const { return as<uint8_t>("U8"); }
  std::vector<float> floats() const { return {f32(), f32() + size()}; }
  std::vector<int32_t> ints() const { return {i32(), i32() + size()}; }

  static Tensor from_floats(std::vector<int64_t> shape, const std::vector<float>& values) {
    Tensor t{"F32", std::move(shape), std::vector<uint8_t>(values.size() * sizeof(float))};
    std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
    return t;
  }

 private:
  template <class T>
  const T* as(const char* expected) const {
    if (dtype != expected) {
      std::fprintf(stderr, "tensor is %s, wanted %s\n", dtype.c_str(), expected);
      std::abort();
    }
    return reinterpret_cast<const T*>(bytes.data());
  }
};

using Tensors = std::map<std::string, Tensor>;

namespace safetensors_detail {

// The header is {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
// "__metadata__": {...}}. A cursor that knows just enough JSON for that; anything else aborts the
// test.
class Header {
 public:
  explicit Header(const std::string& text) : text_(text) {}

  bool next_is(char c) {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr) ++at_;
    return at_ < text_.size() && text_[at_] == c;
  }
  bool take_if(char c) {
    if (!next_is(c)) return false;
    ++at_;
    return true;
  }
  void take(char c) {
    if (!take_if(c)) fail();
  }
  std::string string() {
    take('"');
    std::string s;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') ++at_;  // only \" and \\ occur in names
      if (at_ < text_.size()) s += text_[at_++];
    }
    take('"');
    return s;
  }
  std::vector<int64_t> integers() {
    std::vector<int64_t> v;
    take('[');
    while (!next_is(']')) {
      char* end = nullptr;
      v.push_back(std::strtoll(text_.c_str() + at_, &end, 10));
      if (end == text_.c_str() + at_) fail();
      at_ = static_cast<size_t>(end - text_.c_str());
      if (!take_if(',')) break;
    }
    take(']');
    return v;
  }
  [[noreturn]] void fail() const {
    std::fprintf(stderr, "safetensors header: unexpected text at byte %zu\n", at_);
    std::abort();
  }

 private:
  const std::string& text_;
  size_t at_ = 0;
};

}  // namespace safetensors_detail

// Aborts the test binary when the file is missing or malformed: golden data that cannot be read is
// no skip.
inline Tensors read_safetensors(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::vector<uint8_t> file{std::istreambuf_iterator<char>(in),
                                  std::istreambuf_iterator<char>()};
  uint64_t header_bytes = 0;
  if (file.size() >= 8) std::memcpy(&header_bytes, file.data(), 8);
  if (file.size() < 8 || header_bytes > file.size() - 8) {
    std::fprintf(stderr, "%s: missing or not a safetensors file\n", path.c_str());
    std::abort();
  }
  const std::string text(file.begin() + 8, file.begin() + 8 + static_cast<int64_t>(header_bytes));
  const uint8_t* data = file.data() + 8 + header_bytes;
  const uint64_t data_bytes = file.size() - 8 - header_bytes;

  Tensors tensors;
  safetensors_detail::Header h(text);
  h.take('{');
  while (!h.next_is('}')) {
    const std::string name = h.string();
    Tensor t;
    std::vector<int64_t> offsets;
    h.take(':');
    h.take('{');
    while (!h.next_is('}')) {
      const std::string key = h.string();
      h.take(':');
      if (key == "shape") {
        t.shape = h.integers();
      } else if (key == "data_offsets") {
        offsets = h.integers();
      } else {  // dtype, or an entry of __metadata__
        t.dtype = h.string();
      }
      if (!h.take_if(',')) break;
    }
    h.take('}');
    if (name != "__metadata__") {
      if (offsets.size() != 2 || offsets[0] > offsets[1] ||
          static_cast<uint64_t>(offsets[1]) > data_bytes) {
        h.fail();
      }
      t.bytes.assign(data + offsets[0], data + offsets[1]);
      tensors[name] = std::move(t);
    }
    if (!h.take_if(',')) break;
  }
  h.take('}');
  return tensors;
}

inline void write_safetensors(const std::string& path, const Tensors& tensors) {
  std::string header = "{", data;
  for (const auto& [name, t] : tensors) {
    if (header.size() > 1) header += ',';
    header += '"' + name + "\":{\"dtype\":\"" + t.dtype + "\",\"shape\":[";
    for (size_t i = 0; i < t.shape.size(); ++i) {
      header += (i != 0 ? "," : "") + std::to_string(t.shape[i]);
    }
    header += "],\"data_offsets\":[" + std::to_string(data.size()) + ',';
    data.append(t.bytes.begin(), t.bytes.end());
    header += std::to_string(data.size()) + "]}";
  }
  header += '}';
  while (header.size() % 8 != 0) header += ' ';
  const uint64_t header_bytes = header.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&header_bytes), 8);
  out << header << data;
}

}  // namespace sluice::test
