#include "storage/gguf_reader.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/text_escape.h"
#include "storage/gguf_parser.h"

namespace sluice {
namespace {

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// The place of a file in a split model, read off its name: "<stem>-00001-of-00003.gguf".
struct PartName {
  std::string stem;     // what stands before "-00001-of-"
  uint64_t number = 0;  // from 1
  uint64_t count = 0;
};

std::optional<PartName> part_name(const std::string& path) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (path.size() < kPattern.size()) return std::nullopt;
  const std::string_view tail = std::string_view(path).substr(path.size() - kPattern.size());
  PartName part;
  part.stem = path.substr(0, path.size() - kPattern.size());
  const auto digits = [&](size_t at, uint64_t& out) {
    const char* first = tail.data() + at;
    const auto [end, error] = std::from_chars(first, first + 5, out);
    return error == std::errc() && end == first + 5;
  };
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf")
    return std::nullopt;
  if (!digits(1, part.number) || !digits(10, part.count)) return std::nullopt;
  return part;
}

std::string part_path(const PartName& name, uint64_t number) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", name.stem, number, name.count);
}

const GgufValue* find_value(const ParsedHeader& header, std::string_view key) {
  const size_t mask = header.value_index.size() - 1;
  for (size_t slot = hash_name(key) & mask; header.value_index[slot] != 0;
       slot = (slot + 1) & mask) {
    const GgufValue& v = header.values[header.value_index[slot] - 1];
    if (v.key == key) return &v;
  }
  return nullptr;
}

bool is_integer(GgufValueType t) {
  switch (t) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kU16:
    case GgufValueType::kI16:
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kU64:
    case GgufValueType::kI64:
      return true;
    default:
      return false;
  }
}

// An integer of any width, sign-extended.
int64_t load_integer(GgufValueType t, const std::byte* p) {
  switch (t) {
    case GgufValueType::kU8:
    case GgufValueType::kBool:
      return load<uint8_t>(p);
    case GgufValueType::kI8:
      return load<int8_t>(p);
    case GgufValueType::kU16:
      return load<uint16_t>(p);
    case GgufValueType::kI16:
      return load<int16_t>(p);
    case GgufValueType::kU32:
      return load<uint32_t>(p);
    case GgufValueType::kI32:
      return load<int32_t>(p);
    default:
      return load<int64_t>(p);
  }
}

Error split_error(const std::string& path,
                  const GgufValue* v,
                  const char* field,
                  std::string what) {
  return Error{.code = "gguf.split",
               .what = std::move(what),
               .file = path,
               .field = field,
               .offset = v != nullptr ? v->key_offset : 16};
}

// An optional small count under a split.* key; a value that is no count is an error.
Result<std::optional<uint64_t>> split_number(const ParsedHeader& header,
                                             const std::string& path,
                                             const char* key) {
  const GgufValue* v = find_value(header, key);
  if (v == nullptr) return std::optional<uint64_t>();
  if (!is_integer(v->type)) {
    return split_error(
        path,
        v,
        key,
        fmt::format("found type {}, allowed an integer", gguf_value_type_name(v->type)));
  }
  const int64_t value = load_integer(v->type, v->bytes.data());
  if (value < 0 || value > INT32_MAX)
    return split_error(path, v, key, fmt::format("found {}, allowed 0..{}", value, INT32_MAX));
  return std::optional<uint64_t>(static_cast<uint64_t>(value));
}

}  // namespace

std::optional<std::string_view> GgufStringArray::next() {
  if (left_ == 0) return std::nullopt;
  --left_;
  const auto n = load<uint64_t>(bytes_.data());
  const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + 8,
                              static_cast<size_t>(n));
  bytes_ = bytes_.subspan(8 + static_cast<size_t>(n));
  return text;
}

// Opens one part after another and joins them. Kept apart from GgufFile so that a half-read model
// is never seen.
class GgufJoiner {
 public:
  explicit GgufJoiner(GgufFile& out) : out_(out) {}

  Result<void> open(const std::string& path) {
    out_.path_ = path;
    SLUICE_TRY(ParsedHeader first, open_part(path));
    SLUICE_TRY(const uint64_t n_parts, check_first(first, path));
    out_.version_ = first.version;
    out_.values_ = std::move(first.values);
    out_.value_index_ = std::move(first.value_index);
    adopt(std::move(first), 0);
    if (n_parts > 1) {
      SLUICE_TRY(open_others(n_parts));
    }
    XXH3_state_t* state = XXH3_createState();
    XXH3_64bits_reset(state);
    for (const auto& header : out_.headers_)
      XXH3_64bits_update(state, header->data(), header->size());
    out_.header_hash_ = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return index_tensors();
  }

 private:
  Result<ParsedHeader> open_part(const std::string& path) {
    GgufPart part;
    SLUICE_TRY(part.file, File::open_regular(path));
    SLUICE_TRY(part.identity, part.file.identity());
    part.path = path;
    part.file_bytes = part.identity.size;
    SLUICE_TRY(ParsedHeader header, parse_gguf_header(part.file, part.file_bytes, path));
    part.data_offset = header.data_offset;
    out_.parts_.push_back(std::move(part));
    return header;
  }

  // How many parts the model has, from part 1's own keys.
  static Result<uint64_t> check_first(const ParsedHeader& header, const std::string& path) {
    SLUICE_TRY(const auto number, split_number(header, path, "split.no"));
    SLUICE_TRY(const auto count, split_number(header, path, "split.count"));
    const std::optional<PartName> name = part_name(path);
    if (number.value_or(0) != 0) {
      std::string what = fmt::format(
          "found {}, allowed 0: this is part {} of a split model", *number, *number + 1);
      if (name) what += ", open part 1: " + escape_text(part_path(*name, 1), 4096);
      return split_error(path, find_value(header, "split.no"), "split.no", what);
    }
    const uint64_t n_parts = std::max<uint64_t>(count.value_or(1), 1);
    if (n_parts == 1) return n_parts;
    const GgufValue* key = find_value(header, "split.count");
    if (n_parts > GgufLimits::kParts) {
      return split_error(path,
                         key,
                         "split.count",
                         fmt::format("found {}, allowed 1..{}", n_parts, GgufLimits::kParts));
    }
    if (!name || name->number != 1 || name->count != n_parts) {
      return split_error(
          path,
          key,
          "split.count",
          fmt::format("found {}, allowed 1 for a file that is not named <name>-00001-of-{:05}.gguf",
                      n_parts,
                      n_parts));
    }
    return n_parts;
  }

  Result<void> open_others(uint64_t n_parts) {
    const PartName name = *part_name(out_.path_);
    for (uint64_t i = 1; i < n_parts; ++i) {
      const std::string path = part_path(name, i + 1);
      SLUICE_TRY(ParsedHeader header, open_part(path));
      SLUICE_TRY(const auto number, split_number(header, path, "split.no"));
      SLUICE_TRY(const auto count, split_number(header, path, "split.count"));
      if (number != i) {
        return split_error(path,
                           find_value(header, "split.no"),
                           "split.no",
                           number ? fmt::format("found {}, allowed {}", *number, i)
                                  : fmt::format("found no such key, allowed {}", i));
      }
      if (count && *count != n_parts) {
        return split_error(path,
                           find_value(header, "split.count"),
                           "split.count",
                           fmt::format("found {}, allowed {}", *count, n_parts));
      }
      if (header.tensors.size() > GgufLimits::kTensors - out_.tensors_.size()) {
        return Error{.code = "gguf.count",
                     .what = fmt::format("found {} with the parts before, allowed 0..{}",
                                         header.tensors.size() + out_.tensors_.size(),
                                         GgufLimits::kTensors),
                     .file = path,
                     .field = "n_tensors",
                     .offset = 8};
      }
      adopt(std::move(header), static_cast<uint32_t>(i));
    }
    const GgufValue* total = out_.find("split.tensors.count");
    const std::optional<uint64_t> expected = out_.uint("split.tensors.count");
    if (total != nullptr && expected != out_.tensors_.size()) {
      return split_error(out_.path_,
                         total,
                         "split.tensors.count",
                         fmt::format("found {}, allowed {}, which the parts have",
                                     expected ? std::to_string(*expected) : "no count",
                                     out_.tensors_.size()));
    }
    return success();
  }

  void adopt(ParsedHeader&& header, uint32_t part) {
    for (GgufTensor& t : header.tensors) t.part = part;
    out_.tensors_.insert(out_.tensors_.end(), header.tensors.begin(), header.tensors.end());
    for (std::string& w : header.warnings) {
      out_.warnings_.push_back(part == 0 ? std::move(w) : fmt::format("part {}: {}", part + 1, w));
    }
    out_.headers_.push_back(
        std::make_shared<const std::vector<std::byte>>(std::move(header.bytes)));
  }

  Result<void> index_tensors() {
    out_.tensor_index_.assign(name_table_size(out_.tensors_.size()), 0);
    const size_t mask = out_.tensor_index_.size() - 1;
    for (size_t i = 0; i < out_.tensors_.size(); ++i) {
      const GgufTensor& t = out_.tensors_[i];
      size_t slot = hash_name(t.name) & mask;
      for (; out_.tensor_index_[slot] != 0; slot = (slot + 1) & mask) {
        const GgufTensor& other = out_.tensors_[out_.tensor_index_[slot] - 1];
        if (other.name != t.name) continue;
        return out_.refuse(
            t,
            "name of tensor",
            fmt::format("found \"{}\" again (first in part {} at offset {}), allowed once",
                        escape_text(t.name),
                        other.part + 1,
                        other.info_offset),
            "gguf.duplicate_tensor");
      }
      out_.tensor_index_[slot] = static_cast<uint32_t>(i + 1);
    }
    return success();
  }

  GgufFile& out_;
};

Result<GgufFile> GgufFile::open(const std::string& path) {
  GgufFile file;
  SLUICE_TRY(GgufJoiner(file).open(path));
  return file;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  if (value_index_.empty()) return nullptr;
  const size_t mask = value_index_.size() - 1;
  for (size_t slot = hash_name(key) & mask; value_index_[slot] != 0; slot = (slot + 1) & mask) {
    const GgufValue& v = values_[value_index_[slot] - 1];
    if (v.key == key) return &v;
  }
  return nullptr;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  if (tensor_index_.empty()) return nullptr;
  const size_t mask = tensor_index_.size() - 1;
  for (size_t slot = hash_name(name) & mask; tensor_index_[slot] != 0; slot = (slot + 1) & mask) {
    const GgufTensor& t = tensors_[tensor_index_[slot] - 1];
    if (t.name == name) return &t;
  }
  return nullptr;
}

std::optional<uint64_t> GgufFile::uint(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr || !is_integer(v->type)) return std::nullopt;
  const int64_t value = load_integer(v->type, v->bytes.data());
  if (value < 0 && v->type != GgufValueType::kU64) return std::nullopt;
  return static_cast<uint64_t>(value);
}

std::optional<double> GgufFile::real(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr || (v->type != GgufValueType::kF32 && v->type != GgufValueType::kF64))
    return std::nullopt;
  return v->type == GgufValueType::kF32 ? static_cast<double>(load<float>(v->bytes.data()))
                                        : load<double>(v->bytes.data());
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr || v->type != GgufValueType::kBool) return std::nullopt;
  return v->bytes[0] != std::byte{0};
}

std::optional<std::string_view> GgufFile::string(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr || v->type != GgufValueType::kString) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(v->bytes.data()), v->bytes.size());
}

uint64_t GgufFile::array_uint(const GgufValue& v, uint64_t i) {
  return static_cast<uint64_t>(
      load_integer(v.elem_type, v.bytes.data() + i * gguf_scalar_bytes(v.elem_type)));
}

double GgufFile::array_real(const GgufValue& v, uint64_t i) {
  const std::byte* p = v.bytes.data() + i * gguf_scalar_bytes(v.elem_type);
  if (v.elem_type == GgufValueType::kF32) return static_cast<double>(load<float>(p));
  if (v.elem_type == GgufValueType::kF64) return load<double>(p);
  return static_cast<double>(load_integer(v.elem_type, p));
}

GgufStringArray GgufFile::array_strings(const GgufValue& v) {
  return GgufStringArray(v.bytes, v.count);
}

Error GgufFile::refuse(const GgufValue* v,
                       std::string_view field,
                       const std::string& what,
                       const char* code) const {
  constexpr uint64_t kKeyCountOffset = 16;
  return Error{.code = code,
               .what = what,
               .file = path_,
               .field = std::string(field),
               .offset = v != nullptr ? v->key_offset : kKeyCountOffset};
}

Error GgufFile::refuse(const GgufTensor& t,
                       std::string_view field,
                       const std::string& what,
                       const char* code) const {
  return Error{.code = code,
               .what = what,
               .file = parts_[t.part].path,
               .field = std::string(field),
               .offset = t.info_offset};
}

Error GgufFile::refuse_tensors(std::string_view field,
                               const std::string& what,
                               const char* code) const {
  constexpr uint64_t kTensorCountOffset = 8;
  return Error{.code = code,
               .what = what,
               .file = path_,
               .field = std::string(field),
               .offset = kTensorCountOffset};
}

uint64_t GgufFile::header_bytes() const {
  uint64_t sum = 0;
  for (const auto& header : headers_) sum += header->size();
  return sum;
}

std::vector<File> GgufFile::take_files() {
  std::vector<File> files;
  for (GgufPart& part : parts_) files.push_back(std::move(part.file));
  return files;
}

std::string error_line(const Error& e) {
  std::string line = "sluice: ";
  // A failed open names its path already.
  const std::string file = escape_text(e.file, 4096);
  if (!file.empty() && e.what.find(file) == std::string::npos) line += file + ": ";
  if (e.offset != Error::kNoOffset) line += "offset " + std::to_string(e.offset) + ": ";
  if (!e.field.empty()) line += e.field + ": ";
  line += e.what + " [" + e.code + "]";
  return line;
}

}  // namespace sluice
